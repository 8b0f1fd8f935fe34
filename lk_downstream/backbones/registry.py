"""Published weights: where they are, and what goes with them. One row for each file with a stable address.

Addresses and figures are those of the READMEs of ConvNeXt, RepLKNet and SLaK and of the metafiles of mmpretrain. Where
the name of a file ends in a hash, it is the start of its sha256.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lk_downstream.errors import InputError, near_names

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_FB = "https://dl.fbaipublicfiles.com/convnext/"
_MMPRETRAIN = "https://download.openmmlab.com/mmclassification/v0/replknet/"
_CONVNEXT_PAGE = "https://github.com/facebookresearch/ConvNeXt"
_REPLKNET_PAGE = "https://github.com/DingXiaoH/RepLKNet-pytorch"
_SLAK_PAGE = "https://github.com/VITA-Group/SLaK"


@dataclass(frozen=True)
class Weights:
    """One published file.

    Attributes:
        model: timm's name of the model.
        name: short name of the weights: data sets in the order of training, then the input size if not 224.
        url: address.
        figure: what the publisher reports for it.
        num_classes: classes of the classifier or segmentation head.
        input_size: side of the square input in pixels.
        mean: what the input is to be normalised by, for pixels in 0..1.
        std: likewise.
        license: licence of the file, as an SPDX expression.
        page: where it is published.
    """

    model: str
    name: str
    url: str
    figure: str = ""
    num_classes: int = 1000
    input_size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    license: str = "MIT"
    page: str = _CONVNEXT_PAGE


# (name, end of the file name, figure, classes, input size); `in1k` are the weights that downstream training starts
# from, `in1k_ema` the averaged ones behind the published accuracy.
_CONVNEXT = {
    "tiny": [
        ("in1k", "1k_224"),
        ("in1k_ema", "1k_224_ema", "82.1 top-1"),
        ("in22k", "22k_224", "", 21841),
        ("in22k_in1k", "22k_1k_224", "82.9 top-1"),
        ("in22k_in1k_384", "22k_1k_384", "84.1 top-1", 1000, 384),
    ],
    "small": [
        ("in1k", "1k_224"),
        ("in1k_ema", "1k_224_ema", "83.1 top-1"),
        ("in22k", "22k_224", "", 21841),
        ("in22k_in1k", "22k_1k_224", "84.6 top-1"),
        ("in22k_in1k_384", "22k_1k_384", "85.8 top-1", 1000, 384),
    ],
    "base": [
        ("in1k", "1k_224"),
        ("in1k_ema", "1k_224_ema", "83.8 top-1"),
        ("in1k_384", "1k_384", "85.1 top-1", 1000, 384),
        ("in22k", "22k_224", "", 21841),
        ("in22k_in1k", "22k_1k_224", "85.8 top-1"),
        ("in22k_in1k_384", "22k_1k_384", "86.8 top-1", 1000, 384),
    ],
    "large": [
        ("in1k_ema", "1k_224_ema", "84.3 top-1"),
        ("in1k_384", "1k_384", "85.5 top-1", 1000, 384),
        ("in22k", "22k_224", "", 21841),
        ("in22k_in1k", "22k_1k_224", "86.6 top-1"),
        ("in22k_in1k_384", "22k_1k_384", "87.5 top-1", 1000, 384),
    ],
    "xlarge": [
        ("in22k", "22k_224", "", 21841),
        ("in22k_in1k", "22k_1k_224_ema", "87.0 top-1"),
        ("in22k_in1k_384", "22k_1k_384_ema", "87.8 top-1", 1000, 384),
    ],
}

# (size, data of the backbone, crop, mIoU at one scale)
_CONVNEXT_ADE20K = [
    ("tiny", "1k", 512, 46.0),
    ("small", "1k", 512, 48.7),
    ("base", "1k", 512, 49.1),
    ("base", "22k", 640, 52.6),
    ("large", "22k", 640, 53.2),
    ("xlarge", "22k", 640, 53.6),
]

# (size, figure)
_ISOTROPIC = [("small", "78.7 top-1"), ("base", "82.0 top-1"), ("large", "82.6 top-1")]

# (model, name, file, figure as the authors report it, input size), mmpretrain's copies of the authors' weights
_REPLKNET = [
    ("replknet_31b", "in1k", "31B_3rdparty_in1k_20221118-fd08e268", "83.5 top-1", 224),
    ("replknet_31b", "in1k_384", "31B_3rdparty_in1k-384px_20221118-03a170ce", "84.8 top-1", 384),
    ("replknet_31b", "in22k_in1k", "31B_in21k-pre_3rdparty_in1k_20221118-54ed5c46", "85.2 top-1", 224),
    ("replknet_31b", "in22k_in1k_384", "31B_in21k-pre_3rdparty_in1k-384px_20221118-76c92b24", "86.0 top-1", 384),
    ("replknet_31l", "in22k_in1k_384", "31L_in21k-pre_3rdparty_in1k-384px_20221118-dc3fc07c", "86.6 top-1", 384),
    ("replknet_xl", "meg73m_in1k_320", "XL_meg73m-pre_3rdparty_in1k-320px_20221118-88259b1d", "87.8 top-1", 320),
]


def _rows() -> list[Weights]:
    rows = []
    for size, files in _CONVNEXT.items():
        for name, end, *rest in files:
            rows.append(Weights(f"convnext_{size}", name, f"{_FB}convnext_{size}_{end}.pth", *rest))
    for size, data, crop, miou in _CONVNEXT_ADE20K:
        url = f"{_FB}ade20k/upernet_convnext_{size}_{data}_{crop}x{crop}.pth"
        figure = f"UperNet, {miou} mIoU on ADE20K"
        rows.append(Weights(f"convnext_{size}", f"in{data}_ade20k_{crop}", url, figure, 150, crop))
    for size, figure in _ISOTROPIC:
        rows.append(Weights(f"convnext_isotropic_{size}", "in1k", f"{_FB}convnext_iso_{size}_1k_224_ema.pth", figure))
    for model, name, file, figure, size in _REPLKNET:
        half = {"mean": (0.5,) * 3, "std": (0.5,) * 3} if model == "replknet_xl" else {}
        url = f"{_MMPRETRAIN}replknet-{file}.pth"
        rows.append(Weights(model, name, url, figure, 1000, size, license="Apache-2.0", page=_REPLKNET_PAGE, **half))
    return rows


PUBLISHED: dict[str, dict[str, Weights]] = {}
for _row in _rows():
    PUBLISHED.setdefault(_row.model, {})[_row.name] = _row

# Weights that their authors keep on drives which serve pages, not files.
BY_HAND = {"replknet_": _REPLKNET_PAGE, "slak_": _SLAK_PAGE}


def find(model: str, name: str) -> Weights | None:
    """The weights called ``name`` of ``model``, or None."""
    return PUBLISHED.get(model, {}).get(name)


def unknown(model: str, name: str, others: Sequence[str] = ()) -> InputError:
    """The error for weights that are neither published by name (nor among ``others``) nor a file: what there is."""
    known = list(dict.fromkeys([*PUBLISHED.get(model, {}), *others]))
    message = f"There are no weights {name!r} for {model}{near_names(name, known)}"
    if known:
        message += f"; known by name are {', '.join(known)}"
    page = next((page for start, page in BY_HAND.items() if model.startswith(start)), None)
    if page:
        message += f"; download the authors' files by hand from the links on {page} and give the path"
    return InputError(message + ".")


def timm_cfg(weights: Weights) -> dict:
    """The part of timm's ``pretrained_cfg`` that goes with ``weights``."""
    # From 384 pixels on, the authors resize to the square without a crop.
    crop = {"crop_pct": 1.0, "crop_mode": "squash"} if weights.input_size >= 384 else {"crop_pct": 0.875}
    return {
        "url": weights.url,
        "num_classes": weights.num_classes,
        "input_size": (3, weights.input_size, weights.input_size),
        "pool_size": (-(-weights.input_size // 32),) * 2,
        "mean": weights.mean,
        "std": weights.std,
        "license": weights.license.lower(),
        "origin_url": weights.page,
        "interpolation": "bicubic",
        **crop,
    }
