"""Metrics with names of any kind, of images of any shape; an error in drawing is a line."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lk_downstream.callbacks import Checkpoints, SegmentationGrid
from lk_downstream.callbacks.plots import draw_last
from lk_downstream.errors import InputError
from lk_downstream.metrics.classification import ClassificationMetric
from lk_downstream.reports.classification import draw_pairs
from lk_downstream.reports.masks import segmentation_grid
from lk_downstream.reports.objects import Objects, detection_grid, draw_detections
from lk_downstream.reports.plotting import MAX_PIXELS, shown_name

NAMES = ("photo_$1_$2.png", "under $1_$", b"caf\xe9".decode("utf-8", "surrogateescape"), "\u732b\u72d7", "_a", "a\nb")
PALETTE = [(255, 0, 0)] * len(NAMES)


def test_names_of_any_kind_are_drawn(recwarn):
    image, masks = np.zeros((20, 20, 3), np.uint8), np.tile(np.arange(6, dtype=np.uint8), (20, 4))[:, :20]
    segmentation_grid([(name, image, masks, masks) for name in NAMES[:2]], PALETTE, NAMES)
    objects = Objects(np.array([[1.0, 1, 9, 9]] * 6), np.arange(6))
    detection_grid([(NAMES[2], image, objects, objects)], PALETTE, NAMES)
    draw_pairs([{"truth": name, "prediction": NAMES[3], "count": 1, "share": 1.0} for name in NAMES])
    assert not [str(warning.message) for warning in recwarn if "lyph" in str(warning.message)]
    assert shown_name(NAMES[0]) == NAMES[0]
    assert shown_name(NAMES[2]) == "caf\\udce9"


@pytest.mark.parametrize("shape", [(32, 6400), (6400, 32)])
def test_plots_are_bounded(shape):
    image, mask = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)
    none = Objects(np.zeros((0, 4)), np.zeros(0, int))
    plots = [
        segmentation_grid([("a", image, mask, mask)] * 6, PALETTE, NAMES),
        detection_grid([("a", image, none, none)] * 6, PALETTE, NAMES),
        draw_detections(image, none, np.array(PALETTE) / 255, NAMES),
    ]
    assert max(plot.shape[0] * plot.shape[1] for plot in plots) <= 1.01 * MAX_PIXELS
    assert max(plot.shape[0] * plot.shape[1] for plot in plots[:2]) < 4_000_000


def test_an_error_in_drawing_is_a_line(tmp_path, capsys, monkeypatch):
    callback = SegmentationGrid()
    trainer = SimpleNamespace(log_dir=str(tmp_path), is_global_zero=True, sanity_checking=False, fast_dev_run=False)
    callback.samples = [NAMES]
    callback.on_validation_end(trainer, None)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("SegmentationGrid: not drawn (")


def test_checkpoints_are_written_before_plots_are_drawn():
    trainer = SimpleNamespace(callbacks=[SegmentationGrid(), Checkpoints()])
    draw_last(trainer)
    assert isinstance(trainer.callbacks[0], Checkpoints)


@pytest.mark.parametrize(("monitor", "near"), [("val/miou", "'val/mIoU'"), ("val/x", "val/mIoU. or .val/aAcc")])
def test_a_metric_that_no_validation_has_is_refused(monitor, near):
    task = SimpleNamespace(metrics=("mIoU", "aAcc"))
    with pytest.raises(InputError, match=near):
        Checkpoints(monitor)._refuse_unknown(task)
    Checkpoints("val/aAcc")._refuse_unknown(task)
    with pytest.warns(UserWarning, match="better the higher"):
        Checkpoints("val/aAcc", mode="min")._refuse_unknown(task)


@pytest.mark.parametrize("number", [1, 2, 6])
def test_a_metric_names_its_metrics(number):
    metric = ClassificationMetric([str(index) for index in range(number)])
    metric.update(torch.zeros(2, number), torch.zeros(2, dtype=torch.int64))
    scalars = {name for name, value in metric.compute().items() if value.ndim == 0}
    assert set(metric.metrics) <= scalars
    assert number == 1 or set(metric.metrics) == scalars
