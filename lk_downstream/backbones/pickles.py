"""What a pickle would name and call, found by reading its instructions and running none."""

from __future__ import annotations

import _compat_pickle
import pickle
import pickletools
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from lk_downstream import trust

# What the files of torch and numpy call to make their values, and the classes of the standard library that lie beside
# them. All but what torch.load(weights_only=True) allows is replaced by inert stand-ins: this list only decides which
# files are refused as carriers of code.
_VALUES = {
    *(
        "_codecs.encode",
        "argparse.Namespace",
        "collections.OrderedDict",
        "collections.Counter",
        "collections.defaultdict",
    ),
    *("collections.deque", "copy_reg._reconstructor", "copyreg._reconstructor", "copyreg.__newobj__"),
    *("datetime.date", "datetime.datetime", "datetime.timedelta", "datetime.timezone", "decimal.Decimal"),
    *("fractions.Fraction", "functools.partial", "types.SimpleNamespace", "uuid.UUID"),
    *("pathlib.Path", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath", "pathlib.PureWindowsPath"),
    *(f"pathlib._local.{kind}Path" for kind in ("", "Posix", "PurePosix", "Windows", "PureWindows")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *("numpy._core.numeric._frombuffer", "numpy.core.numeric._frombuffer", "numpy.dtype", "numpy.ndarray"),
    *(f"numpy.random._pickle.__{name}_ctor" for name in ("randomstate", "generator", "bit_generator")),
    *(f"torch._utils._rebuild_{name}" for name in ("parameter", "parameter_with_state", "tensor", "tensor_v2")),
    *(f"torch._utils._rebuild_{name}" for name in ("tensor_v3", "qtensor", "sparse_tensor", "nested_tensor")),
    *(f"torch._utils._rebuild_{name}" for name in ("meta_tensor_no_storage", "wrapper_subclass")),
    *("torch._tensor._rebuild_from_type_v2", "torch.serialization._get_layout"),
    *("torch.Size", "torch.device", "torch.nn.parameter.Parameter", "torch.Generator"),
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("bool", "bytes", "complex", "dict", "float", "frozenset", "getattr", "int", "list", "object")
        + ("range", "set", "slice", "str", "tuple")
    ),
}
# Libraries whose settings and logs lie beside weights; their classes count as values.
_LIBRARIES = {
    *("addict", "easydict", "lightning", "lightning_fabric", "lk_downstream", "mmcls", "mmcv", "mmdet", "mmengine"),
    *("mmpretrain", "mmseg", "omegaconf", "pytorch_lightning", "timm", "yacs"),
}
# What torch.load(weights_only=True) itself would make of any size, whatever the size of the file.
_SIZED = re.compile(r"(builtins|__builtin__)\.bytearray|torch\.(\w+\.)*(\w*Tensor|\w*Storage)")
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
    if trust.is_zip(path):
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
            elif name in ("NEWOBJ", "NEWOBJ_EX"):
                target = stack[-2 if name == "NEWOBJ" else -3]
                if isinstance(target, _Name) and _SIZED.fullmatch(target):
                    found.called.add(target)
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
    root, kind = name.split(".", 1)[0], name.rsplit(".", 1)[-1]
    return name in _VALUES or (root in _LIBRARIES and kind[:1].isupper())
