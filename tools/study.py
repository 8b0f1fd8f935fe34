"""Run a config with several values of its options: ``python tools/study.py --config NAME --vary.OPTION LIST``."""

import sys

from lk_downstream.commands import run

if __name__ == "__main__":
    sys.exit(run("study"))
