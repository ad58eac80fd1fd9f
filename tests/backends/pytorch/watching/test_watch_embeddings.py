"""Embeddings: gradients of the rows that occur, order of indices, tied weights, and origins of weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autotrainer
from autotrainer.backends.pytorch.model.describe import layers
from autotrainer.backends.pytorch.model.ties import Ties
from autotrainer.backends.pytorch.model.weight_patterns import weight_origins
from autotrainer.backends.pytorch.statistics.attention import score_attention
from autotrainer.records.history import RunHistory

torch.set_num_threads(1)


class Tagger(nn.Module):
    """Embeds tokens and positions, and gives scores of a class for each token."""

    def __init__(self, *, sparse: bool = False, padding: int | None = None, detach: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens = nn.Embedding(20, 8, sparse=sparse, padding_idx=padding)
        self.pos_embed = nn.Parameter(torch.randn(1, 12, 8))
        self.out = nn.Linear(8, 20)
        self.detach = detach

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, (rows, time, classes)."""
        positions = self.pos_embed.detach() if self.detach else self.pos_embed
        out: Tensor = self.out(self.tokens(x) + positions)
        return out


def watched(model: nn.Module, draw: Callable[[], Tensor] | None = None, steps: int = 8) -> RunHistory:
    torch.manual_seed(1)
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss()
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, steps=steps, overhead=1) as monitor:
        for _ in range(steps):
            x = torch.randint(0, 20, (16, 12)) if draw is None else draw()
            loss = loss_fn(model(x).flatten(0, 1), x.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    history: RunHistory = monitor.history
    return history


def column(history: RunHistory, layer: str, name: str) -> Any:
    row = [info.name for info in history.layers].index(layer)
    return history.layer(name)[:, row]


@pytest.mark.parametrize("sparse", [False, True])
def test_every_row_that_occurs_has_a_gradient(sparse: bool) -> None:
    history = watched(Tagger(sparse=sparse))
    assert (column(history, "tokens", "lookups_without_gradient") == 0).all()
    assert column(history, "tokens", "frequent_rows")[-1] == 20
    assert column(history, "tokens", "rows_without_gradient")[-1] == 0
    assert (column(history, "tagger", "position_grad_norm") > 0).all()


@pytest.mark.parametrize("sparse", [False, True])
def test_the_row_of_padding_does_not_count(sparse: bool) -> None:
    history = watched(Tagger(sparse=sparse, padding=3))
    assert (column(history, "tokens", "lookups_without_gradient") == 0).all()
    assert column(history, "tokens", "frequent_rows")[-1] == 19
    assert column(history, "tokens", "rows_of_zero")[-1] == 0


def test_rows_without_gradient_and_rows_of_zero_are_counted() -> None:
    model = Tagger()
    with torch.no_grad():
        model.tokens.weight[:5] = 0
    model.tokens.weight.register_hook(lambda g: torch.cat([torch.zeros_like(g[:5]), g[5:]]))
    history = watched(model)
    assert column(history, "tokens", "rows_without_gradient")[-1] == 5
    assert column(history, "tokens", "rows_of_zero")[-1] == 5
    assert column(history, "tokens", "lookups_without_gradient")[-1] == pytest.approx(0.25)


def test_zero_rows_of_a_frozen_table_are_counted() -> None:
    model = Tagger()
    with torch.no_grad():
        model.tokens.weight[:5] = 0
    model.tokens.weight.requires_grad_(False)
    history = watched(model)
    assert column(history, "tokens", "rows_of_zero")[-1] == 5
    assert np.isnan(column(history, "tokens", "lookups_without_gradient")).all()


def test_positions_without_gradient() -> None:
    assert (column(watched(Tagger(detach=True)), "tagger", "position_grad_norm") == 0).all()


@pytest.mark.parametrize(
    ("draw", "between"),
    [
        (lambda: torch.randint(1, 20, (16, 12)) * (torch.arange(12) < torch.randint(4, 12, (16, 1))), 0.0),
        (lambda: torch.randint(1, 20, (16, 12)) * (torch.arange(12) != 5), 1.0),
    ],
)
def test_padding_between_tokens(draw: Callable[[], Tensor], between: float) -> None:
    history = watched(Tagger(padding=0), draw)
    assert (column(history, "tokens", "padding_between") == between).all()


def test_order_of_indices() -> None:
    rising = watched(Tagger(), lambda: torch.arange(12).expand(16, 12))
    equal = watched(Tagger(), lambda: torch.full((16, 12), 7))
    assert (column(rising, "tokens", "rising_indices") == 1).all()
    assert (column(equal, "tokens", "equal_indices") == 1).all()


def test_a_subclass_with_other_arguments_is_measured_at_the_call_of_the_function() -> None:
    class Scaled(nn.Embedding):
        def forward(self, input: Tensor) -> Tensor:
            return 3 * F.embedding(input + 1, self.weight)

    model = Tagger()
    model.tokens = Scaled(21, 8)
    history = watched(model)
    assert (column(history, "tokens", "lookups_without_gradient") == 0).all()
    assert column(history, "tokens", "frequent_rows")[-1] == 20


def tie(model: nn.Module) -> dict[str, tuple[str, str]]:
    annotated = Ties(model).annotate(layers(model))
    return {info.name: (info.tied_to, info.tie) for info in annotated if info.tie}


def test_a_copy_of_a_table_is_no_tie() -> None:
    model = Tagger()
    assert tie(model) == {}
    model.out.weight = nn.Parameter(model.tokens.weight.detach().clone())
    assert tie(model) == {"out": ("tokens", "equal")}
    model.out.weight = model.tokens.weight
    assert tie(model) == {"out": ("tokens", "kept")}


def test_a_lost_tie() -> None:
    model = Tagger()
    model.out.weight = model.tokens.weight
    ties = Ties(model)
    model.out.weight = nn.Parameter(model.tokens.weight.detach().clone())
    assert [info.tie for info in ties.annotate(layers(model)) if info.name == "out"] == ["lost"]


def test_tables_of_one_value_are_no_copies() -> None:
    model = Tagger()
    for parameter in (model.out.weight, model.tokens.weight):
        nn.init.zeros_(parameter)
    assert tie(model) == {}


def test_a_declared_tie() -> None:
    class Config:
        tie_word_embeddings = True

    class Declared(Tagger):
        config = Config()
        _tied_weights_keys = ("out.weight",)

        def get_input_embeddings(self) -> nn.Module:
            return self.tokens

        def get_output_embeddings(self) -> nn.Module:
            return self.out

    model = Declared()
    assert tie(model) == {"out": ("tokens", "declared")}
    model.out.weight = model.tokens.weight
    assert tie(model) == {"out": ("tokens", "kept")}


def test_origin_of_weights() -> None:
    torch.manual_seed(0)
    modules = [nn.LayerNorm(32), nn.LayerNorm(32), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(3, 3)]
    with torch.no_grad():
        modules[1].weight[3] = 0.9  # type: ignore[index]
        modules[3].weight += torch.randn(64, 1) @ torch.randn(1, 64) / 20
    assert weight_origins(modules) == ["drawn", "trained", "drawn", "trained", ""]


@pytest.mark.parametrize("form", ["function", "method", "module"])
def test_written_out_attention_is_measured(form: str) -> None:
    class Attention(Tagger):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)
            self.softmax = nn.Softmax(-1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.tokens(x) + self.pos_embed
            q, k, v = (part.view(-1, 12, 2, 4).transpose(1, 2) for part in (self.query(h), self.key(h), h))
            scores = (q @ k.transpose(-2, -1) / 2).masked_fill(torch.ones(12, 12).triu(1) > 0, -math.inf)
            weights = {"function": F.softmax, "method": Tensor.softmax}.get(form, lambda s, dim: self.softmax(s))(
                scores, dim=-1
            )
            self.scores, self.weights = scores.detach()[:8], weights.detach()[:8]  # as many as are measured
            out: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
            return out

    model = Attention()
    history = watched(model, steps=2)
    weights, counts = model.weights[:, :, 1:], torch.arange(2, 13)
    heads = (-torch.xlogy(weights, weights).sum(-1) / counts.log()).mean((0, 2))
    assert column(history, "query", "head_entropy_max")[-1] == pytest.approx(float(heads.max()), rel=1e-3)
    assert column(history, "query", "head_entropy_min")[-1] == pytest.approx(float(heads.min()), rel=1e-3)
    assert column(history, "query", "narrowest_head")[-1] == int(heads.argmin())
    deviations = [model.scores[..., i, : i + 1].std(-1, unbiased=False).square() for i in range(1, 12)]
    expected = torch.stack(deviations, -1).mean((0, 2)).sqrt()
    assert column(history, "query", "head_logit_std_min")[-1] == pytest.approx(float(expected.min()), rel=1e-3)
    assert column(history, "query", "widest_head")[-1] == int(expected.argmin())


def test_scores_of_equal_keys_have_no_deviation() -> None:
    scores = torch.zeros(2, 3, 5, 5)
    scores[:, 1] = torch.randn(2, 5, 5)
    stats = score_attention(scores)
    assert stats is not None
    assert stats[3] == 1
    assert stats[4] == 0
    assert score_attention(torch.zeros(4, 5)) is None


class LastState(nn.Module):
    """Classifies by the state after the last step, or after the last token."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed = packed
        self.words, self.reader, self.out = nn.Embedding(40, 8, 0), nn.RNN(8, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        words = self.words(x)
        if self.packed:
            lengths = (x != 0).sum(1)
            words = nn.utils.rnn.pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
        return self.out(self.reader(words)[1][0])


@pytest.mark.parametrize("packed", [False, True])
def test_padding_after_the_tokens_makes_a_recurrent_layer_forget_them(packed: bool) -> None:
    torch.manual_seed(0)
    y = torch.arange(64) % 2
    x = torch.randint(1, 20, (64, 60)) + 20 * y[:, None]
    x[:, 6:] = 0
    model, loss_fn = LastState(packed), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=10, overhead=1) as monitor:
        for _ in range(10):
            for rows in torch.randperm(64).split(16):
                optimizer.zero_grad()
                loss_fn(model(x[rows]), y[rows]).backward()
                optimizer.step()
    found = [finding.message for finding in monitor.findings if finding.problem == "vanishing_gradient"]
    assert ["90% of the indices repeat" in message for message in found] == [True] * (not packed), monitor.findings
