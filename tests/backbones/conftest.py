"""Golden outputs of the authors' models; see tests/golden/deterministic_weights.py."""

import functools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))

import deterministic_weights  # noqa: E402


@functools.cache
def _filled(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(deterministic_weights.fill(key, shape)))


class Golden:
    """One golden file: the authors' state dict, the input, and what their model computes."""

    def __init__(self, name: str):
        path = GOLDEN / f"{name}.npz"
        self.shapes = deterministic_weights.golden_shapes(path)
        self.data = np.load(path)
        self.image = torch.from_numpy(deterministic_weights.image(1, int(self.data["height"]), int(self.data["width"])))

    @property
    def state(self) -> dict[str, torch.Tensor]:
        return {key: _filled(key, shape) for key, shape in self.shapes.items()}

    def error(self, key: str, actual: torch.Tensor) -> float:
        """Largest difference in units of the standard deviation of the expected output."""
        expected = self.data[key]
        assert actual.shape == expected.shape
        return float(np.abs(actual.detach().numpy() - expected).max() / expected.std())


@pytest.fixture
def golden():
    return Golden


@pytest.fixture
def shapes_of():
    return lambda module: {key: tuple(value.shape) for key, value in module.state_dict().items()}
