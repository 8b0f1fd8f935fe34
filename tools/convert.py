"""Write a segmentation checkpoint in mmsegmentation's format.

Example: python tools/convert.py runs/upernet_slak_tiny_ade20k/run_0/checkpoints/last.ckpt slak_tiny_ade20k.pth
"""

import sys

from lk_downstream.commands import run

if __name__ == "__main__":
    sys.exit(run("convert"))
