"""Each benchmark at its smallest size: what it measures and writes, not how fast anything is."""

import json
from pathlib import Path

import pytest

from lk_downstream.commands import run

TOOLS = Path(__file__).parents[1] / "tools"
SMALLEST = {
    "pipeline": "--images 2 --workers 1 --tasks segmentation detection",
    "archives": "--images 8",
    "metric": "--images 1",
    "scoring": "--images 4 --detections 10",
    "step": "--segmentor convnext_atto --crop 64 --detector convnext_atto --batch 2 --models upernet",
    "evaluation": "--size 64 128 --channels 16 --ratios 0.5 1.0",
    "operator": "--networks slak_tiny --sizes 128 --batches 1 --dtypes float32 --threads 1",
    "shares": "--tasks classification --images 6 --segmentors convnext_atto --crop 64",
    "exported": "--tasks classifier --classifier test_convnext --side 64",
    "large": "--size 300 --whole 200 --tile 128 --overlap 32 --channels 8",
    "start": "--answers=--help",
}
NEEDED = {"exported": "onnxruntime", "large": "resource"}


@pytest.fixture(autouse=True)
def from_the_tools(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


@pytest.mark.parametrize("name", SMALLEST)
def test_it_runs_and_writes_both_sides(name, tmp_path, capsys, monkeypatch):
    import benchmarks
    from benchmarks import start

    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    monkeypatch.setattr(start, "BARE", "import json")  # what they import takes seconds

    assert benchmarks.main([name, *SMALLEST[name].split(), "--rounds", "1", "--output", str(tmp_path)]) == 0
    content = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert content["machine"]["abilities"]
    assert content["command"].startswith(f"python tools/benchmark.py {name}")
    assert content["races"]
    for race in content["races"]:
        assert len(race["sides"]) > (name != "large")  # an image that cannot be predicted whole has one
        assert all(len(values) == 1 and values[0] >= 0 for values in race["sides"].values())
    said = capsys.readouterr().out
    assert ("times as fast" in said) == (name != "shares")
    assert benchmarks.main(["table", str(tmp_path / f"{name}.json")]) == 0
    if name == "shares":
        found = content["races"][-1]["sides"]
        assert sum(values[0] for values in found.values()) == pytest.approx(100)
        assert found["convolutions"][0] > 20
    if name == "exported":
        assert {"onnx by onnxruntime", "pt2 by torch.export"} <= set(content["races"][0]["apart"])
        assert all(found["probabilities"] < 1e-3 for found in content["races"][0]["apart"].values())
    if name == "large":
        assert "100 % of the pixels alike" in said


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
    readme.write_text(f"before\n{table.begin('speed')}\nold\n{table.END}\nafter\n", encoding="utf-8")
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


def test_the_table_of_exported_files(tmp_path, capsys):
    import benchmarks
    from benchmarks import sides, table

    times = {sides.OURS: [4.0], "onnx by onnxruntime": [8.0]}
    race = sides.Race(
        "detection", "one thread", "ms/image", times, {"onnx by onnxruntime": {"boxes": 0.001, "count": 0}}
    )
    sides.write(tmp_path / "exported.json", [race], ["python", "tools/benchmark.py", "exported"])
    readme = tmp_path / "README.md"
    places = (table.begin("exported files"), table.END, table.begin("speed"), "the table of speed", table.END)
    readme.write_text("\n".join(places), encoding="utf-8")
    assert benchmarks.main(["table", str(tmp_path / "exported.json"), "--readme", str(readme)]) == 0
    text = readme.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("| detection")] == [
        "| detection: one thread | lk_downstream | (the model itself) | 4 |",
        "| detection: one thread | onnx by onnxruntime | boxes 1.0e-03, count 0.0e+00 | 8 |",
    ]
    assert text.endswith("\n".join(places[2:]))
    assert benchmarks.main(["table", str(tmp_path / "exported.json")]) == 0
    assert "python tools/benchmark.py exported" in capsys.readouterr().out


def test_a_readme_without_the_place_is_refused(tmp_path):
    import benchmarks
    from benchmarks import sides

    sides.write(tmp_path / "some.json", [sides.Race("a", "", "s", {"x": [1.0], sides.OURS: [1.0]})], ["x"])
    (tmp_path / "README.md").write_text("nothing", encoding="utf-8")
    with pytest.raises(SystemExit, match="has no place for the table"):
        benchmarks.main(["table", str(tmp_path / "some.json"), "--readme", str(tmp_path / "README.md")])


def test_the_tables_of_layers_and_networks(tmp_path, capsys):
    import benchmarks

    words = "layers --batch 1 --channels 4 --sizes 8 --kernels 7 --depth 1 --rounds 1"
    assert run("benchmark", [*words.split(), "--output", str(tmp_path)]) == 0
    words = "networks --models test_slak --modes inference --sizes 64 --batch 1 --rounds 1"
    assert run("benchmark", [*words.split(), "--output", str(tmp_path)]) == 0
    capsys.readouterr()
    assert benchmarks.main(["table", *map(str, sorted(tmp_path.glob("*.json")))]) == 0
    said = capsys.readouterr().out
    assert "| 1 x 7x7, (1, 4, 8, 8) | " in said
    assert "| test_slak, 1 x 64, inference | " in said
    assert said.count(" / ") >= 5
