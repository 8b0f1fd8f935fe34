"""Reading a weight file from disk or the network, without ever running code that it carries."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch

from lk_downstream import trust
from lk_downstream.backbones import pickles
from lk_downstream.errors import InputError

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[A-Za-z]+$")

# Sites that answer a download with a page.
_PAGES = ("drive.google.com", "pan.baidu.com", "surfdrive.surf.nl")


class _Inert:
    """Stands in for any class or function that a file names beside its tensors: takes everything, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def is_url(source: str) -> bool:
    """Whether ``source`` is an address and not a path."""
    return source.startswith(("http://", "https://"))


def looks_like_a_file(source: str) -> bool:
    """Whether ``source`` is an address or a path, there or not, rather than the name of published weights."""
    separated = any(separator in source for separator in (os.sep, os.altsep) if separator)  # Windows has two
    return is_url(source) or separated or bool(Path(source).suffix) or Path(source).exists()


def download(url: str) -> Path:
    """The file at ``url``, from torch.hub's folder of checkpoints if it is there, else downloaded to it.

    The file appears under its name only when complete and, where the name carries the start of its sha256
    (``-1b1e394f.pth``), verified.

    Raises:
        InputError: no connection, a wrong hash, or an address that leads to a page.
    """
    host, name = urlparse(url).netloc, Path(urlparse(url).path).name or "weights"
    if host in _PAGES and not name == "download":
        raise InputError(f"{url} leads to a page, not to a file; download the file with a browser and give its path.")
    expected = _HASH_IN_NAME.search(name)
    if not expected:  # such a name may not be unique
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), expected and expected[1])
        except (URLError, OSError, RuntimeError) as error:
            raise InputError(
                f"{url} cannot be downloaded ({error}); fetch it by other means and give its path."
            ) from error
    return path


def read(source: str | Path) -> dict[str, Any]:
    """What the weight file at a path or address holds: tensors on the CPU, plain values, inert stand-ins for the rest.

    Raises:
        InputError: no such file, a folder, a web page, a damaged file, or one that is not a dictionary.
    """
    if is_url(str(source)):
        path = download(str(source))
        try:
            return read(path)
        except InputError:
            path.unlink(missing_ok=True)  # a page or half a file would otherwise be found in its place for ever
            raise
    path, safetensors = _checked(source)
    try:
        content = trust.load_safetensors(path) if safetensors else _read_pickle(path)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes the readers raise
        if not safetensors and (protocol := _protocol(path)) > 3:
            raise InputError(
                f"{path} cannot be read as weights: it is written by pickle protocol {protocol}, which PyTorch reads "
                "only by running what it names; save it by torch.save with its own pickle_protocol (2), or as "
                "safetensors."
            ) from error
        raise _damaged(path, error) from error
    if not isinstance(content, dict):
        kind = "whole pickled object" if isinstance(content, _Inert) else type(content).__name__
        raise InputError(f"{path} holds a {kind}, not a dictionary of tensors; save the model's state dict.")
    return content


def read_run(source: str | Path) -> dict[str, Any]:
    """The checkpoint of a run, to go on with it.

    Raises:
        InputError: as :func:`check_run`, or it is damaged.
    """
    check_run(source)
    path, _ = _checked(source)
    try:
        content = trust.load_pickle(path)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise _damaged(path, error) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise InputError(f"{path} is no checkpoint of a run: it holds no state_dict")
    return content


def check_run(source: str | Path) -> None:
    """Refuse, before Lightning reads it, what is no checkpoint of a run; no tensor is read and no code run.

    Raises:
        InputError: as :func:`read`, or other weights.
    """
    path, safetensors = _checked(source)
    try:
        found = pickles.Contents() if safetensors else pickles.contents(path)
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise _damaged(path, error) from error
    _refuse_code(path, found)
    # Settings in a checkpoint would overrule the command line's; this package saves none there.
    if "pytorch-lightning_version" not in found.texts or "hyper_parameters" in found.texts:
        raise InputError(
            f"{path} is no checkpoint of a run of this package; published or converted weights go to --model.weights"
        )


def _checked(source: str | Path) -> tuple[Path, bool]:
    """The path of a file that may hold weights, and whether in the format of safetensors."""
    path = Path(source).expanduser()
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the weight file in it.")
    if not path.is_file():
        raise InputError(f"There is no weight file {path}.")
    with open(path, "rb") as file:
        start = file.read(512)
    if re.match(rb"\s*<(!doctype|html|\?xml)", start, re.IGNORECASE):
        raise InputError(
            f"{path} is a web page, not weights; open its address in a browser and download the file itself."
        )
    if start and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        begin = start.decode("ascii").split("\n")[0].strip()[:60]
        raise InputError(f"{path} is a text, which begins {begin!r}, not weights: download the file itself.")
    if start[257:262] == b"ustar" or start.startswith((b"\x1f\x8b", b"BZh", b"7z", b"Rar!", b"\xfd7zXZ")):
        raise InputError(f"{path} is an archive; unpack it and give the weight file in it.")
    if start.startswith(b"PK") and not trust.is_zip(path):
        raise InputError(f"{path} ends too early; download or copy it again.")
    return path, start[8:9] == b"{"


def _protocol(path: Path) -> int:
    """Of the pickle in a weight file; 0 where it cannot be told."""
    try:
        if trust.is_zip(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                with archive.open(name) as file:
                    start = file.read(2)
        else:
            with open(path, "rb") as file:
                start = file.read(2)
    except Exception:  # whatever a damaged archive makes the reader raise
        return 0
    return start[1] if start[:1] == b"\x80" and len(start) == 2 else 0


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} cannot be read as weights ({_reason(error)}); it may be incomplete, or hold more than tensors: "
        "download it again, or save only a state dict."
    )


def _refuse_code(path: Path, found: pickles.Contents) -> None:
    if found.code:
        called = ", ".join(found.code[:3])
        raise InputError(
            f"{path} carries code (it would call {called}), of which nothing was run; take a file "
            "that holds only tensors and plain values, such as a saved state dict."
        )


def _reason(error: Exception) -> str:
    """The first line of an error that says something; torch puts advice that would run the file's code before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[1] if lines[0].startswith("Weights only load failed") and len(lines) > 1 else lines[0]


def _read_pickle(path: Path) -> Any:
    found = pickles.contents(path)
    _refuse_code(path, found)
    # torch.load itself refuses stand-ins for what it allows.
    names = found.named
    if trust.is_zip(path):
        names = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    return trust.load_pickle(path, [(_Inert, name) for name in names])
