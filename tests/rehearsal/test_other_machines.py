"""Machines without display libraries, without scipy, and without what Windows and macOS lack."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
MM = "mmseg mmcv mmengine mmdet"
SLIM = {"BROKEN": "cv2", "ABSENT": f"{MM} scipy"}
# What is only there on Unix, or only on Linux; what PyTorch and Lightning ask for on any system but Windows stays
WINDOWS = {
    "ABSENT": "resource fcntl termios pwd grp pty",
    "WITHOUT": "os.sched_getaffinity os.fork os.forkpty os.symlink os.link os.getuid os.geteuid os.killpg "
    "signal.SIGHUP signal.SIGUSR2 signal.SIGALRM signal.alarm signal.setitimer select.poll select.epoll",
    "SPAWN": "1",
    "PYTHONIOENCODING": "cp1252",
    # The locale's encoding, which is that of files that are opened without one, holds no letter but ASCII's
    **{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}
STEPS = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.accelerator", "cpu"]
SMALL = {
    "segmentation": ["--data.crop_size", "64", "--data.scale", "[80, 64]"],
    "classification": ["--data.size", "32"],
    "detection": [],
}


@pytest.fixture
def machine(tmp_path):
    """Runs a program of Python on a machine that lacks something; all processes that it starts lack it too."""
    (tmp_path / "site").mkdir()
    shutil.copy(Path(__file__).with_name("other_machines.py"), tmp_path / "site" / "sitecustomize.py")

    def run(lacking, *words):
        path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", **lacking}
        options = {"capture_output": True, "encoding": lacking.get("PYTHONIOENCODING", "utf-8"), "cwd": tmp_path}
        return subprocess.run([sys.executable, *words], env=environment, check=False, **options)

    return run


def fit(task, workers):
    """Words of a small run of a demo."""
    data = ["--data.synthetic", "{train: 4, val: 4, size: [64, 80]}", "--data.batch_size", "2"]
    config = ["--config", str(ROOT / "configs" / f"demo_{task}.yaml"), "--data.workers", workers]
    return [*config, *STEPS, *data, *SMALL[task]]


def metrics(folder, config="*"):
    """The last validation of a run."""
    path = next((folder / "runs").glob(f"{config}/run_0/metrics.json"))
    return json.loads(path.read_text(encoding="utf-8"))["last"]


def test_the_demos_without_display_libraries_mmsegmentation_and_scipy(machine, tmp_path):
    """In one process, to import PyTorch once."""
    runs = [fit(task, "0") for task in SMALL]
    program = f"from lk_downstream.cli import main\nfor words in {runs}: main('fit', words)"
    done = machine(SLIM, "-c", program)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for task, metric in {"segmentation": "mIoU", "classification": "top1", "detection": "bbox_AP"}.items():
        assert metric in metrics(tmp_path, f"demo_{task}")["summary"]


def test_a_head_of_mmsegmentation_ends_in_a_sentence_where_opencv_cannot_be_imported(machine):
    program = "from lk_downstream.heads import DecodeHead; DecodeHead((8, 8), 2, 'PSPHead')"
    said = machine({"BROKEN": "cv2"}, "-c", program).stderr.strip().splitlines()[-1]
    assert "InputError: lk_downstream.heads.DecodeHead needs mmsegmentation: it imports OpenCV (cv2)" in said
    assert "libGL.so.1" in said
    assert "pip install opencv-python-headless" in said


def test_every_module_and_tool_can_be_imported_there(machine):
    program = f"""
import importlib, pathlib, runpy, sys
root = pathlib.Path({str(ROOT)!r})
for path in sorted((root / "lk_downstream").rglob("*.py")):
    name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    if name.split(".")[1:2] != ["integrations"] and not name.endswith("__main__"):
        importlib.import_module(name)
sys.path.insert(0, str(root / "tools"))
for path in sorted((root / "tools").glob("*.py")):
    runpy.run_path(str(path), run_name="imported")
"""
    lacking = {**WINDOWS, "ABSENT": f"{WINDOWS['ABSENT']} {SLIM['ABSENT']}", "BROKEN": "cv2"}
    done = machine(lacking, "-W", "ignore", "-c", program)
    assert done.returncode == 0, done.stderr


def own_images(root):
    """Images and masks of two classes, whose names no encoding but Unicode's has."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
            for number in range(2):
                pixels = generator.integers(0, 2, (64, 80) if kind == "annotations" else (64, 80, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / kind / split / f"{number}.png")
    (root / "classes.txt").write_text("Straße\n道路\n", encoding="utf-8")


def test_a_run_as_on_windows_with_names_that_its_encoding_lacks(machine, tmp_path):
    own_images(tmp_path / "own")
    (tmp_path / "settings.yaml").write_text("# 道路\nseed_everything: 3\n", encoding="utf-8")
    words = ["--data.dataset", "SegmentationFolder", "--data.dataset.root", "own", "--data.synthetic", "null"]
    words = [*fit("segmentation", "1"), *words, "--config", "settings.yaml"]
    done = machine(WINDOWS, str(ROOT / "tools" / "fit.py"), *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "Straße" in done.stdout
    assert "\\u9053\\u8def" in done.stdout
    assert "peak memory" not in done.stdout
    assert metrics(tmp_path)["classes"]["class"] == ["Straße", "道路"]


@pytest.mark.parametrize(
    ("lacking", "program", "word"),
    [
        ({"BROKEN": "cv2"}, "import mmcv", "libGL.so.1"),
        ({"ABSENT": "resource"}, "import resource", "ModuleNotFoundError"),
        ({"WITHOUT": "os.fork"}, "import os; os.fork()", "AttributeError"),
        ({"SPAWN": "1"}, "import multiprocessing as m; m.Process(target=lambda: 0).start()", "pickle"),
        ({**WINDOWS, "ABSENT": ""}, "open('a', 'w').write(chr(0x9053))", "UnicodeEncodeError"),
        ({"PYTHONIOENCODING": "cp1252"}, "print(chr(0x2588))", "UnicodeEncodeError"),
    ],
)
def test_planted_faults_are_found(machine, lacking, program, word):
    done = machine(lacking, "-c", program)
    assert done.returncode == 1
    assert word in done.stderr
