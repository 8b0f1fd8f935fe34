"""Whether a program of ``torch.export`` only computes: its reader runs what a file names, pickles among it.

A ``.pt2`` is a zip archive of JSON and tensors. PyTorch's reader looks up every function of the graph by its name
anywhere in ``torch`` (which has ``torch.os.system``), unpickles what is marked as pickled, evaluates expressions of
sizes, and turns guards into Python. So a file is read here before, as data, and refused if it asks for more than
operators on tensors.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lk_downstream import trust
from lk_downstream.errors import InputError

METADATA = "metadata.json"
# Operators on tensors, and arithmetic of sizes.
_TARGETS = re.compile(
    r"torch\.ops\.(aten|prims|torchvision)\.\w+\.\w+|torch\.sym_\w+|torch\._sym_\w+|math\.(ceil|floor|trunc|sqrt)|"
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)",
    re.ASCII,
)
_READING = re.compile(r"torch\.ops\.aten\.(from_file|_load|load)\b", re.ASCII)
# Expressions of sizes, as sympy writes them: names of a fixed list, symbols in quotes, numbers.
_NAMES = (
    "Symbol Integer Float Rational Add Mul Pow Max Min Mod PythonMod FloorDiv CleanDiv IntTrueDiv FloatTrueDiv ToFloat "
    "TruncToInt TruncToFloat FloorToInt CeilToInt RoundToInt RoundDecimal Eq Equality Ne Unequality Lt StrictLessThan "
    "Le LessThan Gt StrictGreaterThan Ge GreaterThan And Or Not Identity Where true false True False integer positive "
    "nonnegative nonzero negative precision infinity int_oo"
)
_EXPRESSION = re.compile(rf"(?:\b(?:{'|'.join(_NAMES.split())})\b|'\w+'|\b[a-z]+\d+\b|[\d.,=()\s+*/<>-])*", re.ASCII)


def check_program(path: str | os.PathLike) -> dict[str, Any]:
    """Refuse a ``.pt2`` that could do more than compute; returns what it says of itself, empty if nothing.

    Raises:
        InputError: It would, or is no such file.
    """
    path = Path(path)
    try:
        trust.check_archive(path)
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            for name in names:
                _check_entry(path, archive, name)
            found = [name for name in names if name.endswith(f"/extra/{METADATA}")]
            entries = _json(archive, found[0]) if found else {}
    except InputError:
        raise
    except Exception as error:  # whatever a damaged archive leads to
        what = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path} is no program of torch.export or is damaged ({what}): export it again") from error
    if not any("/models/" in name for name in names):
        raise InputError(f"{path} holds no program of torch.export: export it again")
    return entries if isinstance(entries, dict) else {}


def _check_entry(path: Path, archive: zipfile.ZipFile, name: str) -> None:
    file = name.rpartition("/")[2]
    if file.endswith("_config.json") and "/data/" in name:
        for key, value in _strings_and_flags(_json(archive, name)):
            if key == "use_pickle" and value is True:
                raise InputError(f"{path} holds a pickle ({name}), which can run code when it is read: it is refused")
    elif "/constants/" in name and not file.startswith("tensor_"):
        raise InputError(f"{path} holds an object ({name}), which can run code when it is read: it is refused")
    elif "/sample_inputs/" in name:
        import torch

        torch.load(io.BytesIO(archive.read(name)), map_location="meta", weights_only=True)  # else raises
    elif "/models/" in name:
        program = _json(archive, name)
        if program.get("guards_code"):
            raise InputError(f"{path} holds code of its own (guards), which is refused: export it by this package")
        for key, value in _strings_and_flags(program):
            if key == "target" and (not _TARGETS.fullmatch(value) or _READING.match(value)):
                raise InputError(f"{path} calls {value!r:.100}, which is no operator on tensors: it is refused")
            if key == "expr_str" and not _EXPRESSION.fullmatch(value):
                raise InputError(f"{path} has a size {value!r:.100}, which is no expression of numbers: it is refused")
    elif "aotinductor" in name or file.endswith((".so", ".cpp", ".cubin", ".py", ".dll", ".dylib")):
        raise InputError(f"{path} holds compiled code ({name}): it is refused")


def _json(archive: zipfile.ZipFile, name: str) -> Any:
    if archive.getinfo(name).file_size > trust.limit(trust.MAX_FILE_BYTES):
        raise ValueError(f"{name} is too large")
    return json.loads(archive.read(name))


def _strings_and_flags(value: Any) -> Iterator[tuple[str, Any]]:
    """Every text and every yes or no of a JSON value, with the key that it stands under."""
    waiting = [("", value)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]
        elif isinstance(value, (str, bool)):
            yield key, value
