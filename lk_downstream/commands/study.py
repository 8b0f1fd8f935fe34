"""Several runs of one recipe, and what they come to."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lk_downstream import config_files, trust
from lk_downstream.analysis.duration import estimate
from lk_downstream.errors import InputError, near_names
from lk_downstream.reports.tables import duration
from lk_downstream.study import LOG, Planned, Study, as_words, plan, progress, work

HELP = """usage: lk-downstream study --config NAME --vary.OPTION LIST [--OPTION VALUE ...]
       lk-downstream study --study FILE [--OPTION VALUE ...]

Runs a config with all combinations of the values, and compares what comes out. Example:
  lk-downstream study --config upernet_convnext_atto_folder --data.dataset.root mine \\
      --vary.model.backbone.name "[convnext_atto, test_replknet, resnet18]" --vary.seed_everything "[0, 1, 2]"
The same command goes on with a study that was stopped, and further processes, on this or on other machines that share
the folder, as the members of a job array, take what is free.

  --vary.OPTION LIST   an option of fit and its values; runs that differ in seed_everything or in the fold are one row
  --study FILE         all this from a file: config, options, vary, and variants with names and published metrics;
                       by name: {studies}
  --folder FOLDER      of the study; default: studies/NAME
  --jobs N             runs at the same time, each on a GPU of its own, or on its share of the CPU's cores
  --baseline NAME      the model that the others are compared with; default: the first
  --plan               say what would be run, with an estimate of its time, and stop
  --estimate false     begin at once, without measuring a few steps of each model
  --costs false        do not measure speed and memory of the models
"""
KEYS = ("config", "options", "vary", "variants")


@dataclass
class Options:
    """The words of a command line.

    Attributes:
        words: Those for every run.
        axes: Options and their values.
        variants: See :func:`lk_downstream.study.plan`.
    """

    words: list[str] = field(default_factory=list)
    axes: dict[str, list[Any]] = field(default_factory=dict)
    variants: list[dict[str, Any]] = field(default_factory=list)
    study: str | None = None
    folder: str | None = None
    jobs: int = 1
    baseline: str | None = None
    plan: bool = False
    estimate: bool = True
    costs: bool = True


def main(args: list[str]) -> int:
    """Run a study by the words of a command line."""
    if not args or "-h" in args or "--help" in args:
        print(HELP.format(studies=", ".join(config_files.studies())))
        return 0
    if any(word.startswith("--print_config") for word in args):  # of the recipe that all runs share
        from lk_downstream.commands import recipes

        return recipes.fit([word for word in args if not word.startswith("--vary.")])
    options = read(args)
    study = Study(Path(options.folder), tuple(options.words), plan(options.axes, options.variants))
    study.begin()
    _say(f"{len(study.runs)} runs of {len(dict.fromkeys(run.variant for run in study.runs))} models in {study.folder}")
    from lk_downstream.stopping import Signals, Stopped

    try:
        with Signals() as signals:
            failed = _estimate(study, options.jobs) if options.estimate or options.plan else set()
            if options.plan:
                return 0
            signals.deferred = True  # a run that is being done writes its checkpoint first
            _work(study, options.jobs, lambda: signals.received is not None, failed)
            signals.deferred = False
            if signals.received:
                raise Stopped(signals.received)
            return _conclude(study, options)
    except Stopped as stopped:
        _say(f"{stopped}; the same command goes on with the study")
        return stopped.status


def read(args: Iterable[str]) -> Options:
    """The words of a command line, those of a study file first.

    Raises:
        InputError: A word or the file is wrong.
    """
    options = Options()
    words = iter(args)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name.partition(".")[0] not in ("vary", *Options.__dataclass_fields__):
            options.words.append(word)
            continue
        if not equals and name != "plan":
            value = next(words, None)
            if value is None:
                raise InputError(f"{word}: give its value")
        if name.startswith("vary."):
            options.axes[name.removeprefix("vary.")] = _value(word, value)
        elif name == "plan":
            options.plan = value != "false"
        elif name in ("estimate", "costs"):
            setattr(options, name, _flag(name, value))
        elif name == "jobs":
            options.jobs = _jobs(value)
        elif name in ("study", "folder", "baseline"):
            setattr(options, name, value)
        else:
            raise InputError(f"{word}: there is no such option{near_names(word, ('--vary.OPTION', '--study'))}")
    if options.study:
        _read_file(options)
    if not options.axes and not options.variants:
        raise InputError('nothing varies: give --vary.OPTION LIST, such as --vary.seed_everything "[0, 1, 2]"')
    if not any(word.partition("=")[0] in ("--config", "-c") for word in options.words):
        raise InputError("--config: name the config that is run, such as upernet_convnext_atto_folder")
    options.words = config_files.resolve(options.words)
    options.folder = options.folder or f"studies/{Path(options.study or _config(options.words)).stem}"
    return options


def _read_file(options: Options) -> None:
    path = config_files.find_study(options.study)
    content = trust.read_yaml(path)
    if not isinstance(content, dict) or not {"config"} <= set(content) <= set(KEYS):
        raise InputError(f"{path} is no study: it takes config, and options, vary or variants")
    own = as_words(content.get("options") or {})
    options.words = [f"--config={content['config']}", *own, *options.words]
    options.axes = {**(content.get("vary") or {}), **options.axes}
    options.variants = content.get("variants") or []
    for variant in options.variants:
        if not isinstance(variant, dict) or not {"name"} <= set(variant) <= {"name", "options", "published"}:
            raise InputError(f"{path}: each of the variants takes name, options and published, not {variant!r:.100}")
        variant["name"] = str(variant["name"])  # such as 7


def _value(word: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"{word}: {text!r} is no list of YAML, such as [0, 1, 2]") from None


def _flag(name: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise InputError(f"--{name} is {value!r}: it must be true or false")
    return value == "true"


def _jobs(value: str) -> int:
    if not value.isdigit() or not int(value):
        raise InputError(f"--jobs is {value!r}: it must be a number of runs, at least 1")
    return int(value)


def _config(words: list[str]) -> str:
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in ("--config", "-c"):
            return value if equals else words[place + 1]
    return "study"


def _estimate(study: Study, jobs: int) -> set[str]:
    """Measure a few steps of each model, and say how long the study takes; the runs that cannot begin.

    Raises:
        InputError: No model can be trained.
    """
    waiting: dict[str, list[Planned]] = {}
    for run in study.runs:
        if study.state(run)["state"] != "finished":
            waiting.setdefault(run.variant, []).append(run)
    seconds: float = 0.0
    failed: dict[str, InputError] = {}
    for name, runs in waiting.items():
        try:
            times = estimate([*study.words, *runs[0].words])
        except InputError as error:
            failed |= dict.fromkeys((run.name for run in runs), error)
            _say(f"  {name}: cannot be trained: {error}")
            continue
        seconds += times.seconds * len(runs)
        _say(f"  {name}: {len(runs)} x {duration(times.seconds)} ({times})")
    if failed and len(failed) == sum(map(len, waiting.values())):
        raise InputError(f"none of the models can be trained: {next(iter(failed.values()))}")
    for run in study.runs:
        if run.name in failed:
            study.fail(run, str(failed[run.name]))
    if waiting:
        at_once = f" by {jobs} at a time" if jobs > 1 else ""
        _say(f"about {duration(seconds / jobs)} in all{at_once}, if the machine has nothing else to do")
    return set(failed)


def _work(study: Study, jobs: int, stopped: Callable[[], bool], left_out: set[str]) -> None:
    """Do what is free, with lines of progress now and then."""
    environments = [_share(number, jobs) for number in range(jobs)]
    workers = [threading.Thread(target=work, args=(study, _say, stopped, each, left_out)) for each in environments]
    for worker in workers:
        worker.start()
        time.sleep(0.2)  # so that the first takes the first
    said = time.monotonic()
    while any(worker.is_alive() for worker in workers):
        time.sleep(0.5)
        if time.monotonic() - said > 60 and not stopped():
            said = time.monotonic()
            for run, line in progress(study):
                _say(f"  {run.name}: {line}")
    for worker in workers:
        worker.join()


def _share(number: int, jobs: int) -> dict[str, str]:
    """The GPU or the CPU cores of one of several runs at the same time."""
    if jobs == 1:
        return {}
    import torch

    from lk_downstream import machine

    if gpus := torch.cuda.device_count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        names = visible if len(visible) == gpus else [str(index) for index in range(gpus)]
        return {"CUDA_VISIBLE_DEVICES": names[number % gpus]}
    return {"OMP_NUM_THREADS": str(max(machine.cores() // jobs, 1))}


def _conclude(study: Study, options: Options) -> int:
    """Compare what is finished; 1 if a run has failed."""
    from lk_downstream.commands.compare import conclude

    states = {run.name: study.state(run) for run in study.runs}
    failed = [name for name, state in states.items() if state["state"] == "failed"]
    for name in failed:
        _say(f"{name} failed: {states[name].get('error')} (see {study.folder / name / LOG})")
    if others := [name for name, state in states.items() if state["state"] == "running"]:
        _say(f"other processes are at work on {', '.join(others)}; their results are in the table of the last one")
    if any(state["state"] == "finished" for state in states.values()):
        published = {run.variant: run.published for run in study.runs}
        measured = options.costs and not others
        conclude(study.finished(), study.folder, published, options.baseline, measured, study.commands())
    return int(bool(failed))


def _say(line: str) -> None:
    print(line, flush=True)
