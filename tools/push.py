"""Share a trained model on the Hugging Face Hub, or write what would be shared to a folder.

Example:
python tools/push.py runs/demo_segmentation/run_0 me/shapes --license mit
"""

import sys

from lk_downstream.commands import run

if __name__ == "__main__":
    sys.exit(run("push"))
