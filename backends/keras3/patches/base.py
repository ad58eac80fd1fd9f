"""Where each kind of edit registers its lines of Keras code.

Lines that are not comments run as they stand after ``model.compile``. What has to be done by hand is a comment.
"""

from __future__ import annotations

from functools import singledispatch

from autotrainer.adapter.patch_code import literal
from autotrainer.edits import Edit
from autotrainer.errors import ConfigError

__all__ = ["layer_expression", "optimizer_with", "patch_lines"]


@singledispatch
def patch_lines(edit: Edit) -> list[str]:
    """Return an edit as lines of Keras code.

    Raises:
        ConfigError: If the edit has no lines.
    """
    raise ConfigError(f"there are no lines of Keras code for {type(edit).__name__}")


def optimizer_with(**settings: object) -> str:
    """Return the line that recreates the optimizer with other settings."""
    changed = ", ".join(f"{name!r}: {value!r}" for name, value in settings.items())
    return f"model.optimizer = model.optimizer.from_config({{**model.optimizer.get_config(), {changed}}})"


def layer_expression(name: str) -> str:
    """Return the expression for a layer, which may lie in a model inside the model."""
    return "model" + "".join(f".get_layer({literal(part)})" for part in name.split("/"))
