"""Imported by every Python of a rehearsal, as its ``sitecustomize``: takes away what the machines of others lack.

The environment says what: ``ABSENT``, modules and packages that are not there; ``BROKEN``, modules whose import fails
as OpenCV's does without display libraries; ``WITHOUT``, attributes of modules of the standard library. ``SPAWN`` starts
loader workers as macOS and Windows do.
"""

import importlib.abc
import importlib.machinery
import importlib.metadata
import multiprocessing
import os
import sys

ABSENT, BROKEN, WITHOUT = (os.environ.get(name, "").split() for name in ("ABSENT", "BROKEN", "WITHOUT"))


class Broken(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the broken modules, and fails to run them."""

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name in BROKEN else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")


real = importlib.metadata.Distribution.from_name.__func__


def from_name(cls, name):
    if name in ABSENT:
        raise importlib.metadata.PackageNotFoundError(name)
    return real(cls, name)


sys.meta_path.insert(0, Broken())
sys.modules.update(dict.fromkeys(ABSENT))  # None: `import` says that there is no such module
importlib.metadata.Distribution.from_name = classmethod(from_name)
for name in WITHOUT:
    module, attribute = name.split(".")
    vars(__import__(module)).pop(attribute, None)
if os.environ.get("SPAWN"):
    multiprocessing.set_start_method("spawn")
