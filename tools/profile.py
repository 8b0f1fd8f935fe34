"""Parameters and multiply-adds of the published models beside the published figures, or of any model.

python tools/profile.py
python tools/profile.py --model slak_tiny --size 512 2048 --upernet --density 0.6
python tools/profile.py --model replknet_31b --size 224 --merged
"""

import argparse
import sys
import sysconfig
from pathlib import Path


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="any model of timm's registry; without it: all published models")
    parser.add_argument("--size", type=int, nargs="+", default=[224], help="side, or height and width, of the image")
    parser.add_argument("--upernet", action="store_true", help="UPerNet in place of the classifier")
    parser.add_argument("--classes", type=int, default=150, help="of UPerNet")
    parser.add_argument("--no-auxiliary", action="store_true", help="leave UPerNet's auxiliary head out")
    parser.add_argument("--merged", action="store_true", help="branches of large kernels merged, as for inference")
    parser.add_argument("--density", type=float, default=1.0, help="share of SLaK's weights that are not zero")
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> int:
    from rich.console import Console

    from lk_downstream.errors import InputError
    from lk_downstream.tasks import profiling, published

    options = parse(args)
    console = Console() if sys.stdout.isatty() else Console(width=200)
    if options.model is None:
        console.print(published.published_table())
        return 0
    size = (options.size[0], options.size[-1])
    if len(options.size) > 2 or min(size) < 1 or options.classes < 1 or not 0 < options.density <= 1:
        message = "--size takes one or two sides, --size and --classes are at least 1, --density above 0 and at most 1"
        print(f"error: {message}", file=sys.stderr)
        return 1
    try:
        model = profiling.build(options.model, options.classes if options.upernet else None, options.merged)
        parts = profiling.costs(model, size, options.density)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not options.upernet:
        parts = {options.model: profiling.total(parts)}
    elif options.no_auxiliary:
        del parts["auxiliary_head"]
    console.print(published.cost_table(options.model, size, parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
elif __name__ == "profile":
    # The standard library has a module of this name, which cProfile and so Lightning import; programs in this folder
    # find this file in its place.
    exec(compile((Path(sysconfig.get_path("stdlib")) / "profile.py").read_text(), "profile.py", "exec"))
