"""Write a merged network as ONNX and as a program of torch.export, run both and compare them with the original.

Examples:
python tools/export.py --checkpoint runs/demo_segmentation/run_0/checkpoints/last.ckpt --output exported/demo
python tools/export.py --model replknet_31b --weights in1k --output exported/replknet_31b
"""

import sys

from lk_downstream.commands import run

if __name__ == "__main__":
    sys.exit(run("export"))
