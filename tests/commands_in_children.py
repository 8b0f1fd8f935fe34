"""Commands of the package in processes of their own, which tests signal and kill; they need no time for imports."""

import os
import signal
import sys
import time
import traceback
from pathlib import Path

from lk_downstream.commands import run


class Child:
    """A forked process that runs a subcommand.

    Args:
        name: Of the subcommand.
        args: Its words.
        folder: Its current folder; what it prints goes to ``log.txt`` there.
        environment: Variables that it has beside those of this process.
        before: Called in the process before the subcommand.
    """

    def __init__(self, name, args, folder, environment=None, before=None):
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log.txt"
        self.log.unlink(missing_ok=True)
        self.status = None
        self.pid = os.fork()
        if not self.pid:
            os._exit(self._run(name, args, folder, environment or {}, before))

    def _run(self, name, args, folder, environment, before):
        """Everything from here on happens in the child, which must not come back into the tests."""
        os.setsid()
        os.chdir(folder)
        os.environ.update(environment)
        for target in (1, 2):
            os.dup2(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), target)
        options = {"buffering": 1, "encoding": "utf-8", "closefd": False}
        sys.stdout, sys.stderr = os.fdopen(1, "w", **options), os.fdopen(2, "w", **options)
        sys.argv = ["lk-downstream", name, *args]
        try:
            if before:
                before()
            return run(name, args)
        except SystemExit as error:
            if isinstance(error.code, str):
                print(error.code)
            return error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
            return 99

    def wait(self, seconds=120):
        """Its exit status, negative if a signal has killed it."""
        end = time.monotonic() + seconds
        while not self.done():
            if time.monotonic() > end:
                os.killpg(self.pid, signal.SIGKILL)
                raise AssertionError(f"it does not end:\n{self.printed()}")
            time.sleep(0.01)
        return self.status

    def done(self):
        """Whether it has ended, with its exit status."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def until(self, condition, seconds=120):
        """Wait until ``condition()`` is true; what it gave."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            if self.done():
                raise AssertionError(f"it has ended:\n{self.printed()}")
            assert time.monotonic() < end, self.printed()
            time.sleep(0.005)
        return value

    def send(self, number, group=False):
        """Signal the process, or all of its group."""
        (os.killpg if group else os.kill)(self.pid, number)

    def printed(self):
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8") if Path(self.log).exists() else ""
