"""Multi-scale and flip against mmsegmentation's own test-time augmentation (1.x) and a reference of the 0.x rule."""

from functools import partial

import mmcv
import pytest
import torch
import torch.nn.functional as F
from mmcv.transforms import TestTimeAug
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.models import EncoderDecoder, SegDataPreProcessor, SegTTAModel

import lk_downstream.integrations.mmseg  # noqa: F401 (registers LargeKernelBackbone)
from lk_downstream import create_backbone
from lk_downstream.data.transforms import resize_image
from lk_downstream.errors import InputError
from lk_downstream.heads import UPerHead
from lk_downstream.inference import MultiScale, Slide, Whole
from lk_downstream.tasks import Segmentation

CLASSES = tuple("abcdefg")
RATIOS = (0.5, 1.0, 1.25, 1.75)
SCALE = (192, 96)
RULES = {
    "whole": (partial(Whole, scale=SCALE), {"mode": "whole"}),
    "slide": (
        partial(Slide, crop=96, stride=64, scale=SCALE),
        {"mode": "slide", "crop_size": (96, 96), "stride": (64, 64)},
    ),
}


def both(rule, test_cfg, align_corners):
    """Our task and their model, with the same weights, in eval mode."""
    torch.manual_seed(0)
    options = {"channels": 16, "align_corners": align_corners}
    ours = Segmentation(create_backbone("test_convnext"), CLASSES, partial(UPerHead, **options), None, inference=rule)
    for tensor in ours.parameters():  # so that every layer matters: both start with tiny last layers
        tensor.data += 0.05 * torch.randn_like(tensor)
    head = {"type": "UPerHead", "in_channels": list(ours.backbone.channels), "in_index": [0, 1, 2, 3]}
    theirs = EncoderDecoder(
        backbone={"type": "LargeKernelBackbone", "name": "test_convnext"},
        decode_head={**head, "num_classes": len(CLASSES), "norm_cfg": {"type": "BN"}, **options},
        data_preprocessor=SegDataPreProcessor(
            mean=[255 * value for value in ours.backbone.mean],
            std=[255 * value for value in ours.backbone.std],
            bgr_to_rgb=True,
        ),
        test_cfg=ConfigDict(test_cfg),
    )
    theirs.backbone.load_state_dict(ours.backbone.state_dict())
    theirs.decode_head.load_state_dict(ours.head.state_dict())
    return ours.eval(), theirs.eval()


@pytest.fixture(params=[(90, 140), (130, 85)], ids=["wide", "high"])
def image(request):
    return torch.randint(0, 256, (1, 3, *request.param), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def as_ours(image, size, return_scale=False, **_):
    """``mmcv.imresize`` with the pixels of our resize, which may differ from OpenCV's by one grey level."""
    resized = resize_image(torch.from_numpy(image.copy()).permute(2, 0, 1), size[::-1]).permute(1, 2, 0).numpy()
    return (resized, size[0] / image.shape[1], size[1] / image.shape[0]) if return_scale else resized


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("align_corners", [False, True])
@torch.no_grad()
def test_the_rule_of_mmsegmentation_1(rule, align_corners, image, monkeypatch):
    make, test_cfg = RULES[rule]
    ours, theirs = both(MultiScale(make(), RATIOS, form="1.x"), test_cfg, align_corners)
    monkeypatch.setattr(mmcv.image.geometric, "imresize", as_ours)
    init_default_scope("mmseg")
    pipeline = TestTimeAug(
        [
            [{"type": "Resize", "scale_factor": ratio, "keep_ratio": True} for ratio in RATIOS],
            [{"type": "RandomFlip", "prob": prob, "direction": "horizontal"} for prob in (0.0, 1.0)],
            [{"type": "PackSegInputs"}],
        ]
    )
    source = image[0].flip(0).permute(1, 2, 0).contiguous().numpy()  # BGR
    data = pseudo_collate([pipeline({"img": source, "ori_shape": source.shape[:2], "img_path": "a.png"})])
    assert len(data["inputs"]) == 8

    copies = [theirs.test_step({key: data[key][number] for key in data})[0] for number in range(8)]
    expected = torch.stack([copy.seg_logits.data.softmax(0) for copy in copies]).mean(0)
    probabilities = ours.inference(ours.head_logits, image, align_corners)[0]
    assert (probabilities - expected).abs().max() / expected.std() < 1e-5
    merged = SegTTAModel(theirs).test_step(data)[0].pred_sem_seg.data
    assert torch.equal(ours.predict(image)[0].long(), merged.view(image.shape[-2:]))


def published_rule(model, image, scale, align_corners):
    """mmsegmentation 0.x: ``MultiScaleFlipAug`` and ``EncoderDecoder.aug_test``, by what they compute."""
    height, width = image.shape[-2:]
    total = 0
    for ratio in RATIOS:
        long, short = int(scale[0] * ratio), int(scale[1] * ratio)
        factor = min(long / max(height, width), short / min(height, width))
        size = int(height * factor + 0.5), int(width * factor + 0.5)
        resized = (resize_image(image, size).float() - model.mean) / model.std
        for flip in (False, True):
            seen = resized.flip(3) if flip else resized
            logits = model.inference(seen, [{"img_shape": size, "ori_shape": (height, width), "pad_shape": size}])
            logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=align_corners)
            probabilities = logits.softmax(1)
            total = total + (probabilities.flip(3) if flip else probabilities)
    return total / (2 * len(RATIOS))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("align_corners", [False, True])
@torch.no_grad()
def test_the_rule_of_the_published_metrics(rule, align_corners, image):
    make, test_cfg = RULES[rule]
    ours, theirs = both(MultiScale(make(), RATIOS), test_cfg, align_corners)
    theirs.mean, theirs.std = ours.mean, ours.std
    expected = published_rule(theirs, image, SCALE, align_corners)
    probabilities = ours.inference(ours.head_logits, image, align_corners)
    assert (probabilities - expected).abs().max() / expected.std() < 1e-5
    torch.testing.assert_close(probabilities.sum(1), torch.ones(1, *image.shape[-2:]))
    assert torch.equal(ours.predict(image), expected.argmax(1).to(torch.uint8))


def test_sizes_of_both_rules():
    # An image of 512 x 683 of ADE20K: fitted into 2048 r x 512 r, or times r.
    assert list(MultiScale().sizes(300, 400)) == [
        (256, 341),
        (384, 512),
        (512, 683),
        (640, 853),
        (768, 1024),
        (896, 1195),
    ]
    assert next(iter(MultiScale(form="1.x").sizes(300, 401))) == (150, 201)
    # Cityscapes: 2049 x 1025, whose halves are rounded down before the image is fitted.
    assert next(iter(MultiScale(Whole((2049, 1025))).sizes(1024, 2048))) == (512, 1024)
    # Without a scale the rules differ in rounding alone.
    assert list(MultiScale(Whole(None), ratios=(0.5, 1.0)).sizes(101, 151)) == [(50, 75), (101, 151)]


def test_one_scale_without_flip_is_the_rule_itself():
    ours, _ = both(None, {"mode": "whole"}, False)
    image = torch.randint(0, 256, (2, 3, 90, 120)).to(torch.uint8)
    with torch.no_grad():
        single = Whole(SCALE)(ours.head_logits, image).softmax(1)
        torch.testing.assert_close(MultiScale(Whole(SCALE), (1.0,), flip=False)(ours.head_logits, image), single)


@pytest.mark.parametrize("options", [{"ratios": ()}, {"ratios": (0.5, 0.0)}, {"form": "2.x"}])
def test_mistakes(options):
    with pytest.raises(InputError, match="multi-scale rule"):
        MultiScale(**options)
