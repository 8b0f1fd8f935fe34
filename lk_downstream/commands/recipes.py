"""fit, evaluate, predict and robustness: what is done by a config. Their help needs neither PyTorch nor Lightning."""

from __future__ import annotations

import atexit
import gc
import importlib
import re
import sys
import textwrap

from lk_downstream import config_files
from lk_downstream.errors import InputError

HELP = """usage: lk-downstream {name} --config NAME [--OPTION VALUE ...]

NAME is a file of settings, or one of the configs below. Every setting is an option:
--model.backbone.name slak_tiny, --data.batch_size 8, --trainer.max_steps 1000, --trainer.devices 2.

  --print_config           all settings, as they would be used; they can be fed back by --config
  --model.help [CLASS]     the settings of a class, here of a task; without CLASS of the one that is set
  --data.help [CLASS]      those of a data module, and so on: --data.dataset.help, --model.head.help
  --trainer.help           the options of the Trainer, of the checkpoints and all others
{options}
configs:
{configs}"""
CHECKPOINT = "  --ckpt_path FILE         {}\n  --model.weights FILE     {}\n"
STOPS = """  --print_groups           learning rates and decay, and stop
  --show_batches FILE      draw the first training images as the network sees them, and stop
"""
TILED = ("--tile", "--overlap")
EVALUATED = CHECKPOINT.format("a checkpoint of a run", "or published weights of a whole model")


def fit(args: list[str]) -> int:
    """Train."""
    options = CHECKPOINT.format("go on with a stopped run", "start from weights of a whole model")
    return _run("fit", "fit", args, options + STOPS)


def evaluate(args: list[str]) -> int:
    """Validate, or score an existing results file."""
    if any(word.partition("=")[0] == "--results" for word in args):
        from lk_downstream.commands import score

        return score.main(args)
    split = "  --split NAME             in place of the validation split: test, train or any other that the data have\n"
    scored = "  --results FILE --annotations FILE    score an existing results file of COCO's format; needs no config\n"
    return _run("evaluate", "validate", args, EVALUATED + split + scored)


def predict(args: list[str]) -> int:
    """Predict on images, by a model alone or by a config."""
    if args and not args[0].startswith("-"):
        from lk_downstream.commands import predict

        return predict.main(args)
    for word in args:
        if (name := word.partition("=")[0]) in TILED:
            raise InputError(
                f"{name} is an option of the form without a config, as the Trainer takes images whole: "
                f"lk-downstream predict CHECKPOINT IMAGES {name} NUMBER"
            )
    alone = "\nWithout a config, or in tiles: lk-downstream predict MODEL IMAGES"
    alone += ", see lk-downstream predict MODEL --help\n"
    images = "  --data.predict PATH      an image or a folder of images\n"
    return _run("predict", "predict", args, EVALUATED + images + alone)


def robustness(args: list[str]) -> int:
    """Evaluate a classifier on other images of ImageNet's classes."""
    names = "  --imagenet_a FOLDER      likewise --imagenet_r, --imagenet_sketch, --imagenet_c, --imagenet_c_bar\n"
    names += "  --cue_conflict FOLDER    images of one shape and another texture, for the shape bias\n"
    return _run("robustness", "robustness", args, EVALUATED + names)


def _run(name: str, subcommand: str, args: list[str], options: str) -> int:
    if "-h" in args or "--help" in args:
        configs = textwrap.fill(", ".join(config_files.names()), 100, initial_indent="  ", subsequent_indent="  ")
        print(HELP.format(name=name, options=options, configs=configs))
        return 0
    args = config_files.resolve(args)  # before the imports, which take seconds
    if "torch" not in sys.modules:
        _load()
    from lk_downstream import cli

    cli.main(subcommand, args)
    return 0


def _load() -> None:
    """Import everything, without the search for garbage among it, then and later, which takes a tenth of the time."""
    gc.disable()
    # The operator first: where one is registered, PyTorch looks through all modules that there are.
    for name in ("lk_downstream.ops", "lk_downstream.cli"):
        importlib.import_module(name)
    gc.freeze()
    atexit.register(_thaw)
    gc.enable()


def _thaw() -> None:
    """Let Python free all at its end where Triton speaks of leaks otherwise, from 3.9 on; but search only once."""
    version = getattr(sys.modules.get("triton"), "__version__", "0.0")
    if tuple(map(int, re.findall(r"\d+", version)[:2])) >= (3, 9):
        gc.disable()
        gc.unfreeze()
