"""Exported files in float16 and int8: smaller, run at any size, and what they lose is said."""

import functools
import importlib
import importlib.util

import labelled
import pytest
import small_models
import torch
from torch import nn

import lk_downstream
from lk_downstream import commands, export, exported
from lk_downstream.detectors import FCOS
from lk_downstream.export.agreement import agreement
from lk_downstream.heads import FCNHead

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in export.PACKAGES), reason="the extra `export` is missing"
)
MODELS = {
    "segmentation": lambda: small_models.segmentation(head=functools.partial(FCNHead, channels=16)),
    "classification": small_models.classification,
    "detection": lambda: small_models.detection(FCOS),
}
LEAST = {"segmentation": (0.995, 0.96), "classification": (0.99, 0.9), "detection": (0.95, 0.8)}  # float16, int8


def arrays(number, seed=2):
    """Images as ``predict`` takes them."""
    return [batch[0].permute(1, 2, 0).numpy() for batch in small_models.images(number, seed)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A task and its files in float32, float16 and int8."""
    folder, done = tmp_path_factory.mktemp("precisions"), {}

    def write(name):
        if name not in done:
            task = MODELS[name]()
            options = {"other_precisions": ["float16", "int8"], "calibrate": arrays(6)}
            done[name] = task, export.export(task, folder / name, ["onnx"], **options)
        return done[name]

    return write


def weights(path):
    """Bytes of the weights of layers, and how many layers there are."""
    onnx = importlib.import_module("onnx")
    graph = onnx.load(path).graph
    sizes = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    return sum(array.nbytes for array in sizes if array.ndim > 1), sum(node.op_type == "Conv" for node in graph.node)


@needs_onnx
@pytest.mark.parametrize("name", MODELS)
def test_files_are_smaller_and_agree(name, written):
    _, (full, *others) = written(name)
    assert [file.path.stem for file in others] == [f"{name}_float16", f"{name}_int8"]
    size, layers = weights(full.path)
    for file, share, least in zip(others, (0.5, 0.25), LEAST[name]):
        found = weights(file.path)
        assert found[0] == pytest.approx(share * size, rel=0.1)
        assert found[1] == layers
        assert file.agreement >= least
    first, second = (exported.open_exported(file.path).metadata["precision"] for file in others)
    assert (first, second) == ("float16", "int8")


@needs_onnx
@pytest.mark.parametrize("name", MODELS)
def test_other_images_in_batches(name, written):
    task, (full, *others) = written(name)
    original, names = export.network(task).eval(), tuple(full.metadata["outputs"])
    for file, least in zip(others, LEAST[name]):
        model = exported.open_exported(file.path)
        run = lambda images: list(model.run(images).values())  # noqa: E731, B023
        for batch in (1, 3):
            images = small_models.images(3, seed=7, batch=batch)
            assert agreement(original, run, names, images, file.path.name) >= least


@needs_onnx
def test_load_predicts_by_them(written):
    task, (_, *others) = written("classification")
    image = arrays(1, seed=11)[0]
    expected = lk_downstream.load(written("classification")[1][0].path, device="cpu").predict(image)
    for file in others:
        found = lk_downstream.load(file.path, device="cpu").predict(image)
        assert found.labels[0] == expected.labels[0]
        assert found.scores == pytest.approx(expected.scores, abs=0.01)
    assert task.classes == found.classes


@needs_onnx
def test_files_have_a_metric_near_the_task_s(written):
    task, done = written("segmentation")
    data = labelled.Masks(task, small_models.images(4, seed=5))
    assert export.score(task, data) == {"mIoU": pytest.approx(1)}
    values = [export.score(task, data, exported.open_exported(file.path))["mIoU"] for file in done]
    assert values[0] > values[1] > values[2] > 0.9


class Colours(nn.Module):
    """Says which colour an image has."""

    pretrained_cfg = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "input_size": (3, 32, 32), "crop_pct": 1.0}
    num_classes = 3

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.conv.weight.data = torch.eye(3)[:, :, None, None]
        self.conv.bias.data.zero_()

    def forward(self, x):
        return self.conv(x).mean((2, 3))


@needs_onnx
@pytest.mark.parametrize("level", [255, 2])
def test_images_of_the_calibration_matter(level, tmp_path):
    """Nearly black ones show hardly a range, beyond which all is the same: other images reveal it."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 40, 48), dtype=torch.uint8, generator=generator)
    images[torch.arange(20), torch.arange(20) % 3] = 255
    model = Colours().eval()
    options = {"other_precisions": ["int8"], "calibrate": list((images * (level / 255)).to(torch.uint8))}
    full, file = export.export(model, tmp_path / "net", ["onnx"], **options)
    found = exported.open_exported(file.path)
    run = lambda batch: list(found.run(batch).values())  # noqa: E731
    agreed = agreement(export.network(model), run, ("probabilities",), [images], "net")
    assert agreed > 0.95 if level == 255 else agreed < 0.5
    assert full.agreement is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precisions", "[int8]"], "int8 needs images like those to be predicted on"),
        (["--precisions", "[float16]", "--formats", "[pt2]"], "float16 are precisions of ONNX files: add onnx"),
        (["--precisions", "[float61]"], "float16"),
        (["--score_on", "runs/x"], "give a checkpoint"),
    ],
)
def test_mistakes_in_precisions_are_said_in_a_sentence(options, words, tmp_path, capsys):
    output = ["--output", str(tmp_path / "net"), "--model", "test_slak"]
    assert commands.run("export", [*output, *options]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_none_are_refused():
    images = [torch.zeros(1, 3, 8, 8, dtype=torch.uint8)]
    run = lambda images: [torch.full((1, 2), torch.nan)]  # noqa: E731
    with pytest.raises(RuntimeError, match="probabilities that are not finite"):
        agreement(lambda images: torch.ones(1, 2), run, ["probabilities"], images, "x.onnx")


def test_agreement_of_detections():
    box = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 30, 30]]])
    one = [box, torch.ones(1, 2), torch.tensor([[0, 1]]), torch.tensor([2])]
    other = [box + torch.tensor([[[2.0], [6.0]]]), torch.ones(1, 2), torch.tensor([[0, 1]]), torch.tensor([2])]
    names = ("boxes", "scores", "labels", "count")
    images = [torch.zeros(1, 3, 8, 8, dtype=torch.uint8)]
    assert agreement(lambda _: one, lambda _: one, names, images, "x") == 1
    # By 2 of 10 pixels moved in both directions the IoU is 64 / 136, below 0.5.
    assert agreement(lambda _: one, lambda _: other, names, images, "x") == 0
    other[0] = box + 1.0  # 81 / 119
    other[2] = torch.tensor([[0, 0]])
    assert agreement(lambda _: one, lambda _: other, names, images, "x") == 0.5
