"""Exported files of others: data, of which nothing is run but operators on tensors."""

import json
import shutil
import zipfile

import pytest
import torch
from torch import nn

from lk_downstream import InputError, export, exported


class Small(nn.Module):
    pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, 32, 32), "crop_pct": 1.0}
    num_classes = 4

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    (file,) = export.export(Small(), tmp_path_factory.mktemp("good") / "net", ["pt2"])
    return file.path


def changed(source, path, change):
    """A copy of a program whose JSON texts have gone through ``change(name, value)``."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith(".json"):
                data = json.dumps(change(name, json.loads(data))).encode()
            new.writestr(name, data)
    return path


def test_a_good_file_is_read(good):
    model = exported.open_exported(good)
    assert model.run(torch.zeros(2, 3, 40, 50, dtype=torch.uint8))["probabilities"].shape == (2, 4)
    assert model.classes == ("class 0", "class 1", "class 2", "class 3")


@pytest.mark.parametrize(
    "target", ["torch.os.system", "torch.hub.load", "torch.ops.aten.from_file.default", "math.prod"]
)
def test_calls_of_anything_but_operators_are_refused(target, good, tmp_path):
    def change(name, value):
        if "/models/" in name:
            node = value["graph_module"]["graph"]["nodes"][0]
            node["target"] = target
        return value

    with pytest.raises(InputError, match="no operator on tensors"):
        exported.open_exported(changed(good, tmp_path / "bad.pt2", change))


def test_pickles_code_and_expressions_are_refused(good, tmp_path):
    def pickled(name, value):
        if name.endswith("weights_config.json"):
            next(iter(value["config"].values()))["use_pickle"] = True
        return value

    def guards(name, value):
        return value | {"guards_code": ["__import__('os').system('true')"]} if "/models/" in name else value

    def expression(name, value):
        text = json.dumps(value)
        return json.loads(text.replace("Integer(", "__import__('os').system(")) if "/models/" in name else value

    for change, words in ((pickled, "pickle"), (guards, "guards"), (expression, "no expression")):
        with pytest.raises(InputError, match=words):
            exported.open_exported(changed(good, tmp_path / "bad.pt2", change))
    with zipfile.ZipFile(shutil.copy(good, tmp_path / "object.pt2"), "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/data/constants/custom_obj_0", b"")
    with pytest.raises(InputError, match="object"):
        exported.open_exported(tmp_path / "object.pt2")


def test_damaged_and_missing_files_get_a_sentence(good, tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        exported.open_exported(tmp_path / "none.onnx")
    for name, content in (("half.pt2", good.read_bytes()[:1000]), ("text.pt2", b"no archive"), ("text.onnx", b"no")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"damaged|onnxruntime"):
            exported.open_exported(tmp_path / name)

    def silent(name, value):
        return {} if name.endswith("metadata.json") else value

    with pytest.raises(InputError, match="does not say what it predicts"):
        exported.open_exported(changed(good, tmp_path / "silent.pt2", silent))
