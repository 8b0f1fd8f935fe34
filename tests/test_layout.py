"""The layout and the import rules that keep the package simple."""

import ast
import importlib
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lk_downstream"

# In this order: a package imports only what stands above it. `errors` is everyone's.
ORDER = ["ops", "backbones", "heads", "detectors", "data", "metrics", "reports", "inference", "optim"]
ORDER += ["callbacks", "tasks"]
# integrations: for other people's pipelines
ORDER += ["analysis", "integrations", "export", "exported", "sharing", "loading", "cli", "commands"]
FORBIDDEN = [("data", "backbones"), ("backbones", "data"), ("data", "heads"), ("data", "detectors")]
OPENMMLAB, ITS_USERS = ("mmseg", "mmcv", "mmengine", "mmdet"), ("heads", "integrations")
LOGGERS = "lightning.pytorch.loggers"
OF_PLAIN_DATA = {"errors", "trust", "reports"}  # what reports may import of the package


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def imported(path):
    """Dotted names of all imports of a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(name):
    words = name.split(".")
    return words[1] if words[0] == "lk_downstream" and len(words) > 1 and words[1] in ORDER else None


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports(path):
    own = part_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for name in imported(path):
        other = part_of(name)
        if own and other and own != other:
            assert ORDER.index(other) < ORDER.index(own), f"{own} imports {name}, which stands below it"
            assert (own, other) not in FORBIDDEN, f"{own} imports {name}"
        if name.split(".")[0] in OPENMMLAB:
            assert own in ITS_USERS, f"{own} imports {name}"
        if own == "reports":
            first, *rest = name.split(".")
            assert first not in ("torch", "lightning", "torchvision", "timm"), f"{own} imports {name}"
            assert first != "lk_downstream" or rest[:1] == [] or rest[0] in OF_PLAIN_DATA, f"{own} imports {name}"
        if name.startswith(LOGGERS):
            assert path == PACKAGE / "loggers.py", f"{path} imports a logger"


def test_only_one_module_of_the_heads_imports_mmsegmentation():
    users = [path.name for path in (PACKAGE / "heads").glob("*.py") if any(n.startswith("mm") for n in imported(path))]
    assert users == ["mmseg.py"]


def test_top_level():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    ).stdout.split()
    if not listed:
        pytest.skip("not a checkout")
    top = {name.split("/")[0] for name in listed if not name.startswith(".")}
    known = {"pyproject.toml", "README.md", "LICENSE", "NOTICE", "lk_downstream", "configs", "tools", "tests"}
    assert top <= known


def test_the_names_in_the_readmes_python_are_there():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), node.module
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "lk_downstream":
                assert hasattr(importlib.import_module("lk_downstream"), node.attr), node.attr


def test_every_package_is_installed():
    """By a list, since the configs are installed into the package but lie beside it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = ast.literal_eval(re.search(r"^packages = (\[.*?\])", text, re.DOTALL | re.MULTILINE)[1])
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in modules() if path.name == "__init__.py"}
    assert sorted(listed) == sorted(folders | {"lk_downstream.configs"})


def test_tasks_stay_small():
    for path in (PACKAGE / "tasks").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 250, path
