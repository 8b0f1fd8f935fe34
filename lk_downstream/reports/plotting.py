"""Figures of bounded size, drawn by matplotlib, with any name in them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

MAX_PIXELS = 16_000_000  # of a figure; 48 MiB
MAX_SIDE = 30_000  # pixels; matplotlib draws less than 65536
PANEL = 1024  # pixels of the longer side to which an image within a figure is thinned out
DPI = 110
# Beside matplotlib's own, which has Latin, Greek, Cyrillic, Arabic and more: those of the systems, as far as present.
FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("WenQuanYi Micro Hei", "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB"),
    *("Arial Unicode MS", "Yu Gothic", "Malgun Gothic", "Apple SD Gothic Neo", "Noto Sans KR", "Noto Sans Devanagari"),
    *("Nirmala UI", "Kohinoor Devanagari", "Noto Sans Thai", "Leelawadee UI", "Thonburi"),
)


def rendered(figure: Any) -> np.ndarray:
    """A figure of matplotlib as uint8 (height, width, 3), coarser where it would have more than ``MAX_PIXELS``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    width, height = figure.get_size_inches()
    figure.set_dpi(min(figure.dpi, math.sqrt(MAX_PIXELS / (width * height)), MAX_SIDE / max(width, height)))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def thinned(image: np.ndarray, side: int = PANEL) -> np.ndarray:
    """Every n-th row and column of an image or a mask (H, W, ...), so that none has more than ``side`` pixels."""
    step = -(-max(image.shape[:2]) // side)
    return image[::step, ::step]


@contextmanager
def plain_text() -> Iterator[None]:
    """A context in which matplotlib writes names as they are: a dollar sign begins no formula."""
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False, "font.family": list(_fonts())}):
        yield


def shown_name(name: str, most: int = 40) -> str:
    """A name as it is drawn: the end of a long one, and letters that no font has by their codes."""
    letters = _letters()
    text = "".join(a if a.isprintable() and ord(a) in letters else ascii(a).strip("'\"") for a in name[-2 * most :])
    return text if len(text) < most and len(name) <= 2 * most else f"...{text[3 - most :]}"


def add_legend(figure: Any, colours: Iterable[Any], names: Iterable[str], **options: Any) -> None:
    """A legend of coloured patches; matplotlib's own leaves out names that begin with an underscore."""
    from matplotlib.patches import Patch

    names = list(names)
    legend = figure.legend([Patch(color=colour) for colour in colours], ["-"] * len(names), **options)
    for text, name in zip(legend.get_texts(), names):
        text.set_text(shown_name(name))


@functools.cache
def _fonts() -> tuple[str, ...]:
    from matplotlib import font_manager

    present = set(font_manager.fontManager.get_font_names())
    return ("DejaVu Sans", *(name for name in FONTS if name in present))


@functools.cache
def _letters() -> frozenset[int]:
    from matplotlib import font_manager

    paths = [font_manager.findfont(name) for name in _fonts()]
    return frozenset(code for path in paths for code in font_manager.get_font(path).get_charmap())


@contextmanager
def spared(what: str) -> Iterator[None]:
    """A context in which an error ends no run, but is said in one line."""
    try:
        yield
    except Exception as error:  # whatever names, sizes, fonts and loggers do
        text = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"{what}: not drawn ({text[:300]})".encode("ascii", "backslashreplace").decode(), flush=True)
