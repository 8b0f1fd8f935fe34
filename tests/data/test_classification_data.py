"""Class folders, ImageNet's layout, and the images that the papers train and evaluate with."""

import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from lk_downstream.data import (
    ClassFolder,
    ClassificationData,
    EvaluationImage,
    ImageNet,
    ImageNet22K,
    Synthetic,
    TrainingImage,
)
from lk_downstream.data.classification_transforms import allow_zero_bits, collate_images, from_pil, to_pil
from lk_downstream.data.reading import load_image
from lk_downstream.data.synthetic_layouts import write_imagenet
from lk_downstream.errors import InputError


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("classes") / "imagenet"
    write_imagenet(root, Synthetic(train=12, val=7, size=(70, 90)))
    return root


def folders(root, **counts):
    """A tree with the given number of images in each ``split/class``."""
    for place, count in counts.items():
        folder = Path(root, *place.split("__"))
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (20, 16), (number, 0, 0)).save(folder / f"{number}.jpg")
    return root


def data(root, dataset=ClassFolder, **options):
    return ClassificationData(
        partial(dataset, root=str(root)), **{"batch_size": 2, "size": 16, "workers": 0, **options}
    )


def test_labels_are_the_places_of_the_sorted_folders(tmp_path):
    root = folders(
        tmp_path, train__wasps=2, train__ants=1, train__bees__queens=3, val__ants=1, val__bees=1, val__wasps=1
    )
    found = ClassFolder("train", root)
    assert found.classes == ("ants", "bees", "wasps")
    assert len(found) == 6
    assert [found[index]["label"] for index in range(6)] == [0, 1, 1, 1, 2, 2]
    assert found[1]["name"] == "bees/queens/0.jpg"
    assert found[1]["image"].shape == (3, 16, 20)


def test_what_is_no_image_is_passed_over(tmp_path):
    root = folders(tmp_path, train__ants=1)
    (root / "train" / "ants" / "Thumbs.db").write_text("", encoding="utf-8")
    (root / "train" / "ants" / ".hidden.jpg").write_text("", encoding="utf-8")
    (root / "train" / ".cache").mkdir()
    assert len(ClassFolder("train", root)) == 1


def test_imagenet_counts_all_its_classes_whichever_are_there(tree):
    found = ImageNet("val", tree, complete=False)
    assert len(found.classes) == len(set(found.classes)) == 1000
    assert found.classes[0] == "tench"
    assert found.classes[281] == "tabby"
    labels = {found.wnids[found[index]["label"]] for index in range(len(found))}
    assert labels == {path.name for path in (tree / "val").iterdir()}
    assert found[0]["label"] == 0


def test_imagenet_22k_is_a_flat_folder_of_classes_in_the_order_of_their_ids(tree):
    found = ImageNet22K("train", tree / "train", complete=False)
    assert len(found.wnids) == 21841
    assert list(found.wnids) == sorted(found.wnids)
    assert len(found) == 12
    assert found.wnids[found[0]["label"]] == found[0]["name"].split("/")[0]
    module = data(tree / "train", partial(ImageNet22K, complete=False), val_split=None)
    module.setup("fit")
    assert module.val_dataloader() == []
    assert len(next(iter(module.train_dataloader()))["label"]) == 2


def test_an_incomplete_imagenet_is_refused(tree):
    with pytest.raises(InputError, match="lacks 994 of 1000 classes, such as n01443537"):
        len(ImageNet("val", tree))


def test_a_folder_that_is_no_class_of_imagenet(tmp_path):
    with pytest.raises(InputError, match="cats is no class of ImageNet"):
        len(ImageNet("val", folders(tmp_path, val__cats=1)))


def test_an_empty_class_folder(tmp_path):
    with pytest.raises(InputError, match=r"bees holds no image: add images of this class, or remove the folder"):
        len(ClassFolder("train", folders(tmp_path, train__ants=1, train__bees=0)))


def test_a_folder_that_leads_into_itself(tmp_path):
    root = folders(tmp_path, train__ants=1)
    (root / "train" / "ants" / "again").symlink_to(".")
    assert len(ClassFolder("train", str(root))) == 1


def test_images_without_class_folders(tmp_path):
    with pytest.raises(InputError, match="val holds no class folders: sort its images"):
        len(ClassFolder("val", folders(tmp_path, val=3)))


def test_a_split_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"there is no folder .*val.*did you mean 'valid'"):
        len(ClassFolder("val", folders(tmp_path, train__ants=1, valid__ants=1)))


def test_a_class_that_the_training_lacks_is_refused(tmp_path):
    module = data(folders(tmp_path, train__ants=2, train__bees=2, val__ants=1, val__bees=1, val__wasps=1))
    with pytest.raises(InputError, match=r"val has classes that .*train lacks, 1 of 3 \(wasps\)"):
        module.setup("fit")


@pytest.mark.parametrize("others", [{}, {"val__bees": 0}], ids=["absent", "empty"])
def test_a_class_that_only_the_training_has(tmp_path, others):
    module = data(folders(tmp_path, train__ants=2, train__bees=2, train__wasps=2, val__ants=1, val__wasps=1, **others))
    with pytest.warns(UserWarning, match=r"val has no images of 1 of 3 classes \(bees\), which are trained but not"):
        module.setup("fit")
    assert [item["label"] for item in map(module.val_data.__getitem__, range(2))] == [0, 2]


def test_a_misspelt_class_folder(tmp_path):
    module = data(folders(tmp_path, train__ants=2, train__bees=2, val__ants=1, val__Bees=1))
    with pytest.raises(InputError, match=r"lacks, 1 of 2 \(Bees\).*did you mean 'bees'"):
        module.setup("fit")


def test_class_folders_with_letters_of_two_kinds(tmp_path):
    """As macOS and Linux write an umlaut."""
    names = {"train__b\u00e4r": 2, "train__elk": 2, "val__ba\u0308r": 1, "val__elk": 1}
    module = data(folders(tmp_path, **names))
    module.setup("fit")
    assert [item["label"] for item in map(module.val_data.__getitem__, range(2))] == [0, 1]


def test_a_single_class_folder(tmp_path):
    with pytest.raises(InputError, match="train holds a single class folder, ants, so that there is nothing"):
        data(folders(tmp_path, train__ants=2, val__ants=1))


def test_a_corrupt_image_is_named(tmp_path):
    root = folders(tmp_path, train__ants=2, train__bees=2, val__ants=1, val__bees=1)
    file = root / "train" / "ants" / "1.jpg"
    file.write_bytes(file.read_bytes()[:200])
    module = data(root)
    module.setup("fit")
    with pytest.raises(InputError, match=r"1\.jpg is truncated or damaged"):
        list(module.train_dataloader())


def test_an_evaluation_needs_no_training_images(tmp_path):
    module = data(folders(tmp_path, val__ants=1, val__bees=2))
    module.setup("validate")
    assert module.classes == ("ants", "bees")
    batch = next(iter(module.val_dataloader()))
    assert batch["image"].shape == (3, 3, 16, 16)
    assert batch["label"].tolist() == [0, 1, 1]


def test_a_training_batch(tree):
    module = data(tree, partial(ImageNet, complete=False), batch_size=4, size=32)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch["image"].shape == (4, 3, 32, 32)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["label"].dtype == torch.int64
    assert len(batch["name"]) == 4


def test_prediction_takes_images_of_any_size(tree):
    module = data(tree, partial(ImageNet, complete=False), predict=str(tree / "val"))
    assert next(iter(module.predict_dataloader()))["image"].shape == (7, 3, 16, 16)


def make_image(height=300, width=417):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((1, 3, 12, 16), generator=generator) * 255
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255).byte()[0]


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (224, {"crop_pct": 0.875}),
        (160, {"crop_pct": 0.875}),
        (320, {"crop_pct": 0.875}),
        (384, {"crop_pct": 1.0, "crop_mode": "squash"}),
    ],
)
@pytest.mark.parametrize("shape", [(300, 417), (501, 333)])
def test_evaluation_is_pixel_for_pixel_timms(size, options, shape):
    image = make_image(*shape)
    expected = create_transform((3, size, size), interpolation="bicubic", use_prefetcher=True, **options)(to_pil(image))
    assert torch.equal(EvaluationImage(size)({"image": image})["image"], torch.as_tensor(expected))


def test_the_training_crop_is_pillows_but_for_rounding():
    image, transform = make_image(), TrainingImage(96, flip=0.0, auto_augment=None, color_jitter=0.0)
    for seed in range(20):
        torch.manual_seed(seed)
        found = transform({"image": image})["image"]
        torch.manual_seed(seed)
        place = transform.crop.make_params([image])
        left, top, height, width = (place[name] for name in ("left", "top", "height", "width"))
        box = (left, top, left + width, top + height)
        expected = to_pil(image).crop(box).resize((96, 96), Image.Resampling.BICUBIC)
        difference = (found.int() - torch.as_tensor(np.array(expected)).permute(2, 0, 1).int()).abs()
        assert difference.float().mean() < 0.1
        assert difference.max() <= 2


def test_the_training_crops_are_spread_as_timms():
    """Mean and spread of the share of the area and of the ratio of the sides, over 3000 crops of each."""
    theirs = create_transform((3, 96, 96), is_training=True, separate=True)[0].transforms[0]
    ours, image = TrainingImage(96).crop, make_image()
    random.seed(0)
    torch.manual_seed(0)
    sizes = [
        [(place["height"], place["width"]) for place in (ours.make_params([image]) for _ in range(3000))],
        [theirs.get_params(to_pil(image), theirs.scale, theirs.ratio)[2:] for _ in range(3000)],
    ]
    shares, ratios = ([np.array([f(*size) for size in side]) for side in sizes] for f in (np.multiply, np.divide))
    for one, other in (shares, ratios):
        assert one.mean() == pytest.approx(other.mean(), rel=0.03)
        assert one.std() == pytest.approx(other.std(), rel=0.05)


def test_colours_are_timms():
    """Pixel for pixel but after shears and translations, which differ by one level, which what follows may enhance."""
    policy = "rand-m9-mstd0.5-inc1"
    image = make_image(96, 96)
    theirs = create_transform(
        (3, 96, 96), is_training=True, auto_augment=policy, interpolation="bicubic", separate=True
    )[1]
    allow_zero_bits(theirs)
    ours, differences = TrainingImage(96, (1.0, 1.0), (1.0, 1.0), flip=0.0), []
    for seed in range(80):
        results = []
        for side in (lambda: ours({"image": image})["image"], lambda: from_pil(theirs(to_pil(image)))):
            random.seed(seed)
            np.random.seed(seed)
            results.append(side().int())
        differences.append((results[0] - results[1]).abs().float().mean())
    assert sum(difference == 0 for difference in differences) > 50
    assert max(differences) < 0.01


def test_the_strongest_posterization_gives_black_and_no_error():
    from timm.data.auto_augment import AugmentOp

    steps = create_transform((3, 32, 32), is_training=True, auto_augment="rand-m10-inc1", separate=True)[1]
    allow_zero_bits(steps)
    operation = next(op for op in steps.transforms[0].ops if op.name.startswith("Posterize"))
    assert isinstance(operation, AugmentOp)
    operation.prob = 1.0
    assert np.asarray(operation(Image.new("RGB", (4, 4), (200, 100, 50)))).max() == 0


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("scale", (1.0, 0.08), r"scale is \[1.0, 0.08\]: .* above 0 and at most 1"),
        ("scale", (0, 1.5), "scale is"),
        ("ratio", (0, 1), "ratio is .* above 0$"),
        ("flip", 2, "flip is 2: it is a probability"),
        ("color_jitter", -1, "color_jitter is -1: it must be at least 0"),
    ],
)
def test_crops_flips_and_colours_out_of_range(option, value, words):
    with pytest.raises(InputError, match=words):
        TrainingImage(32, auto_augment=None, **{option: value})


def test_an_unknown_policy():
    with pytest.raises(InputError, match="timm knows no policy 'random'"):
        TrainingImage(32, auto_augment="random")


def test_imagenet_is_not_turned_by_exif_and_own_images_are(tmp_path):
    folder = folders(tmp_path, train__n01440764=0) / "train" / "n01440764"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (20, 10)).save(folder / "a.jpg", exif=exif)
    assert ClassFolder("train", tmp_path)[0]["image"].shape == (3, 20, 10)
    assert ImageNet("train", tmp_path, complete=False)[0]["image"].shape == (3, 10, 20)
    Image.new("RGB", (20, 10)).save(folder / "a.webp", exif=exif)  # not by the fast decoder
    assert load_image(folder / "a.webp", orientation=False).shape == (3, 10, 20)


def test_collated_images_are_what_they_were():
    images = [make_image(8, 8), make_image(8, 8).flip(1)]
    batch = collate_images([{"image": image, "name": "x", "label": label} for label, image in enumerate(images)])
    assert torch.equal(batch["image"], torch.stack(images))
    assert batch["label"].tolist() == [0, 1]
