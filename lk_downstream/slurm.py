"""Jobs of the Slurm workload manager: which run belongs to a job that was requeued."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lk_downstream import trust
from lk_downstream.errors import InputError

FILE = "slurm.json"


def job(environment: Mapping[str, str] = os.environ) -> str | None:
    """The number of the job, of an array ``ARRAY_TASK``, which it keeps when it is requeued; None out of Slurm."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    number = f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID", "")
    return number if re.fullmatch(r"\d+(_\d+)?", number) else None


def note(folder: Path, command: Sequence[str], finished: bool = False) -> None:
    """Write into the folder of a run to which job it belongs; out of Slurm nothing.

    Args:
        folder: Of the run.
        command: Words of the command line, by which a job tells its runs apart.
        finished: Whether the training is at its end.
    """
    number = job()
    if number:
        content = {"job": number, "command": list(command), "finished": finished}
        part = folder / f"{FILE}.part"
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        part.replace(folder / FILE)


def runs(folder: Path, command: Sequence[str]) -> list[tuple[Path, bool]]:
    """Runs in ``folder`` of this job's same command, the newest first, and whether each is finished.

    Of a job that was not requeued there are none.
    """
    number = job()
    if not number or not int(os.environ.get("SLURM_RESTART_COUNT") or 0):
        return []
    found = []
    for file in folder.glob(f"*/{FILE}"):
        with suppress(InputError, AttributeError):  # damaged, as of a full disk
            content = trust.read_json(file)
            if content.get("job") == number and content.get("command") == list(command):
                found.append((file.stat().st_mtime, file.parent, bool(content.get("finished"))))
    return [(run, finished) for _, run, finished in sorted(found, reverse=True)]


def requeue() -> None:
    """Ask Slurm to start this job again; out of Slurm nothing."""
    number = job()
    if not number:
        return
    try:
        command = ["scontrol", "requeue", number]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=30)
        said = "requeued" if done.returncode == 0 else f"could not be requeued: {done.stderr.strip()}"
    except (OSError, subprocess.TimeoutExpired) as error:
        said = f"could not be requeued: {error}"
    print(f"job {number} {said}", flush=True)
