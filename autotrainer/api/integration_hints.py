"""Names the integration to use where an object of a training library is passed in place of a model."""

from __future__ import annotations

from typing import Any

from autotrainer.errors import InputError

__all__ = ["check_integration"]

_HINTS = {
    ("transformers", "Trainer"): (
        "add autotrainer.integrations.huggingface.AutoTrainerCallback() to the Trainer's callbacks"
    ),
    ("lightning", "Trainer"): "add autotrainer.integrations.lightning.AutoTrainer() to the Trainer's callbacks",
    ("lightning", "Fabric"): "pass the model and the optimizer that Fabric.setup returns",
    ("accelerate", "Accelerator"): (
        "pass the model and the optimizer that prepare returns, or call autotrainer.integrations.accelerate.watch"
    ),
    ("ignite", "Engine"): "call autotrainer.integrations.ignite.AutoTrainer().attach(engine, model, optimizer)",
    ("skorch", "NeuralNet"): "add autotrainer.integrations.skorch.AutoTrainer() to the net's callbacks",
}
"""What to write instead, by top-level package and name of the class."""

_PACKAGES = {"pytorch_lightning": "lightning", "lightning_fabric": "lightning"}


def check_integration(model: Any, optimizer: Any = None) -> None:
    """Check that neither argument is an object that owns the training loop, such as a Trainer; imports nothing.

    Raises:
        InputError: If one is; the message says what to write instead.
    """
    for value in (model, optimizer):
        for kind in type(value).__mro__:
            package = kind.__module__.partition(".")[0]
            hint = _HINTS.get((_PACKAGES.get(package, package), kind.__name__))
            if hint is not None:
                raise InputError(
                    f"watch takes a model and its optimizer, not {kind.__module__}.{kind.__name__}: {hint}"
                )
