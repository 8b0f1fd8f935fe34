"""Checkpoints that were made to do harm: refused in a sentence, nothing run, fetched, written or held in excess."""

import copy
import io
import os
import pickle
import pickletools
import socket
import struct
import sys
import tarfile
import zipfile

import fuzzing
import pytest
import torch

from lk_downstream import trust_recipes
from lk_downstream.backbones import files
from lk_downstream.errors import InputError
from lk_downstream.tasks import load_task

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc for the memory")
TENSORS = {"a": torch.ones(4)}
EVIL = "evilmod_of_the_tests"


@pytest.fixture(autouse=True)
def trap(tmp_path, monkeypatch):
    """A module that tells when it is imported, an open door in torch, and no way out to the network."""
    (tmp_path / f"{EVIL}.py").write_text(
        "import os\nopen(os.environ['TRAP'], 'w').close()\ndef Evil(*args): pass\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: asked.append(args) or [])
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "sprung").exists()
    assert EVIL not in sys.modules
    assert not asked


def text(value):
    value = value.encode()
    return b"X" + struct.pack("<I", len(value)) + value


# Pickles of protocols 0 to 5 that call something, each with another instruction or by another way.
COMMAND = "open(__import__('os').environ['TRAP'], 'w').close()"
RUN = b"c__builtin__\nexec\n"
ARGUMENTS = text(COMMAND) + b"\x85"
PICKLES = {
    "REDUCE exec": RUN + ARGUMENTS + b"R.",
    "REDUCE builtins of Python 3": b"cbuiltins\nexec\n" + ARGUMENTS + b"R.",
    "REDUCE os.system": b"cos\nsystem\n" + text("touch $TRAP") + b"\x85R.",
    "REDUCE posix.system": b"cposix\nsystem\n" + text("touch $TRAP") + b"\x85R.",
    "REDUCE subprocess": b"csubprocess\ncheck_output\n(" + text("touch") + text("sprung") + b"l\x85R.",
    "OBJ": b"(" + RUN + text(COMMAND) + b"o.",
    "INST": b"(" + text(COMMAND) + b"i__builtin__\nexec\n.",
    "NEWOBJ": b"csubprocess\nPopen\n(" + text("touch") + text("sprung") + b"l\x85\x81.",
    "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n(" + text("touch") + text("sprung") + b"l\x85}\x92.",
    "STACK_GLOBAL": b"\x80\x04" + text("builtins") + text("exec") + b"\x93" + ARGUMENTS + b"R.",
    "nested in a list": b"](" + RUN + ARGUMENTS + b"Re.",
    "nested in a dictionary": b"}" + text("state_dict") + RUN + ARGUMENTS + b"Rs.",
    "nested as a key": b"}" + RUN + ARGUMENTS + b"R" + text("a") + b"s.",
    "by the memo": RUN + b"q\x000h\x00" + ARGUMENTS + b"R.",
    "twice": b"c__builtin__\ngetattr\n" + b"c__builtin__\n__import__\n" + text("os") + b"\x85R" + text("system")
    + b"\x86R" + text("touch $TRAP") + b"\x85R.",
    "functools.reduce": b"cfunctools\nreduce\n" + RUN + b"]" + text(COMMAND) + b"a" + text("") + b"\x87R.",
    "functools.partial called": b"cfunctools\npartial\n" + RUN + text(COMMAND) + b"\x86R)R.",
    "map": b"c__builtin__\nlist\nc__builtin__\nmap\n" + RUN + b"]" + text(COMMAND) + b"a\x86R\x85R.",
    "torch.load": b"ctorch\nload\n" + text("other.pth") + b"\x85R.",
    "torch.hub.load": b"ctorch.hub\nload\n" + text("evil/evil") + text("evil") + b"\x86R.",
    "torch.storage._load_from_bytes": b"ctorch.storage\n_load_from_bytes\n" + text("x") + b"\x85R.",
    "torch._inductor's compiler": b"ctorch._inductor.codecache\ncompile_file\n" + text("x") + b"\x85R.",
    "numpy.load": b"cnumpy\nload\n" + text("x.npy") + b"\x85R.",
    "numpy's runstring": b"cnumpy.testing._private.utils\nrunstring\n" + text(COMMAND) + b"}\x86R.",
    "pickle.loads": b"c_pickle\nloads\n" + text("x") + b"\x85R.",
    "an import alone": b"c" + EVIL.encode() + b"\nEvil\n)R.",
    "an import alone, as Python 2": b"c" + EVIL.encode() + b"\nEvil\n)\x81.",
    "BUILD": b"c" + EVIL.encode() + b"\nEvil\n)\x81}" + text("a") + text("b") + b"sb.",
    "PERSID": b"Pevil\n.",
    "BINPERSID": b"(" + text("module") + b"c" + EVIL.encode() + b"\nEvil\n" + text("a") + text("b") + b"tQ.",
    "EXT1": b"\x82\x01.",
    "a library's function": b"ctimm.models\ncreate_model\n" + text("resnet50") + b"\x85R.",
    "lightning's function": b"clightning.fabric.utilities.cloud_io\n_load\n" + text("http://evil") + b"\x85R.",
    "a large bytearray": b"c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x02\x85R.",
    "a large tensor": b"ctorch\nTensor\n\x8a\x05\x00\x00\x00\x00\x02\x85R.",
    "a large storage": b"ctorch.storage\nUntypedStorage\n\x8a\x05\x00\x00\x00\x00\x02\x85\x81.",
    "a long text": b"\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "a deep tuple": b")" + b"\x85" * 30_000 + b".",
}  # fmt: skip


def as_zip(content, **records):
    file = io.BytesIO()
    torch.save(TENSORS, file)
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(out := io.BytesIO(), "w") as target:
        for name in source.namelist():
            target.writestr(name, b"\x80\x02" + content if name.endswith("data.pkl") else source.read(name))
        for name, value in records.items():
            target.writestr(name, value)
    return out.getvalue()


def as_legacy(content):
    file = io.BytesIO()
    torch.save(TENSORS, file, _use_new_zipfile_serialization=False)
    head = file.getvalue()
    parts, place = [], io.BytesIO(head)
    for _ in range(3):
        start = place.tell()
        for _ in pickletools.genops(place):
            pass
        parts.append(head[start : place.tell()])
    return b"".join(parts) + b"\x80\x02" + content + pickle.dumps([], 2)


def as_tar(content):
    with tarfile.open(fileobj=(out := io.BytesIO()), mode="w") as archive:
        for name in ("storages", "tensors", "pickle", "../sprung"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return out.getvalue()


def refused(path):
    """All three ways to read a checkpoint refuse it with a sentence; the memory that they took."""
    held = fuzzing.forget_peak()
    for read in (files.read, files.read_run, load_task):
        with pytest.raises(InputError) as error:
            read(path)
        assert path.name in str(error.value)
        assert len(str(error.value).splitlines()) == 1
        assert len(str(error.value)) < 1000
    return fuzzing.peak() - held


@pytest.mark.parametrize("wrap", [as_zip, as_legacy, as_tar, bytes], ids=["zip", "legacy", "tar", "bare"])
@pytest.mark.parametrize("name", PICKLES)
def test_pickles(tmp_path, name, wrap):
    path = tmp_path / "hostile.pth"
    path.write_bytes(wrap(PICKLES[name]))
    assert refused(path) < 2**28


def test_the_pickles_are_real(tmp_path, monkeypatch):
    """What the traps are worth: the plain unpickler springs them."""
    for name in ("REDUCE exec", "REDUCE os.system", "OBJ", "INST", "STACK_GLOBAL", "by the memo", "map", "twice"):
        monkeypatch.setenv("TRAP", str(tmp_path / "trap"))
        pickle.loads(PICKLES[name])
        (tmp_path / "trap").unlink()


def test_archives(tmp_path):
    path = tmp_path / "hostile.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        archive.writestr("a/data/0", bytes(2**29))
        archive.writestr("a/version", "3\n")
    assert path.stat().st_size < 2**21
    with pytest.raises(InputError, match=r"would unpack from .* raise LK_MAX_EXPANSION_BYTES"):
        files.read(path)
    assert refused(path) < 2**28
    path.write_bytes(as_zip(PICKLES["BUILD"], **{"../sprung": b"x", "/sprung": b"x"}))
    refused(path)
    assert not (tmp_path.parent / "sprung").exists()
    for start in (b"\x1f\x8b\x08", b"BZh9", b"7z\xbc\xaf", b"Rar!"):
        path.write_bytes(start + bytes(600))
        with pytest.raises(InputError, match="is an archive; unpack it"):
            files.read(path)


@pytest.mark.parametrize(
    "header",
    [
        b"{" + b" " * 100,
        b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 1099511627776]}}',
        b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "F999", "shape": [4], "data_offsets": [0, 16]}}',
        b'{"a": ' + b"[" * 100_000,
        b'{"__metadata__": 7}',
    ],
)
@pytest.mark.parametrize("length", [None, 2**62, 2**27, 0])
def test_safetensors_with_false_headers(tmp_path, header, length):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + bytes(16))
    assert refused(path) < 2**28


@pytest.fixture(scope="module")
def checkpoint():
    """What a run of the demo would save."""
    from jsonargparse import ArgumentParser

    from lk_downstream.tasks import Task

    recipe = {
        "class_path": "lk_downstream.tasks.Segmentation",
        "init_args": {
            "backbone": {"class_path": "lk_downstream.create_backbone", "init_args": {"name": "test_convnext"}},
            "head": {"class_path": "lk_downstream.heads.FCNHead", "init_args": {"channels": 8}},
            "classes": ["a.b", "http://x", "{class_path: os.system}"],
            "loss": {"class_path": "torch.nn.CrossEntropyLoss", "init_args": {"ignore_index": 255}},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1}},
            "weights": None,
        },
    }
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "task")
    task = parser.instantiate_classes(parser.parse_object({"task": recipe})).task
    return {"recipe": recipe, "state_dict": task.state_dict(), "pytorch-lightning_version": "2.6"}


def saved(checkpoint, folder, place, value):
    content = copy.deepcopy(checkpoint)
    *owners, last = place.split(".") if place else [None]
    target = content["recipe"]
    for name in owners:
        target = target.setdefault(name, {})
    if last:
        target[last] = value
    else:
        content["recipe"] = value
    torch.save(content, folder / "hostile.ckpt")
    return folder / "hostile.ckpt"


def test_an_honest_recipe(checkpoint, tmp_path):
    task = load_task(saved(checkpoint, tmp_path, "init_args.weights", None))
    assert task.classes == ("a.b", "http://x", "{class_path: os.system}")


CLASS = f"{EVIL}.Evil"
RECIPES = [
    *(("class_path", name) for name in (CLASS, "os.system", "torch.hub.load", "lightning.Trainer", 7, None)),
    *(("class_path", name) for name in (["os", "system"], "Segmentation ", "lk_downstream.tasks.load_task")),
    *((f"init_args.{key}", CLASS) for key in ("loss", "head", "optimizer", "schedule", "inference", "groups")),
    *((f"init_args.{key}", {"class_path": CLASS}) for key in ("loss", "head", "optimizer", "backbone", "inference")),
    *((f"init_args.{key}", f"{{class_path: {CLASS}}}") for key in ("loss", "optimizer")),
    *((f"init_args.{key}", [{"class_path": CLASS}]) for key in ("loss", "auxiliary_head")),
    ("init_args.loss.init_args.weight", {"class_path": CLASS}),
    ("init_args.head.init_args.channels", {"deep": [[{"deeper": {"class_path": CLASS}}]]}),
    ("init_args.head", {"class_path": "lk_downstream.heads.DecodeHead", "init_args": {"type": CLASS}}),
    ("init_args.head.dict_kwargs", {"norm_cfg": {"type": CLASS}}),
    ("init_args.backbone.dict_kwargs", {"act_layer": CLASS}),
    ("init_args.backbone.dict_kwargs", {"pretrained": True}),
    ("init_args.backbone.dict_kwargs", {"checkpoint_path": "weights"}),
    ("init_args.backbone.dict_kwargs", {"pretrained_cfg": {"url": "x"}}),
    *(("init_args.backbone.init_args.name", name) for name in (CLASS, "hf-hub:evil/evil", "local-dir:evil", "../evil")),
    *((f"init_args.{key}", address) for key in ("weights", "backbone.init_args.weights")
      for address in ("http://evil/a.pth", "https://evil", "file:///etc/passwd", "ftp://evil", "in1k", "evil.pth")),
    ("init_args.head.init_args.channels", 10**9),
    ("init_args.head.init_args.channels", "!!python/object/apply:os.system [touch sprung]"),
    ("init_args.classes", f"{{class_path: {CLASS}}}"),
    ("init_args.classes", [{"class_path": CLASS}]),
    ("init_args.unknown", 1),
    *((None, value) for value in ("text", ["list"], 7, {"class_path": CLASS}, {"init_args": {}}, {})),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value"), RECIPES)
def test_recipes(checkpoint, tmp_path, place, value):
    path = saved(checkpoint, tmp_path, place, value)
    held = fuzzing.forget_peak()
    with pytest.raises(InputError, match=r"hostile\.ckpt ") as error:
        load_task(path)
    assert len(str(error.value).splitlines()) == 1
    assert fuzzing.peak() - held < 2**28


def test_a_config_in_the_current_folder_is_not_read(checkpoint, tmp_path):
    (tmp_path / "evil").write_text(f"class_path: {CLASS}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"has 'evil' .*neither a number nor a plain word"):
        load_task(saved(checkpoint, tmp_path, "init_args.loss", "evil"))


def test_a_class_that_the_user_trusts(checkpoint, tmp_path):
    path = saved(checkpoint, tmp_path, "init_args.loss", {"class_path": "torch.nn.MultiMarginLoss"})
    with pytest.raises(InputError, match=r"names 'torch\.nn\.MultiMarginLoss', a class of another package"):
        load_task(path)
    assert isinstance(load_task(path, trusted=["torch.nn.MultiMarginLoss"]).loss, torch.nn.MultiMarginLoss)


def test_the_trusted_classes_are_there():
    from lk_downstream.parser_errors import imported

    for name in trust_recipes.CLASSES:
        if name != "torch.optim.Muon":  # of torch 2.9
            assert callable(imported(name)), name


def test_lightning_reads_by_our_reader(checkpoint, tmp_path):
    from lk_downstream.callbacks import CheckpointFiles

    (tmp_path / "hostile.ckpt").write_bytes(as_zip(PICKLES["REDUCE exec"]))
    with pytest.raises(InputError, match=r"hostile\.ckpt carries code"):
        CheckpointFiles().load_checkpoint(tmp_path / "hostile.ckpt", weights_only=False)
    path = saved(checkpoint, tmp_path, "init_args.weights", None)
    assert CheckpointFiles().load_checkpoint(path).keys() == checkpoint.keys()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
