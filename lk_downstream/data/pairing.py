"""Images and masks that belong together by their names, and what is said where one of them is alone."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lk_downstream import trust
from lk_downstream.data.reading import walk
from lk_downstream.errors import InputError, near_names

Key = Callable[[str], str | None]


def placed(option: str, template: str, split: str) -> str:
    """A path in which ``{split}`` stands for the split.

    Raises:
        InputError: It has another placeholder.
    """
    text = template.replace("{split}", split)
    if odd := re.search(r"\{\w*\}", text):
        raise InputError(f"{option} is {template!r}, but {odd[0]} stands for nothing: the one placeholder is {{split}}")
    return text


def wildcard(template: str) -> tuple[str, re.Pattern | None]:
    """The folder above the first ``*`` of an option's path, and what names below it match; their parts are its groups.

    ``Train/*/images_png`` is the folder ``Train``, where ``Urban/images_png/1.png`` has the parts ``Urban``, ``1.png``.
    """
    parts = template.split("/")
    first = next((at for at, part in enumerate(parts) if "*" in part), None)
    if first is None:
        return template, None
    rest = "/".join(re.escape(part).replace(r"\*", "([^/]*)") for part in parts[first:])
    return "/".join(parts[:first]) or ".", re.compile(f"{rest}/(.*)")


def below(name: str, pattern: re.Pattern | None) -> str | None:
    """The parts of a name that a pattern of :func:`wildcard` leaves open, or None if it does not match."""
    if pattern is None:
        return name
    match = pattern.fullmatch(name)
    return "/".join(match.groups()) if match else None


def same_letters(name: str) -> str:
    """A name in which an umlaut or accent is one letter (NFC); macOS writes it as two (NFD), which looks the same."""
    return unicodedata.normalize("NFC", name)


def suffix_key(name: str, suffix: str, known: Sequence[str]) -> str | None:
    """A file's name without a suffix, or None if the file has another one.

    Args:
        name: Path below the folder.
        suffix: With the file's extension, as ``_mask.png``, or without, as ``_mask``; empty: any of the extensions.
        known: Extensions of files that count, in small letters.
    """
    stem, extension = os.path.splitext(name)
    if os.path.splitext(f"x{suffix}")[1]:
        stem, extension = name, ""
    elif extension.lower() not in known:
        return None
    if not stem.endswith(suffix):
        return None
    key = stem.removesuffix(suffix)
    return key if key and not key.endswith("/") else None


def list_files(folder: Path, key: Key) -> dict[str, str]:
    """Key -> path of every file below a folder that has a key; hidden files do not count.

    Raises:
        InputError: Two files have the same key.
    """
    found: dict[str, str] = {}
    for place, entry in walk(folder):
        name = f"{place}/{entry.name}".removeprefix("./")
        name_key = key(name)
        if name_key is None:
            continue
        name_key, path = same_letters(name_key), os.path.join(folder, name)
        if name_key in found:
            raise InputError(f"{found[name_key]} and {path} have the same name: remove or rename one of them")
        found[name_key] = path
    return found


def read_list(path: Path, key: Key) -> list[str]:
    """Names of a text file with one a line, such as ``2007_000032`` or ``seq1/0001.jpg``, as ``key`` shortens them.

    Raises:
        InputError: The file cannot be read, names nothing, or a name twice.
    """
    try:
        lines = trust.read_bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"the names in {path} are not in UTF-8: save the file so") from error
    except OSError as error:
        hint = near_names(path.name, (item.name for item in path.parent.iterdir())) if path.parent.is_dir() else ""
        raise InputError(f"cannot read the list of names {path} ({error.strerror}){hint}") from error
    names = [same_letters(line.strip().replace("\\", "/")).removeprefix("./") for line in lines if line.strip()]
    stems = [key(name) or name for name in names]
    if not stems:
        raise InputError(f"{path} names no image: write one name a line there")
    if len(set(stems)) < len(stems):
        raise InputError(f"{path} names {Counter(stems).most_common(1)[0][0]} twice: every image counts once")
    return stems


def only_listed(files: dict[str, str], names: list[str], list_file: Path, folder: Path) -> dict[str, str]:
    """Those of the images of a folder that a list names.

    Raises:
        InputError: There is none of a name.
    """
    if lacking := [name for name in names if name not in files]:
        hint = near_names(lacking[0], list(files)[:10_000]) or (f"; it has {next(iter(files))}" if files else "")
        raise InputError(
            f"{list_file} names {lacking[0]}, of which there is no image in {folder} "
            f"({len(lacking)} of {len(names)} names){hint}"
        )
    return {name: files[name] for name in names}


def refuse_alone(files: dict[str, str], partners: dict[str, str], kind: str, partner: str, folder: Path, hint: str):
    """Raise an InputError if one of the ``files`` has no partner of its key, which are in ``folder``."""
    if alone := sorted(files.keys() - partners.keys()):
        count = f"{len(alone)} of {len(files)} {kind}s have" if len(alone) > 1 else f"1 of {len(files)} {kind}s has"
        remedy = hint or f"add the {partner} or remove the {kind}"
        raise InputError(f"{count} no {partner} in {folder}, such as {files[alone[0]]}: {remedy}")


def suggest_suffixes(images: Iterable[str], masks: Iterable[str]) -> str:
    """The suffixes by which most of the images would have a mask, as a remedy; empty if there are none.

    Args:
        images: Names of the files, with their extensions.
        masks: Likewise.
    """
    images, masks = sorted(images)[:2000], sorted(masks)[:2000]
    stems = {os.path.splitext(name)[0] for name in images}
    endings = Counter()
    for name in masks:  # what follows the stem of an image
        stem = os.path.splitext(name)[0]
        cuts = [len(stem), *(match.start() for match in re.finditer(r"[_.-]", stem))]
        endings.update(name[cut:] for cut in cuts if stem[:cut] in stems)
    image_ends = ["", _common_ending(images)]
    mask_ends = [ending for ending, _ in endings.most_common(2)] + [_common_ending(masks)]
    for image_end in image_ends:
        keys = {name.removesuffix(image_end) if image_end else os.path.splitext(name)[0] for name in images}
        for mask_end in mask_ends:
            paired = sum(name.endswith(mask_end) and name.removesuffix(mask_end) in keys for name in masks)
            if mask_end and 2 * paired > len(images):
                option = f" and image_suffix {image_end}" if image_end else ""
                return f"the masks end in {mask_end}: set mask_suffix {mask_end}{option}"
    return ""


def _common_ending(names: list[str]) -> str:
    """What all names end in, from a mark such as ``_`` on."""
    first, last = min(backwards := [name[::-1] for name in names], default=""), max(backwards, default="")
    length = next((at for at, (one, other) in enumerate(zip(first, last)) if one != other), len(first))
    common = first[:length][::-1]
    mark = re.search(r"[_.-]", common)
    return common[mark.start() :] if mark else ""
