"""Trains what pictures show: a loop that is watched, and trainings as `fit` runs them."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch  # noqa: TID253 - only make_pictures.py imports this file
from torch.utils.data import DataLoader, TensorDataset  # noqa: TID253

import autotrainer
from autotrainer import registry
from autotrainer.adapter.spec import FitRequest, TrainingSpec
from autotrainer.api.replay import recorded_run
from autotrainer.edits import Edit
from autotrainer.records.data import normalize
from autotrainer.scoring.metric_selection import MetricSelection
from autotrainer.scoring.scorer import Scorer
from autotrainer.training.budget import Budget
from autotrainer.training.run import ManagedRun
from pictures.run import Run, Trained

__all__ = ["train", "train_managed"]


def train(run: Run) -> Trained:
    """Train in a loop of its own, watched."""
    torch.manual_seed(0)
    model, (x, y), loss, loop = run.model(), run.data(), run.loss(), run.loop
    optimizer = run.optimizer(model)
    held_out = None if run.validation is None else run.validation()
    scaler = torch.amp.GradScaler("cpu", enabled=loop.scaled)
    step, scales = 0, list[float]()
    with tempfile.TemporaryDirectory() as folder:
        with autotrainer.watch(
            model, optimizer, loss_fn=loss, epochs=run.epochs, log_dir=folder, overhead=1.0
        ) as monitor:
            for _ in range(run.epochs):
                model.train(loop.trains)
                order = torch.randperm(len(x)) if loop.shuffled else torch.arange(len(x))
                for chosen in order.split(run.batch_size):
                    inputs, targets = loop.batch(step, x[chosen], y[chosen])
                    if loop.zero_grad:
                        optimizer.zero_grad()
                    for part, wanted in zip(
                        inputs.chunk(loop.accumulated), targets.chunk(loop.accumulated), strict=True
                    ):
                        outputs = model(part)
                        value = loss(outputs, wanted)
                        if loop.term is not None:
                            term = loop.term(outputs, part)
                            monitor.log(losses={"targets": value, "other": term})
                            value = value + term
                        scaler.scale(value / loop.accumulated if loop.divided else value).backward()
                    loop.each_step(step, model, optimizer)
                    scaler.step(optimizer)
                    scaler.update()
                    scales.append(scaler.get_scale())
                    step += 1
                if held_out is not None:
                    if loop.evaluates:
                        model.eval()
                    with torch.no_grad():
                        parts = len(held_out[0]) if loop.singly else 1
                        outputs = torch.cat([model(part) for part in held_out[0].chunk(parts)])
                        monitor.end_epoch(val_loss=loss(outputs, held_out[1]))
                else:
                    monitor.end_epoch()
        (log,) = Path(folder).glob("*.jsonl")
        history, context = recorded_run(log)
    points = (range(step), scales) if loop.scaled else None
    return Trained(history, context, [*monitor.findings, *_found_otherwise(run)], points)


def _found_otherwise(run: Run) -> list[autotrainer.Finding]:
    """Return what `check` or `fit` finds, where they are asked."""
    torch.manual_seed(0)
    if run.by == "watch":
        return []
    model, data = run.model(), run.data()
    if run.by == "check":
        return autotrainer.check(model, data, loss=run.loss())
    assert run.validation is not None
    result = autotrainer.fit(
        model, data, run.validation(), loss=run.loss(), optimizer=run.optimizer(model), epochs=run.epochs,
        batch_size=run.batch_size, budget=1.1, progress=False,
    )  # fmt: skip
    return list(result.findings)


def train_managed(run: Run, edits: tuple[Edit, ...] = ()) -> Trained:
    """Train as `fit` does, with edits."""
    torch.manual_seed(0)
    model, (x, y), loss = run.model(), run.data(), run.loss()
    held_out = (run.validation or run.data)()
    given = (x, y) if run.loop.shuffled else DataLoader(TensorDataset(x, y), run.batch_size)
    data, validation = normalize(given, "train_data"), normalize(held_out, "validation_data")
    trainer = registry.backend_of(model).trainer(
        FitRequest(
            model, data, validation, loss, run.optimizer(model), run.epochs, run.batch_size, scheduler=run.scheduler
        )
    )
    spec = TrainingSpec(run.epochs, 0).with_edits(edits)
    scorer = Scorer(MetricSelection("auto"), trainer.context, data)
    managed = ManagedRun(spec, registry.make_rules(), Budget(math.inf), scorer, data, validation, stop_if_stuck=False)
    trainer.train(spec, managed)
    managed.monitor.finish()
    return Trained(managed.monitor.history, managed.monitor.context, managed.monitor.findings)
