"""Share a trained model on the Hugging Face Hub, or write what would be shared to a folder."""

from __future__ import annotations

from typing import Literal

from lk_downstream.commands.parsing import call


def push(
    run: str,
    name: str,
    part: Literal["model", "backbone"] = "model",
    license: str | None = None,
    private: bool = False,
    output: str | None = None,
) -> int:
    """Share a trained model on the Hugging Face Hub, or write what would be shared to a folder.

    Example: runs/demo_segmentation/run_0 me/shapes --license mit

    Others then load it by lk_downstream.load("hf-hub:me/shapes"), and classifiers and backbones also by
    timm.create_model("hf-hub:me/shapes", pretrained=True).

    Args:
        run: The run's folder (its best checkpoint), or a checkpoint.
        name: On the Hub, user/name; made if it is not there.
        part: The whole model, or its backbone alone in timm's format.
        license: Of the weights, for the model card.
        private: Make it private, if it is made.
        output: A folder to write to instead; nothing is uploaded.
    """
    from lk_downstream import sharing

    print(f"written: {sharing.share(run, name, part, license, private, output)}")
    return 0


def main(args: list[str]) -> int:
    """Share by the words of a command line."""
    return call("push", push, args)
