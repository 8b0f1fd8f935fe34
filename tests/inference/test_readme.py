"""The README's Python, as it stands there: executed in its order, and its server under eight threads."""

import http.client
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
SERVER = next(block for block in BLOCKS if "serve_forever" in block)
# The test models in the place of large ones.
SMALL = {"replknet_31b": "test_replknet", "slak_tiny": "test_slak"}
START = """
import http.server, sys
from pathlib import Path
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64
    def __init__(self, address, handler):
        super().__init__((address[0], 0), handler)
        print(self.server_address[1], flush=True)
http.server.ThreadingHTTPServer = Server
exec(compile(Path(sys.argv[1]).read_text(encoding="utf-8"), "README", "exec"))
"""


@pytest.fixture
def folder(trained, monkeypatch):
    """Where a run and the images lie that the README speaks of."""
    path = trained["segmentation"]["run"].parents[2]
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    (path / "photos").mkdir(exist_ok=True)
    for name in ("street.jpg", "city.tif", "photos/a.png", "photos/b.png"):
        Image.fromarray(pixels).save(path / name)
    monkeypatch.chdir(path)
    return path


def test_the_python_of_the_readme(folder, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(Image.Image, "show", lambda self, title: shown.append(title))
    known = {}
    for block in BLOCKS:
        if block is not SERVER:
            for large, small in SMALL.items():
                block = block.replace(large, small)
            exec(compile(block, "README", "exec"), known)
    assert shown == ["street"]
    assert "(90, 120)" in capsys.readouterr().out
    assert len(known["results"]) == 3
    assert Image.open("classes.png").size == Image.open("overlay.png").size == (120, 90)
    assert json.loads(Path("a.json").read_text(encoding="utf-8"))["name"] == "a"
    assert np.asarray(Image.open("city_classes.tif")).shape == (90, 120)


@pytest.fixture
def server(folder, tmp_path):
    """Port and process of the README's server."""
    (tmp_path / "server.py").write_text(SERVER, encoding="utf-8")
    words = [sys.executable, "-c", START, str(tmp_path / "server.py")]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, cwd=folder, encoding="utf-8", **quiet) as process:
        yield int(process.stdout.readline()), process.pid
        process.kill()


def ask(port, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", "/", body)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


def resident(pid):
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def test_the_server_of_the_readme(folder, server):
    assert 18 <= len(SERVER.splitlines()) <= 24
    port, pid = server
    bodies = [(folder / "street.jpg").read_bytes(), (folder / "photos/a.png").read_bytes(), b"nothing"]
    expected = [ask(port, body) for body in bodies]
    assert [status for status, _ in expected] == [200, 200, 400]
    assert "is not an image" in expected[2][1]["error"]
    begun = None
    requests = int(os.environ.get("LK_REQUESTS", "240"))
    with ThreadPoolExecutor(8) as threads:
        for part in range(4):
            found = list(threads.map(lambda number: ask(port, bodies[number % 3]), range(requests // 4)))
            assert found == [expected[number % 3] for number in range(requests // 4)]
            if sys.platform == "linux":
                begun = begun or resident(pid)
                print(f"{(part + 1) * (requests // 4)} requests: {resident(pid):.1f} MiB")
    if sys.platform == "linux":
        assert resident(pid) - begun < 20
