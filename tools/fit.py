"""Train and evaluate: ``python tools/fit.py --config configs/demo_segmentation.yaml [overrides]``."""

from lk_downstream.cli import main

if __name__ == "__main__":
    main("fit")
