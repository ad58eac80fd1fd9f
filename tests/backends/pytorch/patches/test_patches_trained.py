"""The lines of a patch, pasted into a plain loop, train what `fit` trains with the same edits."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autotrainer import edits as e
from autotrainer.adapter.spec import TrainingSpec
from autotrainer.backends.pytorch.runtime.random_state import mix, seed_all
from autotrainer.reporting.patch import in_patch_order, patch_lines
from autotrainer.testing import RecordedRun

EPOCHS, BATCH = 4, 32
Pasted = dict[str, Any]


def loop(managed: Any, model: nn.Module, edits: Sequence[e.Edit], make: Any, bad: int | None = None) -> nn.Module:
    """Train as `fit` does by default: the same batches, in a loop as users write it, with the lines pasted in.

    Args:
        managed: The task.
        model: A fresh model.
        edits: The edits.
        make: Makes the optimizer.
        bad: A training row that holds NaN, or None.
    """
    x = torch.tensor(managed.x, dtype=torch.float32)
    x[:200][bad if bad is not None else []] = math.nan
    names: Pasted = {
        "torch": torch, "nn": nn, "copy": copy, "math": math, "epochs": EPOCHS, "model": model, "x_train": x[:200],
        "y_train": torch.tensor(managed.y[:200]), "loss_fn": nn.CrossEntropyLoss(),
        "optimizer": make(model.parameters()),
        "train_loader": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x[:200]), BATCH),
    }  # fmt: skip
    order, inside = in_patch_order(edits), {}
    seed_all(0)
    for edit in order:
        code = patch_lines(edit, "pytorch", order)
        if isinstance(edit, e.ClipGradients | e.ScaleInputs | e.AddInputNoise | e.SetMode | e.EncodeTargets):
            inside[type(edit)] = "\n".join(code)
        else:
            exec("\n".join(code), names)
        if edit.change:
            names["optimizer"] = make(names["model"].parameters())
    return _trained(names, {type(edit) for edit in edits}, inside, x[200:], torch.tensor(managed.y[200:]))


def _trained(names: Pasted, kinds: set[type], inside: dict[Any, str], x_val: Any, y_val: Any) -> nn.Module:
    """Run the loop: what a comment asks for is done where it asks for it."""
    model = names["model"]
    loss_fn = names["loss_fn"]
    if e.WeightClasses in kinds:
        loss_fn = nn.CrossEntropyLoss(weight=names["weights"])

    def inputs(x: Any) -> Any:
        place = {**names, "x": x}
        for kind in (e.ScaleInputs, *([e.AddInputNoise] if model.training else [])):
            exec(inside.get(kind, ""), place)
        return place["x"]

    for epoch in range(names["epochs"]):
        optimizer, x, y = names["optimizer"], names["x_train"], names["y_train"]
        if e.ResetOptimizerState in kinds:
            optimizer.state.clear()
        seed_all(mix(0, epoch))
        total, rows, size = 0.0, 0, names["train_loader"].batch_size
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(mix(0, epoch)))
        model.train()
        for part in order.split(size):
            optimizer.zero_grad()
            loss = loss_fn(model(inputs(x[part])), y[part])
            loss.backward()
            if e.Rollback in kinds and not loss.isfinite():
                names["restore_best"]()
                continue
            if e.SkipUpdates in kinds and not names["should_step"]():
                continue
            exec(inside.get(e.ClipGradients, ""), names)
            optimizer.step()
            for scheduler in ("warm_up", "decay"):
                if scheduler in names:
                    names[scheduler].step()
            total, rows = total + float(loss.detach()) * len(part), rows + len(part)
        if e.Rollback in kinds:
            names["check_epoch"](total / rows if rows else math.nan)
        model.eval()
        with torch.no_grad():
            val_loss = float(loss_fn(model(inputs(x_val)), y_val))
        if "scheduler" in names:
            names["scheduler"].step(val_loss)
        if e.StopEarly in kinds:
            if val_loss < names["best"]:
                names |= {"best": val_loss, "waited": 0, "kept": copy.deepcopy(model.state_dict())}
            else:
                names["waited"] += 1
            if names["waited"] >= 1:
                break
    if e.StopEarly in kinds:
        model.load_state_dict(names["kept"])
    return model


def adam(params: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=1e-2)


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.2)


Make = Callable[[Any], torch.optim.Optimizer]
CASES: list[tuple[Make, tuple[e.Edit, ...]]] = [
    (adam, ()),
    (adam, (e.SetLearningRate(0.03),)),
    (adam, (e.SwapOptimizer("rmsprop", 0.01),)),
    (adam, (e.SwapOptimizer("sgd", 0.1, momentum=0.9), e.SetLearningRate(0.05))),
    (sgd, (e.SwapOptimizer("adamw", 0.01),)),
    (sgd, (e.SetMomentum(0.9, nesterov=True),)),
    (sgd, (e.SetWeightDecay(0.02), e.WarmUpRate(10))),
    (adam, (e.TuneAdam(0.95, 1e-10, clip_updates=True), e.SetLearningRate(0.02))),
    (adam, (e.ClipGradients("norm", 0.1),)),
    (sgd, (e.ClipGradients("value", 0.01),)),
    (adam, (e.SkipUpdates(1.0, 8),)),
    (adam, (e.SkipUpdates(3.0, 12), e.ClipGradients("norm", 0.2))),
    (adam, (e.WarmUpRate(9),)),
    (adam, (e.WarmUpRate(9), e.SetLearningRate(0.03))),
    (adam, (e.DecayRate(0.1),)),
    (adam, (e.WarmUpRate(9), e.DecayRate(0.1))),
    (adam, (e.DecayRate(), e.WarmUpRate(1))),
    (adam, (e.ReduceOnPlateau(0.3, 0, 0.05), e.SetLearningRate(0.3))),
    (adam, (e.WarmUpRate(9), e.ReduceOnPlateau(0.3, 0, 0.05))),
    (adam, (e.SetBatchSize(50),)),
    (adam, (e.ExtendTraining(6),)),
    (adam, (e.ExtendTraining(6), e.DecayRate())),
    (lambda params: torch.optim.Adam(params, lr=0.3), (e.StopEarly(1),)),
    (lambda params: torch.optim.SGD(params, lr=3.0), (e.Rollback(1.2, 0.5),)),
    (adam, (e.ResetOptimizerState(1),)),
    (adam, (e.ScaleInputs(),)),
    (adam, (e.ScaleInputs(), e.AddInputNoise(0.1))),
    (adam, (e.SetLoss("cross_entropy", "logits"),)),
    (adam, (e.WeightClasses(),)),
    (adam, (e.ScaleOutputLayer(0.1),)),
    (adam, (e.SwapActivation(("0", "1", "2", "3"), "gelu", reinitialize=False),)),
    (adam, (e.SwapActivation(("0", "1", "2", "3"), "elu"),)),
    (adam, (e.Reinitialize(("0", "2"), "he_uniform"), e.Reinitialize(("4",), "glorot_uniform"))),
    (adam, (e.InsertNormalization(("0", "2")),)),
    (adam, (e.InsertNormalization(("0", "2"), "layer"), e.SetLearningRate(0.03))),
]


@pytest.mark.parametrize(("make", "edits"), CASES, ids=lambda value: str(value) if isinstance(value, tuple) else "")
def test_pasted_lines_train_what_fit_trains(managed: Any, make: Make, edits: tuple[e.Edit, ...]) -> None:
    run = RecordedRun()
    spec = TrainingSpec(EPOCHS, 0).with_edits(edits)
    fitted = managed.trainer(managed.mlp(), optimizer=make, epochs=EPOCHS, batch_size=BATCH).train(spec, run)
    pasted = loop(managed, managed.mlp(), fitted.edits, make)
    x = torch.tensor(managed.x[200:], dtype=torch.float32)
    by_hand = _scaled(fitted.edits, x)
    with torch.no_grad():
        torch.testing.assert_close(pasted.eval()(by_hand), fitted.model(x), rtol=1e-3, atol=1e-4)
    if edits and type(edits[0]) is not e.SetLoss:
        plain = managed.trainer(managed.mlp(), optimizer=make, epochs=EPOCHS).train(TrainingSpec(EPOCHS, 0), run)
        with torch.no_grad():
            assert (plain.model(x) - fitted.model(x)).abs().max() > 0.01, "the edits make a difference"


def _scaled(edits: Sequence[e.Edit], x: torch.Tensor) -> torch.Tensor:
    scale = next((edit for edit in edits if isinstance(edit, e.ScaleInputs)), None)
    return x if scale is None else (x - torch.tensor(scale.mean)) / torch.tensor(scale.std)


@pytest.mark.parametrize("edit", [e.SkipUpdates(6.0, 128), e.Rollback(), e.DropBadRows()], ids=str)
@pytest.mark.parametrize("normalized", [False, True])
def test_pasted_lines_get_over_a_row_that_is_not_finite(managed: Any, edit: e.Edit, normalized: bool) -> None:
    def model() -> nn.Module:
        made = managed.mlp()
        return nn.Sequential(made[0], nn.BatchNorm1d(16), *made[1:]) if normalized else made

    bad = managed.x.copy()
    bad[7] = np.nan
    trainer = managed.trainer(model(), optimizer=adam, epochs=EPOCHS, train=(bad[:200], managed.y[:200]))
    fitted = trainer.train(TrainingSpec(EPOCHS, 0, (edit,)), RecordedRun())
    pasted = loop(managed, model(), fitted.edits, adam, bad=7)
    x = torch.tensor(managed.x[200:], dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(pasted.eval()(x), fitted.model(x), rtol=1e-3, atol=1e-4)
        assert torch.isfinite(fitted.model(x)).all()
