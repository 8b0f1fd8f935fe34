"""Speed of large-kernel convolutions and backbones against plain PyTorch: a table, files and a plot."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from lk_downstream.commands.parsing import new_parser, parse

DESCRIPTION = """Speed of large-kernel convolutions and backbones against plain PyTorch: a table, files and a plot.

lk-downstream benchmark layers --batch 2 --channels 64 --sizes 16 32 --kernels 7 31 --depth 1
lk-downstream benchmark networks --models replknet_31b slak_tiny --batch 1
lk-downstream benchmark layers --device cuda --dtype bfloat16
lk-downstream benchmark runtimes --batch 1 --channels 128 --kernels 13 31"""
BACKBONES = ["replknet_31b", "replknet_31l", "replknet_xl", "slak_tiny", "slak_small", "slak_base", "convnext_tiny"]


def main(args: list[str]) -> int:
    """Measure by the words of a command line."""
    parser = new_parser("benchmark", DESCRIPTION)
    parser.add_argument(
        "what",
        choices=("layers", "networks", "runtimes"),
        help="Table 1 of the RepLKNet paper, whole backbones, or large kernels in the runtimes of exported files",
    )
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--threads", type=int, help="threads on the CPU; default: PyTorch's")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side, of which the median counts")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--sizes", type=int, nargs="+", help="sides of maps (layers: 16 32 64) or images (networks: 224)"
    )
    parser.add_argument("--channels", type=int, default=384)
    parser.add_argument("--kernels", type=int, nargs="+", default=[3, 5, 7, 9, 13, 17, 21, 27, 29, 31])
    parser.add_argument("--depth", type=int, default=24, help="layers in the stack")
    parser.add_argument("--forward-only", action="store_true", help="layers: leave the gradients out")
    parser.add_argument("--skip-contiguous", action="store_true", help="layers: leave PyTorch's contiguous layout out")
    parser.add_argument("--models", nargs="+", default=BACKBONES, metavar="NAME", help="networks of timm's registry")
    parser.add_argument(
        "--modes", nargs="+", default=["inference", "merged", "training"], help="of networks; also: deep"
    )
    parser.add_argument("--output", default="benchmark", help="folder of the CSV file and the plot")
    parser.add_argument("--report", action="store_true", help="also print which backend was chosen for each shape")
    options = parse(parser, args)
    import timm
    import torch

    from lk_downstream import ops, reparameterize
    from lk_downstream.analysis import latency
    from lk_downstream.backbones.authors import authors_form
    from lk_downstream.machine import record
    from lk_downstream.reports.files import write_json

    if options.threads:
        torch.set_num_threads(options.threads)
    if options.what == "runtimes":
        from lk_downstream.export import runtimes

        rows = runtimes.kernels(
            options.channels, options.sizes or (14, 28, 56), options.kernels, options.batch, options.rounds
        )
        print(f"processor time, ms, {torch.get_num_threads()} threads, PyTorch {torch.__version__}")
        print(" | ".join(rows[0]))
        for row in rows:
            print(" | ".join(f"{value:.3g}" for value in row.values()))
        return 0
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    common = {
        "batch": options.batch,
        "device": device,
        "dtype": getattr(torch, options.dtype),
        "rounds": options.rounds,
    }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    title = f"{options.what}, {options.dtype}, {name}, PyTorch {torch.__version__}"
    print(ops.notice(device))
    if options.what == "layers":
        rows = latency.layers(
            channels=options.channels,
            sizes=options.sizes or (16, 32, 64),
            kernels=options.kernels,
            depth=options.depth,
            backward=not options.forward_only,
            contiguous=not options.skip_contiguous,
            **common,
        )
    else:
        rows = latency.networks(
            timm.create_model,
            lambda model, deep: reparameterize(model, deep=deep),
            authors_form,
            options.models,
            sizes=options.sizes or (224,),
            modes=options.modes,
            **common,
        )
    rows = latency.show(rows, title)
    stem = f"{options.what}_{device.type}_{options.dtype}"
    output = Path(options.output)
    latency.save_csv(rows, output / f"{stem}.csv")
    latency.save_plot(rows, output / f"{stem}.png", title)
    made = record(["python", "tools/benchmark.py", *args])
    write_json(output / f"{stem}.json", {"part": options.what, **made, "rows": [asdict(row) for row in rows]})
    print(f"written: {output / stem}.csv, .json and .png")
    if options.report:
        print(ops.report())
    return 0
