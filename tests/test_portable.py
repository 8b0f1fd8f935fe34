"""What holds on every system is read from the source: encodings, modules and functions of Unix, paths."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [*sorted((ROOT / "lk_downstream").rglob("*.py")), *sorted((ROOT / "tools").glob("*.py"))]
UNIX = {"resource", "fcntl", "termios", "pwd", "grp", "pty", "tty", "posix", "syslog", "crypt", "curses", "readline"}
UNIX_FUNCTIONS = {
    "os": {
        "fork",
        "forkpty",
        "sched_getaffinity",
        "getuid",
        "geteuid",
        "getgid",
        "killpg",
        "getpgid",
        "setsid",
        "uname",
    }
    | {"mkfifo", "chown", "nice", "getloadavg", "statvfs", "symlink", "link", "wait", "waitpid", "sysconf"},
    "signal": {"SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGQUIT", "SIGCHLD", "SIGCONT", "SIGKILL", "SIGSTOP"}
    | {"alarm", "setitimer", "pause", "sigwait", "pthread_kill"},
    "select": {"poll", "epoll", "kqueue"},
    "time": {"tzset"},
}
METHODS = {"symlink_to", "hardlink_to", "rename"}  # of paths; on Windows only `replace` takes an existing file's place
TEXT_METHODS = {"read_text", "write_text"}


def faults(source):
    """Lines of a module, and what would fail or differ on another system."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        fault = _import(node) or _attribute(node) or _call(node)
        if fault and not _guarded(node, parents):
            yield node.lineno, fault


def _import(node):
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    names += [node.module] if isinstance(node, ast.ImportFrom) else []
    return next((f"import {name}" for name in names if name.split(".")[0] in UNIX), None)


def _attribute(node):
    owner = getattr(getattr(node, "value", None), "id", None)
    return ast.unparse(node) if getattr(node, "attr", None) in UNIX_FUNCTIONS.get(owner, ()) else None


def _call(node):
    if not isinstance(node, ast.Call):
        return None
    function, keywords = node.func, {keyword.arg: keyword.value for keyword in node.keywords}
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
    parts = name in ("split", "rsplit") and "path" in owner.lower() and "'/'" in ast.unparse(node)
    if parts or (name in METHODS and owner != "layout"):
        return ast.unparse(node)
    if {"encoding", None} & set(keywords) or owner in ("trust", "Image", "mmap", "tarfile", "archive"):
        return None
    position = 0 if owner and owner not in ("io", "codecs", "gzip", "os") else 1
    mode = keywords.get("mode") or next(iter(node.args[position : position + 1]), None)
    if name in ("open", "fdopen"):
        text = mode is None or (isinstance(mode, ast.Constant) and "b" not in str(mode.value))
        return f"{ast.unparse(node)} without encoding" if text else None
    if name in TEXT_METHODS and owner:
        return f"{ast.unparse(node)} without encoding"
    if name in ("run", "check_output", "Popen") and {"text", "universal_newlines"} & set(keywords):
        return f"{ast.unparse(node)} without encoding"
    return None


def _guarded(node, parents):
    """Whether it stands in a `try` that catches its absence, or behind a question for it."""
    while node := parents.get(node):
        if isinstance(node, ast.Try) and any(
            handler.type is None or any(word in ast.unparse(handler.type) for word in ("ImportError", "AttributeError"))
            for handler in node.handlers
        ):
            return True
        if isinstance(node, ast.If | ast.IfExp) and any(
            word in ast.unparse(node.test) for word in ("hasattr", "sys.platform", "os.name")
        ):
            return True
    return False


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_another_system_lacks(path):
    assert list(faults(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_name_the_encodings_of_their_files(path):
    found = faults(path.read_text(encoding="utf-8"))
    assert [fault for fault in found if fault[1].endswith("without encoding")] == []


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name == "tools"], ids=lambda path: path.stem)
def test_tools_do_nothing_when_a_spawned_worker_imports_them(path):
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call)]
        if isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):
            continue
        if isinstance(statement, ast.Expr | ast.With | ast.For | ast.While):
            assert not calls or ast.unparse(statement).startswith(("sys.path", "os.environ")), ast.unparse(statement)


@pytest.mark.parametrize(
    "source",
    [
        "import resource",
        "from fcntl import flock",
        "import os\nos.sched_getaffinity(0)",
        "import signal\nsignal.signal(signal.SIGUSR1, stop)",
        "import os\nos.symlink(a, b)",
        "import os\nos.rename(a, b)",
        "path.rename(other)",
        "path.symlink_to(other)",
        "path.read_text()",
        "path.write_text(text)",
        "open(path)",
        "open(path, 'w', newline='')",
        "path.open()",
        "path.open('w')",
        "os.fdopen(number, 'w')",
        "subprocess.run(words, text=True)",
        "str(path).split('/')",
        "try:\n    import resource\nexcept OSError:\n    pass",
    ],
)
def test_planted_faults_are_found(source):
    assert len(list(faults(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    import resource\nexcept ImportError:\n    resource = None",
        "count = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1",
        "path.read_text(encoding='utf-8')",
        "open(path, 'rb')",
        "path.open('rb')",
        "os.replace(a, b)",
        "Image.open(path)",
        "subprocess.run(words)",
    ],
)
def test_what_is_right_is_left_alone(source):
    assert list(faults(source)) == []
