"""What several of the tests need."""

import faulthandler
import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch: two test processes share the cores
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's background jobs get it; tests of Ctrl-C send it
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
import torch
from _pytest.faulthandler import fault_handler_stderr_fd_key

# Files of a minute or half of one, begun first, so that no process is left with one when the other is at its end.
LONGEST = (
    "test_golden_detectors.py",
    "test_stopping.py",
    "test_detection_task.py",
    "test_files.py",
    "test_configs.py",
    "test_cli.py",
    "test_resume_changed.py",
    "test_costs.py",
    "test_other_machines.py",
    "test_mmseg_files.py",
    "test_classification_configs.py",
    "test_on_cuda.py",
    "test_resume.py",
    "test_start.py",
    "test_triton_kernels.py",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_runtest_setup(item):
    """A Trainer puts back the handlers that Python knows, and with them none for a crash, which then says nothing."""
    if (stderr := item.config.stash.get(fault_handler_stderr_fd_key, None)) is not None:  # not with -p no:faulthandler
        faulthandler.disable()
        faulthandler.enable(file=stderr)


@pytest.fixture(scope="module", autouse=True)
def determinism_ends():
    """A Trainer that is told to be deterministic leaves PyTorch so, with other operators, for the next file."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def draw_nothing():
    """What ``without_plots`` does, with a MonkeyPatch of any scope."""

    def patch(patches: pytest.MonkeyPatch) -> None:
        image = np.zeros((2, 2, 3), dtype=np.uint8)
        for name in (
            *(
                "reports.curves.draw_curves",
                "reports.curves.write_image",
                "callbacks.prediction_grid.segmentation_grid",
            ),
            *("callbacks.classification_plots.reliability_diagram", "callbacks.classification_plots.draw_pairs"),
            *("callbacks.confusion.draw_matrix", "callbacks.plots.write_image", "callbacks.page.write_run_page"),
        ):
            patches.setattr(f"lk_downstream.{name}", lambda *args, **options: image)

    return patch


@pytest.fixture
def without_plots(monkeypatch, draw_nothing):
    """Runs draw nothing, which takes longer than a few steps of a tiny network; the metrics have tests of their own."""
    draw_nothing(monkeypatch)


@pytest.fixture
def randomized():
    """Give a model batch statistics, scales and shifts that are not the initial ones, and put it in eval mode."""

    def fill(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
        generator = torch.Generator().manual_seed(seed)
        for key, value in model.state_dict().items():
            if key.endswith("running_var"):
                value.copy_(1 + 0.5 * torch.rand(value.shape, generator=generator))
            elif value.ndim == 1:
                value.add_(0.3 * torch.randn(value.shape, generator=generator))
        return model.eval()

    return fill
