"""Families on rows of numbers."""

from __future__ import annotations

from benchmarks.generator.families.family import Draw, choose_optimizer, dense, hidden, training
from benchmarks.generator.recipes import Row, pick

__all__ = ["codes", "counts", "customers", "encodings", "gates", "handful", "labels", "residual", "values"]

Pair = tuple[Row, Row]


def gates(kind: str, draw: Draw) -> Pair:
    """Truth tables of logical operations in four or eight rows."""
    plain = kind == "perceptron"
    easy = ("and", "or", "nand", "majority")
    operation = str(pick(draw, *(easy if plain else ("xor", "xor", "xnor", "parity3", "and", "or"))))
    signed = bool(draw.random() < 0.3)
    layers = [] if plain else [dense(pick(draw, 8, 16), str(pick(draw, "tanh", "relu", "sigmoid")))]
    sigmoid = any(layer["activation"] == "sigmoid" for layer in layers)
    head, loss, layout = {
        "perceptron": ("sigmoid", "bce", "binary"),
        "mlp": ("sigmoid", "bce", "binary"),
        "logits": (None, "bce_logits", "binary"),
        "square": ("sigmoid", "mse", "binary"),
        "two_units": ("softmax", "scce", "index"),
    }[kind]
    outputs = 2 if kind == "two_units" else 1
    name, rate = pick(draw, ("adam", 0.05), ("adam", 0.03), ("sgd", 0.5 if kind != "square" else 1.0))
    optimizer: Row = {"name": name, "lr": 0.1 if sigmoid and name == "adam" else rate}
    if name == "sgd":
        optimizer["momentum"] = 0.9
    dataset: Row = {"generator": "gates", "settings": {"operation": operation, "signed": signed}, "scaling": "raw"}
    row = training(
        draw,
        [*layers, dense(outputs, head)],
        loss,
        optimizer,
        {**dataset, "target_scaling": "raw", "label_encoding": layout},
        epochs=int(pick(draw, 300, 500, 1000)),
        batch_size=int(pick(draw, 1, 4, 8)),
    )
    return row, {"task": "binary" if outputs == 1 else "classes", "outputs": outputs, "reached": 1.0, "tiny": True}


def handful(kind: str, draw: Draw) -> Pair:
    """Eight to thirty rows of training data."""
    rows = int(draw.integers(8, 31))
    common: Row = {"epochs": int(pick(draw, 100, 200, 400)), "batch_size": int(pick(draw, 4, 8, 32))}
    if kind == "line":
        columns = int(pick(draw, 1, 1, 2))
        layers = hidden(draw, (8,), (1,)) if draw.random() < 0.4 else []
        dataset: Row = {"generator": "line", "settings": {"columns": columns, "train_rows": rows}}
        optimizer = choose_optimizer(draw, 0.05, 0.02, schedule=False)
        row = training(
            draw,
            [*layers, dense(1)],
            str(pick(draw, "mse", "mse", "huber")),
            optimizer,
            {**dataset, "scaling": "standard", "target_scaling": "standard", "label_encoding": "float"},
            metric="r2",
            **common,
        )
        return row, {"task": "value", "outputs": 1, "reached": 0.96, "raw": True, "tiny": True}
    classes = int(pick(draw, 2, 2, 3))
    head, loss, layout, outputs = ("softmax", "scce", "index", classes)
    if classes == 2 and draw.random() < 0.6:
        head, loss, layout, outputs = ("sigmoid", "bce", "binary", 1)
    dataset = {"generator": "groups", "settings": {"classes": classes, "columns": 4, "spread": 0.3}}
    dataset["settings"]["train_rows"] = max(rows, 6 * classes)
    row = training(
        draw,
        [*hidden(draw, (8, 16), (1,)), dense(outputs, head)],
        loss,
        choose_optimizer(draw, 0.02, 0.05, schedule=False),
        {**dataset, "scaling": "raw", "target_scaling": "raw", "label_encoding": layout},
        **common,
    )
    task = "binary" if outputs == 1 else "classes"
    return row, {"task": task, "outputs": outputs, "reached": 0.98, "tiny": True, "easy": True}


def labels(kind: str, draw: Draw) -> Pair:
    """Several labels of 0 and 1 for each row or image."""
    head, loss = pick(draw, ("sigmoid", "bce"), (None, "bce_logits"))
    encoding = {"scaling": "raw", "target_scaling": "raw", "label_encoding": "multi_binary"}
    if kind == "cnn":
        conv = {"type": "conv2d", "kernel": 3, "padding": "same", "activation": "relu"}
        pool = {"type": "maxpool2d", "size": 2}
        layers: list[Row] = [
            {**conv, "filters": 8},
            pool,
            {**conv, "filters": 16},
            pool,
            {"type": "flatten"},
            dense(32, "relu"),
        ]
        dataset: Row = {"generator": "scenes"}
        outputs, epochs, reached = 3, 12, 0.93
        optimizer = choose_optimizer(draw, 0.003, 0)
    else:
        outputs = int(pick(draw, 3, 5, 8))
        layers = hidden(draw, (32, 64), (1, 2), norm=kind == "norm")
        dataset = {"generator": "labels", "settings": {"labels": outputs}}
        epochs, reached = 30, 0.84
        optimizer = choose_optimizer(draw, 0.003, 0.05)
    layers = [*layers, dense(outputs, head)]
    common: Row = {"batch_size": int(pick(draw, 16, 32)), "epochs": epochs, "metric": "binary_accuracy"}
    row = training(draw, layers, loss, optimizer, {**dataset, **encoding}, **common)
    return row, {"task": "labels", "outputs": outputs, "reached": reached}


def codes(kind: str, draw: Draw) -> Pair:
    """Autoencoders of each loss, on inputs from 0 to 1, of many scales, or bytes divided by 255."""
    columns, form = int(pick(draw, 16, 24)), {"wide": "wide", "bytes": "bytes"}.get(kind, "unit")
    head, loss = {
        "bce": ("sigmoid", "bce"),
        "logits": (None, "bce_logits"),
        "mse": (str(pick(draw, "sigmoid", "linear")), "mse"),
        "mae": ("sigmoid", "mae"),
        "bytes": ("sigmoid", str(pick(draw, "bce", "mse"))),
        "wide": (None, str(pick(draw, "mse", "huber"))),
    }[kind]
    head = None if head == "linear" else head
    inner = str(pick(draw, "relu", "tanh", "elu"))
    width = int(pick(draw, 32, 48))
    layers = [dense(width, inner), dense(8), dense(width, inner), dense(columns, head)]
    scaling = {"wide": "standard", "bytes": "div255"}.get(kind, "raw")
    dataset: Row = {"generator": "manifold", "settings": {"columns": columns, "form": form}, "scaling": scaling}
    row = training(
        draw,
        layers,
        loss,
        choose_optimizer(draw, 0.003, 0),
        {**dataset, "target_scaling": "raw", "label_encoding": "values", "targets": "inputs"},
        epochs=30,
        batch_size=int(pick(draw, 16, 32)),
        metric="r2",
    )
    return row, {"task": "inputs", "outputs": columns, "reached": 0.9, "form": form}


def values(kind: str, draw: Draw) -> Pair:
    """Regression of one, three or twelve outputs, of several target scales."""
    outputs = {"one": 1, "three": 3, "dozen": 12, "scaled": 1}[kind]
    scale = float(pick(draw, 0.3, 1, 2)) if kind == "scaled" else 1.0
    settings = {"columns": int(pick(draw, 4, 6)), "outputs": outputs, "scale": scale}
    target_scaling = "raw" if kind == "scaled" else str(pick(draw, "standard", "standard", "raw"))
    row = training(
        draw,
        [*hidden(draw, (32, 64), (2,)), dense(outputs)],
        str(pick(draw, "mse", "mse", "mae", "huber")),
        choose_optimizer(draw, 0.004, 0.02),
        {
            "generator": "surface",
            "settings": settings,
            "scaling": str(pick(draw, "standard", "minmax")),
            "target_scaling": target_scaling,
            "label_encoding": "float" if outputs == 1 else "values",
        },
        epochs=50,
        batch_size=int(pick(draw, 16, 32)),
        metric="r2",
    )
    return row, {"task": "value", "outputs": outputs, "reached": 0.92, "raw": True}


def encodings(kind: str, draw: Draw) -> Pair:
    """Classes as people encode them: bits, ±1, one-hot with a squared error, indices from 1, two units."""
    classes = {"bits": 8, "signed": 2, "two_units": 2}.get(kind, int(pick(draw, 4, 5, 6)))
    outputs, head, loss, layout = {
        "bits": (3, *pick(draw, ("sigmoid", "bce"), (None, "bce_logits"), ("sigmoid", "mse")), "bits"),
        "signed": (1, str(pick(draw, "tanh", "linear")), "mse", "pm1"),
        "square": (classes, str(pick(draw, "softmax", "linear")), "mse", "onehot"),
        "onehot": (classes, "softmax", "cce", "onehot"),
        "from_one": (classes + 1, *pick(draw, ("softmax", "scce"), (None, "ce_logits")), "tag_index_plus1"),
        "two_units": (2, *pick(draw, ("softmax", "scce"), (None, "ce_logits")), "index"),
    }[kind]
    head = None if head == "linear" else head
    dataset: Row = {
        "generator": "groups",
        "settings": {"classes": classes, "columns": 6, "spread": 0.4},
        "scaling": "raw",
    }
    row = training(
        draw,
        [*hidden(draw, (16, 32), (1, 2)), dense(outputs, head)],
        loss,
        choose_optimizer(draw, 0.005, 0.05),
        {**dataset, "target_scaling": "raw", "label_encoding": layout},
        epochs=25,
        batch_size=int(pick(draw, 16, 32)),
        metric="binary_accuracy" if kind == "bits" else "accuracy",
    )
    task = {"bits": "labels", "signed": "signed", "square": "onehot", "onehot": "onehot"}.get(kind, "classes")
    return row, {"task": task, "outputs": outputs, "reached": 0.97, "easy": True}


def residual(kind: str, draw: Draw) -> Pair:
    """Deep dense networks with shortcuts, with batch norm, layer norm or none."""
    units, blocks = int(pick(draw, 24, 32)), int(pick(draw, 3, 5, 8))
    norm = {"batchnorm": [{"type": "batchnorm"}], "layernorm": [{"type": "layernorm"}], "plain": []}[kind]
    scale = "uniform005" if kind == "plain" else None  # small branches keep deep sums near their inputs
    inner = [*norm, dense(units, "relu"), dense(units, None, **({"init": scale} if scale else {}))]
    layers = [dense(units, "relu"), *[{"type": "residual", "layers": inner}] * blocks, *norm, dense(5, "softmax")]
    dataset: Row = {"generator": "teacher", "scaling": "standard", "target_scaling": "raw", "label_encoding": "index"}
    common: Row = {"epochs": 12, "batch_size": int(pick(draw, 16, 32))}
    row = training(draw, layers, "scce", choose_optimizer(draw, 0.002, 0.02), dataset, **common)
    return row, {"task": "classes", "outputs": 5, "reached": 0.72}


def customers(kind: str, draw: Draw) -> Pair:
    """A table of numbers in their own units and one-hot categories, with a rare label."""
    head, loss = (None, "bce_logits") if kind == "logits" else ("sigmoid", "bce")
    row = training(
        draw,
        [*hidden(draw, (16, 32), (1, 2), norm=kind == "norm"), dense(1, head)],
        loss,
        choose_optimizer(draw, 0.004, 0.03),
        {
            "generator": "customers",
            "settings": {"imbalance": float(pick(draw, 0.2, 0.3, 0.5))},
            "scaling": "standard",
            "target_scaling": "raw",
            "label_encoding": "binary",
        },
        epochs=20,
        batch_size=int(pick(draw, 16, 32)),
    )
    return row, {"task": "binary", "outputs": 1, "reached": 0.92, "raw": True}


def counts(kind: str, draw: Draw) -> Pair:
    """Expected counts by the likelihood of a Poisson distribution."""
    row = training(
        draw,
        [*hidden(draw, (16, 32), (1, 2)), dense(1)],
        "poisson",
        choose_optimizer(draw, 0.004, 0),
        {"generator": "rates", "scaling": "standard", "target_scaling": "raw", "label_encoding": "float"},
        epochs=20,
        batch_size=int(pick(draw, 16, 32)),
        metric="r2",
    )
    return row, {"task": "counts", "outputs": 1, "reached": 0.75}
