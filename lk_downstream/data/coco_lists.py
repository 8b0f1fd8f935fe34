"""Lists of COCO's annotation files that are found by the text alone, without parsing all annotations."""

from __future__ import annotations

import json
import mmap
import re
from pathlib import Path
from typing import Any

from lk_downstream import trust
from lk_downstream.data.coco_file import categories, load_content, root_category


def read_categories(path: str | Path) -> dict[int, str]:
    """Names by rising category id, without parsing the rest of the file where its text allows that.

    Raises:
        InputError: See :func:`lk_downstream.data.coco_file.load_content`.
    """
    path = Path(path)
    rows = _list_of(path, b"categories")
    if rows is None or root_category(rows) is not None:  # which only the annotations tell from an ordinary one
        rows = load_content(path)[0]["categories"]
    return categories(path, rows)


def read_image_ids(path: str | Path) -> dict[str, int]:
    """Ids by the names of the images, of a file whose other parts may be anything, and mostly are not parsed.

    Raises:
        OSError: The file cannot be read.
        ValueError: It has no list of images with a name and an id of their own.
    """
    path = Path(path)
    rows = _list_of(path, b"images")
    if rows is None:
        content = trust.read_json(path)
        rows = content.get("images") if isinstance(content, dict) else None
    try:
        found = {str(row["file_name"]): int(row["id"]) for row in rows}
    except (TypeError, KeyError, OverflowError) as error:
        raise ValueError("it lists no images with file_name and id") from error
    if len(set(found.values())) < len(rows):
        raise ValueError("it has images of one file_name or id")
    return found


def _list_of(path: Path, key: bytes) -> list[Any] | None:
    """A list of objects without lists in them, found by its text alone; None: it is not found so."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            found = re.search(rb'"%s"\s*:\s*(\[\s*\{[^\[\]]*\}\s*\])' % key, text)
            return json.loads(found[1]) if found else None
    except (OSError, ValueError, RecursionError):
        return None
