"""Parameters and multiply-adds of the published models beside the published results, or of any model; or the speed,
memory and multiply-adds of trained ones.

python tools/profile.py
python tools/profile.py --model slak_tiny --size 512 2048 --upernet --density 0.6
python tools/profile.py --model replknet_31b --size 224 --merged
python tools/profile.py --checkpoint runs/demo_segmentation/run_0 other.ckpt --sizes 512 --batches 1 8
"""

import sys
import sysconfig
from pathlib import Path

if __name__ == "__main__":
    from lk_downstream.commands import run

    sys.exit(run("profile"))
elif __name__ == "profile":
    # The standard library has a module of this name, which cProfile and so Lightning import; programs in this folder
    # find this file in its place.
    source = (Path(sysconfig.get_path("stdlib")) / "profile.py").read_text(encoding="utf-8")
    exec(compile(source, "profile.py", "exec"))
