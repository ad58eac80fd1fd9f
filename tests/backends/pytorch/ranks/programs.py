"""Trainings in several processes: ``python programs.py SCENARIO``, once for each rank, prints a line of JSON each."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

import autotrainer

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
FOLDER = Path(os.environ["FOLDER"])
COLUMNS = (
    "grad_norm",
    "weight_norm",
    "update_ratio",
    "grad_zero_fraction",
    "weight_rms",
    "weight_grad_rms",
    "bias_rms",
)
ROWS = 8
"""Rows of the batch of each rank."""

log: list[str] = []


class Lines(logging.Handler):
    """Collects log messages."""

    def emit(self, record: logging.LogRecord) -> None:
        log.append(record.getMessage())


def network(width: int = 33) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 32), nn.ReLU(), nn.LayerNorm(32), nn.Linear(32, width), nn.ReLU(), nn.Linear(width, 4)
    )


def batch(step: int, rank: int | None = RANK) -> tuple[Tensor, Tensor]:
    """Return the batch of a rank in a step; None: those of all ranks."""
    generator = torch.Generator().manual_seed(step)
    weights = torch.randn(16, generator=torch.Generator().manual_seed(7))
    x = torch.randn(ROWS * WORLD, 16, generator=generator)
    y = ((x @ weights) > 0).long() + 2 * (x[:, 0] > 0).long()
    part = slice(None) if rank is None else slice(ROWS * rank, ROWS * (rank + 1))
    return x[part], y[part]


def wrapped(model: nn.Sequential, how: str) -> nn.Module:
    """Return the model as it is trained in several processes."""
    mesh = init_device_mesh("cpu", (WORLD,))
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    if how == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    if how == "meta":  # built without memory, sharded, and filled then
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor import distribute_tensor

        with torch.device("meta"):
            empty = network()
        sharded = fully_shard(empty, mesh=mesh).to_empty(device="cpu")
        with torch.no_grad():
            for parameter, values in zip(sharded.parameters(), model.parameters(), strict=True):
                parameter.to_local().copy_(distribute_tensor(values, mesh, parameter.placements).to_local())
        return sharded
    if how in ("fsdp2", "hsdp"):
        from torch.distributed.fsdp import fully_shard

        mesh = (
            init_device_mesh("cpu", (2, WORLD // 2), mesh_dim_names=("replicas", "shards")) if how == "hsdp" else mesh
        )
        for layer in linear:
            fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)
    if how in ("fsdp1", "fsdp1_flat"):
        from torch.distributed.fsdp import FullyShardedDataParallel
        from torch.distributed.fsdp.wrap import ModuleWrapPolicy

        policy = ModuleWrapPolicy({nn.Linear})
        return FullyShardedDataParallel(
            model, use_orig_params=how == "fsdp1", auto_wrap_policy=policy, device_id=torch.device("cpu")
        )
    if how.startswith("tensor"):
        from torch.distributed.tensor import Replicate, Shard
        from torch.distributed.tensor.parallel import (
            ColwiseParallel,
            PrepareModuleOutput,
            RowwiseParallel,
            SequenceParallel,
            parallelize_module,
        )

        plan: dict[str, Any] = {"3": ColwiseParallel(), "5": RowwiseParallel()}
        if how == "tensor_sequence":  # gradients of the normalization are sums over ranks
            split = PrepareModuleOutput(
                output_layouts=Replicate(), desired_output_layouts=Shard(0), use_local_output=False
            )
            plan["1"] = split
            plan["2"] = SequenceParallel(sequence_dim=0, use_local_output=False)
            plan["3"] = ColwiseParallel(input_layouts=Shard(0))
        return parallelize_module(model, mesh, plan)
    return model


def train(
    model: nn.Module, steps: int, *, watched: bool = True, whole: bool = False, change: Any = None, **options: Any
) -> tuple[Any, list[float]]:
    """Train for some steps; ``change(step, x, y)`` returns another batch."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, foreach=False)
    loss_fn = nn.CrossEntropyLoss()
    monitor = autotrainer.watch(model, optimizer, loss_fn=loss_fn, overhead=1.0, **options) if watched else None
    losses = []
    for step in range(steps):
        x, y = batch(step, None if whole else RANK)
        x, y = (x, y) if change is None else change(step, x, y)
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if monitor is not None:
        monitor.close()
    return monitor, losses


def show(**result: Any) -> None:
    print("RESULT", json.dumps(result), flush=True)


def verdict(monitor: Any) -> dict[str, Any]:
    """Return what a monitor says of its run."""
    return {
        "steps": monitor.history.steps.tolist(),
        "findings": {f.problem: f.message for f in monitor.findings},
        "notes": monitor.report().to_dict()["run"]["notes"],
        "facts": dict(monitor.context.asked),
        "logs": sorted(path.name for path in FOLDER.glob("*.jsonl")),
        "log": log,
    }


def hashed(model: nn.Module) -> list[float]:
    local = [p.to_local() if hasattr(p, "to_local") else p for p in model.parameters()]
    return [float(p.detach().double().sum()) for p in local]


# -- scenarios ---------------------------------------------------------------------------------------------------------


def norms(kinds: str) -> None:
    """Statistics of a spread model, beside those of the whole one in one process."""
    import autotrainer.backends.pytorch.ranks.rank_schedule as rank_schedule
    import autotrainer.backends.pytorch.watching.observer as observer

    several = observer.several_ranks
    observer.several_ranks = rank_schedule.several_ranks = lambda: False
    width = 32 if "tensor" in kinds else 33  # tensor parallelism takes parts of one size alone
    reference, _ = train(network(width), 3, whole=True)
    observer.several_ranks = rank_schedule.several_ranks = several
    for how in kinds.split(","):
        monitor, _ = train(wrapped(network(width), how), 3, whole=how.startswith("tensor"), log_dir=FOLDER / how)
        if RANK == 0:
            tables = [{name: each.history.layer(name).tolist() for name in COLUMNS} for each in (monitor, reference)]
            totals = [each.history.scalar("grad_norm").tolist() for each in (monitor, reference)]
            show(
                how=how,
                steps=monitor.history.steps.tolist(),
                tables=tables,
                totals=totals,
                notes=verdict(monitor)["notes"],
            )
        else:
            show(how=how, **verdict(monitor))


def collectives(how: str) -> None:
    """Collective operations on the user's group in sampled steps and in others."""
    model = wrapped(network(), how)
    group = dist.distributed_c10d._get_default_group()
    optimizer, loss_fn = torch.optim.AdamW(model.parameters(), 1e-3), nn.CrossEntropyLoss()
    counts: dict[str, list[int]] = {}
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, overhead=1.0) as monitor:
        for step in range(44):
            before = group._get_sequence_number_for_group()
            sampled = monitor.observer.sampling
            x, y = batch(step)
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
            if step >= 2:  # in the second one, DistributedDataParallel rebuilds its buckets
                kind = "sampled" if sampled else "other"
                counts.setdefault(kind, []).append(group._get_sequence_number_for_group() - before)
    show(counts=counts, **verdict(monitor))


def identity(kinds: str) -> None:
    """Losses and weights with and without watching."""
    for how in kinds.split(","):
        results = []
        for watched in (True, False):
            model = wrapped(network(), how)
            _, losses = train(model, 20, watched=watched)
            results.append((losses, hashed(model)))
        show(how=how, equal=results[0] == results[1])


def some(how: str, watching: str) -> None:
    """Only some ranks watch."""
    model = wrapped(network(), how)
    monitor, losses = train(model, 20, watched=str(RANK) in watching, log_dir=FOLDER)
    show(losses=losses, **({} if monitor is None else verdict(monitor)))


def faults(kind: str) -> None:
    """A fault on one rank, the last one."""
    model, last = network(), RANK == WORLD - 1
    change = None
    if kind == "weights" and last:
        with torch.no_grad():
            model[3].weight.mul_(1.1)
    at, steps = (275, 300) if kind == "late_nan" else (5, 12)  # of the later steps, few are sampled
    if kind in ("nan", "late_nan", "inputs", "scale"):

        def change(step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            if last and kind in ("nan", "late_nan") and step == at:
                x[0, 0] = float("nan")
            return (x * 20, y) if last and kind == "scale" else (x, y)

    if kind == "twins":

        def change(step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return batch(step, min(RANK, WORLD - 2))

    bare = kind in ("weights", "gradients")
    if bare:  # averages gradients by hand
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(lambda p: _average(p, alone=kind == "gradients"))
    trained = model if bare else wrapped(model, "ddp")
    monitor, _ = train(trained, steps, change=change, log_dir=FOLDER)
    show(**verdict(monitor))


def _average(parameter: Tensor, *, alone: bool) -> None:
    assert parameter.grad is not None
    gradient = parameter.grad.clone()
    dist.all_reduce(gradient)
    if not (alone and RANK == WORLD - 1):
        parameter.grad.copy_(gradient / WORLD)


def killed(how: str) -> None:
    """The last rank is killed; the others notice by their own collectives."""
    model = wrapped(network(), how)

    def change(step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if step == 6 and RANK == WORLD - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return x, y

    try:
        train(model, 40, change=change, log_dir=FOLDER)
    except Exception as error:  # noqa: BLE001
        show(error=type(error).__name__, log=log)
    sys.exit(3)


def uneven(joined: str) -> None:
    """The last rank has fewer batches, in each of two epochs."""
    from torch.distributed.algorithms.join import Join

    model = wrapped(network(), "ddp")
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss()
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, overhead=1.0, log_dir=FOLDER) as monitor:
        for epoch in range(2):
            with Join([model]):
                for step in range(20 - 5 * (RANK == WORLD - 1)):
                    x, y = batch(100 * epoch + step)
                    optimizer.zero_grad()
                    loss_fn(model(x), y).backward()
                    optimizer.step()
    show(**verdict(monitor))


def accumulation(how: str) -> None:
    """Gradients accumulate in `no_sync`, and the loop depends on the rank."""
    model = wrapped(network(), "ddp")
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss()
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, overhead=1.0) as monitor:
        for step in range(12):
            optimizer.zero_grad()
            for micro in range(2):
                x, y = batch(10 * step + micro)
                with model.no_sync() if micro == 0 else nullcontext():
                    (loss_fn(model(x), y) / 2).backward()
            optimizer.step()
            if RANK == 0 and step % 4 == 0:
                monitor.end_epoch(val_loss=1.0)
    show(**verdict(monitor))


def stages(how: str) -> None:
    """Each rank trains a stage of a pipeline; only the last has a loss."""
    torch.manual_seed(RANK)
    last = RANK == WORLD - 1
    stage: nn.Module = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
    if last:
        stage = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer, loss_fn = torch.optim.Adam(stage.parameters(), 1e-2), nn.CrossEntropyLoss()
    with autotrainer.watch(
        stage, optimizer, loss_fn=loss_fn if how == "all" or last else None, overhead=1.0
    ) as monitor:
        for step in range(60):
            x, y = batch(step, 0)
            if RANK:
                x = torch.empty(ROWS, 16)
                dist.recv(x, RANK - 1)
                x.requires_grad_()
            optimizer.zero_grad()
            output = stage(x)
            if last:
                loss_fn(output, y).backward()
            else:
                dist.send(output.detach(), RANK + 1)
                gradient = torch.empty_like(output)
                dist.recv(gradient, RANK + 1)
                output.backward(gradient)
            if RANK:
                dist.send(x.grad, RANK - 1)
            optimizer.step()
    show(**verdict(monitor))


SCRIPT = """
import torch
from torch import nn
torch.manual_seed(0)
layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2), nn.Softmax(1))
model = nn.parallel.DistributedDataParallel(layers)
optimizer = torch.optim.Adam(model.parameters(), 0.01)
for step in range(40):
    x = torch.randn(32, 8)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
    optimizer.step()
"""


def script() -> None:
    """A script that does not call watch, under `autotrainer run`."""
    from autotrainer.cli import main

    path, errors = FOLDER / f"script{RANK}.py", io.StringIO()
    path.write_text(SCRIPT)
    with redirect_stderr(errors):
        status = main(["run", "--steps", "40", str(path)])
    show(status=status, errors=errors.getvalue(), log=log)


if __name__ == "__main__":
    logging.getLogger("autotrainer").addHandler(Lines())
    dist.init_process_group("gloo")
    globals()[sys.argv[1]](*sys.argv[2:])
    dist.barrier()
    dist.destroy_process_group()
