"""Allowed values in the description of a training, and the check of a case against them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from autotrainer.errors import ConfigError
from benchmarks.data.builtin import BUILTIN
from benchmarks.data.files import FILES
from benchmarks.data.synthetic import SYNTHETIC

__all__ = ["ENCODINGS", "HABITS", "LAYERS", "LOOP", "LOSSES", "OPTIMIZERS", "check_program", "walk"]

Layer = Mapping[str, Any]

LAYERS: Mapping[str, tuple[str, ...]] = {
    "activation": ("fn",),
    "attention": ("heads",),
    "batchnorm": (),
    "conv1d": ("filters", "kernel", "padding"),
    "conv2d": ("filters", "kernel", "padding"),
    "decoder": ("layers",),
    "critic": ("layers",),
    "dense": ("units",),
    "discriminator": ("layers",),
    "dropout": ("rate",),
    "embedding": ("vocabulary", "units"),
    "encoder": ("layers",),
    "flatten": (),
    "generator": ("layers",),
    "gru": ("units",),
    "head": ("layers", "loss"),
    "layernorm": (),
    "lstm": ("units",),
    "maxpool1d": ("size",),
    "maxpool2d": ("size",),
    "mean": (),
    "policy": ("layers",),
    "position": (),
    "residual": ("layers",),
    "scale": ("factor",),
    "squeeze": (),
    "transformer": ("form", "units", "heads", "blocks", "outputs", "attention", "projections", "norm"),
    "trunk": ("layers",),
    "twins": ("layers",),
}
"""Types of layers with their required settings. ``attention``: self-attention of a sequence. ``mean``: over time.
``position``: adds a learned vector for each time step. ``residual``: adds the output of its ``layers`` to its input.
``scale``: multiplies by a constant. ``squeeze``: drops the last axis, of size 1. ``twins``: applies its ``layers`` to
both members of a pair. ``transformer``: a whole network (`benchmarks.programs.pytorch_transformer`). ``frozen``: the
layer's weights are not trained.

Parts of programs of several networks (`benchmarks.programs.pytorch_composite`): ``generator`` and ``discriminator``;
``encoder`` and ``decoder`` of a variational autoencoder; ``trunk`` and several ``head``, each with its ``loss``;
``policy`` and ``critic``."""

LOSSES = (
    "bce",
    "bce_clipped",
    "bce_logits",
    "bce_noclip",
    "bce_sum",
    "cce",
    "cce_noclip_sum",
    "ce_flat",
    "ce_logits",
    "ce_transposed",
    "composite",
    "contrastive",
    "huber",
    "logistic_rank",
    "log_squares",
    "mae",
    "margin_rank",
    "mse",
    "mse_sum",
    "poisson",
    "scce",
    "scce_sum",
)
"""``…_logits``: on logits. ``…_sum``: summed over rows, in PyTorch over several values too. ``bce_noclip``,
``cce_noclip_sum``, ``log_squares``: written out, without protection from the logarithm of zero. ``bce_clipped``:
accepts any outputs and targets. ``ce_flat``, ``ce_transposed``: on logits of sequences, which the PyTorch loop
flattens or transposes. ``contrastive``, ``…_rank``: on pairs. ``poisson``: outputs are logarithms of the expectation.
``composite``: the sum that a program of several networks defines."""

ACTIVATIONS = ("elu", "exponential", "gelu", "leaky_relu", "relu", "selu", "sigmoid", "softmax", "tanh")
INITS = (
    "framework",
    *(f"{family}_{form}" for family in ("glorot", "he", "lecun") for form in ("normal", "uniform")),
    "normal005",
    "normal1",
    "ones",
    "uniform005",
    "uniform01",
    "zeros",
)
"""Initializers, drawn as Keras draws them; ``framework``: the framework's default."""

SCALINGS = ("div255", "minmax", "raw", "standard", "tokens", "zero_fill_standard")
OPTIMIZERS = ("adadelta", "adagrad", "adam", "adamax", "adamw", "nadam", "rmsprop", "sgd")
ENCODINGS = (
    "binary",
    "binary_plus1",
    "bits",
    "float",
    "float_flat",
    "index",
    "index_as_float",
    "multi_binary",
    "onehot",
    "pm1",
    "steps",
    "tag_index_plus1",
    "values",
)
METRICS = (
    "accuracy",
    "binary_accuracy",
    "likelihood",
    "pair_accuracy",
    "r2",
    "rank_accuracy",
    "sample_quality",
    "tag_accuracy",
)

LOOP: Mapping[str, tuple[Any, ...]] = {
    "shuffle": (False,),
    "zero_grad": (False,),
    "optimized": ("first", "last", "none", "stale"),
    "mode": ("eval",),
    "evaluation": ("train",),
    "schedule": ("per_epoch", "per_batch"),
    "loss_call": ("functional",),
    "reporting": ("none",),
}
"""Faults and habits of a training loop; the first five are faults.

``shuffle``: rows stay in order. ``zero_grad``: gradients accumulate over all steps. ``optimized``: the optimizer has
only the parameters of the first or last layer, those of another model, or those of an earlier body and of the last
layer. ``mode``: trains in evaluation mode. ``evaluation``: evaluates in training mode. ``schedule``: the rate falls
tenfold after half of the epochs, or (the fault) after as many batches. ``loss_call``: the loss is a function and `log`
receives its value. ``reporting``: neither the planned epochs nor their ends are given to the monitor. In Keras only the
first exists."""

HABITS = ("loss_call", "reporting")
"""Options of the loop that are no fault."""

_CHOICES = {"activation": ACTIVATIONS, "loss": LOSSES, "fn": ACTIVATIONS, "init": INITS, "bias_init": INITS}
_NUMBERS = (
    "alpha",
    "bias_const",
    "factor",
    "filters",
    "gain",
    "heads",
    "kernel",
    "lr",
    "momentum",
    "rate",
    "size",
    "units",
)

_PARTS = ("layers", "loss", "optimizer", "batch_size", "epochs", "dataset", "default_init", "metric")


def walk(layers: Iterable[Layer]) -> Iterator[Layer]:
    """Yield layers in forward order, including those inside residual blocks."""
    for layer in layers:
        yield layer
        yield from walk(layer.get("layers", ()) if isinstance(layer, Mapping) else ())


def check_program(row: Mapping[str, Any]) -> None:
    """Check the description of a training.

    Args:
        row: A line of a case file, or one patched with its fix.

    Raises:
        ConfigError: If something is missing or unknown; the message is one line.
    """
    if not isinstance(row, Mapping):
        raise ConfigError("not a JSON object")
    for part in _PARTS:
        if part not in row:
            raise ConfigError(f"no {part!r}")
    for part in ("optimizer", "dataset"):
        if not isinstance(row[part], Mapping):
            raise ConfigError(f"{part} is {row[part]!r}: expected an object")
    if not row["layers"] or not isinstance(row["layers"], list | tuple):
        raise ConfigError("no layers: expected a list")
    for layer in walk(row["layers"]):
        if not isinstance(layer, Mapping):
            raise ConfigError(f"layer {layer!r}: expected an object")
        kind = layer.get("type")
        _check_choice("type of layer", kind, LAYERS)
        for setting in LAYERS[str(kind)]:
            if setting not in layer:
                raise ConfigError(f"a {kind} layer without {setting!r}")
        for setting, choices in _CHOICES.items():
            if layer.get(setting) is not None:
                _check_choice(f"{setting} of a {kind} layer", layer[setting], choices)
        _numbers(f"a {kind} layer", layer)
    _check_choice("loss", row["loss"], LOSSES)
    _check_choice("optimizer", row["optimizer"].get("name"), OPTIMIZERS)
    if "lr" not in row["optimizer"]:
        raise ConfigError("an optimizer without 'lr'")
    _numbers("the optimizer", row["optimizer"])
    _check_choice("initializer", row["default_init"], INITS)
    _check_choice("metric", row["metric"], METRICS)
    _check_choice("label encoding", row["dataset"].get("label_encoding"), ENCODINGS)
    if not {"arrays", "generator"} & set(row["dataset"]):
        raise ConfigError("a dataset without 'arrays' or 'generator'")
    if "arrays" not in row["dataset"]:
        _check_choice("data set", row["dataset"]["generator"], (*BUILTIN, *FILES, *SYNTHETIC))
    for scaling in ("scaling", "target_scaling"):
        _check_choice(scaling, row["dataset"].get(scaling, "raw"), SCALINGS)
    for part in ("batch_size", "epochs"):
        if not isinstance(row[part], int) or row[part] < 1:
            raise ConfigError(f"{part} is {row[part]!r}: expected a positive integer")
    for name, value in row.get("loop", {}).items():
        _check_choice("loop option", name, LOOP)
        _check_choice(f"value of loop option {name!r}", value, LOOP[name])


def _numbers(where: str, settings: Mapping[str, Any]) -> None:
    for name in _NUMBERS:
        if name in settings and (isinstance(settings[name], bool) or not isinstance(settings[name], int | float)):
            raise ConfigError(f"{name} of {where} is {settings[name]!r}: expected a number")


def _check_choice(name: str, value: object, choices: Collection[object]) -> None:
    if value not in choices:
        raise ConfigError(f"unknown {name} {value!r}: choose from {', '.join(map(str, choices))}")
