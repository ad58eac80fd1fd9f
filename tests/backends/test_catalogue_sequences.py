"""Targets of sequences in real trainings of both frameworks: padding, and one target for all time steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import autotrainer

torch.set_num_threads(1)

WORDS, STEPS = 20, 16
RNG = np.random.default_rng(0)
PADDING = np.arange(STEPS) >= RNG.integers(3, 8, 128)[:, None]
TOKENS = np.where(PADDING, 0, RNG.integers(1, WORDS, PADDING.shape))
TAGS = (TOKENS % 4 == 1).astype(int)
"""Most tokens have the class of the padding."""


class Tagger(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding, self.output = nn.Embedding(WORDS, 8), nn.Linear(8, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.output(self.embedding(tokens))
        return scores


def flat(scores: torch.Tensor, targets: torch.Tensor, **options: Any) -> torch.Tensor:
    return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), targets.reshape(-1), **options)


def without_padding(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    losses = flat(scores, targets, reduction="none")
    counts = targets.reshape(-1) != 0
    return (losses * counts).sum() / counts.sum()


def in_columns(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(scores.movedim(-1, 1), targets)


@pytest.mark.parametrize(
    ("loss", "targets", "found"),
    [
        pytest.param(flat, TOKENS, True, id="flat targets"),
        pytest.param(in_columns, TAGS, True, id="the class of padding is one of the tokens"),
        pytest.param(nn.CrossEntropyLoss(), TAGS, True, id="module"),
        pytest.param(nn.CrossEntropyLoss(ignore_index=0), TOKENS, False, id="ignore_index"),
        pytest.param(in_columns, np.where(PADDING, -100, TAGS), False, id="masked targets"),
        pytest.param(without_padding, TOKENS, False, id="masked loss"),
        pytest.param(nn.CrossEntropyLoss(torch.arange(WORDS).clamp(max=1).float()), TOKENS, False, id="weight of zero"),
    ],
)
def test_pytorch(loss: Callable[..., Any], targets: Any, *, found: bool) -> None:
    torch.manual_seed(0)
    x, y = torch.tensor(TOKENS), torch.tensor(targets)
    model = Tagger(WORDS)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    module = isinstance(loss, nn.Module)
    names = "padded_targets", "target_mismatch"
    with autotrainer.watch(model, optimizer, loss_fn=loss if module else None, select=names, overhead=1.0) as monitor:
        for rows in torch.arange(128).split(32):
            optimizer.zero_grad()
            scores = model(x[rows])
            loss(scores.movedim(-1, 1) if module else scores, y[rows]).backward()
            optimizer.step()
    assert [f.problem for f in monitor.findings] == ["padded_targets"] * found


def masked_loss(targets: Any, scores: Any) -> Any:
    counts = keras.ops.cast(keras.ops.not_equal(targets, 0), "float32")
    losses = keras.losses.sparse_categorical_crossentropy(targets, scores)
    return keras.ops.sum(losses * counts) / keras.ops.sum(counts)


@pytest.mark.parametrize(
    ("loss", "targets", "mask", "weights", "found"),
    [
        pytest.param("sparse_categorical_crossentropy", TOKENS, False, None, True, id="plain"),
        pytest.param("categorical_crossentropy", np.eye(WORDS)[TAGS], False, None, True, id="one-hot"),
        pytest.param("sparse_categorical_crossentropy", TAGS, True, None, False, id="mask"),
        pytest.param("sparse_categorical_crossentropy", TAGS, False, 1 - PADDING, False, id="sample weights"),
        pytest.param(masked_loss, TOKENS, False, None, False, id="masked loss"),
        pytest.param(
            keras.losses.SparseCategoricalCrossentropy(ignore_class=0), TOKENS, False, None, False, id="ignore_class"
        ),
    ],
)
def test_keras(loss: Any, targets: Any, weights: Any, *, mask: bool, found: bool) -> None:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Embedding(WORDS, 8, mask_zero=mask), keras.layers.Dense(WORDS, activation="softmax")]
    model = keras.Sequential([keras.Input((STEPS,)), *layers])
    model.compile("adam", loss)
    with autotrainer.watch(model, select="padded_targets", overhead=1.0) as monitor:
        model.fit(TOKENS, targets, sample_weight=weights, verbose=0)
    assert [f.problem for f in monitor.findings] == ["padded_targets"] * found
    if not found:
        classes = monitor.history.targets.classes
        assert classes in (2, WORDS - 1) or weights is not None  # accuracy leaves padding out, too


ROWS = np.random.default_rng(0).normal(size=(512, 10, 2)).astype("float32")
SUMS = (ROWS[:, :, 0].sum(1) > 0).astype("int64")


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.output = nn.GRU(2, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.output(self.recurrent(x)[0])
        return scores


@pytest.mark.parametrize("repeats", [True, False])
def test_one_target_for_all_time_steps_pytorch(*, repeats: bool) -> None:
    torch.manual_seed(0)
    x, y, model, loss_fn = torch.tensor(ROWS), torch.tensor(SUMS), Recurrent(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, select="target_mismatch", overhead=1.0) as monitor:
        for rows in [*torch.arange(512).split(32)] * 4:
            optimizer.zero_grad()
            scores = model(x[rows])
            targets = y[rows]
            if repeats:
                scores, targets = scores.movedim(2, 1), targets[:, None].expand(-1, 10)
            loss_fn(scores if repeats else scores[:, -1], targets).backward()
            optimizer.step()
    assert [f.severity for f in monitor.findings] == ["warning"] * repeats


@pytest.mark.parametrize("repeats", [True, False])
def test_one_target_for_all_time_steps_keras(*, repeats: bool) -> None:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.GRU(16, return_sequences=repeats), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((10, 2)), *layers])
    model.compile(keras.optimizers.Adam(0.02), "mse")
    with autotrainer.watch(model, select="target_mismatch", overhead=1.0) as monitor:
        model.fit(ROWS, ROWS[:, :, 0].sum(1)[:, None], epochs=4, verbose=0)
    assert [f.severity for f in monitor.findings] == ["warning"] * repeats


@pytest.mark.parametrize("leaves_out", [True, False])
@pytest.mark.parametrize("framework", ["pytorch", "keras3"])
def test_check_finds_padding_before_training(framework: str, *, leaves_out: bool) -> None:
    if framework == "pytorch":
        model: Any = nn.Sequential(nn.Embedding(WORDS, 8), nn.Linear(8, 2), Transposed())
        loss: Any = nn.CrossEntropyLoss(ignore_index=0 if leaves_out else -100)
        data: Any = torch.tensor(TOKENS), torch.tensor(np.where(PADDING, 0, TAGS))
    else:
        layers = [keras.layers.Embedding(WORDS, 8, mask_zero=leaves_out), keras.layers.Dense(2, activation="softmax")]
        model, loss = keras.Sequential([keras.Input((STEPS,)), *layers]), "sparse_categorical_crossentropy"
        data = TOKENS, TAGS
    findings = autotrainer.check(model, data, loss=loss)
    assert ["padded_targets"] * (not leaves_out) == [f.problem for f in findings if f.problem == "padded_targets"]


class Transposed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.movedim(2, 1)
