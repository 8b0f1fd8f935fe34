"""Videos, frame by frame, through FFmpeg (by PyAV)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lk_downstream.errors import DamagedFile, InputError

# The container by the name of a file: FFmpeg would also take playlists, which name other files and addresses.
VIDEOS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi"}
CODECS = ("libx264", "mpeg4")  # that videos are written with, the first that is there


def is_video(path: Path) -> bool:
    """Whether the name is that of a video."""
    return path.suffix.lower() in VIDEOS


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import av
    except ImportError as error:
        raise InputError(f"{path} is read by PyAV: pip install 'lk_downstream[video]'") from error
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        kind, options = VIDEOS[path.suffix.lower()], {"protocol_whitelist": "file"}
        with av.open(str(path), format=kind, options=options) as container:
            if not container.streams.video:
                raise InputError(f"{path} holds no video")
            yield container
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise DamagedFile(
            f"{path} is no {path.suffix[1:]} or is damaged ({error}): download or copy it again"
        ) from error


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """The frames uint8 (H, W, 3), turned as the file says.

    Raises:
        InputError: It is not there, or PyAV is not installed.
        DamagedFile: It cannot be decoded.
    """
    with _opened(path) as container:
        for frame in container.decode(video=0):
            turns = round(getattr(frame, "rotation", 0) / 90) % 4
            yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def frame_rate(path: Path) -> Fraction:
    """Frames a second."""
    with _opened(path) as container:
        return Fraction(container.streams.video[0].average_rate or 25)


class VideoFile:
    """A video that is written frame by frame as MP4, complete or not there.

    Args:
        path: The file.
        rate: Frames a second.
    """

    def __init__(self, path: Path, rate: Fraction):
        import av

        self.av, self.path = av, path
        self.part = path.with_name(f"{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.container = av.open(str(self.part), "w", format="mp4")
        codec = next(name for name in CODECS if name in av.codecs_available)
        self.stream = self.container.add_stream(codec, rate=rate.limit_denominator(65535))
        self.stream.pix_fmt = "yuv420p"
        self.size: tuple[int, int] | None = None

    def add(self, image: np.ndarray) -> None:
        """Write a frame uint8 (H, W, 3) of the size of the first; a last odd row or column is left out."""
        if self.size is None:
            self.size = (image.shape[0] // 2 * 2, image.shape[1] // 2 * 2)
            self.stream.height, self.stream.width = self.size
        frame = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(image[: self.size[0], : self.size[1]]), "rgb24")
        self.container.mux(self.stream.encode(frame))

    def close(self) -> Path:
        """End the file, and give it its name."""
        if self.size:
            self.container.mux(self.stream.encode())
        self.container.close()
        return self.part.replace(self.path)
