"""What a recipe that lies in a file may name: classes that compute, and plain values."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

from lk_downstream.errors import InputError

# What the recipe in a checkpoint may name: classes that compute, and neither read, write, fetch nor run anything.
CLASSES = frozenset(
    f"{module}.{name}"
    for module, names in {
        "lk_downstream": "create_backbone create_classifier",
        "lk_downstream.tasks": "Classification Detection MultiLabelClassification Segmentation",
        "lk_downstream.tasks.losses": "Dice Focal Lovasz OHEM PixelCrossEntropy SumOfLosses",
        "lk_downstream.heads": "DecodeHead FCNHead UPerHead",
        "lk_downstream.detectors": "CascadeMaskRCNN CascadeRCNN FCOS FasterRCNN MaskRCNN RetinaNet",
        "lk_downstream.inference": "MultiScale MultiScaleBoxes Slide Whole",
        "lk_downstream.optim": "Cosine LayerDecay MultiStep ParameterGroups Poly",
        "torch.optim": "Adadelta Adafactor Adagrad Adam AdamW Adamax ASGD LBFGS Muon NAdam RAdam RMSprop Rprop SGD",
        "torch.optim.lr_scheduler": "ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR "
        "LinearLR MultiStepLR OneCycleLR PolynomialLR StepLR",
        "torch.nn": "BCEWithLogitsLoss CrossEntropyLoss GELU NLLLoss ReLU SiLU",
    }.items()
    for name in names.split()
)
# Settings by which libraries below would read a file or fetch one.
FETCHING = {
    "weights",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint",
    "checkpoint_path",
    "init_cfg",
}
# Other texts of a recipe: no path of a class, no address, no path of a file, no YAML, which a parser would look into.
_WORD = re.compile(r"[\w+-]*", re.ASCII)


def check_recipe(recipe: Any, trusted: Iterable[str] = ()) -> None:
    """Refuse a recipe that could do more than make a model.

    Args:
        recipe: Of a checkpoint: class and arguments of a task as plain data.
        trusted: Classes beside ``CLASSES``.

    Raises:
        InputError: Something else stands where a class, a name or a number may stand; the message goes on from a file's
            name.
    """
    known, waiting = CLASSES | set(trusted), [("recipe", recipe)]
    while waiting:
        place, value = waiting.pop()
        key = place.rsplit(".", 1)[-1]
        if key == "class_path":
            if value not in known:
                raise InputError(
                    f"names {value!r:.100}, a class of another package, which is not imported on the word of a file: "
                    "start with its config.yaml and --ckpt_path, or name the class in load_task's trusted"
                )
        elif key in FETCHING and (isinstance(value, (str, dict)) or value is True):
            raise InputError(f"would read or fetch {value!r:.100} ({place}): take it out of the recipe")
        elif isinstance(value, dict):
            waiting += [(f"{place}.{name}", item) for name, item in value.items()]
        elif place == "recipe.init_args.classes" and isinstance(value, (list, tuple)):
            if odd := next((item for item in value if not isinstance(item, str)), None):
                raise InputError(f"has the class {odd!r:.100}, which is no text")
        elif isinstance(value, (list, tuple)):
            waiting += [(place, item) for item in value]
        elif isinstance(value, str):
            name = value.replace(".", "", 1) if place == "recipe.init_args.backbone.init_args.name" else value
            # A word may still be the name of a file, which the parser would read for settings.
            if not _WORD.fullmatch(name) or os.path.isfile(name):
                raise InputError(f"has {value!r:.100} ({place}), which is neither a number nor a plain word")
        elif not isinstance(value, (int, float, type(None))):
            raise InputError(f"has a {type(value).__name__} ({place}), which is no plain value")
