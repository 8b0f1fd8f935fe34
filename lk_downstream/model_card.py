"""The model card of a shared model: README.md with the Hub's front matter, from what a run's folder says."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lk_downstream import trust
from lk_downstream.tasks import Task

TASKS = {  # kind -> the Hub's name of it
    "segmentation": "image-segmentation",
    "detection": "object-detection",
    "classification": "image-classification",
    "multilabel": "image-classification",
}
SHOWN_CLASSES = 200


def write_card(
    path: Path, task: Task, name: str, run: Path, part: str, license: str | None, images: Sequence[str]
) -> None:
    """Write the card.

    Args:
        path: README.md.
        task: the model.
        name: ``user/name``.
        run: the run's folder; what is missing in it is left out.
        part: ``model`` or ``backbone``.
        license: of the weights; None: unknown.
        images: names of images beside the card.
    """
    settings, metrics = _read(run / "config.yaml"), _read(run / "metrics.json")
    backbone = task.backbone.name
    front = {
        "library_name": "timm" if part == "backbone" or task.kind in ("classification", "multilabel") else None,
        "license": license or "unknown",
        "pipeline_tag": TASKS[task.kind] if part == "model" else "image-feature-extraction",
        "tags": ["lk_downstream", task.kind, backbone],
    }
    front = {key: value for key, value in front.items() if value}
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    sections = [
        f"---\n{head}---\n\n# {name}\n\n{_sentence(task, part)}",
        _data(settings),
        _metrics(task, metrics, settings, run) if part == "model" else "",
        _example(task, name, part),
        _classes(task) if part == "model" else "",
        "## Licence\n\n" + (f"Weights: {license}." if license else "The licence of the weights was not given."),
        "\n".join(f"![{image}]({image})" for image in images),
    ]
    path.write_text("\n\n".join(section for section in sections if section) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = trust.read_yaml(path) if path.suffix == ".yaml" else trust.read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sentence(task: Task, part: str) -> str:
    head = next((type(getattr(task, name)).__name__ for name in ("detector", "head") if hasattr(task, name)), None)
    what = f"{head} on {task.backbone.name}" if head else task.backbone.name
    if part == "backbone":
        what = f"The backbone {task.backbone.name}, of a {task.kind} model"
    return f"{what}: {task.kind}, {len(task.classes)} classes; trained with lk_downstream."


def _data(settings: Mapping[str, Any]) -> str:
    data = (settings.get("data") or {}).get("init_args") or {}
    dataset = data.get("dataset") or {}
    if not isinstance(dataset, dict) or not dataset.get("class_path"):
        return ""
    root = str((dataset.get("init_args") or {}).get("root") or "")
    where = f" (`{os.path.basename(root.rstrip('/'))}`)" if root else ""  # no path of somebody's machine
    lines = [f"* Data set: `{str(dataset['class_path']).rsplit('.', 1)[-1]}`{where}"]
    steps = (settings.get("trainer") or {}).get("max_steps")
    for label, value in (("Optimizer steps", steps), ("Images per step", data.get("batch_size"))):
        if isinstance(value, int) and value > 0:
            lines.append(f"* {label}: {value}")
    return "## Training\n\n" + "\n".join(lines)


def _metrics(task: Task, metrics: Mapping[str, Any], settings: Mapping[str, Any], run: Path) -> str:
    best = metrics.get("best") if isinstance(metrics.get("best"), dict) else {}
    rows = [
        f"| {name} | {100 * value:.2f} |" if value <= 1 else f"| {name} | {value:.3g} |"
        for name, value in (best.get("summary") or {}).items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    ]
    if not rows:
        return ""
    config = run.parent.name
    command = f"lk-downstream evaluate --config {config} --ckpt_path CHECKPOINT"
    step = f" at step {best['step']}" if isinstance(best.get("step"), int) else ""
    table = "| metric | percent |\n|---|---|\n" + "\n".join(rows)
    return f"## Metrics\n\nOf the validation{step}, as `{command}` gives them:\n\n{table}"


def _example(task: Task, name: str, part: str) -> str:
    model = f'model = timm.create_model("hf-hub:{name}", pretrained=True)'
    if part == "backbone":
        lines = ["import lk_downstream, timm  # the former knows RepLKNet and SLaK", model]
        return "## Use\n\n```python\n" + "\n".join(lines) + "\n```"
    lines = [
        "import lk_downstream",
        f'model = lk_downstream.load("hf-hub:{name}")',
        'result = model.predict("photo.jpg")',
        "print(result)",
    ]
    text = "## Use\n\n```python\n" + "\n".join(lines) + "\n```"
    if task.kind in ("classification", "multilabel"):
        text += f"\n\nIn timm, after `import lk_downstream, timm`: `{model}`."
    return text


def _classes(task: Task) -> str:
    shown = ", ".join(task.classes[:SHOWN_CLASSES])
    more = f", and {len(task.classes) - SHOWN_CLASSES} more" if len(task.classes) > SHOWN_CLASSES else ""
    return f"## Classes\n\n{shown}{more}"
