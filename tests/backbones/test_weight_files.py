"""Files and addresses: nothing of a file is run, and every way in which one can be wrong gets its sentence."""

import argparse
import functools
import hashlib
import http.server
import os
import pickle
import threading
import types

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

import lk_downstream
from lk_downstream import InputError
from lk_downstream.backbones import files

TENSORS = {"a.weight": torch.arange(4.0)}


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class EvilCall:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return eval, (f"__import__('os').mkdir({str(self.path)!r})",)


class EvilPartial:
    """The result of a call, functools.partial, is called."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return functools.partial(os.mkdir, str(self.path)), ()


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request, tmp_path):
    def write(content):
        torch.save(content, tmp_path / "file.pth", _use_new_zipfile_serialization=request.param)
        return tmp_path / "file.pth"

    return write


def test_harmless_objects_beside_the_tensors_are_skipped(save):
    buffer = HistoryBuffer()
    buffer.update(1.5)
    content = {
        "model": TENSORS,
        "args": argparse.Namespace(lr=1e-3, nested=argparse.Namespace()),
        "best": np.float64(3.0),
        "array": np.arange(3),
        "type": dict,
        "history": {"loss": buffer},
        "state": torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]).state_dict(),
    }
    read = files.read(save(content))
    torch.testing.assert_close(read["model"], TENSORS)
    assert not isinstance(read["args"], argparse.Namespace)
    with pytest.raises(pickle.UnpicklingError, match="Namespace"):  # nothing stays allowed
        torch.load(save(content), weights_only=True)


@pytest.mark.parametrize("kind", [Evil, EvilCall, EvilPartial])
def test_code_in_a_file_is_not_run(kind, save, tmp_path):
    path = save({"model": TENSORS, "args": kind(tmp_path / "evil")})
    name = {
        Evil: r"posix\.mkdir",
        EvilCall: r"(__builtin__|builtins)\.eval",
        EvilPartial: "the result of another call",
    }[kind]
    with pytest.raises(InputError, match=rf"file\.pth carries code \(it would call {name}\), of which nothing was run"):
        files.read(path)
    assert not (tmp_path / "evil").exists()
    with open(path, "rb") as file:  # the trap is real
        torch.load(file, weights_only=False)
    assert (tmp_path / "evil").exists()


def test_a_pickled_model_is_refused(save):
    with pytest.raises(InputError, match=r"whole pickled object, not a dictionary|cannot be read as weights"):
        files.read(save(torch.nn.Linear(2, 2)))


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file(save, share):
    path = save({"model": {"a": torch.zeros(1000)}})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"file\.pth (ends too early|cannot be read)"):
        files.read(path)


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>Sign in</html>", b"  \n<html lang='en'>"])
def test_a_web_page(tmp_path, content):
    (tmp_path / "page.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"page\.pth is a web page"):
        files.read(tmp_path / "page.pth")


@pytest.mark.parametrize("content", [b"", b"hello", bytes(range(256)) * 10, b"\x80\x04\x95garbage"])
def test_other_rubbish(tmp_path, content):
    (tmp_path / "rubbish.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"rubbish\.pth (cannot be read as weights|is a text, which begins 'hello')"):
        files.read(tmp_path / "rubbish.pth")


def test_a_path_of_windows_has_either_separator(monkeypatch):
    assert not files.looks_like_a_file("in1k")
    monkeypatch.setattr(files, "os", types.SimpleNamespace(sep="\\", altsep="/"))
    assert all(map(files.looks_like_a_file, (r"weights\mine", "weights/mine")))
    assert not files.looks_like_a_file("in1k")


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match=r"There is no weight file .*nothing\.pth"):
        files.read(tmp_path / "nothing.pth")
    with pytest.raises(InputError, match="is a folder"):
        files.read(tmp_path)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server with one weight file, whose cache is in the test's folder; counts requests."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    torch.save(TENSORS, tmp_path / "weights.pth")
    content = (tmp_path / "weights.pth").read_bytes()
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            found = "gone" not in self.path
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(b"<html>moved</html>" if "page" in self.path else content if found else b"")

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as instance:
        threading.Thread(target=instance.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{instance.server_port}"
        yield address, hashlib.sha256(content).hexdigest(), requests
        instance.shutdown()


def test_a_download_is_kept_and_verified(server):
    address, digest, requests = server
    for _ in range(2):
        path = files.download(f"{address}/model-{digest[:8]}.pth")
        torch.testing.assert_close(files.read(path), TENSORS)
    assert path.name == f"model-{digest[:8]}.pth"
    assert len(requests) == 1
    with pytest.raises(InputError, match="invalid hash"):
        files.download(f"{address}/model-0123abcd.pth")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_equal_names_at_different_addresses_are_different_files(server):
    address = server[0]
    assert files.download(f"{address}/one/download") != files.download(f"{address}/two/download")


def test_failed_downloads(server):
    address = server[0]
    with pytest.raises(InputError, match=r"gone\.pth cannot be downloaded .*404"):
        files.download(f"{address}/gone.pth")
    with pytest.raises(InputError, match="is a web page"):
        lk_downstream.load_weights(torch.nn.Linear(1, 1), f"{address}/page.pth")
    with pytest.raises(InputError, match="leads to a page"):
        files.download("https://drive.google.com/file/d/1azQUiCxK9feYVkkrPqwVPBtNsTzDrX7S/view?usp=sharing")


def test_a_page_is_not_kept(server):
    address, _, requests = server
    for count in (1, 2):
        with pytest.raises(InputError, match="is a web page"):
            lk_downstream.load_weights(torch.nn.Linear(1, 1), f"{address}/page.pth")
        assert len(requests) == count
