"""timm's operations on arrays against the same on Pillow's images."""

import pickle
import random

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment as timms
from timm.data import create_transform

from lk_downstream.data.operations import operations, posterize, sharpness, use_arrays

FILL = (124, 116, 104)


def noise(height, width, seed=0):
    """Smooth in one half, so that neighbours and histograms are those of images."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[:, width // 2 :] = pixels[:, width // 2 :] // 8 + np.arange(height, dtype=np.uint8)[:, None, None] % 200
    return pixels


def created(**options):
    options = {"color_jitter": None, "interpolation": "bicubic", "separate": True, **options}
    return create_transform((3, 32, 32), is_training=True, **options)[1].transforms


def steps(policy):
    made = created(auto_augment=policy)
    for step in made:
        for operation in operations(step):
            if operation.aug_fn is timms.posterize:
                operation.aug_fn = posterize
    return made


@pytest.mark.parametrize("shape", [(33, 41), (1, 1), (1, 9), (7, 2), (3, 3)])
def test_each_operation_at_all_strengths(shape):
    """Those of all policies of timm's that are drawn from, with the amounts that they draw."""
    image, names = noise(*shape), sorted(timms.NAME_TO_OP)
    theirs, ours = (timms.RandAugment([]), timms.RandAugment([])), []
    for name in names:
        for magnitude in (0, 3, 7, 10):
            hparams = {"img_mean": FILL, "interpolation": Image.BICUBIC, "translate_const": 9}
            theirs[0].ops.append(timms.AugmentOp(name, 1.0, magnitude, hparams))
            theirs[1].ops.append(timms.AugmentOp(name, 1.0, magnitude, hparams))
    for side in theirs:
        for operation in side.ops:
            if operation.aug_fn is timms.posterize:
                operation.aug_fn = posterize
    assert use_arrays([theirs[1]])
    for one, other in zip(theirs[0].ops, theirs[1].ops):
        for seed in range(2):
            random.seed(seed)
            expected = np.array(one(Image.fromarray(image)))
            random.seed(seed)
            found = other(image)
            assert (found.dtype, found.shape) == (np.uint8, image.shape), one
            most = 1 if one.name.startswith(("Shear", "Translate")) else 0
            assert np.abs(found.astype(int) - expected).max() <= most, (one, seed)
            ours.append(one.name)
    assert len(set(ours)) == len(names)


@pytest.mark.parametrize(
    "policy", ["rand-m9-mstd0.5-inc1", "rand-m9-n3-mstd1-tweights", "original-mstd0.5", "3a", "v0"]
)
def test_policies_draw_the_same(policy):
    """What changes an image is drawn as before; where it was warped, by one level, what follows may enhance that."""
    theirs, ours = steps(policy), steps(policy)
    assert use_arrays(ours)
    ours = pickle.loads(pickle.dumps(ours))  # as a loader process that is spawned gets them
    image, changed = noise(32, 40), 0
    for seed in range(60):
        results = []
        for side, value in ((theirs, Image.fromarray(image)), (ours, image)):
            random.seed(seed)
            np.random.seed(seed)
            for step in side:
                value = step(value)
            results.append((np.asarray(value).astype(int), random.random(), np.random.rand()))
        (expected, *draws), (found, *others) = results
        assert draws == others
        assert np.abs(found - expected).mean() < 0.05
        changed += bool((found != image).any())
    assert changed > 20


def test_steps_that_need_pillow_keep_it():
    for options in (
        {"auto_augment": "augmix-m5-w4-d2"},
        {"auto_augment": "3a", "color_jitter": 0.4},
        {"color_jitter": 0.4},
    ):
        made = created(**options)
        assert made
        assert not use_arrays(made)


def test_sharpness_is_exact_at_every_factor():
    for seed, factor in enumerate(np.random.default_rng(0).uniform(-0.5, 2.5, 40)):
        image = noise(9, 14, seed)
        assert np.array_equal(sharpness(image, factor), np.array(timms.sharpness(Image.fromarray(image), factor)))


def test_the_image_itself_is_not_changed():
    image = noise(12, 12)
    kept, made = image.copy(), steps("rand-m9-n3-p1-inc1")
    use_arrays(made)
    for seed in range(20):
        np.random.seed(seed)
        made[0](image)
    assert np.array_equal(image, kept)
