"""Published weights: where they are, and what goes with them. One row for each file with a stable address.

Addresses and results are those of the READMEs of ConvNeXt, RepLKNet and SLaK and of the metafiles of mmpretrain and
mmsegmentation. Where the name of a file ends in a hash, it is the start of its sha256.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lk_downstream.backbones import manual_downloads
from lk_downstream.errors import InputError, near_names

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_FB = "https://dl.fbaipublicfiles.com/convnext/"
_OPENMMLAB = "https://download.openmmlab.com/"
_MMPRETRAIN = f"{_OPENMMLAB}mmclassification/v0/"
_CONVNEXT_PAGE = "https://github.com/facebookresearch/ConvNeXt"
_MMPRETRAIN_PAGE = "https://github.com/open-mmlab/mmpretrain/tree/main/configs/convnext"
_MMSEG_PAGE = "https://github.com/open-mmlab/mmsegmentation/tree/main/configs/convnext"


@dataclass(frozen=True)
class Weights:
    """One published file.

    Attributes:
        model: timm's name of the model.
        name: short name of the weights: data sets in the order of training, then detector and input size if not 224;
            ``_openmmlab`` for OpenMMLab's copies, ``_openmmlab_own`` for what OpenMMLab has trained itself.
        url: address.
        metric: what the publisher reports for it.
        num_classes: classes of the classifier, segmentation head or detector.
        input_size: side of the square input in pixels; of detectors, the short side.
        mean: what the input is to be normalised by, for pixels in 0..1.
        std: likewise.
        license: licence of the file, as an SPDX expression.
        page: where it is published.
    """

    model: str
    name: str
    url: str
    metric: str = ""
    num_classes: int = 1000
    input_size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    license: str = "MIT"
    page: str = _CONVNEXT_PAGE


# (name, end of the file name, metric, classes, input size); `in1k` are the weights that downstream training starts
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

# (size, data of the backbone, name of the detector, of its file, metric)
_CONVNEXT_COCO = [
    ("tiny", "1k", "mask_rcnn", "Mask R-CNN, 46.2 box and 41.7 mask AP on COCO"),
    ("tiny", "1k", "cascade", "Cascade Mask R-CNN, 50.4 box and 43.7 mask AP on COCO"),
    ("small", "1k", "cascade", "Cascade Mask R-CNN, 51.9 box and 45.0 mask AP on COCO"),
    ("base", "1k", "cascade", "Cascade Mask R-CNN, 52.7 box and 45.6 mask AP on COCO"),
    ("base", "22k", "cascade", "Cascade Mask R-CNN, 54.0 box and 46.9 mask AP on COCO"),
    ("large", "22k", "cascade", "Cascade Mask R-CNN, 54.8 box and 47.6 mask AP on COCO"),
    ("xlarge", "22k", "cascade", "Cascade Mask R-CNN, 55.2 box and 47.7 mask AP on COCO"),
]

# (size, name without _openmmlab, end of the file name, metric, classes, input size): mmpretrain's ConvNeXt
_CONVNEXT_MMPRETRAIN = [
    ("tiny", "in1k_ema_own", "32xb128_in1k_20221207-998cf3e9", "82.14 top-1"),
    ("tiny", "in1k_own", "32xb128-noema_in1k_20221208-5d4509c7"),
    ("tiny", "in22k_in1k", "in21k-pre_3rdparty_in1k_20221219-7501e534", "82.9 top-1"),
    ("tiny", "in22k_in1k_384", "in21k-pre_3rdparty_in1k-384px_20221219-c1182362", "84.11 top-1", 1000, 384),
    ("small", "in1k_ema_own", "32xb128_in1k_20221207-4ab7052c", "83.16 top-1"),
    ("small", "in1k_own", "32xb128-noema_in1k_20221208-4a618995"),
    ("small", "in22k_in1k", "in21k-pre_3rdparty_in1k_20221219-aeca4c93", "84.6 top-1"),
    ("small", "in22k_in1k_384", "in21k-pre_3rdparty_in1k-384px_20221219-96f0bb87", "85.8 top-1", 1000, 384),
    ("base", "in1k_ema_own", "32xb128_in1k_20221207-fbdb5eb9", "83.66 top-1"),
    ("base", "in1k_own", "32xb128-noema_in1k_20221208-f8182678"),
    ("base", "in1k_ema", "3rdparty_32xb128_in1k_20220124-d0915162", "83.8 top-1"),
    ("base", "in1k", "3rdparty_32xb128-noema_in1k_20220222-dba4f95f", "83.71 top-1"),
    ("base", "in1k_384", "3rdparty_in1k-384px_20221219-c8f1dc2b", "85.10 top-1", 1000, 384),
    ("base", "in22k", "3rdparty_in21k_20220124-13b83eec", "", 21841),
    ("base", "in22k_in1k", "in21k-pre-3rdparty_32xb128_in1k_20220124-eb2d6ada", "85.8 top-1"),
    ("base", "in22k_in1k_384", "in21k-pre-3rdparty_in1k-384px_20221219-4570f792", "86.8 top-1", 1000, 384),
    ("large", "in1k_ema", "3rdparty_64xb64_in1k_20220124-f8a0ded0", "84.3 top-1"),
    ("large", "in1k_384", "3rdparty_in1k-384px_20221219-6dd29d10", "85.5 top-1", 1000, 384),
    ("large", "in22k", "3rdparty_in21k_20220124-41b5a79f", "", 21841),
    ("large", "in22k_in1k", "in21k-pre-3rdparty_64xb64_in1k_20220124-2412403d", "86.6 top-1"),
    ("large", "in22k_in1k_384", "in21k-pre-3rdparty_in1k-384px_20221219-6d38dd66", "87.5 top-1", 1000, 384),
    ("xlarge", "in22k", "3rdparty_in21k_20220124-f909bad7", "", 21841),
    ("xlarge", "in22k_in1k", "in21k-pre-3rdparty_64xb64_in1k_20220124-76b6863d", "87.0 top-1"),
    ("xlarge", "in22k_in1k_384", "in21k-pre-3rdparty_in1k-384px_20221219-b161bc14", "87.8 top-1", 1000, 384),
]

# (size, data of the backbone, crop, end of the file name, mIoU at one scale): what mmsegmentation has trained
_CONVNEXT_MMSEG = [
    ("tiny", "1k", 512, "20220227_124553-cad485de", 46.11),
    ("small", "1k", 512, "20220227_131208-1b1e394f", 48.56),
    ("base", "1k", 512, "20220227_181227-02a24fc6", 48.71),
    ("base", "22k", 640, "20220227_182859-9280e39b", 52.13),
    ("large", "22k", 640, "20220226_040532-e57aa54d", 53.16),
    ("xlarge", "22k", 640, "20220226_080344-95fc38c2", 53.58),
]

# (size, metric)
_ISOTROPIC = [("small", "78.7 top-1"), ("base", "82.0 top-1"), ("large", "82.6 top-1")]

# (model, name, file, result as the authors report it, input size), mmpretrain's copies of the authors' weights
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
        metric = f"UperNet, {miou} mIoU on ADE20K"
        rows.append(Weights(f"convnext_{size}", f"in{data}_ade20k_{crop}", url, metric, 150, crop))
    for size, data, detector, metric in _CONVNEXT_COCO:
        file = f"coco/{detector.replace('cascade', 'cascade_mask_rcnn')}_convnext_{size}_{data}_3x.pth"
        rows.append(Weights(f"convnext_{size}", f"in{data}_coco_{detector}", f"{_FB}{file}", metric, 80, 800))
    for size, name, end, *rest in _CONVNEXT_MMPRETRAIN:
        name = f"{name.removesuffix('_own')}_openmmlab{'_own' if name.endswith('_own') else ''}"
        url = f"{_MMPRETRAIN}convnext/convnext-{size}_{end}.pth"
        rows.append(Weights(f"convnext_{size}", name, url, *rest, license="Apache-2.0", page=_MMPRETRAIN_PAGE))
    for size, data, crop, end, miou in _CONVNEXT_MMSEG:
        folder = f"upernet_convnext_{size}_fp16_{crop}x{crop}_160k_ade20k"
        url = f"{_OPENMMLAB}mmsegmentation/v0.5/convnext/{folder}/{folder}_{end}.pth"
        name, metric = f"in{data}_ade20k_{crop}_openmmlab_own", f"UperNet, {miou} mIoU on ADE20K"
        rows.append(Weights(f"convnext_{size}", name, url, metric, 150, crop, license="Apache-2.0", page=_MMSEG_PAGE))
    for size, metric in _ISOTROPIC:
        rows.append(Weights(f"convnext_isotropic_{size}", "in1k", f"{_FB}convnext_iso_{size}_1k_224_ema.pth", metric))
    for model, name, file, metric, size in _REPLKNET:
        half = {"mean": (0.5,) * 3, "std": (0.5,) * 3} if model == "replknet_xl" else {}
        url = f"{_MMPRETRAIN}replknet/replknet-{file}.pth"
        page = manual_downloads.REPLKNET_PAGE
        rows.append(Weights(model, name, url, metric, 1000, size, license="Apache-2.0", page=page, **half))
    return rows


PUBLISHED: dict[str, dict[str, Weights]] = {}
for _row in _rows():
    PUBLISHED.setdefault(_row.model, {})[_row.name] = _row


def find(model: str, name: str) -> Weights | None:
    """The weights called ``name`` of ``model``, or None."""
    return PUBLISHED.get(model, {}).get(name)


def unknown(model: str, name: str, others: Sequence[str] = ()) -> InputError:
    """The error for weights that are neither published by name (nor among ``others``) nor a file: what there is."""
    if sentence := manual_downloads.where(model, name):
        return InputError(f"{sentence} (links: {_page(model)}).")
    known = list(dict.fromkeys([*PUBLISHED.get(model, {}), *others]))
    by_hand = list(manual_downloads.DOWNLOADS.get(model, ()))
    message = f"There are no weights {name!r} for {model}{near_names(name, [*known, *by_hand])}"
    if known:
        message += f"; known by name are {', '.join(known)}"
    if by_hand:
        message += f"; to download by hand from the links on {_page(model)}: {', '.join(by_hand)}"
    return InputError(message + ".")


def _page(model: str) -> str:
    return next(
        (page for start, page in manual_downloads.PAGES.items() if model.startswith(start)), manual_downloads.SLAK_PAGE
    )


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
