"""What is exported of detectors: boxes, scores and labels of images of any size, in rows of fixed number.

A batch holds images of one size, but each has a number of detections of its own: every image gets as many rows as there
can be at most, and ``count`` says how many of them are detections. What predicts one image after the other in
:mod:`lk_downstream.detectors` is here done for all of a batch at once, by the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision import ops

from lk_downstream.detectors import Detector, FCOSHead, OneStageDetector
from lk_downstream.detectors import bbox_head as box_heads
from lk_downstream.detectors import mask_head as mask_heads
from lk_downstream.detectors.boxes import area, from_distances
from lk_downstream.detectors.detector import TwoStageDetector
from lk_downstream.detectors.roi_align import FINEST_SCALE
from lk_downstream.export import resizing, selection
from lk_downstream.export.networks import Inside, Network
from lk_downstream.tasks.detection import Detection

DIVISOR = 32  # of the sides of what the network sees, as in the data module
SCALE = (1333, 800)  # the long and the short side at most, where the checkpoint says nothing


class DetectorNetwork(Network):
    """What exported detectors share: the resize, the padding and the way back to pixels of the images."""

    kind = "detection"
    suppress: selection.Suppress | None = None  # what non-maximum suppression is written as

    def __init__(self, detector: Detector, preparation: Mapping[str, Any], inside: Inside):
        super().__init__(detector.backbone.mean, detector.backbone.std, inside)
        self.backbone, self.neck = detector.backbone, detector.neck
        self.scale = tuple(preparation.get("scale") or SCALE)
        self.settings = {"scale": list(self.scale)}
        self.least = 1 if inside.resize else 32

    def pyramid(self, images: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Images uint8 -> levels of the neck; (w, h, w, h) of what the network saw; its zoom, likewise (4,)."""
        sides = resizing.sides(images)
        new = resizing.keep_ratio(*sides, self.scale) if self.inside.resize else sides
        lengths = tuple(resizing.length((side / DIVISOR).ceil() * DIVISOR, DIVISOR, DIVISOR) for side in new)
        resized = resizing.bilinear(images.float(), new, lengths)
        rows, columns = (torch.arange(length) < side for length, side in zip(lengths, new))
        inputs = self.normalize(resized, rows[:, None] & columns)
        maps = self.neck(self.backbone(inputs))
        height, width = new
        zoom = torch.stack((width / sides[1], height / sides[0])).float()
        return maps, torch.stack((width, height)).float().repeat(2), zoom.repeat(2)

    def result(self, found: selection.Detections, zoom: Tensor) -> tuple[Tensor, ...]:
        """The outputs, without masks."""
        return found.boxes / zoom, found.scores, found.labels, found.count

    def say(self, keep: int, masks: bool = False) -> None:
        """Note the outputs."""
        self.meanings = {
            "boxes": f"float32 (N, {keep}, 4): x1, y1, x2, y2 in pixels of the image, best first",
            "scores": f"float32 (N, {keep})",
            "labels": f"int64 (N, {keep}), class index; -1 in rows that are none",
            "count": "int64 (N,), how many rows are detections",
        }
        if masks:
            self.meanings["masks"] = f"float32 (N, {keep}, 28, 28), probabilities within each box"


class OneStage(DetectorNetwork):
    """FCOS or RetinaNet.

    Without ``inside.decide``: ``boxes`` (N, P, 4), ``scores`` (N, P, classes) in 0..1 and, of FCOS, ``centerness``
    (N, P) in 0..1, with which scores are multiplied for ranking; P counts the points (or anchors) of all levels, finest
    first.
    """

    def __init__(self, detector: OneStageDetector, preparation: Mapping[str, Any], inside: Inside):
        super().__init__(detector, preparation, inside)
        self.head = detector.bbox_head
        self.centered = isinstance(self.head, FCOSHead)
        self.selection = self.head.settings.test
        if inside.decide:
            self.say(self.selection.keep)
            return
        self.meanings = {"boxes": "float32 (N, P, 4) of all points", "scores": "float32 (N, P, classes)"}
        if self.centered:
            self.meanings["centerness"] = "float32 (N, P), the factor of the scores"

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        maps, size, zoom = self.pyramid(images)
        outputs = self.head(maps)
        if not self.inside.decide:
            return self._points(outputs, zoom)
        levels = []
        for level, logits in enumerate(outputs.logits):
            factors = outputs.centerness[level].sigmoid() if self.centered else None
            scores, points, labels = selection.candidates(self.selection, logits.sigmoid(), factors)
            boxes = self._decode(outputs, level, points)
            levels.append((torch.minimum(boxes.clamp(min=0), size), scores, labels))
        boxes, scores, labels = (torch.cat(parts, 1) for parts in zip(*levels))
        return self.result(selection.finish(self.selection, boxes, scores, labels, suppress=self.suppress), zoom)

    def _decode(self, outputs: Any, level: int, points: Tensor) -> Tensor:
        if self.centered:
            return from_distances(outputs.points[level][points], selection.rows(outputs.distances[level], points))
        return self.head.coder.decode(outputs.anchors[level][points], selection.rows(outputs.deltas[level], points))

    def _points(self, outputs: Any, zoom: Tensor) -> tuple[Tensor, ...]:
        scores = torch.cat(outputs.logits, 1).sigmoid()
        if self.centered:
            boxes = from_distances(torch.cat(outputs.points), torch.cat(outputs.distances, 1))
            return boxes / zoom, scores, torch.cat(outputs.centerness, 1).sigmoid()
        return self.head.coder.decode(torch.cat(outputs.anchors), torch.cat(outputs.deltas, 1)) / zoom, scores


class TwoStage(DetectorNetwork):
    """Faster, Mask and Cascade R-CNN; their decisions are always inside."""

    def __init__(self, detector: TwoStageDetector, preparation: Mapping[str, Any], inside: Inside):
        super().__init__(detector, preparation, inside)
        self.rpn_head, self.roi_head = detector.rpn_head, detector.roi_head
        if not inside.decide:
            self.notes.append(f"{type(detector).__name__} decides between its stages: its boxes come decoded")
        self.say(self.roi_head.settings.test.keep, detector.masks)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        maps, size, zoom = self.pyramid(images)
        regions = self._proposals(maps, size)
        number = regions.shape[1]
        heads, total = self.roi_head.bbox_heads(), 0
        for i, head in enumerate(heads):
            logits, deltas = head(self._features(maps, regions, box_heads.ROI_SIZE))
            logits, deltas = logits.unflatten(0, (-1, number)), deltas.unflatten(0, (-1, number))
            total = total + logits
            if i + 1 < len(heads):
                best = logits[..., :-1].argmax(-1)
                moved = head.coder.decode(regions, _of_class(deltas, best))
                regions = torch.minimum(moved.clamp(min=0), size)
        scores = (total / len(heads)).softmax(-1)[..., :-1]
        test, last = self.roi_head.settings.test, heads[-1]
        scores, rows, labels = selection.above(scores, test.score_threshold)
        chosen = selection.rows(deltas.flatten(2), rows).unflatten(-1, (-1, 4))
        boxes = last.coder.decode(selection.rows(regions, rows), _of_class(chosen, labels))
        boxes = torch.minimum(boxes.clamp(min=0), size)
        found = selection.finish(test, boxes, scores, labels, False, self.suppress)
        outputs = self.result(found, zoom)
        if self.roi_head.mask_head is None:
            return outputs
        features = self._features(maps, found.boxes, mask_heads.ROI_SIZE)
        labels = found.labels.clamp(min=0).flatten()
        masks = torch.stack([head(features, labels).sigmoid() for head in self.roi_head.mask_heads()]).mean(0)
        return *outputs, masks.unflatten(0, (-1, found.boxes.shape[1]))

    def _proposals(self, maps: list[Tensor], size: Tensor) -> Tensor:
        """Regions (N, P, 4), those that are none empty."""
        head = self.rpn_head
        test, outputs, levels = head.settings.test, head(maps), []
        for level, logits in enumerate(outputs.logits):
            scores, points, _ = selection.candidates(test, logits.sigmoid())
            boxes = head.coder.decode(outputs.anchors[level][points], selection.rows(outputs.deltas[level], points))
            levels.append((torch.minimum(boxes.clamp(min=0), size), scores, torch.full_like(points, level)))
        boxes, scores, groups = (torch.cat(parts, 1) for parts in zip(*levels))
        return selection.finish(test, boxes, scores, groups, suppress=self.suppress).boxes

    def _features(self, maps: list[Tensor], boxes: Tensor, side: int) -> Tensor:
        """As ``RoIHead.features`` of boxes (N, P, 4), image after image."""
        maps = maps[: self.roi_head.settings.levels]
        image = torch.arange(boxes.shape[0], dtype=boxes.dtype)[:, None, None].expand(-1, boxes.shape[1], 1)
        regions = torch.cat((image, boxes), -1).flatten(0, 1)
        level = (area(regions[:, 1:]).sqrt() / FINEST_SCALE + 1e-6).log2().floor().clamp(0, len(maps) - 1)
        features = torch.zeros(regions.shape[0], maps[0].shape[1], side, side)
        for i, (x, stride) in enumerate(zip(maps, self.roi_head.strides)):
            index = (level == i).nonzero().squeeze(1)
            found = ops.roi_align(x.float(), regions[index], side, 1 / stride, aligned=True)
            features = features.index_put((index,), found)
        return features


def _of_class(deltas: Tensor, labels: Tensor) -> Tensor:
    """Deltas (N, R, 4) of the labels (N, R), from those of all classes, or of one for all (N, R, classes or 1, 4)."""
    if deltas.shape[2] == 1:
        return deltas[:, :, 0]
    return deltas.gather(2, labels[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)


def of_detector(model: Detection | Detector, preparation: Mapping[str, Any], inside: Inside) -> DetectorNetwork:
    """The network of a detection task, or of a detector as it is."""
    detector = getattr(model, "detector", model)
    made = (OneStage if isinstance(detector, OneStageDetector) else TwoStage)(detector, preparation, inside)
    if getattr(model, "inference", None) is not None:
        made.notes.append("of the test-time scales and mirror images none but the image itself is exported")
    return made
