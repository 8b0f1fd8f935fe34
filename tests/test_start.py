"""What a start imports, and what a wheel holds. Each is seen in a process of its own."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lk_downstream import config_files

ROOT = Path(__file__).parents[1]
BARE = "import torch, torchvision, timm, lightning.pytorch"
# Which need seconds, or are missing where none of their work is wanted.
HEAVY = {"scipy", "sympy", "matplotlib", "tensorboard", "mmseg", "mmcv", "mmengine", "cv2", "onnx", "onnxscript"}
HEAVY |= {"jinja2", "onnxruntime", "pycocotools", "pandas", "sklearn"}
RUN = """
import contextlib, io, json, sys
for words in {lines}:
    sys.argv = ["lk-downstream", *words]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(SystemExit):
            from lk_downstream.commands import main
            main()
print(json.dumps(sorted(sys.modules)))
"""


def imported(*lines, first=""):
    """The modules that a process has imported when it has answered some command lines."""
    code = f"{first}\n{RUN.format(lines=[line.split() for line in lines])}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def libraries(modules):
    return {name.split(".")[0] for name in modules}


@pytest.fixture(scope="module")
def bare():
    return imported(first=BARE)


def test_pytorch_is_not_needed_to_answer():
    lines = [
        "--help",
        "--version",
        "ft",
        "fit --help",
        "evaluate --config demo_segmentation --help",
        "predict -c absent",
    ]
    lines += ["fit --config absent", "export --help", "export --output x", "convert --help", "convert a --nmes x"]
    lines += ["profile --help", "profile --print_config", "benchmark --help", "plot absent --moniter x"]
    found = libraries(imported(*lines))
    assert {"lk_downstream", "jsonargparse"} <= found
    assert not found & ({"torch", "torchvision", "timm", "lightning", "numpy"} | HEAVY)


def test_nothing_heavy_is_imported_for_an_answer(bare):
    """Beyond what the libraries import by themselves."""
    found = imported(
        "fit --config demo_segmentation --print_config",
        "fit --config demo_detection --model.optimizer Adamw",
        "evaluate --config demo_classification --trainer.max_stps 3",
        "predict --model.help Detection",
        "check-data --help",
    )
    assert {"lk_downstream", "lightning"} <= found
    assert not libraries(found - bare) & HEAVY


def test_a_planted_import_is_seen(bare):
    found = imported("--help", first="import pycocotools.mask, matplotlib.sankey")
    assert libraries(found - bare) & HEAVY == {"pycocotools", "matplotlib"}


@pytest.mark.parametrize(
    ("program", "printed"),
    [("/usr/bin/lk-downstream", "PASSIVE False"), (ROOT / "tools" / "fit.py", "PASSIVE False"), ("x.py", "None True")],
)
def test_threads_wait_passively_in_the_command_alone(program, printed):
    """And a program that imports the package has its models in timm's registry."""
    code = f"import os, sys; sys.argv = [{str(program)!r}]; import lk_downstream, timm.models"
    seen = "print(os.environ.get('OMP_WAIT_POLICY'), timm.models.is_model('slak_tiny'))"
    if printed.startswith("PASSIVE"):
        code = code.removesuffix(", timm.models")
        seen = "print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    words = [sys.executable, "-c", f"{code}; {seen}"]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", check=True, env=environment, cwd=ROOT)
    assert done.stdout.strip() == printed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package as ``pip install .`` installs it, from a copy, in which a build leaves its files."""
    pytest.importorskip("setuptools", minversion="77")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    ).stdout.split()
    if not listed:
        pytest.skip("not a checkout")
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in listed:
        if not name.startswith((".", "tests")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    words = ["wheel", str(source), "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_command_and_every_config(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entries = next(name for name in names if name.endswith("entry_points.txt"))
        assert "lk-downstream = lk_downstream.__main__:main" in archive.read(entries).decode()
    assert {f"lk_downstream/configs/{name}.yaml" for name in config_files.names()} <= names
    assert {f"lk_downstream/configs/studies/{name}.yaml" for name in config_files.studies()} <= names
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lk_downstream").rglob("*.py")}
    assert code <= names
    assert {f"lk_downstream/reports/templates/{name}" for name in ("page.html", "page.css", "page.js")} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lk_downstream"}  # and nothing beside it


def test_the_wheel_runs_from_another_folder(wheel, tmp_path):
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    elsewhere.mkdir()
    command = [sys.executable, "-m", "lk_downstream", "fit", "--config", "demo_segmentation", "--print_config"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, cwd=elsewhere, env=environment)
    assert "name: test_convnext" in done.stdout
    code = "import sys; sys.argv = ['lk-downstream']; import lk_downstream.config_files as c; print(c.folder())"
    where = [sys.executable, "-c", code]
    done = subprocess.run(where, capture_output=True, encoding="utf-8", check=True, cwd=elsewhere, env=environment)
    assert done.stdout.strip() == str(installed / "lk_downstream" / "configs")
