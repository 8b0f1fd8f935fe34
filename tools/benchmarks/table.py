"""The README's table of speed, from the JSON files of the other benchmarks.

``benchmark.py table benchmark/*.json --readme README.md`` writes it between the two comments that mark its place there;
without ``--readme`` it is printed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.sides import OURS, Race

BEGIN, END = "<!-- made by tools/benchmark.py table -->", "<!-- end of the table -->"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, help="that the other benchmarks have written")
    parser.add_argument("--readme", type=Path, help="the file to write the table into")


def main(options: argparse.Namespace) -> int:
    text = table([json.loads(path.read_text(encoding="utf-8")) for path in options.files])
    if options.readme is None:
        print(text)
        return 0
    page = options.readme.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"error: {options.readme} has no place for the table: the lines {BEGIN} and {END}")
    options.readme.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
    return 0


def table(contents: list[dict]) -> str:
    """Machines, and a row for each race: the first side, this package, and how many times as fast it is."""
    lines = []
    for content in contents:
        machine, versions = content["machine"], content["versions"]
        said = f"{machine['processor']}, {machine['cores']} cores, {machine['abilities']}, PyTorch {versions['torch']}"
        if said not in lines:
            lines.append(said)
    lines = [f"Measured on {'; '.join(lines)}; all sides of a row in one run, medians.", ""]
    lines += ["| what | command | beside | its | ours | |", "|---|---|---|---|---|---|"]
    for content in contents:
        for race in (Race(**row) for row in content["races"]):
            if OURS not in race.sides:
                continue
            for name in race.sides:
                if name.startswith(OURS):
                    continue
                values = [f"{race.median(side):.3g}" for side in (name, OURS)]
                ratio = race.times(OURS) / race.times(name)
                what = f"{race.what}, {race.unit}: {race.conditions}"
                lines.append(f"| {what} | `{content['command']}` | {name} | {' | '.join(values)} | {ratio:.2f} times |")
    return "\n".join(lines)
