"""Our backbones in mmsegmentation's own Runner, by a config file as its users write them."""

import re

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner, load_checkpoint
from mmseg.registry import MODELS

from lk_downstream import create_backbone, load_weights
from lk_downstream.data import ADE20K, Synthetic
from lk_downstream.integrations.mmseg import LargeKernelBackbone

CONFIG = """
default_scope = "mmseg"
custom_imports = dict(imports=["lk_downstream.integrations.mmseg"])
norm = dict(type="BN")
common = dict(num_classes=150, norm_cfg=norm, align_corners=False)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True,
        size=(64, 64), pad_val=0, seg_pad_val=255),
    backbone=dict(type="LargeKernelBackbone", name="test_slak", drop_path_rate=0.1),
    decode_head=dict(type="UPerHead", in_channels=[24, 48, 72, 96], in_index=[0, 1, 2, 3], channels=16, **common),
    auxiliary_head=dict(
        type="FCNHead", in_channels=72, in_index=2, channels=8, num_convs=1, concat_input=False,
        loss_decode=dict(type="CrossEntropyLoss", loss_weight=0.4), **common),
    train_cfg=dict(),
    test_cfg=dict(mode="slide", crop_size=(64, 64), stride=(42, 42)))
load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
train_pipeline = [*load, dict(type="RandomCrop", crop_size=(64, 64)), dict(type="PackSegInputs")]
test_pipeline = [*load, dict(type="PackSegInputs")]
data = dict(type="ADE20KDataset", data_root="ROOT")
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
                 pipeline=train_pipeline, **data))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
                 pipeline=test_pipeline, **data))
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
train_cfg = dict(type="IterBasedTrainLoop", max_iters=3, val_interval=3)
val_cfg = dict(type="ValLoop")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05))
default_hooks = dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=3))
log_level = "ERROR"
work_dir = "WORK"
"""


def runner(tmp_path, **changes):
    text = CONFIG.replace("ROOT", str(tmp_path / "ade")).replace("WORK", str(tmp_path / "work"))
    (tmp_path / "config.py").write_text(text, encoding="utf-8")
    config = Config.fromfile(tmp_path / "config.py")
    config.experiment_name = f"test_{tmp_path.name}_{len(changes)}"  # the Runner keeps a register of names
    config.merge_from_dict(changes)
    return Runner.from_cfg(config)


def test_train_validate_and_resume(tmp_path):
    ADE20K("train", tmp_path / "ade").write_synthetic(Synthetic(train=4, val=2, size=(64, 80)))
    first = runner(tmp_path)
    first.train()
    assert first.message_hub.get_scalar("val/mIoU").current() >= 0
    file = tmp_path / "work" / "iter_3.pth"
    state = torch.load(file, weights_only=False)["state_dict"]
    names = {name.removeprefix("backbone.") for name in state if name.startswith("backbone.")}
    # The authors' names, to which downstream models add the norms of the levels.
    assert {"downsample_layers.0.0.weight", "stages.0.0.large_kernel.LoRA1.conv.weight", "norm3.weight"} <= names
    assert not any(name.startswith(("body.", "extractor.")) for name in names)

    second = runner(tmp_path, resume=True, **{"train_cfg.max_iters": 5})
    second.train()
    assert second.iter == 5
    resumed = second.optim_wrapper.optimizer.state_dict()["state"]
    assert {int(item["step"]) for item in resumed.values()} == {5}

    evaluated = runner(tmp_path, load_from=str(file), resume=False)
    evaluated.val()
    for key, value in evaluated.model.state_dict().items():
        torch.testing.assert_close(value, state[key])
    report = load_weights(create_backbone("test_slak"), str(file), verbose=False)  # and back into this package
    assert not report.missing
    assert not report.unexpected


def authors_convnext(name):
    """timm's name of a tensor of a ConvNeXt -> the authors', as published mmsegmentation 0.x files have it."""
    name = re.sub(r"^stem\.", "downsample_layers.0.", name)
    name = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
    name = re.sub(r"^stages\.(\d)\.blocks\.", r"stages.\1.", name)
    return re.sub(r"\.mlp\.fc", ".pwconv", name.replace(".conv_dw.", ".dwconv."))


@pytest.mark.parametrize("name", ["test_convnext", "test_replknet", "test_slak"])
@pytest.mark.parametrize("wrapped", ["whole model", "backbone of a segmentor", "classification file", "weights"])
def test_published_names_load(name, wrapped, tmp_path):
    torch.manual_seed(0)
    source = LargeKernelBackbone(name).eval()
    for tensor in source.parameters():
        tensor.data.normal_(std=0.2)
    rename = authors_convnext if name == "test_convnext" else str
    state = {rename(key): value for key, value in source.state_dict().items()}
    assert all("conv_dw" not in key and "body" not in key for key in state)
    torch.manual_seed(1)
    if wrapped == "whole model":  # what the Runner's load_from does
        segmentor = torch.nn.Module()
        segmentor.backbone = target = LargeKernelBackbone(name).eval()
        content = {"meta": {}, "state_dict": {f"backbone.{key}": value for key, value in state.items()}}
        torch.save(content, tmp_path / "w.pth")
        load_checkpoint(segmentor, str(tmp_path / "w.pth"), strict=True)
    else:
        init = {"type": "Pretrained", "checkpoint": str(tmp_path / "w.pth")}
        if wrapped == "backbone of a segmentor":
            content = {"state_dict": {f"backbone.{key}": value for key, value in state.items()}}
            init["prefix"] = "backbone."
        else:
            content = {"model": state}
        torch.save(content, tmp_path / "w.pth")
        start = {"weights": str(tmp_path / "w.pth")} if wrapped == "weights" else {"init_cfg": init}
        target = MODELS.build({"type": "LargeKernelBackbone", "name": name, **start}).eval()
        target.init_weights()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for expected, actual in zip(source(image), target(image), strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_one_level_and_its_norm():
    source, target = (LargeKernelBackbone("test_convnext", out_indices=(3,)) for _ in range(2))
    source.extractor.norm3.weight.data.fill_(3)
    missing, unexpected = target.load_state_dict(source.state_dict())
    assert (missing, unexpected) == ([], [])
    assert (target.extractor.norm3.weight == 3).all()
    assert source.channels == (64,)
    assert source.mean == tuple(255 * value for value in create_backbone("test_convnext").mean)
