"""The README's tables of speed and of exported files, from the JSON files of the other benchmarks.

``benchmark.py table benchmark/*.json --readme README.md`` writes each between the two comments that mark its place
there, if the files have something for it; without ``--readme`` they are printed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.sides import OURS, Race, differences

BEGIN, END = "<!-- made by tools/benchmark.py table -->", "<!-- end of the table -->"
BEGIN_EXPORTED = "<!-- made by tools/benchmark.py table: exported files -->"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, help="that the other benchmarks have written")
    parser.add_argument("--readme", type=Path, help="the file to write the table into")


def main(options: argparse.Namespace) -> int:
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in options.files]
    texts = {BEGIN: table(contents), BEGIN_EXPORTED: exported_table(contents)}
    texts = {begin: text for begin, text in texts.items() if text}
    if options.readme is None:
        print("\n\n".join(texts.values()))
        return 0
    page = options.readme.read_text(encoding="utf-8")
    for begin, text in texts.items():
        before, found, rest = page.partition(begin)
        _, end, after = rest.partition(END)
        if not (found and end):
            raise SystemExit(f"error: {options.readme} has no place for the table: the lines {begin} and {END}")
        page = f"{before}{begin}\n{text}\n{end}{after}"
    options.readme.write_text(page, encoding="utf-8")
    return 0


def table(contents: list[dict]) -> str:
    """Machines, and a row for each race: the first side, this package, and how many times as fast it is."""
    rows, of = [], []
    for content, race in _races(contents):
        if OURS not in race.sides or race.apart:
            continue
        for name in race.sides:
            if name.startswith(OURS):
                continue
            values = [f"{race.median(side):.3g}" for side in (name, OURS)]
            ratio = race.times(OURS) / race.times(name)
            what = f"{race.what}, {race.unit}: {race.conditions}"
            rows.append(f"| {what} | `{content['command']}` | {name} | {' | '.join(values)} | {ratio:.2f} times |")
            of.append(content)
    return _text(of, "| what | command | beside | its | ours | |", rows)


def exported_table(contents: list[dict]) -> str:
    """Machines and commands, and a row for each runtime of each task: how far from the model it is, and its time."""
    rows, of = [], []
    for content, race in _races(contents):
        for name in race.sides if race.apart else ():
            apart = differences(race, name) or "(the model itself)"
            rows.append(f"| {race.what}: {race.conditions} | {name} | {apart} | {race.median(name):.3g} |")
            of.append(content)
    commands = ", ".join(dict.fromkeys(f"`{content['command']}`" for content in of))
    return _text(of, f"| {commands} | runtime | largest difference | ms an image |", rows)


def _races(contents: list[dict]) -> list[tuple[dict, Race]]:
    return [(content, Race(**row)) for content in contents for row in content["races"]]


def _text(contents: list[dict], head: str, rows: list[str]) -> str:
    """A table with the machines of its rows, or nothing."""
    if not rows:
        return ""
    machines = []
    for content in contents:
        machine, versions = content["machine"], content["versions"]
        machines.append(
            f"{machine['processor']}, {machine['cores']} cores, {machine['abilities']}, PyTorch {versions['torch']}"
        )
    said = f"Measured on {'; '.join(dict.fromkeys(machines))}; all sides of a row in one run, medians."
    return "\n".join([said, "", head, "|---" * (head.count("|") - 1) + "|", *rows])
