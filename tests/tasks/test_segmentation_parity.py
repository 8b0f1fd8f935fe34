"""Training loss and logits against mmsegmentation's EncoderDecoder with the same weights and the same batch."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder, SegDataPreProcessor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from lk_downstream import create_backbone
from lk_downstream.heads import FCNHead, UPerHead
from lk_downstream.inference import Slide, Whole
from lk_downstream.tasks import Segmentation

CLASSES = tuple("abcdefg")


@MODELS.register_module()
class ExtractorForTest(torch.nn.Module):
    """Our extractor as an mmsegmentation backbone."""

    def __init__(self, name):
        super().__init__()
        self.extractor = create_backbone(name)

    def forward(self, x):
        return self.extractor(x)


def both(name="test_convnext", align_corners=False, inference=None, test_cfg=None):
    """Our task and their model, with the same weights, in eval mode."""
    torch.manual_seed(0)
    options = {"dropout": 0.0, "align_corners": align_corners}
    ours = Segmentation(
        create_backbone(name),
        CLASSES,
        head=partial(UPerHead, channels=16, **options),
        auxiliary_head=partial(FCNHead, channels=8, **options),
        inference=inference,
        channels_last=False,
    )
    for tensor in ours.parameters():  # so that every layer matters: theirs and ours start with tiny last layers
        tensor.data += 0.05 * torch.randn_like(tensor)
    common = {
        "num_classes": len(CLASSES),
        "dropout_ratio": 0.0,
        "align_corners": align_corners,
        "norm_cfg": {"type": "BN"},
    }
    channels = list(ours.backbone.channels)
    theirs = EncoderDecoder(
        backbone={"type": "ExtractorForTest", "name": name},
        decode_head={"type": "UPerHead", "in_channels": channels, "in_index": [0, 1, 2, 3], "channels": 16, **common},
        auxiliary_head={
            "type": "FCNHead",
            "in_channels": channels[2],
            "in_index": 2,
            "channels": 8,
            "num_convs": 1,
            "concat_input": False,
            "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": 0.4},
            **common,
        },
        data_preprocessor=SegDataPreProcessor(
            mean=[255 * value for value in ours.backbone.mean],
            std=[255 * value for value in ours.backbone.std],
            bgr_to_rgb=True,
            size=(96, 96),
            seg_pad_val=255,
        ),
        test_cfg=ConfigDict(test_cfg or {"mode": "whole"}),
    )
    theirs.backbone.extractor.load_state_dict(ours.backbone.state_dict())
    theirs.decode_head.load_state_dict(ours.head.state_dict())
    theirs.auxiliary_head.load_state_dict(ours.auxiliary_head.state_dict())
    return ours.eval(), theirs.eval()  # batch statistics aside, both compute losses in this mode too


def make_images(sizes):
    generator = torch.Generator().manual_seed(1)
    images = [torch.randint(0, 256, (3, *size), generator=generator).to(torch.uint8) for size in sizes]
    masks = [torch.randint(0, len(CLASSES), size, generator=generator).to(torch.uint8) for size in sizes]
    for mask in masks:
        mask[:7] = 255
    return images, masks


@pytest.mark.parametrize("name", ["test_convnext", "test_replknet", "test_slak"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_training_loss_with_padding_and_ignored_pixels(name, align_corners):
    ours, theirs = both(name, align_corners)
    images, masks = make_images([(96, 96), (80, 90)])
    samples = [SegDataSample(gt_sem_seg=PixelData(data=mask[None].long())) for mask in masks]
    data = theirs.data_preprocessor(
        {"inputs": [image.flip(0) for image in images], "data_samples": samples}, training=True
    )
    losses = theirs.loss(data["inputs"], data["data_samples"])
    expected = losses["decode.loss_ce"] + losses["aux.loss_ce"]

    padded = [
        (F.pad(image, (0, 96 - image.shape[2], 0, 96 - image.shape[1]), value=77), mask)
        for image, mask in zip(images, masks)
    ]
    batch = {
        "image": torch.stack([image for image, _ in padded]),
        "mask": torch.stack([F.pad(m, (0, 96 - m.shape[1], 0, 96 - m.shape[0]), value=255) for _, m in padded]),
        "size": torch.tensor([mask.shape for mask in masks]),
        "name": ["a", "b"],
    }
    logged = {}
    ours.log = lambda key, value, **_: logged.update({key: value})
    loss = ours.training_step(batch, 0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert logged["train/loss_decode"].item() == pytest.approx(losses["decode.loss_ce"].item(), rel=1e-5)
    assert 0.4 * logged["train/loss_auxiliary"].item() == pytest.approx(losses["aux.loss_ce"].item(), rel=1e-5)


RULES = {
    "whole": (Whole(scale=None), {"mode": "whole"}),
    "slide": (Slide(crop=64, stride=42, scale=None), {"mode": "slide", "crop_size": (64, 64), "stride": (42, 42)}),
    "slide, larger than the image": (
        Slide(crop=(128, 64), stride=(85, 42), scale=None),
        {"mode": "slide", "crop_size": (128, 64), "stride": (85, 42)},
    ),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("original", [(100, 150), (70, 105)])
@torch.no_grad()
def test_logits_at_the_original_size(rule, align_corners, original):
    inference, test_cfg = RULES[rule]
    ours, theirs = both("test_slak", align_corners, inference, test_cfg)
    (image,), _ = make_images([(100, 150)])
    sample = SegDataSample(metainfo={"ori_shape": original, "img_shape": (100, 150), "pad_shape": (100, 150)})
    inputs = ours.normalize(image[None])
    expected = theirs.predict(inputs, [sample])[0].seg_logits.data
    logits = inference.logits(ours.logits, image[None])
    if original != (100, 150):
        logits = F.interpolate(logits, original, mode="bilinear", align_corners=align_corners)
    else:
        torch.testing.assert_close(inference(ours.logits, image[None], align_corners), logits)
    difference = (logits[0] - expected).abs().max() / expected.std()
    assert difference < 1e-5


@torch.no_grad()
def test_the_evaluation_resize_and_the_way_back():
    ours, theirs = both(inference=Whole(scale=(160, 64)))
    (image,), _ = make_images([(96, 150)])
    rule = ours.inference
    seen = []
    logits = rule(lambda images: (seen.append(images), ours.logits(images))[1], image[None])
    assert seen[0].shape[-2:] == (64, 100)  # int(side * scale + .5), as the papers'
    assert seen[0].dtype == torch.uint8
    sample = SegDataSample(metainfo={"ori_shape": (96, 150), "img_shape": (64, 100), "pad_shape": (64, 100)})
    expected = theirs.predict(ours.normalize(seen[0]), [sample])[0].seg_logits.data
    assert (logits[0] - expected).abs().max() / expected.std() < 1e-5
    assert ours.predict(image[None]).shape == (1, 96, 150)
