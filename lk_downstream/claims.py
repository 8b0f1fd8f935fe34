"""Who works on what, among processes of one or of several machines that share a folder and nothing else.

A claim is a file that only one process can make. While its owner lives, its time of change moves on; one whose time
stands still, or whose process is gone from this machine, is void, and the next one gets a higher number. So nothing is
ever taken from a file's owner, and a process that was asleep finds the higher number, and stops.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from contextlib import suppress
from pathlib import Path

from lk_downstream import trust

BEAT, SILENT = 10.0, 90.0  # seconds between two signs of life, and without one until a claim is void


class Claim:
    """A claim of this process, see :func:`claim`; a context that gives it up at its end.

    Attributes:
        path: Its file.
        lost: Whether another process has taken over, as this one gave no sign of life: stop, and write nothing more.
    """

    def __init__(self, path: Path, beat: float):
        self.path, self.lost = path, False
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._live, args=(beat,), daemon=True)
        self._heart.start()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._heart.join()
        with suppress(OSError):
            self.path.unlink()

    def _live(self, beat: float) -> None:
        while not self._ended.wait(beat):
            newest = _newest(self.path.parent)
            if newest is None or newest > self.path:  # names sort as their numbers
                self.lost = True
                return
            with suppress(OSError):
                os.utime(self.path)


def claim(folder: Path, beat: float = BEAT, silent: float = SILENT) -> Claim | None:
    """Claim a folder; None: it is another's.

    Args:
        folder: Which is there. The claim is a file ``claim.NUMBER`` in it.
        beat: Seconds between two signs of life.
        silent: Seconds without one after which a claim is void; of a process of this machine that is gone, it is at
            once.
    """
    newest = _newest(folder)
    if newest is not None and not _void(newest, silent):
        return None
    number = 0 if newest is None else int(newest.suffix[1:]) + 1
    path = folder / f"claim.{number:06d}"
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:  # another was faster
        return None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({"host": socket.gethostname(), "process": os.getpid()}, file)
    return Claim(path, beat)


def owner(folder: Path, silent: float = SILENT) -> str | None:
    """Who works on a folder, as ``process 17 on node3``; None: nobody."""
    newest = _newest(folder)
    if newest is None or _void(newest, silent):
        return None
    content = _read(newest)
    return f"process {content.get('process')} on {content.get('host')}"


def _newest(folder: Path) -> Path | None:
    found = [path for path in folder.glob("claim.*") if re.fullmatch(r"claim\.\d{6}", path.name)]
    return max(found, default=None)


def _read(path: Path) -> dict:
    """What a claim says; nothing where its owner has not written yet."""
    with suppress(OSError, ValueError):
        content = trust.read_json(path)
        if isinstance(content, dict):
            return content
    return {}


def _void(path: Path, silent: float) -> bool:
    content = _read(path)
    process = content.get("process")
    if content.get("host") == socket.gethostname() and isinstance(process, int) and not _lives(process):
        return True
    try:
        return _clock(path.parent) - path.stat().st_mtime > silent
    except FileNotFoundError:  # given up at this moment
        return True


def _clock(folder: Path) -> float:
    """The time by the clock that dates the files of a folder, which on a network is not this machine's."""
    path = folder / f".clock.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}"
    path.touch()
    try:
        return path.stat().st_mtime
    finally:
        path.unlink()


def _lives(process: int) -> bool:
    if os.name == "nt":  # where os.kill would end it; its claim becomes void in time
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
