"""The closed vocabulary of edits: the smallest changes that a repair is made of.

An edit is a frozen record of plain values. It says what is to be different, never how: backends know that. One more
edit is a class in the file of its kind; each backend applies it, or says in `supports` why it can't, and gives its
lines in `Backend.patch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from autotrainer.edits import data, model, safeguards, training
from autotrainer.edits.base import INITIALIZER, OPTIMIZERS, Edit, initializer_for, shorten
from autotrainer.edits.data import *  # noqa: F403
from autotrainer.edits.model import *  # noqa: F403
from autotrainer.edits.safeguards import *  # noqa: F403
from autotrainer.edits.training import *  # noqa: F403
from autotrainer.errors import ConfigError, nearest

__all__ = ["EDITS", "INITIALIZER", "OPTIMIZERS", "Edit", "edit_from_dict", "initializer_for"]
__all__ += data.__all__
__all__ += model.__all__
__all__ += safeguards.__all__
__all__ += training.__all__

EDITS: Mapping[str, type[Edit]] = {
    name: getattr(module, name) for module in (training, safeguards, model, data) for name in module.__all__
}
"""All edits by their kind."""


def edit_from_dict(values: Any) -> Edit:
    """Rebuild an edit from what `Edit.to_dict` returned.

    Raises:
        ConfigError: If it is not a mapping of that form, or the kind or one of the values is unknown or not accepted.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"an edit must be a mapping such as {{'edit': 'ShuffleData'}}, not {shorten(values)}")
    kind = values.get("edit")
    if not isinstance(kind, str) or kind not in EDITS:
        raise ConfigError(
            f"unknown edit {shorten(kind)}: {nearest(kind[:100] if isinstance(kind, str) else '', EDITS)}"
        )
    cls = EDITS[kind]
    names = {field.name for field in fields(cls)}
    for name in values:
        if name != "edit" and name not in names:
            raise ConfigError(f"{kind} has no {shorten(name)}: {nearest(shorten(name), names)}")
    missing = [field.name for field in fields(cls) if field.default is MISSING and field.name not in values]
    if missing:
        raise ConfigError(f"{kind} is incomplete: it needs {', '.join(missing)}")
    return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name != "edit"})
