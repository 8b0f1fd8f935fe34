"""Batches of the detection data module, and the sampler that groups images by their shape."""

import json
import pickle
import shutil

import pytest
import torch

from lk_downstream import trust
from lk_downstream.data import Coco, DetectionData, MultiScale, Synthetic
from lk_downstream.data.detection_batches import collate_detection
from lk_downstream.errors import InputError


def make(root, **options):
    options = {
        "batch_size": 2,
        "workers": 0,
        "synthetic": Synthetic(train=10, val=5, size=(40, 60)),
        "augmentation": [MultiScale([40, 72])],
        "scale": (120, 80),
        **options,
    }
    return DetectionData(lambda split: Coco(split, root), **options)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "coco"
    make(root).prepare_data()
    return root


def test_classes_are_known_before_there_is_data(tmp_path):
    data = make(tmp_path / "absent")
    assert data.classes == ("person", "car", "stop sign", "sports ball", "apple", "toothbrush")
    assert data.category_ids == [1, 3, 13, 37, 53, 90]
    assert len(data.palette) == 6
    assert len(make(tmp_path / "absent", synthetic=None).classes) == 80
    with pytest.raises(InputError, match="there is no folder"):
        make(tmp_path / "absent", synthetic=None).setup("fit")


def test_batches(root):
    data = make(root, masks=True, val_batch_size=2)
    data.setup("fit")
    assert len(data.train_set) == 9  # one of ten has no object
    batches = list(data.train_dataloader())
    assert len(batches) == 4
    for batch in batches:
        number, _, height, width = batch["image"].shape
        assert (number, height % 32, width % 32) == (2, 0, 0)
        assert batch["image"].dtype == torch.uint8
        assert batch["size"].dtype == torch.int64
        assert batch["size"].amax(0).tolist() == pytest.approx([height - 16, width - 16], abs=16)
        for target, (h, w) in zip(batch["target"], batch["size"].tolist()):
            assert type(target["boxes"]) is type(target["masks"]) is torch.Tensor
            assert target["masks"].shape == (len(target["boxes"]), h, w)
            assert (target["boxes"] <= torch.tensor([w, h, w, h])).all()
            assert len(target["boxes"])
    validation = list(data.val_dataloader())
    assert [len(batch["name"]) for batch in validation] == [2, 2, 1]
    assert validation[0]["size"].tolist() == [[80, 120]] * 2
    assert validation[0]["image"].shape == (2, 3, 96, 128)
    assert validation[0]["target"][0]["original_size"].tolist() == [40, 60]
    assert "masks" not in validation[0]["target"][0]
    assert [target["image_id"] for batch in validation for target in batch["target"]] == list(range(500001, 500006))


def test_padding_is_zero_and_below_and_right():
    samples = [
        {"image": torch.full((3, h, w), 9, dtype=torch.uint8), "target": {"boxes": torch.zeros(0, 4)}, "name": "a"}
        for h, w in ((10, 40), (33, 5))
    ]
    batch = collate_detection(samples)
    assert batch["image"].shape == (2, 3, 64, 64)
    assert batch["size"].tolist() == [[10, 40], [33, 5]]
    assert (batch["image"][0, :, :10, :40] == 9).all()
    assert batch["image"].float().sum() == 9 * 3 * (400 + 165)


def test_images_without_objects_on_demand(root):
    data = make(root, keep_empty=True)
    data.setup("fit")
    assert len(data.train_set) == len(data.train_groups) == 10


def test_splits_with_different_classes_are_refused(root, tmp_path):
    content = json.loads((root / "annotations/instances_val2017.json").read_text(encoding="utf-8"))
    content["categories"][0]["name"] = "other"
    (tmp_path / "val.json").write_text(json.dumps(content), encoding="utf-8")
    data = make(root)
    data.val_data.annotations = tmp_path / "val.json"
    with pytest.raises(InputError, match=r"in their categories \(1 other, 1 person\): both splits need the same ids"):
        data.setup("validate")


def test_images_to_predict_on(root):
    data = make(root, predict=str(root / "val2017"))
    batches = list(data.predict_dataloader())
    assert len(batches) == 5
    assert batches[0]["target"][0].keys() == {"original_size", "image_id", "file_name"}
    assert [batch["target"][0]["image_id"] for batch in batches] == make(root).val_data.index.image_ids.tolist()
    (root / "elsewhere").mkdir()
    shutil.copy(next((root / "val2017").iterdir()), root / "elsewhere" / "other.jpg")
    (alone,) = make(root, predict=str(root / "elsewhere")).predict_dataloader()
    assert (alone["target"][0]["image_id"], alone["target"][0]["file_name"]) == (1, "other.jpg")
    assert batches[0]["size"].tolist() == [[80, 120]]
    with pytest.raises(InputError, match=r"set data\.predict"):
        make(root).predict_dataloader()


def test_annotations_do_not_stop_a_prediction(root, tmp_path, monkeypatch):
    shutil.copytree(root, tmp_path / "coco")
    file = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    images, kinds = (json.dumps(content[key]) for key in ("images", "categories"))
    expected = [row["id"] for row in content["images"]]
    wrong = f'"annotations": [{{"image_id": "none"}}], "categories": {kinds}'

    def ids():
        data = make(tmp_path / "coco", predict=str(tmp_path / "coco" / "val2017"))
        return [sample["target"]["image_id"] for sample in data.predict_data()]

    with monkeypatch.context() as patch:  # the list is found by the text
        patch.setattr(trust, "read_json", lambda path: pytest.fail("the whole file was parsed"))
        file.write_text(f'{{"images": {images}, {wrong}, and so on', encoding="utf-8")
        assert ids() == expected
    listed = images.replace("{", '{"tags": ["a"], ', 1)  # a list in the list is beyond that
    file.write_text(f'{{"images": {listed}, {wrong}}}', encoding="utf-8")
    assert ids() == expected
    for broken in ('"images": 3', f'"images": {listed[:-1]}', f'"images": {images.replace("file_name", "name")}'):
        file.write_text(f"{{{broken}, {wrong}}}", encoding="utf-8")
        with pytest.warns(UserWarning, match=r"the images of .*val2017\.json cannot be read .* are counted"):
            assert ids() == [1, 2, 3, 4, 5]


def test_loaders_can_be_sent_to_spawned_processes(root):
    data = make(root, masks=True)
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        dataset, collate_fn = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
        assert collate_fn([dataset[next(iter(loader.sampler))]])["image"].shape[0] == 1


def test_wrong_scale(tmp_path):
    with pytest.raises(InputError, match=r"data\.scale"):
        make(tmp_path, scale=(0, 10))
