"""Export of merged networks: what is written is run at sizes and batches that the trace has not seen."""

import importlib.util

import pytest
import timm
import torch
from torch import nn

from lk_downstream import InputError, commands, create_backbone, export
from lk_downstream.detectors import FCOS, FasterRCNN, FCOSSettings, FPNSettings, RetinaNet, RetinaSettings, Selection
from lk_downstream.heads import UPerHead
from lk_downstream.heads.layers import AdaptiveMean
from lk_downstream.tasks import Segmentation

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in export.PACKAGES), reason="the extra `export` is missing"
)
SHALLOW = (1, 1, 1, 1)  # a trace takes as long as there are layers
NARROW = {"neck": FPNSettings(channels=16, finest_stride=8, extra="output", extra_relu=True)}


def thin_head(channels, classes):
    return UPerHead(channels, classes, channels=16)


def segmenter():
    backbone = create_backbone("test_slak", depths=SHALLOW)
    return Segmentation(backbone, ("a", "b", "c"), head=thin_head, auxiliary_head=None)


def fcos():
    settings = FCOSSettings(convs=1, channels=16, test=Selection(score_threshold=0.0))
    return FCOS(create_backbone("test_replknet", layers=SHALLOW), 4, head=settings, **NARROW)


def retinanet():
    settings = RetinaSettings(convs=1, channels=16, test=Selection(score_threshold=0.0))
    return RetinaNet(create_backbone("test_slak"), 4, head=settings, **NARROW)


def classifier():
    return timm.create_model("test_replknet", layers=SHALLOW, num_classes=7)


OUTPUTS = {
    classifier: ("logits",),
    segmenter: ("logits",),
    fcos: ("boxes", "scores", "centerness"),
    retinanet: ("boxes", "scores"),
}


def run(path, images):
    """Outputs of a file, by a program that knows nothing of this package."""
    if path.suffix == ".pt2":
        program = torch.export.load(path)
        assert not any("lk_downstream" in str(node.target) for node in program.graph.nodes)
        return export._tuple(program.module()(images))
    onnx, onnxruntime = (importlib.import_module(name) for name in ("onnx", "onnxruntime"))
    assert {node.domain for node in onnx.load(path).graph.node} == {""}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(array) for array in session.run(None, {"images": images.numpy()})]


@needs_onnx
@pytest.mark.parametrize("make", [classifier, segmenter, fcos])
def test_files_give_what_the_network_gives_at_any_size(make, tmp_path, randomized):
    model = randomized(make())
    done = export.export(model, tmp_path / "folder" / "net")
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["net.onnx", "net.pt2"]
    images = torch.randint(0, 256, (5, 3, 165, 309), dtype=torch.uint8)  # unlike those that `export` itself tries
    with torch.no_grad():
        expected = export._tuple(export.network(model)(images))
    for file in done:
        assert tuple(file.differences) == OUTPUTS[make]
        assert max(file.differences.values()) < 1e-4
        if file.path.suffix == ".pt2" and make is not classifier:
            continue  # loading takes seconds, and `export` has done it
        for got, reference in zip(run(file.path, images), expected):
            torch.testing.assert_close(got, reference, rtol=0, atol=1e-4 * reference.std().item())


@pytest.mark.parametrize("make", [fcos, segmenter])
def test_tasks_and_detectors_are_told_apart(make):
    class Holder(nn.Module):
        """Keeps its detector as the task does."""

        def __init__(self, detector):
            super().__init__()
            self.__dict__["detector"] = detector

    model = make()
    names = export.network(model).names
    assert names == OUTPUTS[make]
    if make is fcos:
        assert export.network(Holder(model)).names == names


def test_logits_are_those_of_the_task(randomized):
    images = torch.randint(0, 256, (2, 3, 160, 192), dtype=torch.uint8)
    task = randomized(segmenter())
    with torch.no_grad():
        torch.testing.assert_close(export.network(task)(images), task.logits(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [fcos, retinanet])
def test_the_best_detection_is_among_the_points(make, randomized):
    images = torch.randint(0, 256, (2, 3, 160, 192), dtype=torch.uint8)
    detector = randomized(make())
    network = export.network(detector)
    assert network.names == OUTPUTS[make]
    with torch.no_grad():
        boxes, scores, *centerness = network(images)
        ranked = scores * centerness[0][..., None] if centerness else scores
        for index, found in enumerate(detector.predict(network.normalize(images), [(160, 192)] * 2)):
            whole = boxes[index].clamp(min=0).minimum(torch.tensor([192.0, 160.0, 192.0, 160.0]))
            distance = (whole[:, None] - found["boxes"][0]).abs().amax(-1) / 192
            distance = torch.maximum(distance, (ranked[index] - found["scores"][0]).abs())
            point, label = divmod(distance.argmin().item(), 4)
            assert distance[point, label] < 1e-5
            assert label == found["labels"][0]


@pytest.mark.parametrize("count", [2, 3, 6, (3, 5)])
@pytest.mark.parametrize("size", [(7, 9), (5, 3), (12, 6), (1, 13)])
def test_pooling_by_matrices(count, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(count))
    expected = pool(x)
    export._exact_pools(pool)
    assert isinstance(pool[0], AdaptiveMean)
    torch.testing.assert_close(pool(x), expected, rtol=0, atol=1e-14)


def test_a_wrong_file_is_not_kept(tmp_path, monkeypatch):
    wrong = export.WRITERS["pt2"]

    def write(*args):
        run = wrong(*args)
        return lambda images: [1.01 * output for output in run(images)]

    monkeypatch.setitem(export.WRITERS, "pt2", write)
    with pytest.raises(RuntimeError, match=r"net\.pt2 is off by .* and is not kept"):
        export.export(Fixed(), tmp_path / "net", ["pt2"], multiple=32)
    assert not list(tmp_path.iterdir())


def test_backbones_of_fixed_steps(tmp_path):
    with pytest.raises(InputError, match="--multiple 32"):
        export.export(Fixed(), tmp_path / "net", ["pt2"])
    (done,) = export.export(Fixed(), tmp_path / "net", ["pt2"], multiple=32)
    assert done.differences == {"logits": 0}


class Fixed(nn.Module):
    """Takes no image whose height is no multiple of 32."""

    pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        torch._check(x.shape[-2] % 32 == 0)
        return self.conv(x).mean((2, 3))


@pytest.mark.parametrize(
    ("model", "formats", "words"),
    [
        (nn.Linear(1, 1), ["pt2"], "Linear cannot be exported"),
        (classifier(), ["onx"], "did you mean 'onnx'"),
        (FasterRCNN(create_backbone("test_slak"), 3), ["pt2"], "FCOS and RetinaNet can"),
    ],
)
def test_mistakes_are_said_in_a_sentence(model, formats, words, tmp_path):
    with pytest.raises(InputError, match=words):
        export.export(model, tmp_path / "net", formats)


def test_a_missing_package_is_said_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"onnxruntime: pip install -e '\.\[export\]'"):
        export.export(classifier(), tmp_path / "net")


def test_the_command(tmp_path, capsys):
    torch.save(timm.create_model("test_slak", num_classes=5).state_dict(), tmp_path / "weights.pth")
    output = ["--output", str(tmp_path / "net")]
    weights = ["--weights", str(tmp_path / "weights.pth"), "--num_classes", "5", "--formats", "[pt2]"]
    assert commands.run("export", [*output, "--model", "test_slak", *weights]) == 0
    assert "net.pt2: run and compared" in capsys.readouterr().out
    assert torch.export.load(tmp_path / "net.pt2").module()(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape == (
        1,
        5,
    )
    for options, words in ((["--model", "slak_tny"], "'slak_tiny'"), ([], "either a checkpoint or a model")):
        assert commands.run("export", [*output, *options]) == 1
        assert words in capsys.readouterr().err
