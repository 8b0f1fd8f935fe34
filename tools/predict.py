"""Predict on images: ``python tools/predict.py --config runs/NAME/run_0/config.yaml --ckpt_path CHECKPOINT
--data.predict IMAGE_OR_FOLDER``. Labels and overlays are written to a new folder below ``runs/NAME``.
"""

import sys

from lk_downstream.commands import run

if __name__ == "__main__":
    sys.exit(run("predict"))
