"""Edits that weaken the regularization of a model: dropout rates, penalties of weights.

Each function takes the editor, the edit and whether to apply it; if not, it only raises the errors of applying it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from autotrainer.backends.keras3.model.copying import sublayers
from autotrainer.backends.keras3.model.describe import dropout_rates, penalized_weights
from autotrainer.backends.keras3.surgery.editor import Editor
from autotrainer.edits import DropPenalties, Edit, LimitDropout
from autotrainer.errors import ConfigError

__all__ = ["drop_penalties", "limit_dropout"]


def limit_dropout(editor: Editor, edit: LimitDropout, apply: bool) -> Edit:
    """Lower the rates of dropout and of recurrent layers that are above a limit."""
    high = [entry for entry in dropout_rates(editor.model) if entry[2] > edit.rate]
    names = _chosen(editor, (layer for layer, _, _ in high), edit.layers, f"a dropout rate above {edit.rate:g}")
    if apply:
        for layer, attribute, _ in high:
            if layer.name in names:
                setattr(getattr(layer, "cell", layer), attribute, edit.rate)
    return replace(edit, layers=names)


def drop_penalties(editor: Editor, edit: DropPenalties, apply: bool) -> Edit:
    """Remove the regularizers of weights."""
    penalized = list(penalized_weights(editor.model))
    names = _chosen(editor, (layer for layer, _ in penalized), edit.layers, "a penalty of its weights")
    if apply:
        for layer, weight in penalized:
            if layer.name in names:
                weight.regularizer = None
        for layer in sublayers(editor.model):  # a layer around others has a copy of what it made them with
            if editor.pattern(layer.name) is None and not any(w.regularizer for _, w in penalized_weights(layer)):
                for name in [name for name in vars(layer) if name.endswith("_regularizer")]:
                    if "activity" not in name:
                        setattr(layer, name, None)
    return replace(edit, layers=names)


def _chosen(editor: Editor, layers: Iterable[Any], wanted: tuple[str, ...], what: str) -> tuple[str, ...]:
    """Return the names of the layers to change, each once.

    Raises:
        ConfigError: If there are none.
    """
    names = dict.fromkeys(layer.name for layer in layers)
    named = [name for name in names if not wanted or name in wanted]
    if not named:
        raise ConfigError(f"no layer has {what}")
    allowed = tuple(name for name in named if editor.pattern(name) is None)
    if not allowed:
        raise ConfigError(f"keep={editor.pattern(named[0])!r} protects {', '.join(named)}")
    return allowed
