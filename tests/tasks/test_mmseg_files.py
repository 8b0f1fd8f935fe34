"""Published segmentation files through the command line, the way back to mmsegmentation, and files that are wrong."""

import json
import os
import re
import runpy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmengine.config import ConfigDict
from mmengine.runner import load_checkpoint
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS
from torch import nn

from lk_downstream import InputError, create_backbone, load_weights
from lk_downstream.cli import main
from lk_downstream.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE
from lk_downstream.heads import FCNHead, UPerHead
from lk_downstream.tasks import Segmentation
from lk_downstream.tasks.mmseg_files import convert_to_mmseg, to_mmseg

ROOT = Path(__file__).parents[2]
FAMILIES = ["test_convnext", "test_replknet", "test_slak"]
NORMS = {"norm_intermediate_features": True}


def randomized(module, seed=0):
    """A module of which every tensor matters."""
    generator = torch.Generator().manual_seed(seed)
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.add_(0.1 * torch.rand(value.shape, generator=generator))
    return module.eval()


def segmentation(name, classes=CITYSCAPES_CLASSES, **backbone):
    heads = {"head": partial(UPerHead, channels=16), "auxiliary_head": partial(FCNHead, channels=8)}
    return Segmentation(create_backbone(name, **backbone), classes, **heads, channels_last=False)


def own_checkpoint(task):
    recipe = {"class_path": "Segmentation", "init_args": {"classes": list(task.classes)}}
    return {"state_dict": task.state_dict(), "recipe": recipe, "epoch": 3, "global_step": 5}


class AuthorsBackbone(nn.Module):
    """Our extractor with the tensors' names of the authors' segmentation backbones."""

    def __init__(self, name):
        super().__init__()
        extractor = create_backbone(name)
        self.inner = [extractor]
        parts = dict(extractor.body.named_children())
        if "convnext" in name:
            stages = parts.pop("stages")
            self.downsample_layers = nn.ModuleList([parts.pop("stem"), *(stage.downsample for stage in stages[1:])])
            self.stages = nn.ModuleList(nn.ModuleList(map(authors_block, stage.blocks)) for stage in stages)
        else:
            for key, part in parts.items():
                self.add_module(key, part)
        for key, part in extractor.named_children():
            if key != "body":
                self.add_module(key, part)

    def forward(self, x):
        return self.inner[0](x)


def authors_block(block):
    holder = nn.Module()
    holder.dwconv, holder.norm, holder.gamma = block.conv_dw, block.norm, block.gamma
    holder.pwconv1, holder.pwconv2 = block.mlp.fc1, block.mlp.fc2
    return holder


MODELS.register_module(module=AuthorsBackbone)


def mmsegmentation(name, channels):
    common = {"num_classes": 19, "dropout_ratio": 0.1, "norm_cfg": {"type": "BN"}, "align_corners": False}
    return EncoderDecoder(
        backbone={"type": "AuthorsBackbone", "name": name},
        decode_head={"type": "UPerHead", "in_channels": channels, "in_index": [0, 1, 2, 3], "channels": 16, **common},
        auxiliary_head={
            **{"type": "FCNHead", "in_channels": channels[2], "in_index": 2, "channels": 8, "num_convs": 1},
            **{"concat_input": False, **common},
        },
        test_cfg=ConfigDict(mode="whole"),
    ).eval()


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_converted_checkpoint_in_mmsegmentation_and_back(name, tmp_path):
    task = randomized(segmentation(name))
    torch.save(own_checkpoint(task), tmp_path / "own.ckpt")
    content = convert_to_mmseg(tmp_path / "own.ckpt", tmp_path / "mmseg.pth")
    plain = torch.load(tmp_path / "mmseg.pth", weights_only=True)
    assert plain["meta"] == content["meta"]
    assert plain["meta"]["CLASSES"] == CITYSCAPES_CLASSES
    assert plain["meta"]["PALETTE"] == [tuple(colour) for colour in CITYSCAPES_PALETTE]
    assert {key.split(".")[0] for key in plain["state_dict"]} == {"backbone", "decode_head", "auxiliary_head"}

    theirs = mmsegmentation(name, list(task.backbone.channels))
    load_checkpoint(theirs, str(tmp_path / "mmseg.pth"), strict=True)
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    expected = theirs.encode_decode(x, [{"ori_shape": (64, 96), "img_shape": (64, 96)}])
    torch.testing.assert_close(task(x), expected, rtol=0, atol=1e-5 * expected.std().item())

    back = randomized(segmentation(name), seed=1)
    report = load_weights(back, tmp_path / "mmseg.pth", verbose=False)
    assert (report.missing, report.unexpected, report.unused, report.notes) == ([], [], {}, [])
    torch.testing.assert_close(back.state_dict(), task.state_dict(), rtol=0, atol=0)
    again = to_mmseg(plain)  # what is in the format already
    torch.testing.assert_close(again["state_dict"], plain["state_dict"], rtol=0, atol=0)
    assert again["meta"] == plain["meta"]


@pytest.mark.parametrize("name", ["convnext_tiny", "replknet_31b", "slak_tiny"])
def test_names_and_shapes_are_those_of_the_authors_segmentation_models(name):
    """Against the state dict of the authors' own backbones, at their own size."""
    with torch.device("meta"):
        task = segmentation(name)
    golden = np.load(ROOT / "tests" / "golden" / f"{name}_features.npz")
    expected = {key: tuple(shape) for key, shape in json.loads(str(golden["state_shapes"])).items()}
    state = to_mmseg(own_checkpoint(task))["state_dict"]
    found = {key.removeprefix("backbone."): tuple(v.shape) for key, v in state.items() if key.startswith("backbone.")}
    assert found == expected


def test_a_norm_on_every_level():
    task = segmentation("test_replknet", **NORMS)
    state = to_mmseg(own_checkpoint(task))["state_dict"]
    assert "backbone.stages.0.norm.running_mean" in state
    other = randomized(segmentation("test_replknet", **NORMS))
    report = load_weights(other, {"state_dict": state}, verbose=False)
    assert (report.missing, report.unexpected) == ([], [])
    torch.testing.assert_close(other.state_dict(), task.state_dict(), rtol=0, atol=0)


def test_openmmlabs_names_of_convnext():
    state = to_mmseg(own_checkpoint(segmentation("test_convnext")), names="openmmlab")["state_dict"]
    assert "backbone.stages.0.0.depthwise_conv.weight" in state
    assert "backbone.stages.3.1.pointwise_conv2.bias" in state or "backbone.stages.3.0.pointwise_conv2.bias" in state
    assert {"backbone.norm0.weight", "backbone.downsample_layers.0.1.bias"} < state.keys()
    assert not any(".dwconv." in key or ".pwconv" in key for key in state)


def test_classes_without_a_known_palette():
    checkpoint = own_checkpoint(segmentation("test_slak", classes=("a", "b")))
    assert to_mmseg(checkpoint)["meta"]["CLASSES"] == ("a", "b")
    assert len(set(to_mmseg(checkpoint)["meta"]["PALETTE"])) == 2
    assert to_mmseg({"state_dict": checkpoint["state_dict"]})["meta"]["CLASSES"] == ("0", "1")


def test_what_cannot_be_converted(tmp_path):
    torch.save(timm.create_model("test_slak").state_dict(), tmp_path / "classifier.pth")
    with pytest.raises(InputError, match=r"classifier\.pth: there is no segmentation head"):
        convert_to_mmseg(tmp_path / "classifier.pth", tmp_path / "out.pth")
    with pytest.raises(InputError, match=r"no weight file .*nothing\.ckpt"):
        convert_to_mmseg(tmp_path / "nothing.ckpt", tmp_path / "out.pth")
    with pytest.raises(InputError, match=r"classifier\.pth exists already"):
        convert_to_mmseg(tmp_path / "classifier.pth", tmp_path / "classifier.pth")
    torch.save(own_checkpoint(segmentation("test_slak")), tmp_path / "own.ckpt")
    with pytest.raises(InputError, match=r"cannot write .*no/out\.pth"):
        convert_to_mmseg(tmp_path / "own.ckpt", tmp_path / "no" / "out.pth")
    assert {file.name for file in tmp_path.iterdir()} == {"classifier.pth", "own.ckpt"}


# ---------------------------------------------------------------- at the command line


def words(folder, name, *more):
    return [
        *("--config", str(ROOT / "configs" / "demo_segmentation.yaml"), "--model.backbone.name", name),
        *("--data.dataset.root", str(folder / "data"), "--data.synthetic", "{train: 4, val: 3, size: [64, 80]}"),
        *("--model.head.channels", "16", "--model.auxiliary_head.channels", "8", "--data.workers", "0"),
        *("--trainer.default_root_dir", str(folder / "runs"), *more),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluation")


def evaluated(folder, name, file, capsys):
    cli = main("validate", words(folder, name, "--model.weights", str(file)))
    return cli.model, capsys.readouterr().out


@pytest.mark.parametrize("form", ["authors", "openmmlab", "lightning"])
@pytest.mark.parametrize("name", FAMILIES)
def test_evaluation_of_published_files(name, form, folder, tmp_path, capsys):
    """The metrics are those of the model that the file was made from."""
    task = randomized(segmentation(name), seed=2)
    content = own_checkpoint(task)
    if form != "lightning":
        content = to_mmseg(content, names=form)
        content["optimizer"] = torch.optim.AdamW(task.parameters()).state_dict()
    torch.save(content, tmp_path / "file.pth")
    model, printed = evaluated(folder, name, tmp_path / "file.pth", capsys)
    torch.testing.assert_close(
        {key: value.contiguous() for key, value in model.state_dict().items()},
        {key: value.contiguous() for key, value in task.state_dict().items()},
        rtol=0,
        atol=0,
    )
    assert f"file.pth: {len(task.state_dict())} tensors loaded" in printed
    assert "mIoU" in printed


BACKBONES = {
    "timm": lambda state: state,
    "the authors' classification file": lambda state: {"model": state},
    "mmpretrain": lambda state: {
        "state_dict": {
            re.sub(r"^(?!head|backbone)", "backbone.", re.sub(r"^norm\.", "backbone.stages.3.norm.", key)): value
            for key, value in {re.sub(r"^head\.", "head.fc.", key): value for key, value in state.items()}.items()
        }
    },
}


@pytest.mark.parametrize("form", BACKBONES)
def test_backbone_files_start_a_task_but_are_not_evaluated(form, folder, tmp_path, capsys):
    network = randomized(timm.create_model("test_replknet"), seed=3)
    torch.save(BACKBONES[form](network.state_dict()), tmp_path / "file.pth")
    task = segmentation("test_replknet")
    report = load_weights(task, tmp_path / "file.pth", verbose=False)
    assert {key.split(".")[0] for key in report.missing} == {"head", "auxiliary_head"}
    for key, value in task.backbone.body.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[key], rtol=0, atol=0)
    assert re.search(
        r"file\.pth lacks head\.\S+ and \d+ more tensors of the model.*whole task",
        refused(folder, "test_replknet", tmp_path / "file.pth"),
    )


def refused(folder, name, file, option="--model.weights"):
    with pytest.raises(SystemExit) as stop:
        main("validate", words(folder, name, option, str(file)))
    assert str(stop.value).startswith("error: ")
    return str(stop.value)


class Reduce:
    """Makes a folder when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Call(Reduce):
    def __reduce__(self):
        return exec, (f"import os; os.mkdir({str(self.path)!r})",)


class Method(Reduce):
    def __reduce__(self):
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("kind", [Reduce, Call, Method])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_not_run(kind, zipped, folder, tmp_path):
    content = own_checkpoint(segmentation("test_slak"))
    content["meta"] = kind(tmp_path / "made")
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    for option in ("--model.weights", "--ckpt_path"):
        sentence = refused(folder, "test_slak", tmp_path / "evil.pth", option)
        assert "evil.pth carries code (it would call " in sentence
    assert not (tmp_path / "made").exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "made").exists()  # the trap is real


def test_wrong_files_are_refused(folder, tmp_path):
    torch.save(own_checkpoint(segmentation("test_slak")), tmp_path / "slak.pth")
    assert "SLaK" in refused(folder, "test_replknet", tmp_path / "slak.pth")

    complete = (tmp_path / "slak.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(complete[: len(complete) // 2])
    assert "half.pth ends too early" in refused(folder, "test_slak", tmp_path / "half.pth")

    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "foreign.pth")
    assert "does not fit test_slak" in refused(folder, "test_slak", tmp_path / "foreign.pth")

    torch.save(own_checkpoint(segmentation("test_slak", classes=("a", "b"))), tmp_path / "classes.pth")
    assert "classes.pth lacks head.conv_seg.weight" in refused(folder, "test_slak", tmp_path / "classes.pth")

    (tmp_path / "text.pth").write_text("not weights", encoding="utf-8")
    assert "text.pth is a text, which begins 'not weights'" in refused(folder, "test_slak", tmp_path / "text.pth")
    assert "There is no weight file" in refused(folder, "test_slak", tmp_path / "nothing.pth")
    assert "there are no weights 'in1k_ade20k'" in refused(folder, "test_slak", "in1k_ade20k").lower()


def test_wrong_checkpoints_to_resume_or_evaluate(folder, tmp_path):
    content = own_checkpoint(segmentation("test_slak")) | {"pytorch-lightning_version": "2.6.0"}
    torch.save(content, tmp_path / "run.ckpt")
    assert "is of another model" in refused(folder, "test_replknet", tmp_path / "run.ckpt", "--ckpt_path")
    (tmp_path / "half.ckpt").write_bytes((tmp_path / "run.ckpt").read_bytes()[:5000])
    assert "half.ckpt ends too early" in refused(folder, "test_slak", tmp_path / "half.ckpt", "--ckpt_path")
    torch.save(to_mmseg(content), tmp_path / "mmseg.pth")
    sentence = refused(folder, "test_slak", tmp_path / "mmseg.pth", "--ckpt_path")
    assert (
        "mmseg.pth is no checkpoint of a run of this package; published or converted weights go to --model.weights"
        in sentence
    )
    main("validate", words(folder, "test_slak", "--ckpt_path", str(tmp_path / "run.ckpt")))


def test_the_tool(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(own_checkpoint(segmentation("test_slak")), "own.ckpt")
    monkeypatch.setattr("sys.argv", ["convert.py", "own.ckpt", "out.pth"])
    for code in (0, 1):
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "tools" / "convert.py"), run_name="__main__")
        assert stop.value.code == code
    printed = capsys.readouterr()
    assert re.fullmatch(r"out\.pth: \d+ tensors, 19 classes\n", printed.out)
    assert printed.err == "error: out.pth exists already: remove it, or name another file\n"
