"""What the rehearsals share."""

import logging
import warnings

import pytest
from tables import Table

import lk_downstream.ops.choice as choice


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """Where the generated data of the three tasks are."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """PyTorch's table of operators."""
    return Table(tmp_path_factory.mktemp("table"))


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """Candidates of the operator are run, but not timed over and over; Lightning keeps its advice to itself."""
    patch = pytest.MonkeyPatch()
    patch.setattr(choice, "PATIENCE", 0.0)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    patch.undo()
    choice.clear()
