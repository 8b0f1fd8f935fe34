"""Data sets in the archives that they come in: the same items as from the files unpacked."""

import io
import multiprocessing
import pickle
import random
import shutil
import struct
import tarfile
import threading
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lk_downstream import archive_index, archives, trust
from lk_downstream.archives import Place, locate
from lk_downstream.data import ADE20K, Cityscapes, ClassFolder, Coco, Synthetic
from lk_downstream.errors import DamagedFile, InputError

SIZE = Synthetic(train=3, val=2, size=(40, 48))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LK_CACHE", str(folder))
    archives.opened.cache_clear()
    archives._lying_in.cache_clear()
    archives._KNOWN.clear()
    return folder


def pack(folder, target, method=zipfile.ZIP_STORED, top=""):
    """A zip or tar archive of a folder's files, in no order."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    random.Random(0).shuffle(paths)
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w", method) as archive:
            for path in paths:
                archive.write(path, top + path.relative_to(folder).as_posix())
    else:
        with tarfile.open(target, "w") as archive:
            for path in paths:
                archive.add(path, top + path.relative_to(folder).as_posix())
    return target


def same(one, other):
    assert len(one) == len(other) > 0
    for first, second in zip(one, other):
        assert first.keys() == second.keys()
        assert first["name"] == second["name"]
        assert torch.equal(first["image"], second["image"])
        if "mask" in first:
            assert torch.equal(first["mask"], second["mask"])
        elif "label" in first:
            assert first["label"] == second["label"]
        else:
            assert torch.equal(first["target"]["boxes"], second["target"]["boxes"])


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("top", ["", "ADEChallengeData2016/"])
def test_ade20k_in_one_archive(tmp_path, suffix, top):
    ADE20K("train", str(tmp_path / "plain")).write_synthetic(SIZE)
    path = pack(tmp_path / "plain", tmp_path / f"ade{suffix}", zipfile.ZIP_DEFLATED, top)
    same(ADE20K("train", str(path)), ADE20K("train", str(tmp_path / "plain")))
    with pytest.raises(InputError, match="has no split 'tain'; did you mean 'train'"):
        ADE20K("tain", str(path))


def test_the_default_root_is_found_in_the_archive_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ADE20K("train", "plain").write_synthetic(SIZE)
    Path("data").mkdir()
    pack(Path("plain"), Path("data/ADEChallengeData2016.zip"), top="ADEChallengeData2016/")
    same(ADE20K("val"), ADE20K("val", "plain"))


def test_cityscapes_and_coco_as_they_are_downloaded(tmp_path):
    Cityscapes("train", str(tmp_path / "city")).write_synthetic(SIZE)
    (tmp_path / "packed").mkdir()
    for name in ("leftImg8bit", "gtFine"):
        pack(tmp_path / "city" / name, tmp_path / "packed" / f"{name}_trainvaltest.zip", top=f"{name}/")
        with zipfile.ZipFile(tmp_path / "packed" / f"{name}_trainvaltest.zip", "a") as archive:
            archive.writestr("README", "text")
    same(Cityscapes("val", str(tmp_path / "packed")), Cityscapes("val", str(tmp_path / "city")))
    Coco("train", str(tmp_path / "coco")).write_synthetic(SIZE)
    (tmp_path / "zips").mkdir()
    for name in ("train2017", "val2017", "annotations"):
        pack(tmp_path / "coco" / name, tmp_path / "zips" / f"{name}.zip", top=f"{name}/")
    for split in ("train", "val"):
        one, other = (Coco(split, str(tmp_path / place)) for place in ("zips", "coco"))
        same(one, other)
        assert one.classes == other.classes


def test_a_tar_of_tars_is_a_folder_of_folders(tmp_path):
    generator = np.random.default_rng(0)
    with tarfile.open(tmp_path / "train.tar", "w") as outer:
        for name in ("n02", "n01"):
            folder = tmp_path / "plain" / "train" / name
            folder.mkdir(parents=True)
            for number in range(3):
                from PIL import Image

                image = generator.integers(0, 256, (8, 9, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / f"{name}_{number}.png")
            inner = pack(folder, tmp_path / f"{name}.tar")
            outer.add(inner, f"{name}.tar")
    one = ClassFolder("train", str(tmp_path), folder="{split}.tar")
    same(one, ClassFolder("train", str(tmp_path / "plain")))
    assert one.classes == ("n01", "n02")


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="a new process takes long to start")
def test_loader_processes_read_the_same(tmp_path):
    ADE20K("train", str(tmp_path / "plain")).write_synthetic(SIZE)
    path = pack(tmp_path / "plain", tmp_path / "ade.zip", zipfile.ZIP_DEFLATED)
    dataset = ADE20K("train", str(path))
    len(dataset)
    expected = [item["image"] for item in dataset]
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert all(torch.equal(item["image"], image) for item, image in zip(loader, expected, strict=True))
    assert isinstance(pickle.loads(pickle.dumps(dataset)).root, Place)


def test_threads_share_an_archive(tmp_path):
    content = {f"f{number}": bytes([number]) * (1000 + number) for number in range(50)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    wrong = []

    def read():
        for name, data in content.items():
            if trust.read_bytes(tmp_path / "a.zip" / name) != data:
                wrong.append(name)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_paths_behave_as_those_of_files(tmp_path):
    """Random trees: what is there, what a folder holds, in an archive as on the disk."""
    generator = random.Random(0)
    for number in range(12):
        plain = tmp_path / f"plain{number}"
        plain.mkdir()
        for _ in range(generator.randint(1, 25)):
            parts = [generator.choice(["a", "a.b", "ab", "a-", "é", "z z"]) for _ in range(generator.randint(1, 4))]
            path = plain.joinpath(*parts[:-1], parts[-1] + ".x")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(generator.randbytes(20))
        packed = pack(plain, tmp_path / f"p{number}{generator.choice(['.zip', '.tar'])}")
        top = [path.name for path in plain.iterdir()]
        for path in [plain, *plain.rglob("*"), plain / "absent", plain / "a" / "absent.x"]:
            inside = Place(packed) / path.relative_to(plain)
            if len(top) == 1 and not path.exists():
                continue  # the one folder may be left out
            assert (inside.exists(), inside.is_dir()) == (path.exists(), path.is_dir()), inside
            assert inside.is_file() == path.is_file()
            if path.is_dir():
                assert sorted(item.name for item in inside.iterdir()) == sorted(item.name for item in path.iterdir())
                with archives.scandir(inside) as entries:
                    kinds = {entry.name: entry.is_dir() for entry in entries}
                assert kinds == {item.name: item.is_dir() for item in path.iterdir()}
                assert sorted(p.name for p in inside.glob("*/*.x")) == sorted(p.name for p in path.glob("*/*.x"))
            elif path.exists():
                assert trust.read_bytes(inside) == path.read_bytes()


def test_the_index_is_kept_and_follows_the_archive(tmp_path, cache, monkeypatch):
    def write(name):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(name, "text")

    write("one.txt")
    assert locate(tmp_path / "a.zip" / "one.txt")
    kept = tmp_path / ".a.zip.index"
    assert len(list(kept.iterdir())) == 6
    with monkeypatch.context() as patch:  # another process finds it
        archives.opened.cache_clear()
        archives._KNOWN.clear()
        patch.setattr(archive_index, "_scan", lambda path: pytest.fail("it was scanned again"))
        assert trust.read_bytes(tmp_path / "a.zip" / "one.txt") == b"text"
    write("other.txt")
    assert locate(tmp_path / "a.zip" / "other.txt")
    assert not locate(tmp_path / "a.zip" / "one.txt")
    assert len(list(kept.iterdir())) == 6
    shutil.rmtree(kept)
    kept.write_text("", encoding="utf-8")  # where nothing can be written beside the archive
    archives.opened.cache_clear()
    archives._KNOWN.clear()
    assert locate(tmp_path / "a.zip" / "other.txt")
    assert any(cache.rglob("names.npy"))


def test_what_would_do_harm(tmp_path):
    link = tarfile.TarInfo("link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo("hard.png")
    hard.type, hard.linkname = tarfile.LNKTYPE, "a.png"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for info in (link, hard):
            archive.addfile(info)
        for name in ("a.png", "../b.png", "/etc/c.png", "x/../../d.png", ".hidden/e.png"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    assert [path.name for path in Place(tmp_path / "a.tar").iterdir()] == ["a.png"]
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big", bytes(50_000_000))
    with pytest.raises(InputError, match=r"bomb\.zip/big has 50000000 bytes, more than the 1000000"):
        trust.read_bytes(tmp_path / "bomb.zip" / "big", ("LK_NONE", 1_000_000))
    data = bytearray((tmp_path / "bomb.zip").read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 24 : place + 28] = struct.pack("<I", 10)  # which says that it is small
    (tmp_path / "liar.zip").write_bytes(data)
    with pytest.raises(DamagedFile, match=r"liar\.zip/big is damaged within its archive"):
        trust.read_bytes(tmp_path / "liar.zip" / "big")


def test_damaged_archives_are_named(tmp_path):
    ADE20K("train", str(tmp_path / "plain")).write_synthetic(SIZE)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        data = pack(tmp_path / "plain", tmp_path / "a.zip", method).read_bytes()
        generator = random.Random(0)
        for number in range(60):
            bad = bytearray(data[: generator.randrange(len(data))] if number % 3 == 0 else data)
            for _ in range(generator.randint(1, 30)):
                bad[generator.randrange(len(bad))] = generator.randrange(256)
            path = tmp_path / f"bad{number}.zip"
            path.write_bytes(bad)
            dataset = ADE20K("train", str(path))
            said = str(path)
            try:
                assert all(item["image"].shape[-1] == 48 for item in dataset)
            except InputError as error:
                said = str(error)
            assert str(path) in said
            path.unlink()
    (tmp_path / "b.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(InputError, match=r"b\.tar is no tar archive .*has to be unpacked first"):
        len(ADE20K("train", str(tmp_path / "b.tar")))
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x", b"1" * 1000)
    with pytest.raises(InputError, match="packed by method 14"):
        trust.read_bytes(tmp_path / "c.zip" / "x")


def test_synthetic_data_is_not_written_over_an_archive(tmp_path):
    ADE20K("train", str(tmp_path / "plain")).write_synthetic(SIZE)
    path = pack(tmp_path / "plain", tmp_path / "ade.zip")
    assert partial(ADE20K, root=str(path))("train").root.exists()
