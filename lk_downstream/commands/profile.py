"""Parameters and multiply-adds of published models, of any model, or of one's own with its speed and memory."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

from jsonargparse import Namespace

from lk_downstream.commands.parsing import new_parser, parse
from lk_downstream.commands.printing import console
from lk_downstream.errors import InputError

DESCRIPTION = """Parameters and multiply-adds of the published models beside the published results, or of any model;
or what trained models cost where they run: latency, throughput, memory, part by part.

lk-downstream profile
lk-downstream profile --model slak_tiny --size 512 2048 --upernet --density 0.6
lk-downstream profile --model replknet_31b --size 224 --merged
lk-downstream profile --steps
lk-downstream profile --checkpoint runs/demo_segmentation/run_0 other.ckpt --sizes 512 512x1024 --batches 1 8"""


def main(args: list[str]) -> int:
    """Print the table that the words of a command line ask for."""
    parser = new_parser("profile", DESCRIPTION)
    parser.add_argument("--model", help="any model of timm's registry; without it: all published models")
    parser.add_argument("--size", type=int, nargs="+", default=[224], help="side, or height and width, of the image")
    parser.add_argument("--upernet", action="store_true", help="UPerNet in place of the classifier")
    parser.add_argument("--classes", type=int, default=150, help="of UPerNet")
    parser.add_argument("--no-auxiliary", action="store_true", help="leave UPerNet's auxiliary head out")
    parser.add_argument("--merged", action="store_true", help="branches of large kernels merged, as for inference")
    parser.add_argument("--density", type=float, default=1.0, help="share of SLaK's weights that are not zero")
    parser.add_argument("--steps", action="store_true", help="the steps from ResNet to ConvNeXt, beside their paper's")
    parser.add_argument("--checkpoint", nargs="+", help="in place of --model: checkpoints, or folders of runs")
    parser.add_argument(
        "--sizes", nargs="+", help="with --checkpoint: sides, or HEIGHTxWIDTH; default: 224 for classifiers, else 512"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1], help="with --checkpoint: images at once")
    parser.add_argument(
        "--forms", nargs="+", default=["plain", "merged"], help="of checkpoints: plain, merged, deep (all norms folded)"
    )
    parser.add_argument("--device", help="with --checkpoint; default: the GPU if there is one")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--rounds", type=int, default=10, help="with --checkpoint: measurements; the median counts")
    parser.add_argument("--output", help="with --checkpoint: a JSON file to write")
    options = parse(parser, args)
    return _measured(options) if options.checkpoint else _counted(options)


def _counted(options: Namespace) -> int:
    size = (options.size[0], options.size[-1])
    if len(options.size) > 2 or min(size) < 1 or options.classes < 1 or not 0 < options.density <= 1:
        raise InputError(
            "--size takes one or two sides, --size and --classes are at least 1, --density above 0 and at most 1"
        )
    from lk_downstream.analysis import costs, published

    screen = console()
    if options.steps:
        from lk_downstream.analysis.steps import steps_table

        screen.print(steps_table())
        return 0
    if options.model is None:
        screen.print(published.published_table())
        return 0
    model = costs.build(options.model, options.classes if options.upernet else None, options.merged)
    parts = costs.costs(model, size, options.density)
    if not options.upernet:
        parts = {options.model: costs.total(parts)}
    elif options.no_auxiliary:
        del parts["auxiliary_head"]
    screen.print(published.cost_table(options.model, size, parts))
    return 0


def _measured(options: Namespace) -> int:
    if options.model:
        raise InputError("give either --model or --checkpoint")
    sizes = [_size(word) for word in options.sizes or ()]
    import torch

    from lk_downstream.analysis.models import find_task
    from lk_downstream.analysis.profiling import profile_tasks
    from lk_downstream.reports.files import write_json
    from lk_downstream.reports.profile import profile_table
    from lk_downstream.tasks import Classification

    tasks = {path: find_task(path) for path in options.checkpoint}
    if not sizes:
        sizes = [(224, 224) if all(isinstance(task, Classification) for task in tasks.values()) else (512, 512)]
    dtype = getattr(torch, options.dtype)
    profiles = profile_tasks(tasks, sizes, options.batches, options.forms, options.device, dtype, options.rounds)
    rows = [asdict(profile) for profile in profiles]
    screen = console()
    screen.print(f"{rows[0]['device']}, {options.dtype}, PyTorch {torch.__version__}, {options.rounds} rounds\n")
    screen.print(profile_table(rows))
    if options.output:
        write_json(Path(options.output), {"torch": torch.__version__, "profiles": rows})
        screen.print(f"\nnumbers      {options.output}", markup=False)
    return 0


def _size(word: str) -> tuple[int, int]:
    if not re.fullmatch(r"\d+(x\d+)?", word):
        raise InputError(f"--sizes takes sides, such as 512, or HEIGHTxWIDTH, such as 512x1024, not {word!r}")
    sides = [int(side) for side in word.split("x")]
    return sides[0], sides[-1]
