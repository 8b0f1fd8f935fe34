"""Write a segmentation checkpoint in mmsegmentation's format.

Example: python tools/convert.py runs/upernet_slak_tiny_ade20k/run_0/checkpoints/last.ckpt slak_tiny_ade20k.pth
"""

import sys
from typing import Literal

from lk_downstream.errors import run_tool
from lk_downstream.tasks.mmseg_files import convert_to_mmseg


def convert(source: str, target: str, names: Literal["authors", "openmmlab"] = "authors") -> int:
    """Write a segmentation checkpoint in mmsegmentation's format; the exit code is 1 if it cannot be done.

    Args:
        source: Checkpoint of this package.
        target: File to write.
        names: Of ConvNeXt's tensors: the authors' (mmsegmentation 0.x) or OpenMMLab's own (mmsegmentation 1.x).
    """
    content = convert_to_mmseg(source, target, names)
    print(f"{target}: {len(content['state_dict'])} tensors, {len(content['meta']['CLASSES'])} classes")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(convert))
