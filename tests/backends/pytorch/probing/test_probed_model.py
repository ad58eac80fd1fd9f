"""Probes of real PyTorch models: healthy ones are quiet, each fault is named, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import autotrainer
from autotrainer.adapter.probed_model import NotProbedError
from autotrainer.backends.pytorch.probing import probed_model
from autotrainer.backends.pytorch.probing.probed_model import probed_inputs
from autotrainer.diagnostics.probes import run_probes

CODES = ["AT209", "AT210", "AT211", "AT212", "AT505"]
VOCABULARY, POSITIONS = 11, 9
RNG = np.random.default_rng(0)
SEQUENCES = RNG.integers(1, VOCABULARY, (24, POSITIONS + 1))
TOKENS, NEXT = torch.tensor(SEQUENCES[:, :-1]), torch.tensor(SEQUENCES[:, 1:])
PADDED = TOKENS * (torch.arange(POSITIONS) < torch.tensor(RNG.integers(4, 8, (24, 1))))
LABELS = torch.tensor(RNG.integers(0, 2, 24))
ROWS = torch.tensor(RNG.normal(size=(24, 6)), dtype=torch.float32)


class Encoder(nn.Module):
    def __init__(
        self, *, units: int = 2, causal: bool = False, places: str = "normal", pools: bool = True, pads: bool = False,
        batch_first: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8, padding_idx=0)
        self.places = nn.Parameter(torch.randn(POSITIONS, 8) * (places == "normal")) if places else None
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, units)
        self.causal, self.pools, self.pads = causal, pools, pads

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embedding(x)
        if self.places is not None:
            hidden = hidden + self.places[: x.shape[1]]
        mask = torch.triu(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool), 1) if self.causal else None
        padding = x == 0 if self.pads else None
        hidden = self.layers(hidden, mask=mask, src_key_padding_mask=padding)
        if not self.pools:
            return self.head(hidden)
        weights = torch.ones(x.shape) if padding is None else (~padding).float()
        return self.head((hidden * weights[..., None]).sum(1) / weights.sum(1, keepdim=True))


class Decoder(nn.Module):
    """Attention from plain operations, with a mask in a buffer, and dropout that may ignore the mode."""

    def __init__(self, *, hides: bool = True, drops: bool = False) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(VOCABULARY, 8), nn.Embedding(POSITIONS, 8)
        self.project, self.head = nn.Linear(8, 24), nn.Linear(8, VOCABULARY)
        self.register_buffer("mask", torch.tril(torch.ones(POSITIONS, POSITIONS)))
        self.hides, self.drops = hides, drops

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embedding(x) + self.places(torch.arange(x.shape[1]))
        q, k, v = self.project(hidden).chunk(3, -1)
        logits = q @ k.transpose(1, 2) / 8**0.5
        if self.hides:
            logits = logits.masked_fill(self.mask[: x.shape[1], : x.shape[1]] == 0, float("-inf"))
        return self.head(hidden + F.dropout(logits.softmax(-1), 0.2, self.training or self.drops) @ v)


class Functional(nn.Module):
    def __init__(self, function: Callable[..., Any], inputs: int = 6) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(inputs, 16), nn.Linear(6, 16), nn.Linear(16, 2)
        self.function = function

    def forward(self, x: Tensor, other: Tensor | None = None) -> Any:
        return self.function(self, x) if other is None else self.function(self, x, other)


class Recurrent(nn.Module):
    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, 8), nn.Linear(8, 2)
        self.lstm = nn.LSTM(8, 8, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(x))[0][:, -1])


def mlp(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), *layers, nn.ReLU(), nn.Linear(16, 2))


CLASSES = nn.CrossEntropyLoss()
HEALTHY = [
    pytest.param(lambda: Encoder(units=VOCABULARY, causal=True, pools=False), TOKENS, NEXT, id="decoder"),
    pytest.param(Decoder, TOKENS, NEXT, id="plain attention"),
    pytest.param(lambda: Encoder(pads=True), PADDED, LABELS, id="encoder with a padding mask"),
    pytest.param(lambda: Encoder(units=3, pools=False), TOKENS, TOKENS % 3, id="tagger"),
    pytest.param(lambda: Encoder(places="zero"), TOKENS, LABELS, id="positions that start at zero"),
    pytest.param(Recurrent, TOKENS, LABELS, id="LSTM"),
    pytest.param(lambda: mlp(nn.BatchNorm1d(16), nn.Dropout(0.5)), ROWS, LABELS, id="batch norm and dropout"),
    pytest.param(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)),
        ROWS.reshape(24, 1, 2, 3),
        LABELS,
        id="CNN",
    ),
]
FAULTY = [
    pytest.param(lambda: Encoder(units=VOCABULARY, pools=False), TOKENS, NEXT, "AT209", "error", id="no causal mask"),
    pytest.param(lambda: Decoder(hides=False), TOKENS, NEXT, "AT209", "error", id="no mask in plain attention"),
    pytest.param(Encoder, PADDED, LABELS, "AT209", "warning", id="padding not masked"),
    pytest.param(lambda: Encoder(places=""), TOKENS, LABELS, "AT210", "warning", id="no positions"),
    pytest.param(lambda: Encoder(units=2, places="", pools=False), TOKENS, (TOKENS.roll(1, 1) > 5).long(), "AT210",
                 "error", id="no positions, though targets need them"),
    pytest.param(lambda: Encoder(batch_first=False), TOKENS, LABELS, "AT211", "error", id="batch_first left out"),
    pytest.param(lambda: Recurrent(batch_first=False), TOKENS, LABELS, "AT211", "error", id="LSTM over the batch"),
    pytest.param(lambda: mlp(nn.Softmax(0)), ROWS, LABELS, "AT211", "warning", id="softmax over the batch"),
    pytest.param(lambda: mlp(nn.BatchNorm1d(16, track_running_stats=False)), ROWS, LABELS, "AT211", "warning",
                 id="batch norm without running statistics"),
    pytest.param(lambda: Decoder(drops=True), TOKENS, NEXT, "AT212", "warning", id="dropout of attention weights"),
    pytest.param(lambda: Functional(lambda m, x: m.last(F.dropout(m.first(x), 0.3))), ROWS, LABELS, "AT212", "warning",
                 id="dropout as a function"),
    pytest.param(lambda: Functional(lambda m, x: m.last(m.first(x + torch.randn_like(x)))), ROWS, LABELS, "AT212",
                 "warning", id="noise"),
    pytest.param(lambda: Functional(lambda m, x: m.last(m.first(x[:, :4])), 4), ROWS, LABELS, "AT505", "warning",
                 id="columns cut off"),
]  # fmt: skip


def findings(model: nn.Module, x: Any, y: Any) -> list[autotrainer.Finding]:
    torch.manual_seed(0)
    return autotrainer.check(model, (x, y), select=CODES)


def made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize(("make", "x", "y"), HEALTHY)
def test_healthy_models_are_quiet(make: Callable[[], nn.Module], x: Tensor, y: Tensor) -> None:
    assert findings(made(make), x, y) == []


@pytest.mark.parametrize(("make", "x", "y", "code", "severity"), FAULTY)
def test_faults_are_named(make: Callable[[], nn.Module], x: Tensor, y: Tensor, code: str, severity: str) -> None:
    found = findings(made(make), x, y)
    assert [(f.code, str(f.severity)) for f in found] == [(code, severity)]


def test_an_input_that_is_not_used_is_named() -> None:
    model = made(lambda: Functional(lambda m, x, other: m.last(m.first(x) + 0 * m.second(other))))
    (finding,) = autotrainer.check(model, [((ROWS, ROWS.flip(0)), LABELS)] * 2, select=CODES)
    assert "'other'" in finding.message


class Output(dict):  # type: ignore[type-arg]
    """Like the outputs of Hugging Face models."""

    __getattr__ = dict.get


class LanguageModel(nn.Module):
    """Takes keywords, shifts its labels itself, and returns an object with a loss and logits."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.encoder = Encoder(units=VOCABULARY, causal=causal, pools=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> Output:
        logits = self.encoder(input_ids)
        loss = None if labels is None else CLASSES(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return Output(loss=loss, logits=logits)


def test_models_with_keywords_that_compute_their_loss() -> None:
    loader = DataLoader([{"input_ids": row, "labels": row} for row in TOKENS], 8)  # type: ignore[arg-type]
    for causal in (True, False):
        found = autotrainer.check(made(lambda c=causal: LanguageModel(c)), loader, select=CODES)
        assert [f.code for f in found] == ([] if causal else ["AT209"])


@pytest.mark.parametrize("flat", [True, False], ids=["flattened, by a function", "a module"])
def test_watch_probes_a_copy_once_and_changes_nothing(flat: bool) -> None:
    loss_fn = None if flat else nn.CrossEntropyLoss()

    def train(watched: bool) -> tuple[list[Tensor], Any]:
        model = made(lambda: Encoder(units=VOCABULARY, pools=False))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        monitor = autotrainer.watch(model, optimizer, loss_fn=loss_fn, probe=True, select=CODES) if watched else None
        torch.manual_seed(1)
        for x, y in DataLoader(TensorDataset(TOKENS, NEXT), 8, shuffle=True):
            logits = model(x)
            if loss_fn is None:
                loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
            else:
                loss = loss_fn(logits.transpose(1, 2), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if monitor is not None:
            monitor.close()
        assert not model._forward_pre_hooks
        return [*model.parameters(), torch.get_rng_state()], monitor

    watched, monitor = train(watched=True)
    plain, _ = train(watched=False)
    assert all(torch.equal(a, b) for a, b in zip(watched, plain, strict=True))
    assert [f.code for f in monitor.findings] == ["AT209"]
    assert "probes at the start" in " ".join(str(monitor.report()).split())


@pytest.mark.parametrize("kept", [True, False], ids=["a loader", "a loader that only the loop holds"])
def test_the_batch_size_of_a_loader_tells_the_axis_of_rows(kept: bool) -> None:
    model = made(lambda: mlp(nn.Softmax(0)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    data = TensorDataset(ROWS, LABELS)
    loader = DataLoader(data, 12) if kept else None
    monitor = autotrainer.watch(model, optimizer, loss_fn=CLASSES, probe=True, select=CODES)
    for x, y in loader or DataLoader(data, 12):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    monitor.close()
    assert monitor.context.asked["row_effect"] > 0


def test_a_model_that_is_never_called_is_reported_as_not_probed() -> None:
    model = mlp()
    monitor = autotrainer.watch(model, torch.optim.SGD(model.parameters(), 0.1), probe=True)
    monitor.close()
    assert "probes (no call of it was observed)" in monitor.report().run["unmeasured"]


def test_the_model_stays_as_it_is() -> None:
    model = made(lambda: mlp(nn.BatchNorm1d(16), nn.Dropout(0.5))).train()
    before = [value.clone() for value in model.state_dict().values()]
    state = torch.get_rng_state()
    probed = probed_inputs(model, ROWS, LABELS, rows_first=True)
    run_probes(lambda: probed)
    assert all(map(torch.equal, before, model.state_dict().values()))
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    reference = probed.outputs(probed.fields)[0]
    with probed.perturbed() as moved:
        assert moved
        assert not np.array_equal(probed.outputs(probed.fields)[0], reference)
    np.testing.assert_array_equal(probed.outputs(probed.fields)[0], reference)


def test_a_large_model_is_not_copied_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(size: int, free: int | None = None) -> None:
        raise NotProbedError("memory is too short for a copy of the model")

    monkeypatch.setattr(probed_model, "check_memory", short)
    assert autotrainer.check(mlp(nn.Softmax(0)), (ROWS, LABELS), select=CODES) == []


def test_a_model_that_can_not_be_copied_is_left_out() -> None:
    model = mlp(nn.Softmax(0))
    model.cache = model(ROWS)  # type: ignore[assignment]  # part of a graph
    assert autotrainer.check(model, (ROWS, LABELS), select=CODES) == []


@pytest.mark.slow
def test_fit_and_loop_probe_the_trained_model() -> None:
    arrays = TOKENS.numpy().repeat(20, 0), NEXT.numpy().repeat(20, 0)

    class Flat(nn.Module):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    model = made(lambda: Encoder(units=VOCABULARY, pools=False))
    result = autotrainer.fit(
        model, arrays, loss=Flat(), optimizer=lambda p: torch.optim.SGD(p, 0.1), epochs=3, budget=1.2,
        progress=False, select=CODES,
    )  # fmt: skip
    assert [f.code for f in result.findings] == ["AT209"]
    loader = DataLoader(TensorDataset(*map(torch.tensor, arrays)), 32)
    loop = autotrainer.Loop(
        model, torch.optim.SGD(model.parameters(), 0.1), Flat(), loader, epochs=3, select=CODES, progress=False,
        repair=False,
    )  # fmt: skip
    for _ in loop:
        for x, y in loop.train_loader:
            loop.optimizer.zero_grad()
            loss = loop.loss_fn(loop.model(x), y)
            loss.backward()
            loop.optimizer.step()
        loop.end_epoch(val_loss=float(loss.detach()))
    assert [f.code for f in loop.result.findings] == ["AT209"]
