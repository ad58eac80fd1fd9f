"""Families on sequences: texts, tags, tokens, series."""

from __future__ import annotations

from typing import Any

from benchmarks.generator.families.family import Draw, choose_optimizer, dense, hidden, training, transformer
from benchmarks.generator.recipes import Row, pick

__all__ = ["bags", "grammar", "reversal", "series", "tags", "verdicts"]

Pair = tuple[Row, Row]


def _embedding(vocabulary: int, units: int) -> Row:
    return {"type": "embedding", "vocabulary": vocabulary, "units": units}


def tags(kind: str, draw: Draw) -> Pair:
    """A class for each step of a sequence, as index, one-hot, or 0 and 1."""
    units, words, count = int(pick(draw, 16, 24)), 16, 4
    common: Row = {"batch_size": int(pick(draw, 16, 32)), "metric": "tag_accuracy"}
    optimizer = choose_optimizer(draw, 0.01, 0, schedule=False)
    if kind == "regimes":
        layers: Any = [
            {"type": str(pick(draw, "lstm", "gru")), "units": units, "return_sequences": True, "bidirectional": True}
        ]
        head, loss = pick(draw, ("sigmoid", "bce"), (None, "bce_logits"))
        dataset: Row = {"generator": "regimes", "scaling": "raw", "target_scaling": "raw", "label_encoding": "steps"}
        row = training(draw, [*layers, dense(1, head)], loss, optimizer, dataset, epochs=12, **common)
        return row, {"task": "steps", "outputs": 1, "reached": 0.95}
    recurrent = {"type": "gru" if kind != "lstm" else "lstm", "units": units, "return_sequences": True}
    if kind == "transformer":
        layers, optimizer = transformer(draw, units), choose_optimizer(draw, 0.004, 0)
    else:
        layers = [{**recurrent, **({"bidirectional": True} if draw.random() < 0.4 else {})}]
    head, loss = {"onehot": ("softmax", "cce"), "flat": (None, "ce_flat"), "transformer": (None, "ce_transposed")}.get(
        kind, pick(draw, ("softmax", "scce"), (None, "ce_logits"))
    )
    layout = "onehot" if kind == "onehot" else "index"
    dataset = {"generator": "tags", "settings": {"words": words, "tags": count}, "scaling": "tokens"}
    dataset |= {"target_scaling": "raw", "label_encoding": layout}
    layers = [_embedding(words, units), *layers, dense(count, head)]
    row = training(draw, layers, loss, optimizer, dataset, epochs=20 if kind == "transformer" else 15, **common)
    task = "tags" if kind != "onehot" else "onehot"
    return row, {"task": task, "outputs": count, "reached": 0.97, "scaling": "tokens"}


def grammar(kind: str, draw: Draw) -> Pair:
    """The next token of a synthetic language at each step."""
    units, words = int(pick(draw, 24, 32)), 14
    if kind == "transformer":
        layers = transformer(draw, units, causal=True, blocks=int(pick(draw, 1, 2)))
        optimizer = choose_optimizer(draw, 0.003, 0)
    else:
        layers = [{"type": kind, "units": 2 * units, "return_sequences": True}]
        optimizer = choose_optimizer(draw, 0.01, 0)
    row = training(
        draw,
        [_embedding(words, units), *layers, dense(words)],
        str(pick(draw, "ce_logits", "ce_flat", "ce_transposed")),
        optimizer,
        {"generator": "grammar", "settings": {"words": words}, "scaling": "tokens", "label_encoding": "index"},
        epochs=18,
        batch_size=int(pick(draw, 16, 32)),
        metric="tag_accuracy",
    )
    return row, {"task": "tags", "outputs": words, "reached": 0.78, "scaling": "tokens"}


def bags(kind: str, draw: Draw) -> Pair:
    """Texts as counts of words, or as embeddings whose mean or sequence is read."""
    classes, words, units = int(pick(draw, 3, 4, 6)), 60, int(pick(draw, 16, 24))
    settings = {"classes": classes, "words": words, "counts": kind == "counts"}
    layers: Any = {
        "counts": hidden(draw, (16, 32), (1, 2)),
        "mean": [_embedding(words, units), {"type": "mean"}, *hidden(draw, (16, 32), (1,))],
        "flat": [_embedding(words, 8), {"type": "flatten"}, *hidden(draw, (16, 32), (1,))],
    }[kind]
    head, loss = pick(draw, ("softmax", "scce"), (None, "ce_logits"))
    scaling = "raw" if kind == "counts" else "tokens"
    row = training(
        draw,
        [*layers, dense(classes, head)],
        loss,
        choose_optimizer(draw, 0.005, 0.05 if kind == "counts" else 0),
        {"generator": "topics", "settings": settings, "scaling": scaling, "label_encoding": "index"},
        epochs={"counts": 15, "mean": 25, "flat": 12}[kind],
        batch_size=int(pick(draw, 16, 32)),
    )
    return row, {"task": "classes", "outputs": classes, "reached": 0.85, "scaling": scaling, "easy": True}


def series(kind: str, draw: Draw) -> Pair:
    """The next value of a series from a window of past ones."""
    activation = str(pick(draw, "relu", "tanh"))
    conv = {"type": "conv1d", "kernel": 3, "padding": "same", "filters": 16, "activation": activation}
    layers: Any = {
        "lstm": [{"type": "lstm", "units": 24}],
        "gru": [{"type": "gru", "units": 24}],
        "cnn1d": [conv, {"type": "maxpool1d", "size": 2}, conv, {"type": "flatten"}, dense(24, activation)],
        "mlp": hidden(draw, (32, 64), (1, 2)),
    }[kind]
    recurrent = kind in ("lstm", "gru")
    row = training(
        draw,
        [*layers, dense(1)],
        str(pick(draw, "mse", "mse", "mae", "huber")),
        choose_optimizer(draw, 0.01 if recurrent else 0.003, 0 if recurrent else 0.01),
        {
            "generator": "forecast",
            "settings": {"flat": kind == "mlp"},
            "scaling": "standard",
            "target_scaling": "standard",
            "label_encoding": "float",
        },
        epochs=15 if recurrent else 20,
        batch_size=int(pick(draw, 16, 32)),
        metric="r2",
    )
    return row, {"task": "value", "outputs": 1, "reached": 0.88, "raw": True}


def reversal(kind: str, draw: Draw) -> Pair:
    """The sequence backwards: a transformer with positions, or a recurrent network in both directions."""
    units, words = 32, 8
    settings = {"words": words, **({"length": 5} if kind == "gru" else {})}
    if kind == "transformer":
        layers, optimizer = transformer(draw, units, blocks=2), choose_optimizer(draw, 0.003, 0)
    else:
        layers = [{"type": "gru", "units": units, "return_sequences": True, "bidirectional": True}]
        optimizer = choose_optimizer(draw, 0.01, 0, schedule=False)
    row = training(
        draw,
        [_embedding(words, units), *layers, dense(words)],
        str(pick(draw, "ce_logits", "ce_flat", "ce_transposed")),
        optimizer,
        {"generator": "reversal", "settings": settings, "scaling": "tokens", "label_encoding": "index"},
        epochs=20,
        batch_size=int(pick(draw, 16, 32)),
        metric="tag_accuracy",
    )
    return row, {"task": "tags", "outputs": words, "reached": 0.95, "scaling": "tokens"}


def verdicts(kind: str, draw: Draw) -> Pair:
    """Yes or no for a sequence of tokens in which the order counts."""
    units = int(pick(draw, 16, 24))
    layers: Any = {
        "lstm": [{"type": "lstm", "units": units}],
        "transformer": [*transformer(draw, units), {"type": "mean"}],
    }[kind]
    head, loss = pick(draw, ("sigmoid", "bce"), (None, "bce_logits"))
    row = training(
        draw,
        [_embedding(6, units), *layers, dense(1, head)],
        loss,
        choose_optimizer(draw, 0.01 if kind == "lstm" else 0.004, 0),
        {"generator": "brackets", "scaling": "tokens", "label_encoding": "binary"},
        epochs=12,
        batch_size=int(pick(draw, 16, 32)),
    )
    return row, {"task": "binary", "outputs": 1, "reached": 0.93, "scaling": "tokens"}
