"""What a pickle would name and call, found by reading its instructions and running none."""

from __future__ import annotations

import _compat_pickle
import pickle
import pickletools
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

# Modules whose functions and classes only make values, and the libraries whose settings and logs lie beside weights.
# What they name is replaced by inert stand-ins all the same, but for what torch.load(weights_only=True) allows.
_VALUES = {
    *(
        "_codecs",
        "argparse",
        "collections",
        "copy_reg",
        "copyreg",
        "datetime",
        "decimal",
        "enum",
        "fractions",
        "functools",
    ),
    *("numpy", "pathlib", "torch", "uuid"),
    *("addict", "easydict", "lightning", "lightning_fabric", "lk_downstream", "mmcls", "mmcv", "mmdet", "mmengine"),
    *("mmpretrain", "mmseg", "omegaconf", "pytorch_lightning", "timm", "yacs"),
}
_BUILTINS = {
    *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "getattr", "int", "list", "object"),
    *("range", "set", "slice", "str", "tuple"),
}
_MARK = object()
UNKNOWN = "the result of another call"


@dataclass
class Contents:
    """What a pickle refers to.

    Attributes:
        named: full names of its classes and functions, also as Python 3 calls them.
        called: full names of those that loading would call, ``UNKNOWN`` for anything else.
        texts: its texts, among them the keys of dictionaries.
    """

    named: set[str] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)

    @property
    def code(self) -> list[str]:
        """Those of ``called`` that do more than make values, sorted."""
        return sorted(name for name in self.called if not _makes_values(name))


def contents(path: Path) -> Contents:
    """What the file of ``torch.save`` at ``path`` refers to.

    Raises:
        Exception: whatever a damaged file leads to.
    """
    found = Contents()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("/data.pkl"):
                    with archive.open(name) as file:
                        _scan(file, found)
        return found
    # Written before torch 1.6 (OpenMMLab still does): a magic number, the protocol, the system, and the content.
    with open(path, "rb") as file:
        for _ in range(4):
            _scan(file, found)
    return found


def _scan(file: IO[bytes], found: Contents) -> None:
    """Follow what lies on the stack of the pickle machine as far as names, texts and results of calls go."""
    stack: list[object] = []
    memo: dict[int, object] = {}
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument)])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in ("GLOBAL", "INST"):
            target = ".".join(argument.split(" ", 1))
            _name(target, found)
            if name == "INST":
                found.called.add(target)
                _pop(opcode, stack)
            stack.append(_Name(target))
        elif name == "STACK_GLOBAL":
            raise pickle.UnpicklingError("pickle protocol 4 is not supported")
        else:
            if name in ("REDUCE", "OBJ"):
                position = -2 if name == "REDUCE" else len(stack) - stack[::-1].index(_MARK)
                target = stack[position]
                found.called.add(target if isinstance(target, _Name) else UNKNOWN)
            if isinstance(argument, str):
                found.texts.add(argument)
            _pop(opcode, stack)
            stack.extend([None] * len(opcode.stack_after))


class _Name(str):
    """The full name of a class or function on the stack."""


def _pop(opcode: pickletools.OpcodeInfo, stack: list[object]) -> None:
    before = list(opcode.stack_before)
    if pickletools.markobject in before:
        while stack.pop() is not _MARK:
            pass
        before = before[: before.index(pickletools.markobject)]
    del stack[len(stack) - len(before) :]


def _name(target: str, found: Contents) -> None:
    found.named.add(target)
    # Names as Python 2 had them, which pickle writes for its protocol 2, and as they are read.
    module, _, name = target.rpartition(".")
    if (module, name) in _compat_pickle.NAME_MAPPING:
        found.named.add(".".join(_compat_pickle.NAME_MAPPING[module, name]))
    elif module in _compat_pickle.IMPORT_MAPPING:
        found.named.add(f"{_compat_pickle.IMPORT_MAPPING[module]}.{name}")


def _makes_values(name: str) -> bool:
    root, _, rest = name.partition(".")
    return root in _VALUES or (root in ("builtins", "__builtin__") and rest in _BUILTINS)
