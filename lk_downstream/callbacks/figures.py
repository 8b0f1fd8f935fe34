"""Figures of a run: of bounded size, with any name in them, written to its folder and given to its loggers."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
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


class Figures(L.Callback):
    """Draws figures at each validation, once the checkpoints are written: it draws after them, see :func:`draw_last`.

    They lie as ``NAME.png`` in the run's folder, and go to each logger that takes images. What goes wrong is one line.
    """

    def figures(self, trainer: L.Trainer, task: L.LightningModule) -> Iterable[tuple[str, np.ndarray]]:
        """Names and figures, uint8 (height, width, 3)."""
        raise NotImplementedError

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Draw on the first process."""
        folder = trainer.log_dir  # asks all processes
        if not trainer.is_global_zero or trainer.sanity_checking or trainer.fast_dev_run:
            return
        with spared(type(self).__name__):
            for name, figure in self.figures(trainer, task):
                publish(trainer, folder, name, figure)


def draw_last(trainer: L.Trainer) -> None:
    """Let figures be drawn after the checkpoints are written, which Lightning puts last."""
    trainer.callbacks.sort(key=lambda callback: isinstance(callback, Figures))


@contextmanager
def spared(what: str) -> Iterator[None]:
    """A context in which an error ends no run, but is said in one line."""
    try:
        yield
    except Exception as error:  # whatever names, sizes, fonts and loggers do
        text = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"{what}: not drawn ({text[:300]})".encode("ascii", "backslashreplace").decode(), flush=True)


def publish(trainer: L.Trainer, folder: str | Path | None, name: str, figure: np.ndarray) -> None:
    """Write a figure uint8 (height, width, 3) as ``NAME.png``, and give it to the loggers as ``val/NAME``."""
    if folder:
        write_picture(Path(folder) / f"{name}.png", figure)
    for logger in trainer.loggers:
        with spared(f"{name} for {type(logger).__name__}"):
            give(logger, f"val/{name}", figure, trainer.global_step)


def give(logger: Any, name: str, figure: np.ndarray, step: int) -> None:
    """Give a figure to a logger of any kind that takes images."""
    experiment = logger.experiment
    if hasattr(experiment, "add_image"):  # TensorBoard
        experiment.add_image(name, figure, step, dataformats="HWC")
    elif hasattr(logger, "log_image"):  # W&B, whose own steps other figures of this moment have passed
        logger.log_image(name, [figure])
    elif hasattr(experiment, "log_image") and hasattr(logger, "run_id"):  # MLflow
        experiment.log_image(logger.run_id, figure, artifact_file=f"{name}/{step:08d}.png")
    elif hasattr(experiment, "log_image"):  # Comet
        experiment.log_image(figure, name=name, step=step)


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


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a PNG file so that ``path`` never holds an incomplete one."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.stem + ".part" + path.suffix)
    Image.fromarray(picture).save(part)
    part.replace(path)


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
