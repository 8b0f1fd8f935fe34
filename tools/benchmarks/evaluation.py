"""Multi-scale evaluation of Cityscapes, mirror images included, from image and mask in memory to the counted pixels.

Against mmsegmentation's ``TestTimeAug``, ``SegTTAModel`` and ``IoUMetric``, with the same backbone and
a head of the same form. Memory is that of tensors alone, counted operator by operator.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks import models
from benchmarks.sides import OURS, Race, alternate, peak, shares
from lk_downstream.data.classes import CITYSCAPES_CLASSES
from lk_downstream.inference import MultiScale, Whole
from lk_downstream.metrics import SegmentationMetric

ROUNDS = 2


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), help="height and width of the image")
    parser.add_argument("--segmentor", default="convnext_atto", help="backbone of UPerNet")
    parser.add_argument("--channels", type=int, default=64, help="of its head")
    parser.add_argument("--ratios", type=float, nargs="+", default=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75))
    parser.add_argument("--threads", type=int, default=1)


def races(options: argparse.Namespace) -> Iterator[Race]:
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    height, width = options.size
    classes = tuple(CITYSCAPES_CLASSES)
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (height, width, 3), np.uint8)
    mask = random.integers(0, len(classes), (height, width), np.uint8)
    sides = {
        "mmsegmentation": _theirs(image, mask, classes, options),
        OURS: _ours(image, mask, classes, options),
    }
    said = f"{width} x {height} pixels, {len(classes)} classes, {len(options.ratios)} scales and their mirror images, "
    said += f"UPerNet with {options.segmentor}, {options.threads} thread{'s' * (options.threads > 1)}"
    seconds = shares(alternate(sides, options.rounds), 1)
    yield Race("multi-scale evaluation", f"{said}, processor time", "s/image", seconds)
    memory = {name: [peak(run) / 2**30] for name, run in sides.items()}
    yield Race("multi-scale evaluation, memory of tensors", said, "GiB", memory)
    torch.set_num_threads(threads)


def _ours(image: np.ndarray, mask: np.ndarray, classes: tuple[str, ...], options: argparse.Namespace) -> Callable:
    task = models.upernet(
        options.segmentor, MultiScale(Whole(None), options.ratios, form="1.x"), classes, options.channels
    )
    metric = SegmentationMetric(list(classes))

    @torch.inference_mode()
    def run() -> None:
        images = torch.from_numpy(image).permute(2, 0, 1)[None]
        metric.update(task.predict(images)[0], torch.from_numpy(mask))

    return run


def _theirs(image: np.ndarray, mask: np.ndarray, classes: tuple[str, ...], options: argparse.Namespace) -> Callable:
    import cv2
    from mmcv.transforms import Compose
    from mmengine.dataset import pseudo_collate
    from mmseg.evaluation import IoUMetric
    from mmseg.models import SegTTAModel

    cv2.setNumThreads(0)
    task = models.upernet(options.segmentor, Whole(None), classes, options.channels)
    module = models.mmsegmentation(task.backbone, len(classes), max(options.size), options.channels).eval()
    module.data_preprocessor.size = None
    model = SegTTAModel(module)
    prepare = Compose(
        [  # configs/_base_/datasets/cityscapes.py of mmsegmentation 1.x, but for the reading of files
            {
                "type": "TestTimeAug",
                "transforms": [
                    [{"type": "Resize", "scale_factor": ratio, "keep_ratio": True} for ratio in options.ratios],
                    [{"type": "RandomFlip", "prob": 0.0}, {"type": "RandomFlip", "prob": 1.0}],
                    [{"type": "PackSegInputs"}],
                ],
            }
        ]
    )
    target = torch.from_numpy(mask)

    @torch.no_grad()
    def run() -> None:
        shape = {"img_shape": image.shape[:2], "ori_shape": image.shape[:2]}
        copies = prepare({"img": image[..., ::-1], "img_path": "", "seg_fields": [], **shape})
        (found,) = model.test_step(pseudo_collate([copies]))
        IoUMetric.intersect_and_union(found.pred_sem_seg.data.squeeze(), target.to(torch.int64), len(classes), 255)

    return run
