"""A GPU that is not there: tensors of the CPU that pass for tensors of a device, with real values and real gradients.

Inside :class:`Pretended` whatever is moved to, or made on, the device is marked by its storage. Python sees the device
at every tensor (``device``, ``is_cuda``), so that all code takes the ways that it would take there. Below Python every
operator is watched, those of the backward pass too: one that mixes devices is refused as the device would refuse it,
and what makes the host wait for the device is noted with the line that asked for it.

What it cannot show: the device's own arithmetic (products of 16-bit tensors are computed in float32), and composite
operators that PyTorch splits otherwise on the device.
"""

from __future__ import annotations

import functools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

PACKAGE = str(Path(__file__).parents[2] / "lk_downstream")
HERE = str(Path(__file__))
aten = torch.ops.aten
_group_tensors = torch._C._group_tensors_by_device_and_dtype

# Operators whose result has a size, or a value on the host, that only the device knows.
WAITING = {
    aten._local_scalar_dense: "item",
    aten.item: "item",  # composite ones are seen as they are in inference mode
    aten.is_nonzero: "bool",
    aten.nonzero: "nonzero",
    aten.nonzero_numpy: "nonzero",
    aten.masked_select: "masked_select",
    aten._unique2: "unique",
    aten.unique_dim: "unique",
    aten.unique_consecutive: "unique",
    aten.bincount: "bincount",  # of its smallest and its largest value
    aten.equal: "equal",
    aten.histc: "histc",
}
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index)
# Beside operators for each element, which all take numbers from the CPU, these take one (FakeTensor's rule for all).
TAKES_NUMBERS = (aten.copy_, aten.where, aten.fill, aten.fill_, aten.masked_fill, aten.masked_fill_)
MOVING = (aten._to_copy, aten.copy_, aten._foreach_copy_)
PRODUCTS = (aten.convolution, aten.convolution_backward, aten.mm, aten.addmm, aten.bmm, aten.baddbmm)
LIKE = ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like")
NEW = ("new_zeros", "new_ones", "new_empty", "new_full")


class Wait(NamedTuple):
    """Something that makes the host wait for the device."""

    what: str
    where: str  # file and line of the package, or of the library that is not called by the package


class Use(NamedTuple):
    """An operator on the device, as the tables of operators have it."""

    operator: str
    overload: str
    dtype: torch.dtype
    tensors: int  # among its arguments
    arguments: tuple[Any, ...]  # words and flags among them


class Pretended(TorchDispatchMode):
    """While active, the device ``kind`` is there.

    Args:
        kind: ``cuda``; or ``mps``, which refuses float64 as Apple's GPUs do.

    Attributes:
        waits: What made the host wait, in order.
        uses: Operators that ran on the device, and the line that was the first to use each.
    """

    def __init__(self, kind: str = "cuda"):
        super().__init__()
        self.device = torch.device(kind, 0)
        self.waits: list[Wait] = []
        self.uses: dict[Use, str] = {}
        self._marks: dict[int, StorageWeakRef] = {}
        self._inside = False
        self._stack = ExitStack()

    # ------------------------------------------------------------ marks

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor is on the device."""
        key = _storage(tensor)
        return key in self._marks and not self._marks[key].expired()

    def mark(self, tensor: Tensor) -> Tensor:
        """Put a tensor on the device as it is."""
        self._refuse_double([tensor])
        if len(self._marks) > 20_000:
            self._marks = {key: mark for key, mark in self._marks.items() if not mark.expired()}
        self._marks[_storage(tensor)] = StorageWeakRef(tensor.untyped_storage())
        return tensor

    def unmark(self, tensor: Tensor) -> Tensor:
        self._marks.pop(_storage(tensor), None)
        return tensor

    def wait(self, what: str) -> None:
        """Note that the host waits."""
        if not self._inside:
            self.waits.append(Wait(what, line()))

    def counted(self) -> Counter[Wait]:
        return Counter(self.waits)

    def is_own(self, device: Any) -> bool:
        return device is not None and torch.device(device).type == self.device.type

    def _refuse_double(self, tensors: Iterable[Tensor]) -> None:
        if self.device.type == "mps" and any(tensor.dtype == torch.float64 for tensor in tensors):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")

    # ------------------------------------------------------------ operators

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func.overloadpacket
        given = list(_tensors((args, kwargs)))
        own = [self.holds(tensor) for tensor in given]
        if not any(own):
            result = func(*args, **kwargs)
            # What PyTorch makes on its way, where it believes the tensors to be: in a function, in a backward formula.
            made = not given and (self._inside or _in_backward())
            return self.mark(result) if made else result
        if not all(own):
            self._check_devices(func, packet, args, given, own)
        self._refuse_double(tensor for tensor, there in zip(given, own) if there)
        if packet in WAITING:
            self.wait(WAITING[packet])
        elif packet in INDEXING:
            indices = [index for index in args[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices) and not (
                packet is not aten.index and args[2].numel() == 1  # becomes masked_fill
            ):
                self.wait("index by a mask")
            if not all(map(self.holds, indices)):
                self.wait("index from the CPU")
        elif func.namespace == "torchvision" and func._opname == "nms":
            self.wait("nms")
        elif packet is aten.repeat_interleave and "output_size" not in kwargs:
            self.wait("repeat_interleave")
        self._note(func, given, own, args)
        elsewhere = {_storage(tensor) for tensor, there in zip(given, own) if not there}
        result = (_in_float32 if packet in PRODUCTS else _as_it_is)(func, args, kwargs)
        for tensor in _tensors(result):
            if _storage(tensor) not in elsewhere and not self.holds(tensor):
                self.mark(tensor)
        return result

    def _check_devices(self, func, packet, args, given, own) -> None:
        if packet in MOVING:
            if packet is aten.copy_ and not (len(args) > 2 and args[2] and own[0]):
                self.wait("copy to the device" if own[0] else "copy from the device")
            return
        if packet in INDEXING and own[0]:
            given, own = zip(*((t, o) for t, o in zip(given, own) if not any(t is index for index in args[1])))
        numbers = torch.Tag.pointwise in func.tags or packet in TAKES_NUMBERS or packet in INDEXING
        if func._opname.startswith("_foreach"):
            lists = [list(_tensors(arg)) for arg in args if isinstance(arg, (list, tuple))]
            mixed = any(len({self.holds(t) for t in row if t.ndim}) > 1 for row in zip(*lists))
        else:
            mixed = any(not there and (tensor.ndim or not numbers) for tensor, there in zip(given, own))
        if mixed:
            devices = ", ".join(f"{tuple(t.shape)} on {self.device if o else 'cpu'}" for t, o in zip(given, own))
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices: {func} of {devices}"
            )

    def _note(self, func, given, own, args) -> None:
        tensors = [tensor for tensor, there in zip(given, own) if there]
        main = tensors[1] if func.overloadpacket is aten.where and len(tensors) > 1 else tensors[0]
        if torch.Tag.pointwise in func.tags and len(tensors) > 1 and func.overloadpacket is not aten.where:
            dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
        else:
            dtype = main.dtype
        use = Use(
            f"{func.namespace}.{func._schema.name.split('::')[1]}", func._overloadname, dtype, len(given), _plain(args)
        )
        if use not in self.uses:
            self.uses[use] = line()

    # ------------------------------------------------------------ what Python sees

    def __enter__(self):
        """Put the device in its place."""
        base, patch = torch._C.TensorBase, self._patch
        get = base.device.__get__
        own, kind = self.holds, self.device.type
        patch(Tensor, "device", property(lambda t: self.device if own(t) else get(t)))
        for name in ("cpu", "cuda", "mps"):
            inner = getattr(base, f"is_{name}").__get__
            patch(Tensor, f"is_{name}", property(functools.partial(self._is, name, inner)))
        patch(Tensor, "get_device", lambda t: 0 if own(t) else base.get_device(t))
        patch(Tensor, "to", lambda t, *args, **options: self._to(t, *args, **options))
        patch(Tensor, "cpu", lambda t, *args, **options: self._move(t, torch.device("cpu")))
        patch(Tensor, "cuda", lambda t, *args, **options: self._move(t, torch.device("cuda", 0)))
        patch(Tensor, "type_as", lambda t, other: self._to(t, other))
        patch(Tensor, "tolist", self._from_device("tolist", base.tolist))
        for name in ("numpy", "__array__"):
            patch(Tensor, name, self._refused(getattr(Tensor, name)))
        copied = Tensor.__deepcopy__
        patch(Tensor, "__deepcopy__", lambda t, memo: self._as(t, copied(t, memo)))
        patch(Tensor, "new_tensor", self._new_tensor(base.new_tensor))
        for name in NEW:
            patch(Tensor, name, self._like(getattr(base, name)))
        for name in LIKE:
            patch(torch, name, self._like(getattr(torch, name)))
        constructors = _device_constructors()
        for name in dir(torch):
            value = getattr(torch, name, None)
            if callable(value) and isinstance(value, type(torch.zeros)) and value in constructors:
                patch(torch, name, self._constructor(name, value))
        patch(F, "one_hot", self._as_one(F.one_hot))  # its checks of the values are made on CPUs alone
        patch(torch._C, "_group_tensors_by_device_and_dtype", self._grouped)
        if kind == "cuda":
            self._patch_cuda()
        return super().__enter__()

    def __exit__(self, *error):
        """Take it away."""
        super().__exit__(*error)
        self._stack.close()

    def _patch(self, owner: Any, name: str, value: Any) -> None:
        self._stack.enter_context(mock.patch.object(owner, name, value))

    def _patch_cuda(self) -> None:
        patch = self._patch
        patch(torch.cuda, "Event", Event)
        patch(torch.cuda, "synchronize", lambda *args: self.wait("synchronize"))
        patch(torch.cuda, "is_current_stream_capturing", lambda: False)
        enabled, dtype, autocast = torch.is_autocast_enabled, torch.get_autocast_dtype, torch.autocast
        real = lambda kind: "cpu" if kind == "cuda" else kind  # noqa: E731
        patch(torch, "is_autocast_enabled", lambda kind="cuda": enabled(real(kind)))
        patch(torch, "get_autocast_dtype", lambda kind: dtype(real(kind)))

        class Autocast(autocast):
            def __init__(self, device_type, *args, **options):
                super().__init__(real(device_type), *args, **options)

        patch(torch, "autocast", Autocast)
        patch(torch.amp, "autocast", Autocast)
        patch(torch.amp.autocast_mode, "autocast", Autocast)

    def _is(self, name: str, inner: Callable, tensor: Tensor) -> bool:
        return self.device.type == name if self.holds(tensor) else inner(tensor)

    def _to(self, tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        other = next((value for value in (*args, *options.values()) if isinstance(value, Tensor)), None)
        if other is not None:
            rest = [value for value in args if value is not other]
            options.pop("other", None)
            return self._move(tensor, other.device, other.dtype, *rest, **options)
        copy = options.pop("copy", False)
        device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **options)
        return self._move(tensor, device or tensor.device, dtype, non_blocking, copy, layout)

    def _move(self, tensor, device, dtype=None, non_blocking=False, copy=False, memory_format=None) -> Tensor:
        options = {} if memory_format is None else {"memory_format": memory_format}
        dtype = dtype or tensor.dtype
        there, own = self.is_own(device), self.holds(tensor)
        if there == own and not (there and self.device.type == "mps" and dtype == torch.float64):
            real = torch._C.TensorBase.device.__get__(tensor) if own else device
            return torch._C.TensorBase.to(tensor, real, dtype, non_blocking, copy, **options)
        if self.device.type == "mps" and dtype == torch.float64:  # also on the way from it: the cast would be there
            self._refuse_double([torch.empty(0, dtype=dtype)])
        result = torch._C.TensorBase.to(tensor, dtype=dtype, copy=True, **options)
        if there:
            if not non_blocking:
                self.wait("copy to the device")
            return self.mark(result)
        self.wait("copy from the device")
        return self.unmark(result)

    def _from_device(self, what: str, inner: Callable) -> Callable:
        def run(tensor: Tensor, *args: Any) -> Any:
            if self.holds(tensor):
                self.wait(what)
            return inner(tensor, *args)

        return run

    def _refused(self, inner: Callable) -> Callable:
        def run(tensor: Tensor, *args: Any, **options: Any) -> Any:
            if self.holds(tensor):
                raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first")
            return inner(tensor, *args, **options)

        return run

    def _as(self, tensor: Tensor, result: Tensor) -> Tensor:
        return self.mark(result) if self.holds(tensor) else result

    def _new_tensor(self, inner: Callable) -> Callable:
        def run(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
            result = inner(tensor, *args, **options)
            if self.holds(tensor):
                self.wait("copy to the device")
            return self._as(tensor, result)

        return run

    def _like(self, inner: Callable) -> Callable:
        """A function that makes a tensor where another is, unless told otherwise."""

        def run(tensor: Tensor, *args: Any, device: Any = None, **options: Any) -> Tensor:
            result = inner(tensor, *args, **options)
            there = self.holds(tensor) if device is None else self.is_own(device)
            return self.mark(result) if there else self.unmark(result)

        return run

    def _constructor(self, name: str, inner: Callable) -> Callable:
        @functools.wraps(inner)
        def run(*args: Any, **options: Any) -> Tensor:
            if not self.is_own(options.get("device")):
                return inner(*args, **options)
            options["device"] = "cpu"
            if isinstance(options.get("generator"), torch.Generator):
                raise RuntimeError(f"Expected a '{self.device.type}' device type for generator but found 'cpu'")
            if name in ("as_tensor", "asarray") and isinstance(args[0], Tensor):
                return self._move(args[0], self.device, options.get("dtype"))
            if name in ("tensor", "as_tensor", "asarray"):
                self.wait("copy to the device")
            return self.mark(inner(*args, **options))

        return run

    def _as_one(self, inner: Callable) -> Callable:
        """A function written in C++ that makes tensors where its argument is, and never waits for them."""

        @functools.wraps(inner)
        def run(tensor: Tensor, *args: Any, **options: Any) -> Any:
            before, self._inside = self._inside, self.holds(tensor)
            try:
                return inner(tensor, *args, **options)
            finally:
                self._inside = before

        return run

    def _grouped(self, *args: Any) -> dict[tuple[torch.device, torch.dtype], Any]:
        """PyTorch's groups of tensors, under the device that they seem to be on."""
        groups = _group_tensors(*args)
        return {
            (next(tensor for row in rows for tensor in row if tensor is not None).device, dtype): (rows, places)
            for (_, dtype), (rows, places) in groups.items()
        }


class Event:
    """An event of the device, whose clock is the host's."""

    def __init__(self, **options: Any):
        self.time = 0.0

    def record(self, *args: Any) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.time - self.time)


def _as_it_is(func: Callable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


def _in_float32(func: Callable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operator of 16-bit tensors gives: many CPUs need minutes for such products."""
    short = {torch.bfloat16, torch.float16} & {tensor.dtype for tensor in _tensors((args, kwargs))}
    if not short:
        return func(*args, **kwargs)
    args, kwargs = tree_map_only(Tensor, lambda t: t.float() if t.dtype in short else t, (args, kwargs))
    return tree_map_only(Tensor, lambda t: t.to(next(iter(short))), func(*args, **kwargs))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _plain(args: Iterable[Any]) -> tuple[Any, ...]:
    """The arguments that tell one variant of an operator from another."""
    return tuple(arg for arg in args if isinstance(arg, (str, bool)))


def _in_backward() -> bool:
    """Whether the engine of the backward pass itself calls, and no function in Python that it calls."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename.endswith(("eval_frame.py", "_compile.py")):  # around every dispatch mode
        frame = frame.f_back
    return frame.f_code.co_name == "_engine_run_backward"


def line() -> str:
    """Innermost line of the package that is running; where there is none, of a library."""
    frame, library = sys._getframe(2), ""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE):
            return f"{name.removeprefix(PACKAGE).lstrip('/')}:{frame.f_lineno} {frame.f_code.co_name}"
        if not library and name != HERE and "/torch/" not in name and "importlib" not in name:
            library = f"{'/'.join(Path(name).parts[-3:])}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return library


class PretendedAccelerator(Accelerator):
    """Lightning's view of the device."""

    def setup_device(self, device: torch.device) -> None:
        """Nothing to set up."""

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    def teardown(self) -> None:
        """Nothing to give back."""

    @staticmethod
    def parse_devices(devices: Any) -> int:
        return 1

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device("cpu")]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "pretended"


def trainer_options(device: torch.device) -> dict[str, Any]:
    """Options of a Trainer that runs on the device."""
    accelerator = PretendedAccelerator()
    return {"accelerator": accelerator, "strategy": SingleDeviceStrategy(device), "devices": 1}


class WaitsOfSteps(L.Callback):
    """Counts what the host waits for in each training step, without what Lightning's loop does around it."""

    def __init__(self, pretended: Pretended):
        self.pretended, self.steps, self._first = pretended, [], 0

    def on_train_batch_start(self, *args: Any) -> None:
        self._first = len(self.pretended.waits)

    def on_train_batch_end(self, *args: Any) -> None:
        self.steps.append(Counter(self.pretended.waits[self._first :]))
