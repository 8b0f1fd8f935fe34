"""Each benchmark at its smallest size: what it measures and writes, not how fast anything is."""

import json
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"
SMALLEST = {
    "pipeline": "--images 2 --workers 1 --tasks segmentation detection",
    "archives": "--images 8",
    "metric": "--images 1",
    "scoring": "--images 4 --detections 10",
    "step": "--segmentor convnext_atto --crop 64 --detector convnext_atto --batch 2 --models upernet",
    "start": "--answers=--help",
}


@pytest.fixture(autouse=True)
def from_the_tools(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


@pytest.mark.parametrize("name", SMALLEST)
def test_it_runs_and_writes_both_sides(name, tmp_path, capsys, monkeypatch):
    import benchmarks
    from benchmarks import start

    monkeypatch.setattr(start, "BARE", "import json")  # what they import takes seconds

    assert benchmarks.main([name, *SMALLEST[name].split(), "--rounds", "1", "--output", str(tmp_path)]) == 0
    content = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert content["machine"]["abilities"]
    assert content["command"].startswith(f"python tools/benchmark.py {name}")
    assert content["races"]
    for race in content["races"]:
        assert len(race["sides"]) > 1
        assert all(len(values) == 1 and values[0] > 0 for values in race["sides"].values())
    assert "times as fast" in capsys.readouterr().out


def test_the_table_of_the_readme(tmp_path):
    import benchmarks
    from benchmarks import sides, table

    races = [
        sides.Race("a", "one thread", "images/s", {"theirs": [2.0, 4.0, 3.0], sides.OURS: [4.0, 8.0, 9.0]}),
        sides.Race("b", "one thread", "ms/image", {"theirs": [8.0], sides.OURS: [2.0], "floor": [1.0]}),
        sides.Race("c", "of others alone", "s", {"x": [1.0], "y": [2.0]}),
    ]
    sides.write(tmp_path / "some.json", races, ["python", "tools/benchmark.py", "metric"])
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", encoding="utf-8")
    assert benchmarks.main(["table", str(tmp_path / "some.json"), "--readme", str(readme)]) == 0
    text = readme.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row.rsplit("|", 5)[1:5] for row in rows] == [
        [" theirs ", " 3 ", " 8 ", " 2.00 times "],
        [" theirs ", " 8 ", " 2 ", " 4.00 times "],
        [" floor ", " 1 ", " 2 ", " 0.50 times "],
    ]
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "python tools/benchmark.py metric" in text


def test_a_readme_without_the_place_is_refused(tmp_path):
    import benchmarks
    from benchmarks import sides

    sides.write(tmp_path / "some.json", [], ["x"])
    (tmp_path / "README.md").write_text("nothing", encoding="utf-8")
    with pytest.raises(SystemExit, match="has no place for the table"):
        benchmarks.main(["table", str(tmp_path / "some.json"), "--readme", str(tmp_path / "README.md")])
