"""The COCO evaluator against pycocotools run directly on the files it writes."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
import torch.distributed as dist
from processes import in_two_processes
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from lk_downstream.errors import InputError
from lk_downstream.metrics.coco import METRICS, CocoEvaluator, Scores, encode_masks, score
from lk_downstream.metrics.coco_results import metrics_table, score_file
from lk_downstream.metrics.coco_truth import load_annotations

CATEGORIES = {1: "person", 3: "car", 18: "dog", 90: "toothbrush"}  # with gaps; the last has no object


def ellipse(box, height, width):
    """A mask (H, W) of the ellipse within a box."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    x1, y1, x2, y2 = box
    return ((x - (x1 + x2) / 2) / max(x2 - x1, 1)) ** 2 + ((y - (y1 + y2) / 2) / max(y2 - y1, 1)) ** 2 <= 0.25


def scene(images=9, seed=0):
    """A COCO annotation file's content, and detections near its objects for each image."""
    random = np.random.RandomState(seed)
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in CATEGORIES.items()],
    }
    predictions = {}
    for number in range(images):
        image_id, height, width = 100 + 7 * number, 120 + 10 * number, 300
        content["images"].append({"id": image_id, "height": height, "width": width, "file_name": f"{image_id}.jpg"})
        boxes, labels = [], []
        for _ in range(0 if number == 4 else random.randint(1, 7)):  # one image has no objects, but detections
            x, y = random.rand() * (width - 110), random.rand() * (height - 60)
            w, h = 4 + random.rand() * 100, 4 + random.rand() * 50
            label = random.randint(3)
            mask = ellipse((x, y, x + w, y + h), height, width)
            code = rle.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
            crowd = int(random.rand() < 0.15)
            segmentation = {"size": code["size"], "counts": code["counts"].decode()}
            if not crowd:
                angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
                polygon = np.stack((x + w / 2 + np.cos(angle) * w / 2, y + h / 2 + np.sin(angle) * h / 2), 1)
                segmentation = [polygon.flatten().tolist()]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": list(CATEGORIES)[label],
                    "bbox": [x, y, w, h],
                    "area": float(rle.area(code)),
                    "iscrowd": crowd,
                    "segmentation": segmentation,
                }
            )
            for _ in range(random.randint(4)):
                shift = random.randn(4) * 3
                boxes.append([x + shift[0], y + shift[1], x + w + abs(shift[2]), y + h + abs(shift[3])])
                labels.append(label if random.rand() < 0.9 else random.randint(4))
        if number == 4:
            boxes, labels = [[1.0, 2, 30, 40]], [1]
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        scores = torch.from_numpy(random.rand(len(boxes)).astype(np.float32))
        masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
        for mask, box in zip(masks, boxes.tolist()):
            mask[:] = ellipse(box, height, width)
        labels = torch.tensor(labels, dtype=torch.int64)
        predictions[image_id] = {"boxes": boxes, "scores": scores, "labels": labels, "masks": masks}
    return content, predictions


def direct(annotations, results, kind):
    """pycocotools' twelve metrics, and the AP of each class, from files."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    classes = [precision[:, :, i] for i in range(precision.shape[2])]
    return evaluation.stats.tolist(), [p[p > -1].mean() if (p > -1).any() else -1.0 for p in classes]


@pytest.fixture
def files(tmp_path):
    content, predictions = scene()
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path, predictions


def test_metrics_are_pycocotools_on_the_written_files(files, tmp_path):
    path, predictions = files
    evaluator = CocoEvaluator(path, kinds=("bbox", "segm"))
    ids = list(predictions)
    evaluator.update(ids[:5], [predictions[i] for i in ids[:5]])
    evaluator.update(ids[4:], [predictions[i] for i in ids[4:]])  # one image came twice
    metrics = evaluator.compute()
    assert list(metrics) == [f"{kind}_{name}" for kind in ("bbox", "segm") for name in METRICS]
    assert evaluator.image_ids == ids
    written = evaluator.save(tmp_path / "out")
    assert [p.name for p in written] == ["results.bbox.json", "results.segm.json"]
    for kind, file in zip(("bbox", "segm"), written):
        stats, classes = direct(path, file, kind)
        assert [metrics[f"{kind}_{name}"] for name in METRICS] == stats
        assert [metric["AP"] for metric in evaluator.per_class[kind].values()] == classes
        assert list(evaluator.per_class[kind]) == list(CATEGORIES.values())
        assert score_file(path, file) == (
            {name: metrics[f"{kind}_{name}"] for name in METRICS},
            evaluator.per_class[kind],
        )
        rows = json.loads(file.read_text(encoding="utf-8"))
        assert len(rows) == sum(len(p["boxes"]) for p in predictions.values())
        assert rows[0].keys() == {"image_id", "category_id", "score", "bbox" if kind == "bbox" else "segmentation"}
    assert 0.2 < metrics["bbox_AP"] < 0.95
    assert metrics["segm_AP"] != metrics["bbox_AP"]
    assert len({value for name, value in metrics.items() if name.startswith("segm_AP")} - {-1.0}) >= 4
    x1, y1, x2, y2 = predictions[ids[0]]["boxes"][0].tolist()
    first = evaluator.results["bbox"][0]
    assert first["bbox"] == [x1, y1, x2 - x1, y2 - y1]
    assert first["category_id"] == list(CATEGORIES)[predictions[ids[0]]["labels"][0]]
    evaluator.reset()
    evaluator.update(ids, [predictions[i] for i in ids])
    assert evaluator.compute() == metrics


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_own_scoring_is_pycocotools_bit_for_bit(kind, seed):
    content, predictions = scene(images=16, seed=seed)
    random = np.random.RandomState(seed)
    if seed == 0:
        content["annotations"][0]["id"] = 0  # which pycocotools takes for "no match"
    for prediction in predictions.values():  # equal boxes, equal scores, and more than 100 detections of a class
        repeats = torch.from_numpy(random.randint(1, 4 if seed else 60, len(prediction["boxes"])))
        for name, value in prediction.items():
            prediction[name] = value.repeat_interleave(repeats, dim=0)
        prediction["scores"] = (prediction["scores"] * 20).round() / 20
        shift = torch.from_numpy(random.randint(-3, 4, prediction["boxes"].shape)).float()
        prediction["boxes"] += shift * (torch.arange(len(shift)) % 2)[:, None]
    answers = []
    for backend in ("vectorized", "pycocotools"):
        evaluator = CocoEvaluator(content, kinds=("bbox", "segm"), backend=backend)
        evaluator.update(list(predictions), list(predictions.values()))
        metrics = evaluator.compute()
        answers.append((metrics, evaluator.per_class))
        part = score(evaluator.coco, evaluator.results[kind], kind, list(predictions)[3:8], backend)
        answers[-1] += (part,)
    assert answers[0] == answers[1]
    assert 0.02 < answers[0][0][f"{kind}_AP"] < 0.95


def test_a_part_of_the_images_is_scored_alone(files):
    path, predictions = files
    ids = list(predictions)[:3]
    evaluator = CocoEvaluator(path)
    evaluator.update(torch.tensor(ids), [predictions[i] for i in ids])
    metrics = evaluator.compute()
    content = json.loads(path.read_text(encoding="utf-8"))
    content["images"] = [image for image in content["images"] if image["id"] in ids]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    alone = score(load_annotations(content), evaluator.results["bbox"], "bbox")
    assert [metrics[f"bbox_{name}"] for name in METRICS] == list(alone.metrics.values())


def test_category_ids_map_labels(files):
    path, predictions = files
    mapped = CocoEvaluator(path, category_ids=[3, 1, 18, 90])
    swapped = {i: {**p, "labels": torch.tensor([1, 0, 2, 3])[p["labels"]]} for i, p in predictions.items()}
    mapped.update(list(swapped), list(swapped.values()))
    plain = CocoEvaluator(path)
    plain.update(list(predictions), list(predictions.values()))
    assert mapped.compute() == plain.compute()
    with pytest.raises(InputError, match=r"\[2\]"):
        CocoEvaluator(path, category_ids=[1, 2])


def test_no_detections_at_all(files, tmp_path):
    path, predictions = files
    evaluator = CocoEvaluator(path, kinds=("bbox", "segm"))
    nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0).long()}
    for i, p in predictions.items():
        evaluator.update([i], [{**nothing, "masks": p["masks"][:0]}])
    metrics = evaluator.compute()
    assert set(metrics.values()) <= {0.0, -1.0}  # -1 where no object is of the size
    assert metrics["bbox_AP"] == metrics["segm_AR100"] == 0
    for file in evaluator.save(tmp_path):
        assert json.loads(file.read_text(encoding="utf-8")) == []
        assert score_file(path, file).metrics["AP"] == 0


def test_no_objects_at_all():
    content, predictions = scene()
    content["annotations"] = []
    evaluator = CocoEvaluator(content, kinds=("bbox", "segm"))
    evaluator.update(list(predictions), list(predictions.values()))
    assert set(evaluator.compute().values()) == {-1.0}  # as pycocotools has it


def test_annotations_without_area_and_crowd_flags():
    content, predictions = scene()
    content["annotations"] = [a for a in content["annotations"] if not a["iscrowd"]]
    expected = {a["id"]: a["area"] for a in content["annotations"]}
    for annotation in content["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    coco = load_annotations(content)
    for annotation in coco.dataset["annotations"]:
        assert annotation["iscrowd"] == 0
        assert annotation["area"] == pytest.approx(expected[annotation["id"]], rel=0.1, abs=10)  # polygon, not ellipse
    assert "area" not in content["annotations"][0]
    evaluator = CocoEvaluator(content)
    evaluator.update(list(predictions), list(predictions.values()))
    assert evaluator.compute()["bbox_AP"] > 0.2


@pytest.mark.parametrize("backend", ["vectorized", "pycocotools"])
@pytest.mark.parametrize("kind", ["from 0", "twice", "fractions", "texts", "none"])
def test_perfect_results_are_perfect_whatever_the_ids(tmp_path, kind, backend):
    content, _ = scene()
    content["annotations"] = [a for a in content["annotations"] if not a["iscrowd"]]
    for number, annotation in enumerate(content["annotations"]):
        annotation["id"] = {"from 0": number, "twice": 7, "fractions": number / 3, "texts": f"{number}"}.get(kind)
    keys = ("image_id", "category_id", "bbox")
    rows = [{"score": 1.0} | {key: annotation[key] for key in keys} for annotation in content["annotations"]]
    for name, value in (("truth", content), ("results", rows)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    assert score_file(tmp_path / "truth.json", tmp_path / "results.json", backend=backend).metrics["AP"] == 1


def test_ignored_objects_are_crowds():
    content, predictions = scene()
    crowds = CocoEvaluator(content)
    for annotation in content["annotations"]:
        annotation["ignore"] = annotation.pop("iscrowd")
    ignored = CocoEvaluator(content)
    for evaluator in (crowds, ignored):
        evaluator.update(list(predictions), list(predictions.values()))
    assert crowds.compute() == ignored.compute()


@pytest.mark.parametrize("outline", [[[1, 1]], [[1, 2, float("nan"), 4, 5, 60]], [[1, 2, 3e12, 4, 5, 60]], [1, 2, 3]])
def test_outlines_that_pycocotools_cannot_draw(outline):
    content, predictions = scene()
    content["annotations"][0]["segmentation"] = outline
    del content["annotations"][0]["area"]  # which is then the box's
    evaluator = CocoEvaluator(content)
    evaluator.update(list(predictions), list(predictions.values()))
    assert evaluator.compute()["bbox_AP"] > 0.2
    with pytest.raises(InputError, match="the annotations: annotation 1 has a "):
        CocoEvaluator(content, kinds=("segm",))
    square = [10, 10, 40, 10, 40, 40, 10, 40]
    content["annotations"][0]["segmentation"] = [[1, 1, 2, 2], square]  # pycocotools fails on it
    found = load_annotations(content).dataset["annotations"][0]
    assert found["segmentation"] == [square]
    assert found["area"] == pytest.approx(900, abs=61)


def test_encoded_masks_come_back():
    torch.manual_seed(0)
    masks = torch.rand(4, 13, 17) > 0.5
    codes = encode_masks(masks)
    decoded = np.stack([rle.decode(code) for code in codes])
    assert (decoded == masks.numpy()).all()
    assert all(code["size"] == [13, 17] and isinstance(code["counts"], str) for code in codes)
    assert encode_masks(masks[:0]) == []


def work(rank, folder):
    dist.init_process_group("gloo")
    _, predictions = scene()
    evaluator = CocoEvaluator(f"{folder}/instances.json", kinds=("bbox", "segm"))
    ids = list(predictions)
    for i in ids[:7] if rank == 0 else ids[6:]:  # 7 and 3 images, one of them on both
        evaluator.update([i], [predictions[i]])
    metrics = evaluator.compute()
    torch.save((metrics, evaluator.per_class, [p.name for p in evaluator.save(folder)]), f"{folder}/{rank}.pt")
    evaluator.coco.cats = None  # a failure on the first process is one on all
    try:
        evaluator.compute()
    except TypeError as error:
        torch.save(str(error), f"{folder}/error{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_with_different_numbers_of_images(files):
    path, predictions = files
    in_two_processes(work, str(path.parent))
    (metrics, classes, written), (others, other_classes, none) = (
        torch.load(path.parent / f"{rank}.pt") for rank in range(2)
    )
    alone = CocoEvaluator(path, kinds=("bbox", "segm"))
    alone.update(list(predictions), list(predictions.values()))
    assert metrics == others == alone.compute()
    assert classes == other_classes == alone.per_class
    assert (written, none) == (["results.bbox.json", "results.segm.json"], [])
    for kind in ("bbox", "segm"):
        assert direct(path, path.parent / f"results.{kind}.json", kind)[0] == [metrics[f"{kind}_{n}"] for n in METRICS]
    assert torch.load(path.parent / "error0.pt") == torch.load(path.parent / "error1.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "broken.json is no COCO annotation file: it has no list images"),
        ("[1, 2]", "broken.json is no COCO annotation file"),
        ("{", "broken.json is no COCO annotation file: it is not JSON"),
        (None, r"cannot read the annotation file .*broken.json"),
    ],
)
def test_bad_annotation_files(tmp_path, content, message):
    path = tmp_path / "broken.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        CocoEvaluator(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": 1}, "not a list"),
        ([{"image_id": 100, "category_id": 1, "score": 0.5}], "row 0 has no bbox"),
        ([7], "row 0 has no image_id"),
        ([{"image_id": 5, "category_id": 1, "score": 0.5, "bbox": [0, 0, 1, 1]}], "row 0 has image_id 5"),
        ([{"image_id": 100, "category_id": 2, "score": 0.5, "bbox": [0, 0, 1, 1]}], "row 0 has category_id 2"),
        ([{"image_id": [100], "category_id": 1, "score": 0.5, "bbox": [0, 0, 1, 1]}], r"row 0 has image_id \[100\]"),
        ([{"image_id": 100, "category_id": 1, "score": None, "bbox": [0, 0, 1, 1]}], "row 0 has the score None"),
        ([{"image_id": 100, "category_id": 1, "score": 0.5, "bbox": [0, 0, 1]}], r"row 0 has the bbox \[0, 0, 1\]"),
        ([{"image_id": 100, "category_id": 1, "score": 1, "segmentation": [[1, 1, 5, 1, 5, 5]]}], "row 0 .*100"),
        (
            [{"image_id": 100, "category_id": 1, "score": 1, "segmentation": {"size": [3, 3], "counts": "9"}}],
            "row 0 .*100",
        ),
    ],
)
def test_bad_result_files(files, tmp_path, rows, message):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(InputError, match=f"results.json: .*{message}"):
        score_file(files[0], path)


@pytest.mark.parametrize("code", ["abc", [3, -3, 100], None])
def test_broken_run_lengths_are_named(tmp_path, code):
    content, _ = scene()
    image = content["images"][0]
    broken = {"size": [image["height"], image["width"]], "counts": code}
    content["annotations"][0]["segmentation"] = broken
    content["annotations"][0]["image_id"] = image["id"]
    CocoEvaluator(content)  # boxes do not need it
    with pytest.raises(InputError, match="annotation 1 has broken run lengths"):
        CocoEvaluator(content, kinds=("segm",))
    content, _ = scene()
    truth, results = tmp_path / "truth.json", tmp_path / "results.json"
    truth.write_text(json.dumps(content), encoding="utf-8")
    row = {"image_id": image["id"], "category_id": 1, "score": 0.5, "segmentation": broken}
    results.write_text(json.dumps([row]), encoding="utf-8")
    with pytest.raises(InputError, match="row 0 has no run-length coded mask of the size"):
        score_file(truth, results)


def test_class_names_are_printed_as_they_are(capsys):
    metrics = dict.fromkeys(METRICS, 0.5)
    Console().print(metrics_table(Scores(metrics, {"[/]": metrics, "cat [bold]": metrics})))
    printed = capsys.readouterr().out
    assert "[/] " in printed
    assert "cat [bold] " in printed


def test_other_mistakes_are_named(files):
    path, predictions = files
    with pytest.raises(InputError, match="image 5"):
        CocoEvaluator(path).update([5], list(predictions.values()))
    content, _ = scene()
    del content["annotations"][0]["segmentation"]
    with pytest.raises(InputError, match="annotation 1 has no segmentation"):  # at once, not after the first epoch
        CocoEvaluator(content, kinds=("segm",))
    with pytest.raises(InputError, match="annotation 1 has no segmentation"):
        score(load_annotations(content), [], "segm")
    del content["annotations"][0]["bbox"]
    with pytest.raises(InputError, match="annotation 1 has no bbox"):
        score(load_annotations(content), [], "bbox")
