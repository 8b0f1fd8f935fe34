"""Write the mean of several checkpoints of a run."""

from __future__ import annotations

from lk_downstream.commands.parsing import new_parser, parse


def main(args: list[str]) -> int:
    """Average by the words of a command line."""
    parser = new_parser(
        "average",
        "Write the mean of the best or the last checkpoints of a run, which --checkpoint.save_top_k has kept.\n"
        "Batch statistics are averaged as the weights are.\n\n"
        "Example: runs/demo_segmentation/run_0 --best 3 --output averaged.ckpt",
    )
    parser.add_argument("run", help="the run's folder")
    parser.add_argument("--output", required=True, help="file to write: a checkpoint to evaluate and to start from")
    parser.add_argument("--best", type=int, help="how many, by the metric that they were kept by")
    parser.add_argument("--last", type=int, help="how many, by their steps")
    options = parse(parser, args)
    from lk_downstream.tasks.average import average_checkpoints

    chosen = average_checkpoints(options.run, options.output, options.best, options.last)
    print(f"{options.output}: the mean of {', '.join(path.name for path in chosen)}")
    return 0
