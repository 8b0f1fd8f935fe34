"""Effective receptive fields of several models as one image, with the area ratios of the RepLKNet paper.

Examples:
python tools/receptive_field.py --models "[convnext_tiny:in1k, replknet_31b:in1k]" --images data/imagenet/val
python tools/receptive_field.py --models "[runs/mine/run_0]" --images photo.jpg --stages true --output field
"""

import sys

from lk_downstream.commands import run

if __name__ == "__main__":
    sys.exit(run("receptive-field"))
