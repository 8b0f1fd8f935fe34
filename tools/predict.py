"""Predict on pictures: ``python tools/predict.py --config runs/NAME/run_0/config.yaml --ckpt_path CHECKPOINT
--data.predict PICTURE_OR_FOLDER``. Labels and overlays are written to a new folder below ``runs/NAME``.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before PyTorch: its threads do not spin where cores are shared

from lk_downstream.cli import main

if __name__ == "__main__":
    main("predict")
