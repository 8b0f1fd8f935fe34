"""Configs by name, by file and by path, and what is said of a file that cannot be read."""

from pathlib import Path

import pytest

from lk_downstream import config_files
from lk_downstream.errors import InputError

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_config_is_found_by_its_name_from_any_folder():
    assert config_files.names() == sorted(path.stem for path in CONFIGS.iterdir() if path.is_file())
    assert config_files.studies() == sorted(path.stem for path in (CONFIGS / "studies").iterdir())
    for name in config_files.names():
        assert config_files.find(name) == config_files.find(f"{name}.yaml") == CONFIGS / f"{name}.yaml"
        config_files.resolve(["--config", name])


def test_configs_in_the_package_come_first(tmp_path, monkeypatch):
    """As they lie where the wheel is installed."""
    (tmp_path / "lk_downstream" / "configs").mkdir(parents=True)
    (tmp_path / "lk_downstream" / "configs" / "own.yaml").write_text("a: 1", encoding="utf-8")
    monkeypatch.setattr(config_files, "__file__", str(tmp_path / "lk_downstream" / "config_files.py"))
    assert config_files.names() == ["own"]


@pytest.mark.parametrize("file", ["demo_segmentation", "demo_segmentation.yaml"])
def test_a_file_of_the_current_folder_wins(file):
    Path(file).write_text("a: 1", encoding="utf-8")
    assert config_files.find(file) == Path(file)
    assert config_files.find("demo_segmentation") == Path(file)


def test_paths_are_paths():
    Path("mine").mkdir()
    Path("mine/demo_segmentation.yaml").write_text("a: 1", encoding="utf-8")
    assert config_files.find("mine/demo_segmentation.yaml") == Path("mine/demo_segmentation.yaml")
    assert config_files.find("mine/demo_segmentation") == Path("mine/demo_segmentation.yaml")
    assert config_files.find(str(Path("mine/demo_segmentation.yaml").absolute())).is_absolute()
    with pytest.raises(InputError, match=r"no file absent/demo_segmentation\.yaml; did you mean 'demo_segmentation'"):
        config_files.find("absent/demo_segmentation.yaml")


def test_all_forms_of_the_option():
    path = str(CONFIGS / "demo_detection.yaml")
    name = "demo_detection"
    words = ["--config", name, f"--config={name}", "-c", f"{name}.yaml", "--a", name]
    expected = ["--config", path, f"--config={path}", "-c", path, "--a", name]
    assert config_files.resolve(words) == expected
    assert config_files.resolve(expected) == expected
    assert config_files.resolve(["--config"]) == ["--config"]  # the parser refuses it


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [1,\n  b: :", "is no valid YAML"),
        (b"a: \xff", "is no valid YAML"),
        (b"", "holds no settings"),
        (b"- 1", "holds no settings"),
        (None, "did you mean 'right.yaml'"),
    ],
)
def test_a_file_that_cannot_be_read(content, words):
    Path("right.yaml").touch()
    if content is not None:
        Path("rigt.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"rigt\.yaml") as error:
        config_files.resolve(["--config", "rigt.yaml"])
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["", "x" * 5000, "{trainer: {max_steps: 3}}", "a\0b", "a/../b", "COM1:", "*"])
def test_what_is_no_name_of_a_file(name):
    with pytest.raises(InputError, match="there is no file"):
        config_files.resolve(["--config", name])


def test_a_folder():
    Path("mine").mkdir()
    with pytest.raises(InputError, match="mine is a folder; name a file in it"):
        config_files.resolve(["--config", "mine"])
