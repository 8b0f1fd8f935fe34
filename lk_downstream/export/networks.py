"""What is exported of a classifier and of a segmentation: from images of any size to classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lk_downstream.data.classification_transforms import EvaluationImage
from lk_downstream.errors import InputError
from lk_downstream.export import resizing
from lk_downstream.inference import MultiScale, Slide, Whole
from lk_downstream.tasks import Classification, Segmentation
from lk_downstream.tasks.channels import of_channels

CLASSES_AT_ONCE = 16  # whose maps of the images' size are held together


@dataclass(frozen=True)
class Inside:
    """Which steps around the network are part of what is exported.

    Attributes:
        resize: the test-time resize: images of any size in, results for that size out.
        decide: softmax or sigmoid of a classifier, argmax of a segmentation, decoding, threshold and non-maximum
            suppression of a detector.
    """

    resize: bool = True
    decide: bool = True


class Network(nn.Module):
    """Images uint8 (N, C, H, W), RGB -> outputs, as :attr:`names` has them.

    Args:
        mean: of the grey levels in 0..1, for each channel.
        std: likewise.
        inside: see :class:`Inside`.

    Attributes:
        kind: ``segmentation``, ``detection``, ``classification`` or ``multilabel``.
        names: of the outputs.
        meanings: what each output is.
        least: smallest height and width.
        fixed: whether images of all sizes reach the network in one.
        channels: of the images.
        settings: how images are resized, as :meth:`lk_downstream.data.DataModule.preparation` has it.
        notes: in what the exported network differs from the task, sentences.
    """

    kind = ""
    least = 1
    fixed = False

    def __init__(self, mean: Sequence[float], std: Sequence[float], inside: Inside):
        super().__init__()
        # Names that no value of a graph has.
        self.register_buffer("grey_mean", 255 * torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("grey_std", 255 * torch.tensor(std).view(-1, 1, 1))
        self.inside, self.normalization = inside, (tuple(mean), tuple(std))
        self.channels = 3 if len(mean) == 1 else len(mean)
        self.meanings: dict[str, str] = {}
        self.settings: dict[str, Any] = {}
        self.notes: list[str] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Of the outputs."""
        return tuple(self.meanings)

    def normalize(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """Grey levels -> input of the network, of the type of its parameters; 0 where ``kept`` is false."""
        inputs = (of_channels(images.float(), len(self.grey_mean)) - self.grey_mean) / self.grey_std
        return (inputs if kept is None else inputs * kept).to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(self.parameters()).dtype

    def _apply(self, *args: Any, **options: Any) -> Network:
        """Cast and move; mean and standard deviation keep their precision."""
        mean, std = self.grey_mean, self.grey_std  # of float32
        super()._apply(*args, **options)
        self.grey_mean, self.grey_std = mean.to(self.grey_mean.device), std.to(self.grey_std.device)
        return self


class Classifier(Network):
    """Probabilities (N, classes) by a task, or a model of timm's kind."""

    def __init__(self, model: nn.Module, preparation: Mapping[str, Any], inside: Inside):
        if isinstance(model, Classification):
            mean, std, body, self_size = model.backbone.mean, model.backbone.std, model.backbone.body, 224
            crop, self_kind = None, "multilabel" if model.multilabel else "classification"
        else:
            known = model.pretrained_cfg
            mean, std, body, self_kind = known["mean"], known["std"], model, "classification"
            self_size, crop = (known.get("input_size") or (3, 224, 224))[-1], known.get("crop_pct")
        super().__init__(mean, std, inside)
        self.kind, self.model = self_kind, body
        size, crop = preparation.get("size") or self_size, preparation.get("crop") or crop
        steps = EvaluationImage(size, crop).steps.transforms
        resized = steps[0].size
        self.size, self.resized = size, resized[0] if len(resized) == 1 else None
        self.settings = {"size": size, "crop": crop}
        self.meanings = {"probabilities": "float32 (N, classes), of each class"}
        if not inside.decide:
            self.meanings = {"logits": "float32 (N, classes)"}
        self.least, self.fixed = 1 if inside.resize else 2 * _coarsest(body), inside.resize

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        if self.inside.resize:
            images = resizing.bicubic_crop(images.float(), self.size, self.resized)
        logits = self.model(self.normalize(images)).float()
        if not self.inside.decide:
            return logits
        return logits.sigmoid() if self.kind == "multilabel" else logits.softmax(1)


def _coarsest(model: nn.Module) -> int:
    """The largest stride of a model's maps: at twice as many pixels none has a side of 1, which a trace would take for
    fixed.
    """
    return max((info["reduction"] for info in getattr(model, "feature_info", ()) if "reduction" in info), default=16)


class Segmenter(Network):
    """Class indices (N, H, W) at the size of the images, by the task's inference rule, without auxiliary head."""

    kind = "segmentation"

    def __init__(self, task: Segmentation, inside: Inside):
        super().__init__(task.backbone.mean, task.backbone.std, inside)
        self.backbone, self.head = task.backbone, task.head
        self.number, self.coarsest = len(task.classes), max(task.backbone.strides)
        rule = task.inference
        if isinstance(rule, MultiScale):
            self.notes.append("of the multi-scale rule a single scale without mirror images is exported")
            rule = rule.rule
        if not isinstance(rule, Whole):
            raise InputError(
                f"{type(rule).__name__} cannot be exported: give the task the inference rule Whole or Slide"
            )
        self.rule = rule
        if not inside.resize and isinstance(rule, Slide):
            self.notes.append("without the resize there are no sliding windows: the image is taken whole")
        self.settings = {"scale": None if rule.scale is None else list(rule.scale)}
        self.meanings = {"classes": "uint8 (N, H, W), class index of each pixel"}
        if not inside.decide:
            self.meanings = {"logits": "float32 (N, classes, H, W)"}
        self.least = 1 if inside.resize else 2 * self.coarsest

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        if not self.inside.resize:
            return self._result(self._at_stride(images), None, [images.shape[-2:]])
        height, width = resizing.sides(images)
        new = (height, width) if self.rule.scale is None else resizing.keep_ratio(height, width, self.rule.scale)
        size = tuple(resizing.length(side) for side in new)
        resized = resizing.bilinear(images.float(), new, size)
        windows = Windows(self.rule, new, size) if isinstance(self.rule, Slide) else None
        logits = self._at_stride(self._stretched(resized if windows is None else windows.cut(resized)))
        return self._result(logits, windows, [size, images.shape[-2:]])

    def _stretched(self, images: Tensor) -> Tensor:
        """Images of which the network leaves something: each side at least its coarsest stride."""
        sides = tuple(side.clamp(min=self.coarsest) for side in resizing.sides(images))
        return resizing.bilinear(images, sides, tuple(resizing.length(side, self.coarsest) for side in sides))

    def _at_stride(self, images: Tensor) -> Tensor:
        # Contiguous, as torch.export else asks of SLaK's channels-last maps in which order they lie at every width.
        return self.head([maps.contiguous() for maps in self.backbone(self.normalize(images))]).float()

    def _result(self, logits: Tensor, windows: Windows | None, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Logits or class indices at the last of the sizes; a part of the classes passes all of them at a time."""
        best = index = None
        parts = []
        step = CLASSES_AT_ONCE if self.inside.decide else self.number
        for first in range(0, self.number, step):
            maps = logits[:, first : first + step]
            if windows is not None:
                maps = windows.averaged(maps, self._resize)
            for size in sizes:
                maps = self._resize(maps, size)
            if not self.inside.decide:
                parts.append(maps)
                continue
            value, position = maps.max(1)
            position = (position + first).to(torch.uint8)
            if best is None:
                best, index = value, position
            else:
                index = torch.where(value > best, position, index)  # of equal ones the first
                best = torch.maximum(best, value)
        return torch.cat(parts, 1) if parts else index

    def _resize(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=self.head.align_corners)


class Windows:
    """The sliding windows of :class:`Slide` for a size that is not known before; all of them pass at once.

    Args:
        rule: their size and distance.
        sides: of the images, float64 () each.
        lengths: the same as lengths.
    """

    def __init__(self, rule: Slide, sides: Sequence[Tensor], lengths: tuple[int, int]):
        self.lengths = lengths
        self.index, self.crop, self.number = [], [], []
        for side, crop, stride in zip(sides, rule.crop, rule.stride):
            count = ((side - crop + stride - 1).clamp(min=0) / stride).floor() + 1
            number, inner = resizing.length(count), resizing.length(side.clamp(max=crop))
            starts = (torch.minimum(torch.arange(number) * stride + crop, side.long()) - crop).clamp(min=0)
            self.index.append(starts[:, None] + torch.arange(inner))
            self.crop.append(inner)
            self.number.append(number)

    def cut(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> windows (N * rows * columns, C, h, w)."""
        rows, columns = self.index
        parts = images[:, :, rows][..., columns]  # (N, C, R, h, K, w)
        return parts.permute(0, 2, 4, 1, 3, 5).reshape(-1, images.shape[1], *self.crop)

    def averaged(self, maps: Tensor, resize: Any) -> Tensor:
        """Logits of windows, of any size -> their means (N, classes, H, W) where they overlap."""
        (rows, columns), (height, width) = self.index, self.lengths
        maps = resize(maps, tuple(self.crop))
        classes = maps.shape[1]
        maps = maps.reshape(-1, *self.number, classes, *self.crop)  # (N, R, K, classes, h, w)
        parts = maps.permute(2, 5, 0, 1, 3, 4).flatten(0, 1)  # (K * w, N, R, classes, h)
        total = torch.zeros(width, *parts.shape[1:]).index_put((columns.flatten(),), parts, accumulate=True)
        parts = total.permute(2, 4, 1, 3, 0).flatten(0, 1)  # (R * h, N, classes, W)
        total = torch.zeros(height, *parts.shape[1:]).index_put((rows.flatten(),), parts, accumulate=True)
        counts = [
            torch.zeros(length).index_put((index.flatten(),), torch.ones(index.numel()), accumulate=True)
            for index, length in ((rows, height), (columns, width))
        ]
        return total.permute(1, 2, 0, 3) / (counts[0][:, None] * counts[1])
