"""Parameters and multiply-adds of the published models beside the published figures, or of any model."""

from __future__ import annotations

import sys

from lk_downstream.commands.parsing import new_parser, parse
from lk_downstream.errors import InputError

DESCRIPTION = """Parameters and multiply-adds of the published models beside the published figures, or of any model.

lk-downstream profile
lk-downstream profile --model slak_tiny --size 512 2048 --upernet --density 0.6
lk-downstream profile --model replknet_31b --size 224 --merged"""


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
    options = parse(parser, args)
    size = (options.size[0], options.size[-1])
    if len(options.size) > 2 or min(size) < 1 or options.classes < 1 or not 0 < options.density <= 1:
        raise InputError(
            "--size takes one or two sides, --size and --classes are at least 1, --density above 0 and at most 1"
        )
    from rich.console import Console

    from lk_downstream.analysis import costs, published

    console = Console() if sys.stdout.isatty() else Console(width=200)
    if options.model is None:
        console.print(published.published_table())
        return 0
    model = costs.build(options.model, options.classes if options.upernet else None, options.merged)
    parts = costs.costs(model, size, options.density)
    if not options.upernet:
        parts = {options.model: costs.total(parts)}
    elif options.no_auxiliary:
        del parts["auxiliary_head"]
    console.print(published.cost_table(options.model, size, parts))
    return 0
