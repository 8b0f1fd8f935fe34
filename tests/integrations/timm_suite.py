"""timm's own tests of the installed version, on this package's models: ``python tests/integrations/timm_suite.py``.

They are taken from timm's source distribution, which pip downloads, and run as they are, but that the lists of models
that they go through are cut to ours, and that the models which some name themselves are replaced by ours. Arguments are
handed to pytest, such as ``-k "test_slak and features"``. What is expected to fail stands in a table with the reason;
if it passes, that is a failure too. Not part of the suite: it needs the network, and some minutes.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
import timm

from lk_downstream.backbones import convnext_isotropic, modern_resnet, replknet, slak
from lk_downstream.backbones.formats import to_model_keys

OURS = sorted(timm.list_models(module=["replknet", "slak", "convnext_isotropic", "modern_resnet"]))
SMALL = ["test_replknet", "test_slak", "test_modern_resnet", "convnext_isotropic_small"]

# Tests that name models of their own, and what they are given instead: values for "model_name" and what goes with it.
REPLACED = {
    "test_reset_classifier_keeps_pool": SMALL,
    "test_features_only_grad_checkpointing_backward": SMALL,
    "test_model_features_output_stride": SMALL[:2],
    "test_feature_getter_stage_ends_torchscript": SMALL,
    "test_prune_intermediate_layers_params_used": SMALL,
    "test_forward_after_prune_intermediate_layers": SMALL,
    "test_features_only_feature_cls_class": SMALL,
    "test_catavgmax_unsupported": SMALL[1:],
    "test_head_hidden_size": [(name, {}) for name in SMALL],
    "test_forward_intermediates_stop_early_final_norm": [(name, {}) for name in SMALL],
    "test_headless_checkpoint_reload": [(name, {}) for name in SMALL],
    "test_prune_intermediate_layers_last_feature": [(name, True) for name in SMALL],
}

# (test, model, or "" for all) -> why it is not run
NOT_RUN = {
    ("test_model_load_pretrained", ""): "downloads every published file, several GB",
    ("test_model_features_pretrained", ""): "downloads every published file, several GB",
}

# (test, model, or "" for all) -> why it fails
EXPECTED = {
    ("test_model_features_output_stride", ""): "there is no dilated form of the large kernels: refused in a sentence",
    ("test_features_only_grad_checkpointing_backward", ""): "timm's FeatureGetterNet has no set_grad_checkpointing",
    ("test_forward_after_prune_intermediate_layers", "test_replknet"): (
        "for models without a final norm: RepLKNet's acts on the final map and not on the features, as its authors'"
    ),
}


def restricted(list_models):
    """One of timm's listings, cut to this package's models, in whatever module timm expects them."""

    def listing(filter="", module="", *args, **kwargs):
        return [name for name in list_models(filter, "", *args, **kwargs) if name.split(".")[0] in OURS]

    return listing


def reason(table: dict[tuple[str, str], str], item: pytest.Item) -> str | None:
    test, model = item.originalname, item.callspec.params["model_name"].split(".")[0]
    return table.get((test, model)) or table.get((test, ""))


class Suite:
    """The plugin for pytest."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc):
        values = REPLACED.get(metafunc.function.__name__)
        marks = metafunc.definition.own_markers
        for place, mark in enumerate(marks):
            if values and mark.name == "parametrize" and "model_name" in mark.args[0]:
                marks[place] = pytest.mark.parametrize(mark.args[0], values).mark

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        kept, left = [], []
        for item in items:
            name = getattr(item, "callspec", None) and item.callspec.params.get("model_name")
            ours = isinstance(name, str) and name.split(".")[0] in OURS
            (kept if ours and not reason(NOT_RUN, item) else left).append(item)
        for item in kept:
            if why := reason(EXPECTED, item):
                item.add_marker(pytest.mark.xfail(reason=why, strict=True))
        items[:] = kept
        config.hook.pytest_deselected(items=left)


def main(arguments: list[str]) -> int:
    """Download, unpack the tests alone (the package is the installed one) and run them; pytest's exit code."""
    for place in (timm, timm.models):
        place.list_models = restricted(place.list_models)
    for module in (replknet, slak, convnext_isotropic, modern_resnet):
        module.checkpoint_filter_fn = to_model_keys  # the name under which timm's tests look for it
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "timm"]
        subprocess.run([*command, "--dest", folder, f"timm=={timm.__version__}"], check=True)
        (archive,) = Path(folder).glob("timm-*.tar.gz")
        with tarfile.open(archive) as source:
            source.extractall(folder, [file for file in source if "/tests/" in file.name], filter="data")
        (tests,) = Path(folder).glob("timm-*/tests")
        options = ["-p", "no:cacheprovider", "-W", "ignore", "--rootdir", folder, "-rfExX", "--tb=short"]
        return pytest.main([str(tests / "test_models.py"), *options, *arguments], plugins=[Suite()])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
