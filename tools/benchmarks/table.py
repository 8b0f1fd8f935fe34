"""The README's tables of speed, from the JSON files of the other benchmarks.

``benchmark.py table benchmark/*.json --readme README.md`` writes each between the two comments that mark its place
there, if the files have something for it; without ``--readme`` they are printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.sides import OURS, SHARE, Race, differences, number
from lk_downstream.analysis.latency import AUTHORS, CONTIGUOUS, FFT

END = "<!-- end of the table -->"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, help="that the other benchmarks have written")
    parser.add_argument("--readme", type=Path, help="the file to write the tables into")


def main(options: argparse.Namespace) -> int:
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in options.files]
    texts = {begin(name): text for name, make in TABLES.items() if (text := make(contents))}
    if options.readme is None:
        print("\n\n".join(texts.values()))
        return 0
    page = options.readme.read_text(encoding="utf-8")
    for mark, text in texts.items():
        before, found, rest = page.partition(mark)
        _, end, after = rest.partition(END)
        if not (found and end):
            raise SystemExit(f"error: {options.readme} has no place for the table: the lines {mark} and {END}")
        page = f"{before}{mark}\n{text}\n{end}{after}"
    options.readme.write_text(page, encoding="utf-8")
    return 0


def begin(name: str) -> str:
    """The line before the place of a table, one of ``TABLES``."""
    return f"<!-- made by tools/benchmark.py table: {name} -->"


def table(contents: list[dict]) -> str:
    """Machines, and a row for each race: the first side, this package, and how many times as fast it is."""
    rows, of = [], []
    for content, race in _races(contents):
        if OURS not in race.sides or race.apart or content["part"] == "operator":
            continue
        for name in race.sides:
            if name.startswith(OURS):
                continue
            values = [number(race.median(side)) for side in (name, OURS)]
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
            rows.append(f"| {race.what}: {race.conditions} | {name} | {apart} | {number(race.median(name))} |")
            of.append(content)
    return _text(of, f"| {_commands(of)} | runtime | largest difference | ms an image |", rows)


def shares_table(contents: list[dict]) -> str:
    """A row for each thing whose time was divided: its largest shares."""
    rows, of = [], []
    for content, race in _races(contents):
        if race.unit == SHARE:
            parts = ", ".join(f"{name} {race.median(name):.1f}" for name in race.sides)
            rows.append(f"| {race.what}: {race.conditions} | {parts} |".replace("shares of the ", ""))
            of.append(content)
    return _text(of, f"| {_commands(of)} | % of the time |", rows)


def operator_table(contents: list[dict]) -> str:
    """A row for each kernel: of how many times as fast as the contiguous way, and as the best way, over all shapes."""
    texts = []
    for content in contents:
        if content.get("part") == "operator":
            cells: dict[str, dict[str, list[Race]]] = {}
            for _, race in _races([content]):
                kind = ", ".join(race.conditions.split(", ")[-2:])
                cells.setdefault(race.what, {}).setdefault(kind, []).append(race)
            kinds = list(dict.fromkeys(kind for row in cells.values() for kind in row))
            rows = [
                f"| {kernel} | {' | '.join(_least(row[kind]) if kind in row else '' for kind in kinds)} |"
                for kernel, row in cells.items()
            ]
            texts.append(
                _text(
                    [content],
                    f"| `{content['command']}` | {' | '.join(kinds)} |",
                    rows,
                    how="the fastest of the rounds",
                )
            )
    return "\n\n".join(texts)


def _least(races: list[Race]) -> str:
    """By the fastest of the rounds: of what takes less than a millisecond, other programs lengthen most."""
    ours = [min(race.sides[OURS]) for race in races]
    contiguous = sorted(min(race.sides["contiguous"]) / own for race, own in zip(races, ours))
    best = min(min(min(race.sides[n]) for n in race.sides if n != OURS) / own for race, own in zip(races, ours))
    return f"{contiguous[0]:.1f} to {contiguous[-1]:.1f} ({best:.2f})"


def networks_table(contents: list[dict]) -> str:
    """A row for each network and mode: its authors' form, PyTorch in its better layout, and this package's operator."""
    rows, of = [], []
    for content, (case, mode), sides in _cases(contents, "networks"):
        authors, best, own = sides.get(AUTHORS), _best(sides, "plain"), _best(sides, "ours")
        values = ["" if authors is None else number(authors), number(best), number(own)]
        rows.append(f"| {case}, {mode} | {' | '.join(values)} | {(authors or best) / own:.1f} |")
        of.append(content)
    head = f"| {_commands(of)} | authors' form | PyTorch, best layout | ours | times authors' |"
    return _text(of, head, rows, "ms")


def layers_table(contents: list[dict]) -> str:
    """A row for each shape, in the contiguous layout; forward, and forward and backward."""
    found: dict[str, list[dict[str, float]]] = {}
    of = []
    for content, (case, _), sides in _cases(contents, "layers"):
        found.setdefault(case, []).append(sides)
        of.append(content)
    names = (CONTIGUOUS, "plain, channels_last", FFT, "ours, contiguous")
    rows = []
    for case, modes in found.items():
        values = [" / ".join(number(sides[name]) if name in sides else "" for sides in modes) for name in names]
        values.append(" / ".join(f"{sides.get(CONTIGUOUS, float('nan')) / sides[names[-1]]:.1f}" for sides in modes))
        rows.append(f"| {case} | {' | '.join(values)} |")
    head = f"| {_commands(of)} | contiguous | channels_last | FFT | ours | times contiguous |"
    return _text(of, head, rows, "ms, forward / forward and backward")


def _best(sides: dict[str, float], prefix: str) -> float:
    return min(value for name, value in sides.items() if name.startswith(prefix))


def _cases(contents: list[dict], part: str) -> Iterator[tuple[dict, tuple[str, str], dict[str, float]]]:
    """The milliseconds of the sides of each case and mode."""
    for content in contents:
        cases: dict[tuple[str, str], dict[str, float]] = {}
        for row in content["rows"] if content.get("part") == part else ():
            cases.setdefault((row["case"], row["mode"]), {})[row["side"]] = 1e3 * row["seconds"]
        for case, sides in cases.items():
            yield content, case, sides


def _races(contents: list[dict]) -> list[tuple[dict, Race]]:
    return [(content, Race(**row)) for content in contents for row in content.get("races", ())]


def _commands(contents: list[dict]) -> str:
    return ", ".join(dict.fromkeys(f"`{content['command']}`" for content in contents))


def _text(contents: list[dict], head: str, rows: list[str], unit: str = "", how: str = "medians") -> str:
    """A table with the machines of its rows, or nothing."""
    if not rows:
        return ""
    machines = []
    for content in contents:
        machine, versions = content["machine"], content["versions"]
        machines.append(
            f"{machine['processor']}, {machine['cores']} cores, {machine['abilities']}, PyTorch {versions['torch']}"
        )
    said = f"Measured on {'; '.join(dict.fromkeys(machines))}; all sides of a row in one run, {how}"
    said += f", {unit}." if unit else "."
    return "\n".join([said, "", head, "|---" * (head.count("|") - 1) + "|", *rows])


TABLES: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "speed": table,
    "exported files": exported_table,
    "shares": shares_table,
    "operator": operator_table,
    "networks": networks_table,
    "layers": layers_table,
}
