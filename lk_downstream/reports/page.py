"""Pages: one HTML file each, which needs nothing else, neither a network nor a server.

A page is a title and sections, a section is a heading and parts::

    from lk_downstream.reports import Chart, Facts, Intervals, Line, Section, Table, write_page

    write_page(folder / "report.html", "Study of 3 backbones", [
        Section("Comparison", [
            Table(["backbone", "mIoU", "ms"], rows, percent=["mIoU"], best={"mIoU": "max", "ms": "min"}),
            Intervals(names, means, low, high, title="mIoU with its 95 % interval", x="mIoU"),
        ]),
        Section("Accuracy over time", [
            Chart([Line(name, [ms], [miou], points=True) for name, ms, miou in rows], x="ms per image", y="mIoU"),
        ]),
        Section("Settings", [Facts({"seeds": 3}), Text(config, "config.yaml", folded=True)]),
    ])

The parts are :class:`Numbers`, :class:`Facts`, :class:`Table`, :class:`Chart`, :class:`Intervals`, :class:`Matrix`,
:class:`Text`, :class:`Figure` and :class:`Images`. Names may hold anything: they are texts wherever they stand, and the
page allows no code but its own (a content security policy with the hash of its script) and nothing to be fetched.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lk_downstream.reports.files import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
MOST_BYTES = 10_000_000  # of a page, which mail and issue trackers take


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it.

    Args:
        title: The heading.
        parts: In their order; charts stand beside each other where there is room.
        note: A sentence under the heading.
    """

    title: str
    parts: Sequence[Any]
    note: str = ""


def page(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """A page as HTML.

    Args:
        title: Its heading and the name of its window.
        sections: Those without parts are left out.
        subtitle: A line under the heading.
    """
    sections = [section for section in sections if section.parts]
    return _environment().get_template("page.html").render(title=title, subtitle=subtitle, sections=sections)


def write_page(path: str | Path, title: str, sections: Sequence[Section], subtitle: str = "") -> Path:
    """Write :func:`page` so that ``path`` never holds an incomplete file; returns it."""
    return write_text(Path(path), page(title, sections, subtitle))


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    loader = FileSystemLoader(TEMPLATES, encoding="utf-8")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    script, style = (loader.get_source(made, name)[0] for name in ("page.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    made.globals |= {"script": Markup(script), "style": Markup(style), "digest": f"sha256-{digest}"}
    return made
