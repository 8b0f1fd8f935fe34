"""The metric of a task on labelled data, by the task and by what is exported of it."""

import functools

import labelled
import pytest
import small_models
import torch

from lk_downstream import InputError, export, exported
from lk_downstream.detectors import FCOS, MaskRCNN
from lk_downstream.export import metadata
from lk_downstream.export.files import as_tuple
from lk_downstream.heads import FCNHead


def segmentation(folder):
    task = small_models.segmentation("as it is", head=functools.partial(FCNHead, channels=16))
    return task, labelled.Masks(task, small_models.images(3))


def detection(folder, kind):
    task = small_models.detection(kind)
    return task, labelled.objects(task, folder, small_models.images(3))


def classification(folder, multilabel):
    task = small_models.classification(multilabel)
    return task, labelled.classes(task, folder, small_models.images(12))


MADE = {
    "segmentation": (segmentation, ("mIoU",)),
    "detection": (functools.partial(detection, kind=FCOS), ("bbox_AP",)),
    "masks": (functools.partial(detection, kind=MaskRCNN), ("bbox_AP", "segm_AP")),
    "classification": (functools.partial(classification, multilabel=False), ("top1",)),
    "multilabel": (functools.partial(classification, multilabel=True), ("mAP",)),
}


@pytest.mark.parametrize("resize", [True, False])
@pytest.mark.parametrize("kind", MADE)
def test_a_file_has_the_metric_of_the_network_that_it_holds(kind, resize, tmp_path):
    make, metrics = MADE[kind]
    task, data = make(tmp_path / "data")
    network = export.network(task, export.Inside(resize=resize)).eval()
    shift = 0

    def run(images):
        with torch.no_grad():
            outputs = dict(zip(network.names, as_tuple(network(images))))
        for name in {"classes", "labels"}.intersection(outputs):
            outputs[name] = (outputs[name] + shift) % len(task.classes)
        if "probabilities" in outputs:
            outputs["probabilities"] = outputs["probabilities"].roll(shift, 1)
        return list(outputs.values())

    file = exported.ExportedModel("x.onnx", metadata.of(task, network), run)
    original = export.score(task, data)
    assert tuple(original) == metrics
    assert 0.6 < min(original.values()) <= 1
    assert export.score(task, data, file) == pytest.approx(original, abs=1e-3)
    shift = 1  # a file that takes classes for others is told from it
    assert max(export.score(task, data, file).values()) < min(original.values()) - 0.1


def test_a_config_of_other_data_is_refused(tmp_path):
    with pytest.raises(InputError, match="no config with data"):
        export.validation_data(tmp_path, small_models.classification())
