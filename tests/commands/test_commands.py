"""The command's front: its subcommands, what is said of mistakes, and ``--print_config`` of each."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import lk_downstream
from lk_downstream.commands import COMMANDS, main

ROOT = Path(__file__).parents[2]


def test_the_help_lists_the_subcommands(capsys):
    for words in (["--help"], ["-h"], []):
        assert main(words) == 0
        lines = capsys.readouterr().out.splitlines()
        for name, command in COMMANDS.items():
            assert any(line.split() == [name, *command.summary.split()] for line in lines)


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"lk_downstream {lk_downstream.__version__} (torch 2")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("ft", "there is no subcommand 'ft'; did you mean 'fit'?"),
        ("check_data", "did you mean 'check-data'?"),
        ("--config demo_segmentation", "there is no subcommand '--config'; there are fit, evaluate, predict"),
        ("fit --config demo_segmentatio", "there is no file demo_segmentatio; did you mean 'demo_segmentation'"),
        ("predict -c demo_segmentatio", "did you mean 'demo_segmentation'"),
        ("profile --sise 3", "there is no option --sise; did you mean 'size' or 'sizes'?"),
        ("benchmark layer", "invalid choice: 'layer'"),
        ("convert a b --nmes authors", "did you mean 'names'?"),
        ("convert absent.ckpt b", "absent.ckpt"),
        ("plot absent", "absent has no metrics.csv"),
        ("plot", "required: folders"),
        ("report absent", "absent has neither metrics.json nor metrics.csv"),
        ("evaluate --results absent.json", "required: annotations"),
        ("export", "required: output"),
        ("average run_0 --output x.ckpt", "give either --best or --last"),
        ("average absent --output x.ckpt --best 2", "holds 0 checkpoints of steps, fewer than 2"),
    ],
)
def test_a_mistake_gets_a_sentence_and_a_code(words, said, capsys):
    assert main(words.split()) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert said in printed
    assert len(printed.splitlines()) == 1


# The other words that each needs to know all its settings.
NEEDED = {
    "robustness": ["--config", "convnext_tiny_imagenet1k"],
    "export": ["--output", "x"],
    "average": ["run_0", "--output", "x.ckpt"],
    "convert": ["source.ckpt", "target.pth"],
    "check-data": ["--dataset", "ADE20K"],
    "profile": [],
    "receptive-field": ["--models", "[slak_tiny]"],
    "kernels": ["--models", "[slak_tiny]"],
    "plot": ["run_0"],
    "compare": ["run_0"],
    "report": ["run_0"],
    "push": ["run_0", "me/shapes"],
    "benchmark": ["layers"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_config_is_printed_and_can_be_fed_back(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def printed(words):
        with pytest.raises(SystemExit) as stop:
            main([name, *words, "--print_config"])
        assert not stop.value.code
        return capsys.readouterr().out

    words = NEEDED.get(name, ["--config", "demo_segmentation"])
    first = printed(words)
    assert yaml.safe_load(first)
    Path("settings.yaml").write_text(first, encoding="utf-8")
    all_positional = ("convert", "plot", "report", "compare", "benchmark")
    positional = words if name in all_positional else words[:1] if name == "average" else []
    assert printed(["--config", "settings.yaml", *positional]) == first


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_has_a_help(name, capsys):
    with contextlib.suppress(SystemExit):  # by the parser, where there is one
        assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: lk-downstream {name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_tool_calls_the_same(name):
    """``tools/profile.py`` is more than a call, since the standard library has a module of this name."""
    code = (ROOT / "tools" / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
    assert f'sys.exit(run("{name}"))' in code
    assert len(code.splitlines()) < 25


def test_an_exit_code_and_a_sentence_of_a_process(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "fit.py"), "--config", "absent"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --config: there is no file absent; name a file")
