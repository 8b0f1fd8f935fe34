"""The mean of checkpoints of a run: which, of what, and that it is taken like any other checkpoint."""

import pytest
import torch
from torch import nn

from lk_downstream.backbones.files import check_run
from lk_downstream.errors import InputError
from lk_downstream.tasks.average import average_checkpoints


def folder_of(path, scores, mode="max"):
    """Checkpoints of a network with batch statistics at the steps 1, 2 and so on, and the last, at one step more."""
    checkpoints = path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    states, models = [], {}
    for step in range(1, len(scores) + 2):
        torch.manual_seed(step)
        net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        net[1].running_mean.normal_()
        net[1].num_batches_tracked.fill_(step)
        states.append(net.state_dict())
        name = f"best_step={step}.ckpt" if step <= len(scores) else "last.ckpt"
        if step <= len(scores):
            models[f"elsewhere/{name}"] = torch.tensor(scores[step - 1])
        pick = max if mode == "max" else min
        best = {"best_k_models": dict(models), "best_model_path": pick(models, key=models.get)}
        content = {"state_dict": states[-1], "pytorch-lightning_version": "2.6.0", "recipe": {}, "global_step": step}
        torch.save({**content, "callbacks": {"Checkpoints{...}": best}, "optimizer_states": []}, checkpoints / name)
    return path / "run", states


@pytest.mark.parametrize(
    ("options", "mode", "steps"),
    [
        ({"best": 2}, "max", [1, 3]),
        ({"best": 2}, "min", [2, 4]),
        ({"last": 3}, "max", [2, 3, 4]),
        ({"best": 1}, "max", [3]),
    ],
)
def test_which_and_of_what(tmp_path, options, mode, steps):
    run, states = folder_of(tmp_path, [0.7, 0.1, 0.8, 0.5], mode)
    output = tmp_path / "new" / "mean.ckpt"
    chosen = average_checkpoints(run, output, **options)
    assert sorted(path.name for path in chosen) == [f"best_step={step}.ckpt" for step in steps]
    check_run(output)
    content = torch.load(output, weights_only=True)
    assert "optimizer_states" not in content
    for name, value in content["state_dict"].items():
        parts = [states[step - 1][name] for step in steps]
        expected = torch.stack(parts).double().mean(0).float() if value.is_floating_point() else parts[-1]
        assert torch.equal(value, expected), name
        assert value.dtype == parts[0].dtype
    assert not output.with_name("mean.ckpt.part").exists()


def test_what_cannot_be_averaged(tmp_path):
    run, _ = folder_of(tmp_path, [0.7, 0.1])
    with pytest.raises(InputError, match="holds 2 checkpoints of steps, fewer than 3"):
        average_checkpoints(run, tmp_path / "x.ckpt", best=3)
    with pytest.raises(InputError, match="either --best or --last"):
        average_checkpoints(run, tmp_path / "x.ckpt", best=1, last=1)
    with pytest.raises(InputError, match="is one of the checkpoints"):
        average_checkpoints(run, run / "checkpoints" / "best_step=1.ckpt", best=2)
    path = run / "checkpoints" / "best_step=2.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"].pop("0.bias")
    torch.save(content, path)
    with pytest.raises(InputError, match="are of different models"):
        average_checkpoints(run, tmp_path / "x.ckpt", last=2)
    assert not (tmp_path / "x.ckpt").exists()
