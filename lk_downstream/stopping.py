"""Signals that end the process: at once, or when a training is ready for it."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

# Asked to end (Slurm, docker stop, timeout), Ctrl-C, a terminal that is gone, Slurm's warning, Windows' Ctrl-Break.
NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGBREAK")


class Stopped(BaseException):
    """A signal ends the run. No `Exception`: nothing that catches errors may go on after it.

    Args:
        number: Of the signal.
        between_steps: Whether the state of a training is that after a whole step, and can be saved.
    """

    def __init__(self, number: int, between_steps: bool = False):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number, self.between_steps = number, between_steps

    @property
    def status(self) -> int:
        """Exit status of the process, 128 plus the number of the signal, as shells give it."""
        return 128 + self.number


class Signals:
    """A context in which the signals of ``NAMES`` raise :class:`Stopped`.

    While ``deferred`` they only set ``received``, and who has set it looks there; a second Ctrl-C does not wait. What
    is ignored when the context begins, as SIGHUP under nohup, stays so. Out of the main thread nothing is caught.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.deferred = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
            former = {number: signal.getsignal(number) for number in numbers}
            self._former = {number: handler for number, handler in former.items() if handler != signal.SIG_IGN}
        self.install()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Catch the signals, also after others (Lightning) have put a handler of their own in the place of this one."""
        for number in self._former:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == getattr(signal, "SIGHUP", None):
            _forget_terminal()
        again = self.received is not None and number == signal.SIGINT
        self.received = self.received or number
        if again or not self.deferred:
            raise Stopped(number)


def _forget_terminal() -> None:
    """Write into nothing instead of a terminal that is gone, which would be an error."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if stream.isatty():
            os.dup2(nothing, stream.fileno())
    os.close(nothing)


def leave_to_parent(worker: int = 0) -> None:
    """Let a loader process live on when a whole process group is signalled: the training ends it when it is ready.

    Args:
        worker: Its number; unused, as ``worker_init_fn`` of a DataLoader gets it.
    """
    for name in NAMES:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_next_time)  # by which PyTorch ends one that does not end on being told


@functools.cache
def end_loaders_at_exit() -> None:
    """End loader processes that are left when this process ends; Python would ask each once, and wait for ever."""
    atexit.register(_end_loaders)


def _end_loaders() -> None:
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's raises an error for each
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _end_next_time(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
