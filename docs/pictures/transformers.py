"""Faulty and healthy runs: embeddings, attention, normalization and blocks that should be alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch  # noqa: TID253 - only make_pictures.py imports this file
from torch import nn  # noqa: TID253

from pictures.curves import by_layer, measured
from pictures.parts import Data, adam
from pictures.run import Picture, Run

__all__ = ["RECALL", "TRANSFORMERS"]

_UNITS = 16


def _order() -> Data:
    """Return tokens with the label whether the first one is the larger of the first and the last."""
    tokens = torch.randint(0, 12, (480, 6))
    return tokens, (tokens[:, 0] > tokens[:, 5]).long()


def _next() -> Data:
    """Return random tokens, and those that follow them, which no model can foresee."""
    tokens = torch.randint(0, 12, (480, 9))
    return tokens[:, :-1], tokens[:, 1:]


def _frequent() -> Data:
    """Return tokens with the label whether most of them are of the first half of the vocabulary."""
    tokens = torch.randint(0, 12, (480, 7))
    return tokens, ((tokens < 6).sum(1) > 3).long()


def _padded() -> Data:
    """Return padded sequences of tokens, each with the token that follows it: mostly the next number."""
    lengths, start = torch.randint(3, 9, (480, 1)), torch.randint(0, 11, (480, 1))
    tokens = 1 + (start + torch.arange(17) * torch.randint(1, 3, (480, 1))) % 11
    tokens = torch.where(torch.arange(17) < lengths, tokens, 0)
    return tokens[:, :-1], tokens[:, 1:]


def _recall() -> Data:
    """Return six distinct keys, one of them as a query, and a value for each; the target is the value of the query."""
    keys = torch.stack([torch.randperm(12)[:6] for _ in range(1500)])
    values, query = torch.randint(0, 4, (1500, 6)), torch.randint(0, 6, (1500, 1))
    return torch.cat([keys, keys.gather(1, query), values], 1), values.gather(1, query)[:, 0]


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(_UNITS), nn.MultiheadAttention(_UNITS, 2, batch_first=True)
        self.ln_2, self.fc1, self.fc2 = nn.LayerNorm(_UNITS), nn.Linear(_UNITS, 32), nn.Linear(32, _UNITS)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        inner = self.ln_1(x)
        x = x + self.attn(inner, inner, inner, attn_mask=mask, need_weights=False)[0]
        outputs: torch.Tensor = x + self.fc2(nn.functional.gelu(self.fc1(self.ln_2(x))))
        return outputs


class _Network(nn.Module):
    """A small transformer over tokens: one output for a sequence, or one for each token."""

    def __init__(self, blocks: int = 4, *, positions: bool = True, causal: bool | None = None) -> None:
        super().__init__()
        self.causal, self.tokens = causal, nn.Embedding(12, _UNITS)
        self.positions = nn.Embedding(8, _UNITS) if positions else None
        self.h = nn.ModuleList(_Block() for _ in range(blocks))
        self.head = nn.Linear(_UNITS, 2 if causal is None else 12)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x, length = self.tokens(tokens), tokens.shape[1]
        if self.positions is not None:
            x = x + self.positions(torch.arange(length))
        mask = nn.Transformer.generate_square_subsequent_mask(length) if self.causal else None
        for block in self.h:
            x = block(x, mask)
        outputs: torch.Tensor = self.head(x.mean(1) if self.causal is None else x)
        return outputs


class _TokenLoss(nn.Module):
    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


class _Words(nn.Module):
    """Counts words by their embeddings, which may be cut off from the gradient."""

    def __init__(self, *, detached: bool) -> None:
        super().__init__()
        self.detached, self.words, self.hidden, self.out = (
            detached,
            nn.Embedding(12, 4),
            nn.Linear(4, 8),
            nn.Linear(8, 2),
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens).mean(1)
        outputs: torch.Tensor = self.out(torch.relu(self.hidden(x.detach() if self.detached else x)))
        return outputs


class _Follower(nn.Module):
    """Predicts each next token by a recurrent layer: classes on axis 1."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.recurrent, self.out = nn.Embedding(12, 8), nn.GRU(8, 16, batch_first=True), nn.Linear(16, 12)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.out(self.recurrent(self.tokens(tokens))[0])
        return outputs.movedim(2, 1)


class _Recall(nn.Module):
    """Attention from the query to all keys and their values."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.words, self.values = nn.Embedding(12, _UNITS), nn.Embedding(4, _UNITS)
        self.attention, self.out = nn.MultiheadAttention(_UNITS, 2, batch_first=True), nn.Linear(_UNITS, 4)
        with torch.no_grad():
            self.attention.in_proj_weight[: 2 * _UNITS] *= gain

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        keys, query, values = self.words(tokens[:, :6]), self.words(tokens[:, 6:7]), self.values(tokens[:, 7:])
        outputs: torch.Tensor = self.out(self.attention(query, keys, values, need_weights=False)[0][:, 0])
        return outputs


def _changed(change: Callable[[Any], object] | None) -> Run:
    def model() -> nn.Module:
        network = _Network()
        if change is not None:
            with torch.no_grad():
                change(network.h[2])
        return network

    return Run(model, _order, lambda m: adam(m, 1e-3), nn.CrossEntropyLoss, epochs=8)


def _enlarge_keys(block: Any) -> None:
    block.attn.in_proj_weight[_UNITS : 2 * _UNITS] *= 40


def _enlarge_epsilon(block: Any) -> None:
    block.ln_2.eps = 100.0


@cache
def _trained() -> dict[str, torch.Tensor]:
    """Return the weights of a network that was trained on the same task."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network, loss = _Network(), nn.CrossEntropyLoss()
        optimizer = adam(network, 3e-3)
        x, y = _order()
        for _ in range(40):
            for chosen in torch.randperm(len(x)).split(32):
                optimizer.zero_grad()
                loss(network(x[chosen]), y[chosen]).backward()
                optimizer.step()
        return network.state_dict()


def _loaded(*, whole: bool) -> Run:
    def model() -> nn.Module:
        network = _Network()
        network.load_state_dict(
            {name: value for name, value in _trained().items() if whole or not name.startswith("h.1.")}, strict=False
        )
        return network

    return Run(model, _order, lambda m: adam(m, 3e-4), nn.CrossEntropyLoss, epochs=4)


_ORDER = Run(data=_order, optimizer=lambda m: adam(m, 3e-3), loss=nn.CrossEntropyLoss, epochs=15, by="check")
_NEXT = Run(data=_next, optimizer=lambda m: adam(m, 3e-3), loss=_TokenLoss, epochs=20, by="check")
_WORDS = Run(data=_frequent, optimizer=lambda m: adam(m, 3e-3), loss=nn.CrossEntropyLoss, epochs=25)
_PADDED = Run(_Follower, _padded, lambda m: adam(m, 3e-3), nn.CrossEntropyLoss, epochs=8)
RECALL = Run(
    lambda: _Recall(30.0), _recall, lambda m: adam(m, 3e-3), nn.CrossEntropyLoss, epochs=15, validation=_recall
)

TRANSFORMERS: Mapping[str, Picture] = {
    "attention_entropy_collapse": Picture(
        "Queries and keys 30 times the usual, and usual ones.", RECALL.but(epochs=6),
        RECALL.but(model=lambda: _Recall(1.0), epochs=6),
        measured("attention_entropy"), ("step", "entropy of the attention"),
    ),
    "sibling_outlier": Picture(
        "The keys of the third of four blocks are 40 times as large as the others, and as large: step 20.",
        _changed(_enlarge_keys), _changed(None), by_layer("key_rms", 20), ("block", "size of key weights"), log=True,
    ),
    "abnormal_normalization": Picture(
        "A layer normalization with an ε of 100 in the third of four blocks, and usual ones: step 20.",
        _changed(_enlarge_epsilon), _changed(None), by_layer("normalized_rms", 20),
        ("normalization", "size of its output"),
    ),
    "broken_attention_mask": Picture(
        "Random tokens, which no model can foresee, without a causal mask and with it.",
        *(_NEXT.but(model=lambda causal=causal: _Network(1, causal=causal)) for causal in (False, True)),
    ),
    "ignored_positions": Picture(
        "Whether the first token is larger than the last one, without and with positions.",
        *(_ORDER.but(model=lambda known=known: _Network(1, positions=known)) for known in (False, True)),
    ),
    "padded_targets": Picture(
        "Sequences of which two thirds are padding, which counts in the loss, and which does not count.",
        _PADDED, _PADDED.but(loss=lambda: nn.CrossEntropyLoss(ignore_index=0)),
    ),
    "embedding_unused": Picture(
        "Embeddings that are cut off from the gradient, and embeddings that learn.",
        *(_WORDS.but(model=lambda cut=cut: _Words(detached=cut)) for cut in (True, False)),
    ),
    "checkpoint_not_loaded": Picture(
        "A checkpoint of which the second of four blocks is not loaded, and one that is loaded as a whole.",
        _loaded(whole=False), _loaded(whole=True),
    ),
}  # fmt: skip
