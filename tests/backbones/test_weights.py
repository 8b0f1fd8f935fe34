"""Every published format into every kind of model; the files are small models under the names of each format."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import lk_downstream
from lk_downstream import InputError, create_backbone, load_weights

CONVNEXT_SIZE = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}


def random_state(model: nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else torch.tensor(5)
        for key, value in model.state_dict().items()
    }


def authors_convnext(state):
    """timm's names -> the authors' (the reverse of what the package does)."""
    rules = [
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
        (r"conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"^head\.norm\.", "norm."),
        (r"^head\.fc\.", "head."),
    ]
    return {rename(key, rules): value for key, value in state.items()}


def mmpretrain_convnext(state):
    rules = [(r"dwconv", "depthwise_conv"), (r"pwconv", "pointwise_conv"), (r"^norm\.", "norm3.")]
    names = {key: rename(key, rules) for key in authors_convnext(state)}
    return {
        f"head.fc.{new[5:]}" if new.startswith("head.") else f"backbone.{new}": authors_convnext(state)[key]
        for key, new in names.items()
    }


def mmpretrain_replknet(state):
    rules = [(r"^head\.", "head.fc."), (r"^norm\.", "backbone.stages.3.norm."), (r"^(?!head|backbone)", "backbone.")]
    return {rename(key, rules): value for key, value in state.items()}


def rename(key, rules):
    for pattern, new in rules:
        key = re.sub(pattern, new, key)
    return key


def classifier(family, **arguments):
    if family == "convnext":
        return timm.create_model("convnext_tiny", **{**CONVNEXT_SIZE, **arguments})
    return timm.create_model(f"test_{family}", **arguments)


def extractor(family, **arguments):
    if family == "convnext":
        return create_backbone("convnext_tiny", **{**CONVNEXT_SIZE, **arguments})
    return create_backbone(f"test_{family}", **arguments)


class Head(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.lateral = nn.Conv2d(8, 8, 1)
        self.conv_seg = nn.Conv2d(8, classes, 1)


class SegmentationTask(nn.Module):
    def __init__(self, backbone, classes=4):
        super().__init__()
        self.backbone = backbone
        self.head = Head(classes)
        self.auxiliary_head = Head(classes)


FORMATS = {
    "bare": lambda family, state: state,
    "model": lambda family, state: {"model": state, "epoch": 3},
    "module": lambda family, state: {"module": state},
    "ema": lambda family, state: {"model_ema": state},
    "state_dict": lambda family, state: {"state_dict": state, "optimizer": {"state": {}}},
    "parallel": lambda family, state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    "lightning": lambda family, state: {"state_dict": {f"model.{key}": value for key, value in state.items()}},
    "authors": lambda family, state: {"model": authors_convnext(state) if family == "convnext" else state},
    "mmpretrain": lambda family, state: {
        "convnext": mmpretrain_convnext,
        "replknet": mmpretrain_replknet,
        "slak": dict,
    }[family](state),
}


@pytest.mark.parametrize("family", ["convnext", "replknet", "slak"])
@pytest.mark.parametrize("form", FORMATS)
def test_classification_files(family, form, tmp_path, capsys):
    state = random_state(classifier(family))
    torch.save(FORMATS[form](family, state), tmp_path / "file.pth")

    model = classifier(family)
    report = load_weights(model, tmp_path / "file.pth")
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert (report.missing, report.unexpected, report.unused) == ([], [], {})
    assert f"file.pth: {len(state)} tensors loaded" in capsys.readouterr().out

    for model in (extractor(family), SegmentationTask(extractor(family))):
        report = load_weights(model, str(tmp_path / "file.pth"), verbose=False)
        backbone = model if isinstance(model, lk_downstream.Backbone) else model.backbone
        for key, value in backbone.body.state_dict().items():
            torch.testing.assert_close(value, state[key], rtol=0, atol=0)
        assert report.unused.keys() == {"classifier", "final norm"}
        assert report.unexpected == []
        assert not any(".body." in key or key.startswith("body.") for key in report.missing)
    assert capsys.readouterr().out == ""


def downstream_state(family, **arguments):
    """The names that the extractor's network has in the authors' files, with per-level norms."""
    state = {key.removeprefix("body."): value for key, value in random_state(extractor(family, **arguments)).items()}
    return authors_convnext(state) if family == "convnext" else state


@pytest.mark.parametrize("form", ["mmseg 0.x", "mmseg 1.x"])
@pytest.mark.parametrize("family", ["convnext", "replknet", "slak"])
def test_segmentation_files(family, form):
    network = downstream_state(family)
    if form == "mmseg 1.x":
        network = (
            {
                key.replace("dwconv", "depthwise_conv").replace("pwconv", "pointwise_conv"): value
                for key, value in network.items()
            }
            if family == "convnext"
            else network
        )
    head, auxiliary = random_state(Head(4)), random_state(Head(4))
    state = {f"backbone.{key}": value for key, value in network.items()}
    state |= {f"decode_head.{key}": value for key, value in head.items()}
    state |= {f"auxiliary_head.{key}": value + 1 for key, value in auxiliary.items()}

    task = SegmentationTask(extractor(family))
    report = load_weights(task, {"meta": {"CLASSES": ["a"]}, "state_dict": state}, verbose=False)
    assert (report.missing, report.unexpected, report.unused) == ([], [], {})
    torch.testing.assert_close(task.head.state_dict(), head, rtol=0, atol=0)
    torch.testing.assert_close(task.auxiliary_head.conv_seg.bias, auxiliary["conv_seg.bias"] + 1, rtol=0, atol=0)

    other_classes = SegmentationTask(extractor(family), classes=9)
    report = load_weights(other_classes, state, verbose=False)
    assert len(report.notes) == 2
    assert "head.conv_seg.weight left out: it is for other classes ((4, 8, 1, 1) in the file" in str(report)
    torch.testing.assert_close(other_classes.head.lateral.weight, head["lateral.weight"], rtol=0, atol=0)

    backbone = extractor(family, out_indices=(1, 2))
    report = load_weights(backbone, state, verbose=False)
    assert report.missing == []
    assert report.unused["decode_head"] == 4
    expected = load_and_filter(extractor(family), state)
    for key, value in backbone.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)

    model = classifier(family, num_classes=3)
    report = load_weights(model, state, verbose=False)
    assert {key.split(".")[0] for key in report.missing} <= {"head", "norm"}


def load_and_filter(backbone, state):
    load_weights(backbone, state, verbose=False)
    return backbone.state_dict()


def test_a_head_that_does_not_fit_is_refused_unless_allowed():
    state = {f"backbone.{key}": value for key, value in downstream_state("slak").items()}
    state |= {f"decode_head.{key}": value for key, value in random_state(nn.Conv2d(3, 3, 3)).items()}
    task = SegmentationTask(extractor("slak"))
    with pytest.raises(InputError, match="does not fit test_slak"):
        load_weights(task, state)
    report = load_weights(task, state, strict=False, verbose=False)
    assert report.unexpected == ["head.weight", "head.bias"]


def test_norms_of_xl_and_detection_files():
    norms = {"norm_intermediate_features": True}
    state = downstream_state("replknet", **norms)
    file = {f"backbone.{key}": value for key, value in state.items()} | {
        "neck.lateral_convs.0.conv.weight": torch.zeros(1),
        "rpn_head.rpn_cls.bias": torch.zeros(1),
    }
    backbone = extractor("replknet", **norms)
    report = load_weights(backbone, {"state_dict": file}, verbose=False)
    assert report.missing == []
    assert report.unused == {"neck": 1, "rpn_head": 1}
    torch.testing.assert_close(backbone.body.stages[2].norm.weight, state["stages.2.norm.weight"], rtol=0, atol=0)


class Detector(nn.Module):
    def __init__(self, backbone, classes, stages=1):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Conv2d(3, 3, 1)
        self.roi_head = nn.ModuleDict(
            {f"box{i}": nn.ModuleDict({"fc_cls": nn.Linear(4, classes)}) for i in range(stages)}
        )


def test_detectors_take_every_part_of_a_detection_file():
    state = random_state(Detector(extractor("slak"), classes=81))
    published = {key.replace("backbone.body.", "backbone."): value for key, value in state.items()}
    detector = Detector(extractor("slak"), classes=81)
    load_weights(detector, {"state_dict": published}, verbose=False)
    torch.testing.assert_close(detector.state_dict(), state, rtol=0, atol=0)

    other_classes = Detector(extractor("slak"), classes=4)
    report = load_weights(other_classes, published, verbose=False)
    assert report.missing == ["roi_head.box0.fc_cls.weight", "roi_head.box0.fc_cls.bias"]
    assert len(report.notes) == 1

    cascade = Detector(extractor("slak"), classes=81, stages=3)
    with pytest.raises(InputError, match=r"4 are lacking, such as roi_head\.box1.*strict=False loads what fits"):
        load_weights(cascade, published)
    with pytest.raises(InputError, match="4 do not"):
        load_weights(detector, {**random_state(cascade)})


@pytest.mark.parametrize("family", ["convnext", "replknet", "slak"])
def test_own_checkpoints(family):
    task = SegmentationTask(extractor(family))
    state = random_state(task)
    own = {"state_dict": {**state, "loss.weight": torch.ones(4)}, "pytorch-lightning_version": "2.6"}
    report = load_weights(task, own, verbose=False)
    torch.testing.assert_close(task.state_dict(), state, rtol=0, atol=0)
    assert (report.missing, report.unexpected, report.unused) == ([], [], {"loss": 1})
    backbone = extractor(family)
    assert load_weights(backbone, own, verbose=False).unused == {"loss": 1, "head": 4, "auxiliary_head": 4}
    for key, value in backbone.state_dict().items():
        torch.testing.assert_close(value, state[f"backbone.{key}"], rtol=0, atol=0)


def test_own_checkpoint_of_the_last_level_keeps_its_norm():
    source = extractor("convnext", out_indices=(3,))
    state = random_state(source)
    target = extractor("convnext", out_indices=(3,))
    load_weights(target, {f"backbone.{key}": value for key, value in state.items()}, verbose=False)
    torch.testing.assert_close(target.norm3.weight, state["norm3.weight"], rtol=0, atol=0)


def test_other_models_of_timm_and_their_wrapped_files():
    source = timm.create_model("resnet18", num_classes=7)
    backbone = create_backbone("resnet18")
    report = load_weights(backbone, {"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}})
    assert report.missing == []
    assert report.unused == {"classifier": 2}
    torch.testing.assert_close(backbone.body.layer4[1].bn2.weight, source.layer4[1].bn2.weight)


def test_safetensors(tmp_path):
    state = random_state(classifier("slak"))
    save_file(state, tmp_path / "model.safetensors")
    model = classifier("slak")
    load_weights(model, tmp_path / "model.safetensors", verbose=False)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


def test_an_entry_can_be_chosen():
    averaged, plain = random_state(classifier("slak")), classifier("slak").state_dict()
    file = {"model": plain, "model_ema": averaged}
    model = classifier("slak")
    load_weights(model, file, verbose=False)
    torch.testing.assert_close(model.state_dict(), plain, rtol=0, atol=0)
    load_weights(model, file, key="model_ema", verbose=False)
    torch.testing.assert_close(model.state_dict(), averaged, rtol=0, atol=0)
    with pytest.raises(InputError, match="no entry 'model_em'; did you mean 'model_ema'"):
        load_weights(model, file, key="model_em")


def test_other_classes_and_other_channels():
    state = random_state(classifier("replknet"))
    model = classifier("replknet", num_classes=3, in_chans=4)
    before = model.head.weight.clone()
    report = load_weights(model, state, verbose=False)
    torch.testing.assert_close(model.head.weight, before, rtol=0, atol=0)
    assert report.missing == ["head.weight", "head.bias"]
    assert report.reshaped == ["stem.0.conv.weight"]
    torch.testing.assert_close(model.stem[0].conv.weight[:, 0], state["stem.0.conv.weight"][:, 0] * 3 / 4)
    assert "other classes" in str(report)


def test_linear_layers_as_convolutions():
    state = random_state(classifier("convnext"))
    model = classifier("convnext", conv_mlp=True)
    report = load_weights(model, authors_convnext(state), verbose=False)
    assert len(report.reshaped) == 10
    weight = model.stages[0].blocks[0].mlp.fc1.weight
    torch.testing.assert_close(weight.flatten(1), state["stages.0.blocks.0.mlp.fc1.weight"], rtol=0, atol=0)


def test_batch_counters_of_old_files_may_be_missing():
    state = {k: v for k, v in random_state(classifier("replknet")).items() if not k.endswith("num_batches_tracked")}
    assert load_weights(classifier("replknet"), state, verbose=False).missing == []


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (
            lambda: timm.create_model("test_slak", depths=(1, 2, 3, 1)).state_dict(),
            lambda: create_backbone("test_replknet"),
            r"does not fit test_replknet .* looks like SLaK with 1-2-3-1 blocks, 24-48-72-96 channels and kernels "
            r"15-13-11-7; the model is RepLKNet with 1-1-2-1 blocks",
        ),
        (
            lambda: timm.create_model("test_slak", depths=(1, 1, 4, 1)).state_dict(),
            lambda: create_backbone("test_slak"),
            r"looks like SLaK with 1-1-4-1 blocks.*the model is SLaK with 1-1-2-1 blocks",
        ),
        (
            lambda: create_backbone("test_slak").state_dict(),
            lambda: create_backbone("test_slak", depths=(1, 1, 4, 1)),
            r"\(\d+ tensors fit, 0 do not, 44 are lacking, such as body\.stages\.2\.2\.",
        ),
        (
            lambda: timm.create_model("test_slak").state_dict(),
            lambda: create_backbone("test_slak", kernel_size=(13, 13, 11, 7, 3)),
            r"kernels 15-13-11-7; the model .* kernels 13-13-11-7",
        ),
        (
            lambda: authors_convnext(classifier("convnext").state_dict()),
            lambda: create_backbone("resnet18"),
            r"looks like ConvNeXt with 1-1-2-1 blocks, 8-16-24-32 channels and kernels 7-7-7-7; the model is \d+ "
            r"tensors of an unknown architecture",
        ),
        (lambda: {}, lambda: create_backbone("test_slak"), r"looks like no tensors at all"),
        (
            lambda: lk_downstream.reparameterize(timm.create_model("test_replknet")).state_dict(),
            lambda: create_backbone("test_replknet"),
            r"RepLKNet in merged form.*merged before loading",
        ),
        (
            lambda: timm.create_model("test_slak").state_dict(),
            lambda: lk_downstream.reparameterize(create_backbone("test_slak")),
            r"load the weights first and merge",
        ),
    ],
)
def test_a_poor_match_is_refused_with_a_hint_and_changes_nothing(source, target, message):
    model = target()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match=message):
        load_weights(model, source())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_half_a_match_suffices_only_without_strict():
    state = timm.create_model("test_slak", depths=(1, 1, 3, 1)).state_dict()
    report = load_weights(timm.create_model("test_slak"), state, strict=False, verbose=False)
    assert all(key.startswith("stages.2.2.") for key in report.unexpected)
    with pytest.raises(InputError, match="does not fit"):
        load_weights(timm.create_model("test_replknet"), state, strict=False)


def test_create_backbone_takes_weights(tmp_path, capsys):
    state = random_state(classifier("slak"))
    torch.save({"model": state}, tmp_path / "slak.pth")
    backbone = create_backbone("test_slak", weights=str(tmp_path / "slak.pth"))
    torch.testing.assert_close(backbone.body.stages[0][0].gamma, state["stages.0.0.gamma"], rtol=0, atol=0)
    assert "missing: norm0.weight" in capsys.readouterr().out
