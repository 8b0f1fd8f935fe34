"""Exported files: what is written is run at sizes and batches that the trace has not seen, and says what it is."""

import contextlib
import functools
import importlib
import importlib.util
import io

import numpy as np
import pytest
import small_models
import timm
import torch
from PIL import Image
from test_networks import predicted, same_detections
from torch import nn

import lk_downstream
from lk_downstream import InputError, commands, export, exported
from lk_downstream.detectors import CascadeMaskRCNN, FasterRCNN
from lk_downstream.export import files
from lk_downstream.heads import FCNHead
from lk_downstream.heads.layers import AdaptiveMean

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in export.PACKAGES), reason="the extra `export` is missing"
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Files of small models, written once, with the model."""
    folder, done = tmp_path_factory.mktemp("exported"), {}

    def write(name, make, formats):
        if name not in done:
            model = make()
            about = {"license": "mit", "command": "lk-downstream export ..."}
            done[name] = model, export.export(model, folder / name, formats, about=about)
        return done[name]

    return write


def segmentation():
    """With the smallest head."""
    return small_models.segmentation(head=functools.partial(FCNHead, channels=16))


def plain(path):
    """What gives the outputs of a file by name: a program that knows nothing of this package."""
    if path.suffix == ".pt2":
        program = torch.export.load(path)
        assert not any("lk_downstream" in str(node.target) for node in program.graph.nodes)
        module = program.module()
        return lambda images: {"classes": module(images)}
    onnx, onnxruntime = (importlib.import_module(name) for name in ("onnx", "onnxruntime"))
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, map(torch.from_numpy, session.run(None, {"images": images.numpy()}))))


def detection():
    """With all parts of Mask R-CNN and of Cascade R-CNN."""
    return small_models.detection(CascadeMaskRCNN)


@needs_onnx
@pytest.mark.parametrize(
    ("name", "make"), [("detection", detection), ("boxes", lambda: small_models.detection(FasterRCNN))]
)
def test_onnx_files_detect_what_the_task_does(name, make, written):
    """Boxes within 1e-3 pixels, and as many, of every image; of one, rounding may choose between nearly equal ones."""
    task, (file,) = written(name, make, ["onnx"])
    found, others, run = 0, [], plain(file.path)
    (several,) = small_models.images(1, batch=3)
    with torch.no_grad():
        outputs = [(batch[0], run(batch), 0) for batch in small_models.images(20, seed=3)]
        outputs += [(image, run(several), index) for index, image in enumerate(several)]
        for image, got, index in outputs:
            try:
                found += same_detections(predicted(task, image), got, index)
            except AssertionError as error:
                others.append(error)
    assert found > 100
    assert len(others) < 2, others[0]


@needs_onnx
@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_files_segment_as_the_task_does(format, written):
    task, done = written("segmentation", segmentation, ["onnx", "pt2"])
    file = next(file for file in done if file.path.suffix == f".{format}")
    assert file.differences["classes"] < 1e-3
    run = plain(file.path)
    for batch in small_models.images(4, batch=3):
        got = run(batch)["classes"]
        assert (got != task.predict(batch)).float().mean() < 1e-3


@needs_onnx
def test_openvino_gives_what_onnxruntime_does(written):
    openvino = pytest.importorskip("openvino")
    for name, make in (("segmentation", segmentation), ("detection", detection)):
        _, done = written(name, make, ["onnx", "pt2"] if name == "segmentation" else ["onnx"])
        model, run = openvino.Core().compile_model(done[0].path, "CPU"), plain(done[0].path)
        for batch in small_models.images(3, seed=5):
            found = model(batch.numpy())
            for index, (output, expected) in enumerate(run(batch).items()):
                got = torch.from_numpy(found[index])
                assert got.shape == expected.shape, output
                if output == "classes":
                    assert (got != expected).float().mean() < 1e-3
                if output == "boxes":  # rounding chooses between candidates of nearly one score
                    distance = (got[:, :, None] - expected[:, None]).abs().amax(-1)
                    assert (distance.amin(1) < 1e-2).float().mean() > 0.9


@needs_onnx
def test_what_a_file_says_of_itself(written):
    task, done = written("segmentation", segmentation, ["onnx", "pt2"])
    one, other = (exported.open_exported(file.path).metadata for file in done)
    assert one == other == done[0].metadata
    assert one["classes"] == list(task.classes)
    assert one["mean"] == list(task.backbone.mean)
    assert (one["kind"], one["license"], one["resize"], one["decide"]) == ("segmentation", "mit", True, True)
    assert len(one["palette"]) == len(task.classes)
    assert one["versions"]["torch"] == torch.__version__.partition("+")[0] or one["versions"]["torch"]
    assert "RGB" in one["description"]


@needs_onnx
def test_load_predicts_by_a_file_what_it_predicts_by_the_task(written):
    task, done = written("segmentation", segmentation, ["onnx", "pt2"])
    for file in done:
        model = lk_downstream.load(file.path, device="cpu")
        assert (model.task, model.classes) == ("segmentation", task.classes)
        for batch in small_models.images(2):
            expected = task.predict(batch)[0].numpy()
            result = model.predict(batch[0].permute(1, 2, 0).numpy())
            assert (result.mask != expected).mean() < 1e-3
    task, (file,) = written("detection", detection, ["onnx"])
    model = lk_downstream.load(file.path, device="cpu")
    with torch.no_grad():
        for batch in small_models.images(2):
            result = model.predict(batch[0].permute(1, 2, 0).numpy())
            assert len(result.boxes) == len(predicted(task, batch[0])["boxes"])
            assert result.masks.shape[1:] == batch.shape[-2:]


@needs_onnx
def test_the_printed_examples_run(written, tmp_path, monkeypatch):
    _, done = written("segmentation", segmentation, ["onnx", "pt2"])
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((70, 90, 3), np.uint8)).save("photo.jpg")
    for file in done:
        code = export.example(file.path, tuple(file.metadata["outputs"]))
        assert len(code.splitlines()) == 5
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(code, {})
        assert "(1, 70, 90)" in said.getvalue() or "tensor" in said.getvalue()


@pytest.mark.parametrize("count", [2, 3, 6, (3, 5)])
@pytest.mark.parametrize("size", [(7, 9), (5, 3), (12, 6), (1, 13)])
def test_pooling_by_matrices(count, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(count))
    expected = pool(x)
    files.exact_pools(pool)
    assert isinstance(pool[0], AdaptiveMean)
    torch.testing.assert_close(pool(x), expected, rtol=0, atol=1e-14)


def test_a_wrong_file_is_not_kept(tmp_path, monkeypatch):
    right = files.WRITERS["pt2"]

    def write(*args):
        run = right(*args)
        return lambda images: [1.01 * output for output in run(images)]

    monkeypatch.setitem(files.WRITERS, "pt2", write)
    with pytest.raises(RuntimeError, match=r"net\.pt2 is off by .* and is not kept"):
        export.export(Fixed(), tmp_path / "net", ["pt2"], multiple=32, resize=False, decide=False)
    assert not list(tmp_path.iterdir())


def test_backbones_of_fixed_steps(tmp_path):
    with pytest.raises(InputError, match="--multiple 32"):
        export.export(Fixed(), tmp_path / "net", ["pt2"], resize=False)
    (done,) = export.export(Fixed(), tmp_path / "net", ["pt2"], multiple=32, resize=False, decide=False)
    assert done.differences == {"logits": 0}
    found = exported.open_exported(done.path)  # without guards, which would be code
    assert found.probabilities(torch.zeros(1, 3, 64, 96, dtype=torch.uint8)).sum().item() == pytest.approx(1)


def test_classifiers_without_the_resize_take_any_size_of_which_two_pixels_are_left(tmp_path):
    task = small_models.classification()
    (done,) = export.export(task, tmp_path / "net", ["pt2"], resize=False)
    run = plain(done.path)
    original = export.network(task, export.Inside(resize=False)).eval()
    generator = torch.Generator().manual_seed(0)
    assert original.least == 2 * task.backbone.body.feature_info[-1]["reduction"]
    for size in ((1, 3, 64, 64), (2, 3, 65, 150)):
        images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        with torch.no_grad():
            torch.testing.assert_close(run(images)["classes"], original(images), rtol=0, atol=1e-5)


class Fixed(nn.Module):
    """Takes no image whose height is no multiple of 32."""

    pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    num_classes = 4

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
        (Fixed(), ["onx"], "did you mean 'onnx'"),
    ],
)
def test_mistakes_are_said_in_a_sentence(model, formats, words, tmp_path):
    with pytest.raises(InputError, match=words):
        export.export(model, tmp_path / "net", formats)


def test_a_missing_package_is_said_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"onnxruntime: pip install -e '\.\[export\]'"):
        export.export(Fixed(), tmp_path / "net")


def test_the_command(tmp_path, capsys):
    torch.save(timm.create_model("test_slak", num_classes=5).state_dict(), tmp_path / "weights.pth")
    output = ["--output", str(tmp_path / "net")]
    weights = ["--weights", str(tmp_path / "weights.pth"), "--num_classes", "5", "--formats", "[pt2]"]
    options = ["--model", "test_slak", *weights, "--weights_license", "cc0-1.0"]
    assert commands.run("export", [*output, *options]) == 0
    said = capsys.readouterr().out
    assert "net.pt2: run and compared" in said
    assert "torch.export.load(" in said
    found = exported.open_exported(tmp_path / "net.pt2")
    assert found.metadata["license"] == "cc0-1.0"
    assert found.run(torch.zeros(1, 3, 64, 90, dtype=torch.uint8))["probabilities"].shape == (1, 5)
    for options, words in ((["--model", "slak_tny"], "'slak_tiny'"), ([], "either a checkpoint or a model")):
        assert commands.run("export", [*output, *options]) == 1
        assert words in capsys.readouterr().err
