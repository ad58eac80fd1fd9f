"""Words of the neutral description of a training, and the check that a case speaks no others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from autotrainer.errors import ConfigError
from benchmarks.data.files import FILES
from benchmarks.data.made import MADE

__all__ = ["ENCODINGS", "LAYERS", "LOOP", "LOSSES", "OPTIMIZERS", "check_program", "walk"]

Layer = Mapping[str, Any]

LAYERS: Mapping[str, tuple[str, ...]] = {
    "activation": ("fn",),
    "attention": ("heads",),
    "batchnorm": (),
    "conv1d": ("filters", "kernel", "padding"),
    "conv2d": ("filters", "kernel", "padding"),
    "dense": ("units",),
    "dropout": ("rate",),
    "embedding": ("vocabulary", "units"),
    "flatten": (),
    "gru": ("units",),
    "layernorm": (),
    "lstm": ("units",),
    "maxpool1d": ("size",),
    "maxpool2d": ("size",),
    "mean": (),
    "position": (),
    "residual": ("layers",),
}
"""Types of layers with the settings that each must have. ``attention``: of a sequence to itself. ``mean``: over time.
``position``: a learned vector for each time step, added. ``residual``: its own ``layers``, added to what goes in."""

LOSSES = (
    "bce",
    "bce_clipped",
    "bce_logits",
    "bce_sum",
    "cce",
    "cce_noclip_sum",
    "ce_logits",
    "log_squares",
    "mse",
    "mse_sum",
    "scce",
    "scce_sum",
)
"""``…_logits``: on logits. ``…_sum``: summed over rows, in PyTorch over several values too. ``cce_noclip_sum``,
``log_squares``: written out, with no care for the logarithm of zero. ``bce_clipped``: takes any outputs and targets."""

ACTIVATIONS = ("exponential", "gelu", "leaky_relu", "relu", "sigmoid", "softmax", "tanh")
INITS = (
    "framework",
    *(f"{family}_{form}" for family in ("glorot", "he", "lecun") for form in ("normal", "uniform")),
    "normal005",
    "ones",
    "uniform005",
    "zeros",
)
"""Initializers, drawn as Keras draws them; ``framework``: as the framework's layer comes."""

SCALINGS = ("div255", "minmax", "raw", "standard", "tokens", "zero_fill_standard")
OPTIMIZERS = ("adagrad", "adam", "adamw", "nadam", "rmsprop", "sgd")
ENCODINGS = ("binary", "binary_plus1", "float", "float_flat", "index", "onehot", "pm1", "tag_index_plus1", "values")
METRICS = ("accuracy", "tag_accuracy", "r2")

LOOP: Mapping[str, tuple[Any, ...]] = {
    "shuffle": (False,),
    "zero_grad": (False,),
    "optimized": ("first", "last", "none"),
    "mode": ("eval",),
    "evaluation": ("train",),
}
"""What a training loop does otherwise than it should; none of it: a loop as it should be.

``shuffle``: rows in the order given. ``zero_grad``: gradients add up over all steps. ``optimized``: the optimizer has
the parameters of the first or the last layer alone, or those of another model. ``mode``: trains in evaluation mode.
``evaluation``: evaluates in training mode. Keras knows the first alone."""

_WORDS = {"activation": ACTIVATIONS, "fn": ACTIVATIONS, "init": INITS, "bias_init": INITS}
_NUMBERS = ("alpha", "bias_const", "filters", "gain", "heads", "kernel", "lr", "momentum", "rate", "size", "units")

_PARTS = ("layers", "loss", "optimizer", "batch_size", "epochs", "dataset", "default_init", "metric")


def walk(layers: Iterable[Layer]) -> Iterator[Layer]:
    """Yield layers in forward order, those inside a residual block in its place too."""
    for layer in layers:
        yield layer
        yield from walk(layer.get("layers", ()) if isinstance(layer, Mapping) else ())


def check_program(row: Mapping[str, Any]) -> None:
    """Check the description of a training.

    Args:
        row: A line of a case file, or one patched with its fix.

    Raises:
        ConfigError: What is missing or unknown, in one line.
    """
    if not isinstance(row, Mapping):
        raise ConfigError("no JSON object")
    for part in _PARTS:
        if part not in row:
            raise ConfigError(f"no {part!r}")
    for part in ("optimizer", "dataset"):
        if not isinstance(row[part], Mapping):
            raise ConfigError(f"{part} is {row[part]!r}: an object is wanted")
    if not row["layers"] or not isinstance(row["layers"], list | tuple):
        raise ConfigError("no layers: a list is wanted")
    for layer in walk(row["layers"]):
        if not isinstance(layer, Mapping):
            raise ConfigError(f"layer {layer!r}: an object is wanted")
        kind = layer.get("type")
        _known("type of layer", kind, LAYERS)
        for setting in LAYERS[str(kind)]:
            if setting not in layer:
                raise ConfigError(f"a {kind} layer without {setting!r}")
        for setting, words in _WORDS.items():
            if layer.get(setting) is not None:
                _known(f"{setting} of a {kind} layer", layer[setting], words)
        _numbers(f"a {kind} layer", layer)
    _known("loss", row["loss"], LOSSES)
    _known("optimizer", row["optimizer"].get("name"), OPTIMIZERS)
    if "lr" not in row["optimizer"]:
        raise ConfigError("an optimizer without 'lr'")
    _numbers("the optimizer", row["optimizer"])
    _known("initializer", row["default_init"], INITS)
    _known("metric", row["metric"], METRICS)
    _known("label encoding", row["dataset"].get("label_encoding"), ENCODINGS)
    if not {"arrays", "generator"} & set(row["dataset"]):
        raise ConfigError("a dataset without 'arrays' or 'generator'")
    if "arrays" not in row["dataset"]:
        _known("data set", row["dataset"]["generator"], (*MADE, *FILES))
    for scaling in ("scaling", "target_scaling"):
        _known(scaling, row["dataset"].get(scaling, "raw"), SCALINGS)
    for part in ("batch_size", "epochs"):
        if not isinstance(row[part], int) or row[part] < 1:
            raise ConfigError(f"{part} is {row[part]!r}: a whole number above 0 is wanted")
    for name, value in row.get("loop", {}).items():
        _known("loop option", name, LOOP)
        _known(f"value of loop option {name!r}", value, LOOP[name])


def _numbers(where: str, settings: Mapping[str, Any]) -> None:
    for name in _NUMBERS:
        if name in settings and (isinstance(settings[name], bool) or not isinstance(settings[name], int | float)):
            raise ConfigError(f"{name} of {where} is {settings[name]!r}: a number is wanted")


def _known(what: str, word: object, words: Collection[object]) -> None:
    if word not in words:
        raise ConfigError(f"unknown {what} {word!r}: choose from {', '.join(map(str, words))}")
