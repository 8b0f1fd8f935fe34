"""Training on two processes: by replicas (DDP) and by shards (FSDP2, each stage a unit of its own), the same losses."""

import copy

import timm
import torch
import torch.distributed
from processes import in_two_processes
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import lk_downstream


def losses(model, rank):
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for step in range(3):
        x = torch.randn(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(step), dtype=torch.float64)[rank]
        out = model(x)
        loss = out.square().mean() if torch.is_tensor(out) else sum(item.square().mean() for item in out)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def sharded(model, stages, mesh):
    for stage in stages:
        fully_shard(stage, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(parameter.to_local().numel() < parameter.numel() for parameter in model.parameters() if parameter.ndim)
    return model


def compare(name, model, stages_of, rank, mesh):
    twin = copy.deepcopy(model)
    replicas = list(losses(DistributedDataParallel(model), rank))
    shards = list(losses(sharded(twin, stages_of(twin), mesh), rank))
    assert len(set(replicas)) == 3, name
    torch.testing.assert_close(shards, replicas, rtol=1e-9, atol=0, msg=lambda text: f"{name}: {text}")


def compare_all(rank):
    torch.distributed.init_process_group("gloo")
    run = {"rank": rank, "mesh": init_device_mesh("cpu", (2,))}
    for name in ("test_replknet", "test_slak"):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=5, dtype=torch.float64)
        model.set_grad_checkpointing()
        compare(name, model, lambda model: model.stages, **run)
    torch.manual_seed(0)
    model = timm.create_model("convnext_isotropic_small", num_classes=5, depth=2, dim=24, dtype=torch.float64)
    compare("isotropic", model, lambda model: [model.blocks], **run)
    torch.manual_seed(0)
    extractor = lk_downstream.create_backbone("test_replknet", norm_intermediate_features=True).double()
    compare("extractor", extractor, lambda model: model.body.stages, **run)
    torch.distributed.destroy_process_group()


def test_replicas_and_shards_have_the_same_losses():
    in_two_processes(compare_all)
