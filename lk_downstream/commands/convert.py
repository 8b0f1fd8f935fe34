"""Write a segmentation checkpoint in mmsegmentation's format."""

from __future__ import annotations

from typing import Literal

from lk_downstream.commands.parsing import call


def convert(source: str, target: str, names: Literal["authors", "openmmlab"] = "authors") -> int:
    """Write a segmentation checkpoint in mmsegmentation's format.

    Example: runs/upernet_slak_tiny_ade20k/run_0/checkpoints/last.ckpt slak_tiny_ade20k.pth

    Args:
        source: Checkpoint of this package.
        target: File to write.
        names: Of ConvNeXt's tensors: the authors' (mmsegmentation 0.x) or OpenMMLab's own (mmsegmentation 1.x).
    """
    from lk_downstream.tasks.mmseg_files import convert_to_mmseg

    content = convert_to_mmseg(source, target, names)
    print(f"{target}: {len(content['state_dict'])} tensors, {len(content['meta']['CLASSES'])} classes")
    return 0


def main(args: list[str]) -> int:
    """Convert by the words of a command line."""
    return call("convert", convert, args)
