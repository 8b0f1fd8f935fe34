"""Several runs of one recipe that differ in a few options: planned, done one by one or side by side, and gone on with.

A study is a folder with a folder for each run. A run is a process of its own (``lk-downstream fit``), so that one that
fails ends nothing else; what it has come to stands in its ``state.json``. Any number of processes may work on a study,
on one or several machines that share the folder: each takes what is free, by :mod:`lk_downstream.claims`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lk_downstream import trust
from lk_downstream.analysis.duration import told
from lk_downstream.claims import Claim, claim, owner
from lk_downstream.errors import InputError

if TYPE_CHECKING:
    from lk_downstream.analysis.runs import Run

REPEATS = ("seed_everything", "data.fold")  # runs that differ in these alone are one row of the table
FILE, STATE, LOG = "study.json", "state.json", "log.txt"
PROGRAM = (sys.executable, "-m", "lk_downstream")
PATIENCE = 60.0  # seconds that a run has to write its checkpoint when it is told to end


@dataclass(frozen=True)
class Planned:
    """A run of a study.

    Attributes:
        name: Of its folder.
        variant: What it is shown as; runs of the same one are repeats.
        options: Values by the names of options.
        published: Metrics that its authors have published for the variant, by name.
    """

    name: str
    variant: str
    options: Mapping[str, Any]
    published: Mapping[str, float] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        """The options as words of a command line."""
        return as_words(self.options)


@dataclass(frozen=True)
class Study:
    """What is run.

    Attributes:
        folder: Of the study.
        words: Of the command line that all runs share.
        runs: In the order in which they are done.
    """

    folder: Path
    words: tuple[str, ...]
    runs: tuple[Planned, ...]

    def fail(self, run: Planned, error: str) -> None:
        """Note that a run has failed, and why."""
        _write(self.folder / run.name / STATE, {"state": "failed", "error": error})

    def state(self, run: Planned) -> dict[str, Any]:
        """What is known of a run: ``state`` is ``waiting``, ``running``, ``finished`` or ``failed``."""
        found: dict[str, Any] = {"state": "waiting"}
        with suppress(OSError, InputError, ValueError):
            content = trust.read_json(self.folder / run.name / STATE)
            if isinstance(content, dict) and content.get("state") in ("finished", "failed"):
                found = content
        if found["state"] != "finished" and (self.folder / run.name).is_dir() and owner(self.folder / run.name):
            return {"state": "running"}
        return found

    def attempts(self, run: Planned) -> list[Path]:
        """Folders of the runs that this one consists of: each goes on from the one before."""
        found = (self.folder / run.name).glob("*/run_*")
        return sorted(found, key=lambda path: int(path.name[4:]) if path.name[4:].isdigit() else -1)

    def command(self, run: Planned) -> list[str]:
        """The command line of ``lk-downstream`` that begins a run, or goes on with it."""
        checkpoints = [path / "checkpoints" / "last.ckpt" for path in self.attempts(run)]
        kept = [path for path in checkpoints if path.is_file()]
        resumed = [f"--ckpt_path={kept[-1]}"] if kept else []
        return ["fit", *self.words, *run.words, f"--trainer.default_root_dir={self.folder / run.name}", *resumed]

    @classmethod
    def read(cls, folder: Path) -> Study:
        """The study of a folder.

        Raises:
            InputError: Its file is damaged.
        """
        try:
            content = trust.read_json(folder / FILE)
            return cls(folder, tuple(content["words"]), tuple(Planned(**run) for run in content["runs"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder / FILE} is not what a study writes ({error}): begin it again") from error

    def begin(self) -> None:
        """Write the plan into the folder, with what is there of it already.

        Raises:
            InputError: The folder holds a study of other options.
        """
        runs = {run.name: run for run in self.runs}
        former: tuple[Planned, ...] = ()
        if is_study(self.folder):
            known = Study.read(self.folder)
            former = tuple(run for run in known.runs if run.name not in runs)
            changed = [run.name for run in known.runs if run.name in runs and run.options != runs[run.name].options]
            if known.words != self.words or changed:
                raise InputError(
                    f"{self.folder} holds a study of other options ({' '.join(known.words)}): give this one a folder "
                    "of its own by --folder, or remove that one"
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        plan = [asdict(run) for run in (*self.runs, *former)]
        _write(self.folder / FILE, {"words": self.words, "runs": plan})

    @property
    def published(self) -> dict[str, Mapping[str, float]]:
        """What is published of each variant."""
        return {run.variant: run.published for run in self.runs}

    def commands(self) -> list[str]:
        """The command line of each run, as it begins."""
        return [shlex.join(["lk-downstream", "fit", *self.words, *run.words]) for run in self.runs]

    def chains(self) -> list[list[Path]]:
        """Folders of each run that is finished, the one that it ended in last."""
        return [self.attempts(run) for run in self.runs if self.state(run)["state"] == "finished"]

    def finished(self) -> dict[str, list[Run]]:
        """The runs that are finished, by variant."""
        from lk_downstream.analysis.runs import read_run

        found: dict[str, list[Run]] = {}
        for run in self.runs:
            if self.state(run)["state"] == "finished":
                *earlier, last = self.attempts(run)
                found.setdefault(run.variant, []).append(read_run(last, earlier))
        return found


def as_words(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line."""
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]


def is_study(folder: Path) -> bool:
    """Whether a folder is that of a study."""
    return (folder / FILE).is_file()


def plan(axes: Mapping[str, Sequence[Any]], variants: Sequence[Mapping[str, Any]] = ()) -> tuple[Planned, ...]:
    """The runs of a study: all combinations of the values of its axes, for each of its variants.

    Args:
        axes: Options and the values that each takes.
        variants: Each with ``name``, ``options`` and ``published`` (metrics of its authors), of which only the first
            must be there.

    Raises:
        InputError: There are no values, or two runs would be the same.
    """
    for option, values in axes.items():
        if not isinstance(values, (list, tuple)) or not values:
            raise InputError(f'--vary.{option}: give a list of values, such as --vary.{option} "[0, 1, 2]"')
    runs: dict[str, Planned] = {}
    for variant in variants or ({},):
        for values in itertools.product(*axes.values()):
            chosen = dict(zip(axes, values))
            labels = {option: label(option, value) for option, value in chosen.items()}
            own = [text for option, text in labels.items() if option not in REPEATS]
            shown = "-".join(filter(None, [variant.get("name", ""), *own])) or "as it is"
            name = "-".join(filter(None, [shown, *(text for option, text in labels.items() if option in REPEATS)]))
            name = re.sub(r"[^\w.=+-]+", "_", name).strip("._") or "run"
            if name in runs:
                raise InputError(f"two runs of the study would be the same, {name}: give each value once")
            options = {**variant.get("options", {}), **chosen}
            runs[name] = Planned(name, shown, options, variant.get("published", {}))
    return tuple(runs.values())


def label(option: str, value: Any) -> str:
    """How a value of an option is shown: a name as it is, anything else with the last word of the option."""
    if isinstance(value, str):
        return Path(value).stem if os.sep in value else value
    text = "-".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    word = {"seed_everything": "seed"}.get(option, option.rpartition(".")[2])
    return f"{word}_{text}"


def work(
    study: Study,
    say: Callable[[str], None],
    stopped: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
    left_out: Container[str] = (),
) -> None:
    """Do the runs that are free, one after the other, until none is or the process is to end.

    Args:
        study: Its runs may be worked on by others at the same time. A run that has failed before is tried again once.
        say: Takes a line for the user.
        stopped: Whether to end: a run that is being done then writes its checkpoint.
        environment: Further variables of the runs, such as the GPU that they have.
        left_out: Names of runs that are not done.
    """
    tried: set[str] = set()
    while not stopped():
        for number, run in enumerate(study.runs, 1):
            if run.name in tried or run.name in left_out or study.state(run)["state"] in ("finished", "running"):
                continue
            folder = study.folder / run.name
            folder.mkdir(exist_ok=True)
            taken = claim(folder)
            if taken is None:
                continue
            with taken:
                if study.state(run)["state"] == "finished":  # in the meantime
                    continue
                tried.add(run.name)
                _do(study, run, f"[{number}/{len(study.runs)}] {run.name}", taken, say, stopped, environment or {})
            break  # look again from the first: others may have ended
        else:
            return


def _do(
    study: Study,
    run: Planned,
    shown: str,
    taken: Claim,
    say: Callable[[str], None],
    stopped: Callable[[], bool],
    environment: Mapping[str, str],
) -> None:
    folder, command = study.folder / run.name, study.command(run)
    if any(map(_is_done, study.attempts(run)[-1:])):
        _write(folder / STATE, {"state": "finished"})
        return
    resumed = any(word.startswith("--ckpt_path=") for word in command)
    say(f"{shown} {'goes on' if resumed else 'begins'}; its output is in {folder / LOG}")
    began = time.monotonic()
    with open(folder / LOG, "a", encoding="utf-8") as log:
        start = log.tell()
        process = subprocess.Popen(
            [*PROGRAM, *command],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
            start_new_session=True,  # a Ctrl-C is ours to pass on
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        status = _wait(process, lambda: stopped() or taken.lost)
    took = f"{(time.monotonic() - began) / 60:.1f} min"
    if taken.lost:
        say(f"{shown} was taken over by {owner(folder) or 'another process'}")
        return
    if stopped():
        say(f"{shown} is stopped after {took}")
        return
    if status:
        said = told(_tail(folder / LOG, start))
        study.fail(run, said)
        say(f"{shown} failed after {took}: {said}")
        return
    _write(folder / STATE, {"state": "finished"})
    say(f"{shown} is finished after {took}")


def _end_with_parent() -> None:
    """Let this process, before it becomes a run, get SIGTERM when the study is killed, whose claim is then void."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _is_done(attempt: Path) -> bool:
    """Whether a run has validated its last step, of which the process that watched it did not live to take note."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        steps = trust.read_yaml(attempt / "config.yaml")["trainer"]["max_steps"]
        return steps > 0 and trust.read_json(attempt / "metrics.json")["last"]["step"] >= steps
    return False


def _wait(process: subprocess.Popen, ended: Callable[[], bool]) -> int:
    """The status of a process, which is told to end, and later made to, when it is no longer wanted."""
    deadline: float | None = None
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(0.5)
        if deadline is None and ended():
            deadline = time.monotonic() + PATIENCE
            process.send_signal(signal.SIGTERM)
        elif deadline is not None and time.monotonic() > deadline:
            process.kill()


def _tail(path: Path, start: int = 0) -> str:
    with open(path, "rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - 4096))
        return file.read().decode("utf-8", "replace")


def _write(path: Path, content: Any) -> None:
    """Write JSON so that the file is complete at any time, also where several processes write it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def progress(study: Study) -> Iterator[tuple[Planned, str]]:
    """The last line that each run at work has said."""
    for run in study.runs:
        log = study.folder / run.name / LOG
        if study.state(run)["state"] == "running" and log.is_file():
            yield run, next((line for line in _tail(log).splitlines()[::-1] if line.strip()), "it has said nothing yet")
