"""Processes of one run, forked where that can be, so that they need not import everything again."""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable

import torch


def in_two_processes(run: Callable[..., None], *args, timeout: float = 240.0) -> None:
    """See :func:`in_processes`."""
    in_processes(2, run, *args, timeout=timeout)


def in_processes(number: int, run: Callable[..., None], *args, timeout: float = 240.0) -> None:
    """Call ``run(rank, *args)`` in processes that know of each other, and fail if one of them fails.

    ``init_process_group("gloo")`` and a Trainer of as many devices and the strategy ddp find the other processes by
    themselves. Results go through files.

    Args:
        number: Of the processes.
        run: A function of a module, since where there is no fork it is sent to a new process by its name.
        args: Of the function, after the rank.
        timeout: Seconds after which the processes are ended.
    """
    fork = "fork" in multiprocessing.get_all_start_methods() and not torch.cuda.is_initialized()
    context = multiprocessing.get_context("fork" if fork and sys.platform != "darwin" else "spawn")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    children = [context.Process(target=_child, args=(rank, number, port, run, args)) for rank in range(number)]
    for child in children:
        child.start()
    end = time.monotonic() + timeout
    try:
        while (alive := [child for child in children if child.is_alive()]) and time.monotonic() < end:
            if any(child.exitcode for child in children):  # the others would wait for it
                break
            alive[0].join(0.05)
        assert [child.exitcode for child in children] == [0] * number
    finally:
        for child in children:
            child.kill()


def _child(rank: int, number: int, port: int, run: Callable[..., None], args: tuple) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(number), NODE_RANK="0")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # some machines cannot find themselves by their own name
    torch.set_num_threads(1)  # OpenMP's threads are not forked
    run(rank, *args)
