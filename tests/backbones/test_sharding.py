"""Training on two processes: by replicas (DDP) and by shards (FSDP2, each stage a unit of its own), the same losses."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import copy
import sys

import timm
import torch
import torch.distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import lk_downstream

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))


def losses(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for step in range(3):
        x = torch.randn(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(step), dtype=torch.float64)[rank]
        out = model(x)
        loss = out.square().mean() if torch.is_tensor(out) else sum(item.square().mean() for item in out)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def sharded(model, stages):
    for stage in stages:
        fully_shard(stage, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(parameter.to_local().numel() < parameter.numel() for parameter in model.parameters() if parameter.ndim)
    return model


def compare(name, model, stages_of):
    twin = copy.deepcopy(model)
    replicas = list(losses(DistributedDataParallel(model)))
    shards = list(losses(sharded(twin, stages_of(twin))))
    assert len(set(replicas)) == 3, name
    torch.testing.assert_close(shards, replicas, rtol=1e-9, atol=0, msg=lambda text: f"{name}: {text}")


for name in ("test_replknet", "test_slak"):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, dtype=torch.float64)
    model.set_grad_checkpointing()
    compare(name, model, lambda model: model.stages)
torch.manual_seed(0)
model = timm.create_model("convnext_isotropic_small", num_classes=5, depth=2, dim=24, dtype=torch.float64)
compare("isotropic", model, lambda model: [model.blocks])
torch.manual_seed(0)
extractor = lk_downstream.create_backbone("test_replknet", norm_intermediate_features=True).double()
compare("extractor", extractor, lambda model: model.body.stages)
torch.distributed.destroy_process_group()
print("same")
"""


def test_replicas_and_shards_have_the_same_losses(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    environment = {"GLOO_SOCKET_IFNAME": "lo", **os.environ, "OMP_NUM_THREADS": "1"}
    options = {"cwd": Path(__file__).parents[2], "env": environment, "text": True}
    options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    ranks = [subprocess.Popen([sys.executable, str(script), str(rank), str(tmp_path)], **options) for rank in (0, 1)]
    try:
        said = [rank.communicate(timeout=300)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert all(text.rstrip().endswith("same") for text in said), "\n".join(said)[-3000:]
