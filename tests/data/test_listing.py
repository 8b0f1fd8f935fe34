"""Lists of many files: the same as without a kept one, and never an old one."""

import os
import pickle
import random
import time

import numpy as np
import pytest

from lk_downstream import kept_arrays
from lk_downstream.data import ClassFolder, listing
from lk_downstream.data.listing import Paths, images_in
from lk_downstream.data.reading import find_images


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "KEEP_FROM", 1)
    return tmp_path / "cache"


def settle(root):
    """As if all of it were old."""
    for folder, _, _ in os.walk(root):
        os.utime(folder, (time.time() - 100,) * 2)


def tree(root, seed=0):
    generator = random.Random(seed)
    for name in ("a", "b", "c d"):
        for number in range(generator.randint(2, 9)):
            path = root / name / generator.choice([".", "x", "x/y"]) / f"{number}{'e' * number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    settle(root)
    return root


def plain(root, folders):
    return [path for folder in folders for path in sorted(find_images(root, folder))]


def test_paths_are_a_sequence():
    paths = [b"", b"a", b"bcd", "\u00e9".encode(), b"x" * 300]
    found = Paths.of(paths)
    assert list(found) == paths
    assert [found[-1], found[np.int64(2)]] == [paths[-1], paths[2]]
    assert list(pickle.loads(pickle.dumps(found))) == paths
    with pytest.raises(IndexError):
        found[5]
    assert len(Paths.of([])) == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_kept_list_is_the_same(tmp_path, cache, monkeypatch, seed):
    root, folders = tree(tmp_path / "data", seed), ["a", "b", "c d"]
    first, counts = images_in(root, folders)
    assert list(first) == plain(root, folders)
    with monkeypatch.context() as patch:
        patch.setattr(listing, "find_images", lambda *args: pytest.fail("it was listed again"))
        again, same = images_in(root, folders)
    assert isinstance(again.names, np.memmap)
    assert list(again) == list(first) == list(pickle.loads(pickle.dumps(again)))
    assert same.tolist() == counts.tolist()
    assert [sum(path.startswith(f"{name}/".encode()) for path in again) for name in folders] == counts.tolist()


@pytest.mark.parametrize("change", ["added", "removed", "in a folder below", "a new folder", "renamed"])
def test_a_change_is_seen(tmp_path, cache, change):
    root, folders = tree(tmp_path / "data"), ["a", "b", "c d"]
    (root / "a" / "empty").mkdir()
    settle(root)
    images_in(root, folders)
    assert any(cache.iterdir())
    first = next(path for path in sorted(root.rglob("*.png")))
    if change == "added":
        (root / "b" / "new.png").touch()
    elif change == "removed":
        first.unlink()
    elif change == "in a folder below":
        (root / "a" / "empty" / "new.png").touch()
    elif change == "a new folder":
        (root / "c d" / "n").mkdir()
        (root / "c d" / "n" / "new.png").touch()
    else:
        first.rename(first.with_name("other.png"))
    assert list(images_in(root, folders)[0]) == plain(root, folders)


def test_what_has_just_been_changed_is_not_kept(tmp_path, cache):
    root = tree(tmp_path / "data")
    (root / "a" / "now.png").touch()
    images_in(root, ["a"])
    assert not cache.exists()


def test_a_folder_that_cannot_be_written_and_damaged_lists(tmp_path, cache):
    root, folders = tree(tmp_path / "data"), ["a", "b"]
    cache.write_text("", encoding="utf-8")
    assert list(images_in(root, folders)[0]) == plain(root, folders)
    cache.unlink()
    images_in(root, folders)
    for path in cache.rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:60])
    assert list(images_in(root, folders)[0]) == plain(root, folders)
    assert kept_arrays.load_arrays(next(cache.iterdir()), listing.Listing) is not None


def test_samples_of_class_folders(tmp_path, cache):
    root = tree(tmp_path / "data" / "train").parent
    one, other = ClassFolder("train", str(root)), ClassFolder("train", str(root))
    assert list(one.samples[0]) == list(other.samples[0])
    assert one.samples[1].tolist() == other.samples[1].tolist()
    assert one.samples[1].dtype == np.int32
