"""``python -m lk_downstream``, which is the command ``lk-downstream``."""

import sys

from lk_downstream.commands import main

if __name__ == "__main__":
    sys.exit(main())
