"""Claims: one owner at a time, also after owners that were killed or asleep."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

from lk_downstream.claims import claim, owner

GONE = subprocess.Popen([sys.executable, "-c", ""])  # a process of this machine that is no more
GONE.wait()


def leave_behind(folder, number=0, host=None, process=GONE.pid, age=0.0):
    path = folder / f"claim.{number:06d}"
    path.write_text(json.dumps({"host": host or socket.gethostname(), "process": process}), encoding="utf-8")
    os.utime(path, (time.time() - age,) * 2)


def test_a_claim_excludes_others_until_it_is_given_up(tmp_path):
    with claim(tmp_path) as own:
        assert own is not None
        assert claim(tmp_path) is None
        assert owner(tmp_path) == f"process {os.getpid()} on {socket.gethostname()}"
    assert owner(tmp_path) is None
    with claim(tmp_path) as own:
        assert own is not None


def test_the_claim_of_a_killed_process_of_this_machine_is_void_at_once(tmp_path):
    leave_behind(tmp_path, 3)
    with claim(tmp_path) as own:
        assert own.path.name == "claim.000004"


def test_the_claim_of_another_machine_is_void_after_its_silence(tmp_path):
    leave_behind(tmp_path, host="elsewhere", age=50)
    assert claim(tmp_path, silent=60) is None
    assert owner(tmp_path, silent=60) == f"process {GONE.pid} on elsewhere"
    leave_behind(tmp_path, host="elsewhere", age=70)
    with claim(tmp_path, silent=60) as own:
        assert own is not None


def test_a_claim_that_is_not_written_yet_or_damaged_is_held_until_its_silence(tmp_path):
    (tmp_path / "claim.000000").touch()
    assert claim(tmp_path) is None
    (tmp_path / "claim.000000").write_bytes(b"\xff{")
    assert claim(tmp_path) is None


def test_who_was_asleep_learns_that_the_claim_is_lost(tmp_path):
    own = claim(tmp_path, beat=0.05)
    assert own.path.stat().st_mtime <= time.time() + 1
    leave_behind(tmp_path, 1, host="elsewhere", process=1)
    deadline = time.monotonic() + 10
    while not own.lost and time.monotonic() < deadline:
        time.sleep(0.02)
    assert own.lost
    own.__exit__()
    assert owner(tmp_path) == "process 1 on elsewhere"  # the other's claim is not touched


def test_a_claim_gives_signs_of_life(tmp_path):
    with claim(tmp_path, beat=0.05) as own:
        os.utime(own.path, (0, 0))
        deadline = time.monotonic() + 10
        while own.path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert own.path.stat().st_mtime > 0


def test_of_many_that_take_over_at_once_one_gets_it(tmp_path):
    for round_ in range(20):
        folder = tmp_path / str(round_)
        folder.mkdir()
        leave_behind(folder)
        found, start = [], threading.Barrier(8)

        def take(folder=folder, found=found, start=start):
            start.wait()
            found.append(claim(folder))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        held = [each for each in found if each is not None]
        assert len(held) == 1
        held[0].__exit__()
