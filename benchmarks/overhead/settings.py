"""Settings whose overhead is measured: ways to call ``watch``, and tools that a user might use instead."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

__all__ = [
    "ALTERNATIVES",
    "CALLBACKS",
    "CONTROL",
    "WATCH",
    "Attached",
    "Block",
    "Training",
    "missing_module",
    "offline_run",
    "options_of",
]
__all__ += ["settings_of"]

CONTROL = "plain"
"""No monitor at all: the ratio of two identical trainings, which shows the measurement noise."""

WATCH: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "overhead=0.05": {"overhead": 0.05},
    "log_dir": {"log_dir": True},
    "select": {"select": "vanishing_gradient"},
    "epochs": {"epochs": 10**5},
}
"""Settings of `autotrainer.watch`; ``log_dir`` is replaced by a folder of the run."""

ALTERNATIVES: Mapping[str, Mapping[str, str | None]] = {
    "pytorch": {
        "norm_loop": None,
        "detect_anomaly": None,
        "lightning": "lightning",
        "wandb": "wandb",
        "torchmortem": "torchmortem",
        "torch_audit": "torch_audit",
        "torchdiag": "torchdiag",
    },
    "keras3": {
        "norm_loop": None,
        "check_numerics": None,
        "terminate_on_nan": None,
        "wandb": "wandb",
    },
}
"""Tools that a user might use instead, by framework: name → the module required besides the framework.

* ``norm_loop``: the norm of each gradient, added up by hand in every step (Keras: in a custom ``train_step``).
* ``detect_anomaly``: `torch.autograd.set_detect_anomaly`; ``check_numerics``: `tf.debugging.enable_check_numerics`.
* ``terminate_on_nan``: Keras's callback of that name.
* ``lightning``: `lightning.pytorch.utilities.grad_norm` in every step.
* ``wandb``: Weights & Biases offline, the loss logged in every step; PyTorch: ``run.watch`` with its defaults.
* ``torchmortem``, ``torch_audit``: with their defaults. ``torchdiag``: ``check_gradients`` in every step.
"""

CALLBACKS: Mapping[str, Mapping[str, str | None]] = {
    "pytorch": {
        "lightning_callback": "lightning",
        "lightning_grad_norm": "lightning",
        "huggingface_callback": "transformers",
        "huggingface_grad_norm": "transformers",
        "accelerate_watch": "accelerate",
        "accelerate_grad_norm": "accelerate",
        "ignite_handler": "ignite",
        "ignite_grad_norm": "ignite",
        "skorch_callback": "skorch",
        "skorch_grad_norm": "skorch",
    },
    "keras3": {"keras_callback": None, "keras_norm_loop": None},
}
"""Settings within one ``fit`` of a library, compared with a plain ``fit`` of it: as in `ALTERNATIVES`.

* ``*_callback``, ``accelerate_watch``, ``ignite_handler``: those of `autotrainer.integrations`.
* ``lightning_grad_norm``: `lightning.pytorch.utilities.grad_norm` logged in every step, as Lightning documents it.
* ``huggingface_grad_norm``: the norm of all gradients in the Trainer's own log of every step.
* ``accelerate_grad_norm``: the norm that ``clip_grad_norm_`` returns, logged in every step.
* ``ignite_grad_norm``: ``GradsScalarHandler``, the norm of each gradient in TensorBoard in every step.
* ``skorch_grad_norm``: the norm of each gradient in the history; skorch logs no gradients itself.
* ``keras_norm_loop``: the norm of all gradients in a custom ``train_step``; Keras logs no gradients itself.
"""

Block = tuple[list[float], float]
"""Seconds of each step, and the processor seconds of all steps (Keras: of all but the first)."""


class Training(Protocol):
    """A training of one model that is timed in blocks."""

    network: Any
    """The model."""
    parameters: int
    """Size of its weights in bytes."""

    def attach(self) -> None:
        """Apply the setting to the training."""

    def block(self, steps: int) -> Block:
        """Train that many steps."""

    def close(self) -> None:
        """Remove the setting."""


@dataclass(slots=True)
class Attached:
    """An applied setting.

    Attributes:
        step: Takes one step (PyTorch).
        callbacks: For ``fit`` (Keras).
        around: Makes a context manager for each block, or None.
        end_block: Called at the end of each block, or None.
        close: Removes the setting.
    """

    step: Callable[[], None] | None = None
    callbacks: tuple[Any, ...] = ()
    around: Callable[[], Any] | None = None
    end_block: Callable[[], None] | None = None
    close: Callable[[], object] | None = None


def settings_of(framework: str) -> list[str]:
    """Return the names of all settings of a framework, the control first."""
    return [CONTROL, *WATCH, *ALTERNATIVES[framework], *CALLBACKS[framework]]


def missing_module(framework: str, setting: str) -> str | None:
    """Return the name of the module that a setting requires if it is not installed, else None."""
    module = {**ALTERNATIVES[framework], **CALLBACKS[framework]}.get(setting)
    return module if module is not None and find_spec(module) is None else None


def options_of(setting: str, folder: Path) -> dict[str, Any]:
    """Return the arguments of `autotrainer.watch` for a setting.

    Args:
        setting: A name of `WATCH`.
        folder: Where a run log may be written.
    """
    options = dict(WATCH[setting])
    return {**options, "log_dir": folder} if options.get("log_dir") else options


def offline_run(folder: Path) -> Any:
    """Start an offline run of Weights & Biases, which sends nothing."""
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    wandb = import_module("wandb")
    return wandb.init(mode="offline", dir=folder, settings=wandb.Settings(silent=True, console="off"))
