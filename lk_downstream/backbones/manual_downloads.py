"""Weights that their authors keep on drives, which serve pages and no files: what there is, and the links."""

from __future__ import annotations

REPLKNET_PAGE = "https://github.com/DingXiaoH/RepLKNet-pytorch"
SLAK_PAGE = "https://github.com/VITA-Group/SLaK"
PAGES = {"replknet_": REPLKNET_PAGE, "slak_": SLAK_PAGE}

_GOOGLE = "https://drive.google.com/file/d/{}/view"
_SURF = "https://surfdrive.surf.nl/files/index.php/s/{}"

# model -> name (as in registry.py) -> (link, metric of the authors). Of RepLKNet's files only those without a copy that
# can be downloaded; the first of a pair in the authors' table is the pretrained one.
DOWNLOADS: dict[str, dict[str, tuple[str, str]]] = {
    "replknet_31b": {
        "in22k": (_GOOGLE.format("1PYJiMszZYNrkZOeYwjccvxX8UHMALB7z"), "pretrained, 21841 classes"),
        "in1k_ade20k_512": (_GOOGLE.format("1ZV1CP1KzeSdH6_wKw4ytVe9BlCGHf89s"), "UperNet, 49.9 mIoU on ADE20K"),
        "in22k_ade20k_640": (_GOOGLE.format("1W2W4nD2HzTsG_yP9ppLYAqMo3T3JHBNW"), "UperNet, 51.5 mIoU on ADE20K"),
        "in1k_cityscapes_769": (
            _GOOGLE.format("1j3YwToRqTHHi7ocln0iBz1tE6hItD_JO"),
            "UperNet, 83.1 mIoU on Cityscapes",
        ),
        "in1k_coco_fcos": (_GOOGLE.format("1g0jSpONBF2wJDXYhB7P3mbqAVE587Myi"), "FCOS, 47.0 box AP on COCO"),
        "in1k_coco_cascade": (_GOOGLE.format("1XqWSkQZSLMIhyaQvaIhGbuFhdDoRJQ4Z"), "Cascade, 52.2 box AP on COCO"),
        "in22k_coco_cascade": (_GOOGLE.format("1faI-MiNuPidum6dC6dGADfYWe6J-bTAz"), "Cascade, 53.0 box AP on COCO"),
    },
    "replknet_31l": {
        "in22k": (_GOOGLE.format("16jcPsPwo5rko7ojWS9k_W-svHX-iFknY"), "pretrained, 21841 classes"),
        "in22k_ade20k_640": (_GOOGLE.format("1nrZ723LC3QYjcVHJm8jpOOcecfWMsjxL"), "UperNet, 52.4 mIoU on ADE20K"),
        "in22k_coco_cascade": (_GOOGLE.format("1qLQONhIjCEuykhdy-wHx1Ah9lT3v2OXh"), "Cascade, 53.9 box AP on COCO"),
    },
    "replknet_xl": {
        "meg73m": (_GOOGLE.format("1CBHAEUlCzoHfiAQmMIjZhDMAIyHUmAAj"), "pretrained"),
        "meg73m_ade20k_640": (_GOOGLE.format("14GbBI8tdeEl_ECytDCdrfAfNm1McqMv4"), "UperNet, 55.2 mIoU on ADE20K"),
        "meg73m_coco_cascade": (_GOOGLE.format("1i0TqfwQJQUVHWdB5oyDgxlUUqzPZmIVr"), "Cascade, 55.5 box AP on COCO"),
    },
    "slak_tiny": {
        "in1k": (_GOOGLE.format("1Iut2f5FMS_77jGPYoUJDQzDIXOsax1u4"), "82.5 top-1"),
        "in1k_120ep": (_SURF.format("WiQYWNclJ9bW5XV"), "81.6 top-1"),
        "in1k_120ep_31": (_SURF.format("VXzBxFXQdlAQ7h8"), "81.5 top-1, kernels 31"),
        "in1k_120ep_61": (_SURF.format("VpR1te71NmVImJb"), "81.5 top-1, kernels 61"),
        "in1k_ade20k_512": (_SURF.format("cc6Pqb7IZaecWMv"), "UperNet, 47.6 mIoU on ADE20K"),
        "in1k_120ep_coco_cascade": (_SURF.format("2IvPyGgSTT2RvPu"), "Cascade, 48.4 box AP on COCO"),
    },
    "slak_small": {
        "in1k": (_GOOGLE.format("1etM6KQbnlsgDAZ37adsQJ3UI8Bbv2AVe"), "83.8 top-1"),
        "in1k_ade20k_512": (_SURF.format("HMLBXtKUDY6wyFF"), "UperNet, 49.4 mIoU on ADE20K"),
    },
    "slak_base": {
        "in1k": (_GOOGLE.format("1duUxUD3RSblQ6eDHd0n-u0aulwGypf1j"), "84.0 top-1"),
        "in1k_ade20k_512": (_SURF.format("JDZ6dMBMZDxUHQG"), "UperNet, 50.0 mIoU on ADE20K"),
    },
    # ConvNeXt students of SLaK teachers; the authors of SLaK publish them.
    "convnext_tiny": {"in1k_l2s": (_SURF.format("cR6KLvxjlUshUQA"), "83.1 top-1, distilled from SLaK")},
    "convnext_small": {"in1k_l2s": (_SURF.format("PYqL3rVff3Nu2sP"), "84.3 top-1, distilled from SLaK")},
}


def where(model: str, name: str) -> str | None:
    """How to get the weights ``name`` of ``model`` by hand, in a sentence, or None if they are on no drive."""
    if name not in DOWNLOADS.get(model, {}):
        return None
    link, metric = DOWNLOADS[model][name]
    return (
        f"The weights {name!r} of {model} ({metric}) lie on a drive, from which no program can fetch them: open {link} "
        "in a browser, download the file by hand and give its path"
    )
