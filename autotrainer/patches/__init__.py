"""A repair plan in words and as lines to paste into one's own code."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from autotrainer.edits import Edit
from autotrainer.patches import course, data, guarding, model, training  # noqa: F401 - their lines register themselves
from autotrainer.patches.base import keras_lines, pytorch_lines, words
from autotrainer.plan import RepairPlan

__all__ = ["describe", "lines", "words"]

_WRITERS: Mapping[str, Callable[[Edit], list[str]]] = {"pytorch": pytorch_lines, "keras3": keras_lines}


def describe(plan: RepairPlan) -> str:
    """Return what to change in one's own code: what is to be known first, then each change in words and lines.

    Changes of the model come first: an optimizer is to be made over the parameters that it then has.
    """
    text = []
    if plan.problems:
        text.append(f"Against {', '.join(plan.problems)}:")
    if plan.changes:
        text.append(f"Know first: this changes the {', '.join(plan.changes)} of the training.")
    for number, edit in enumerate(sorted(plan.edits, key=lambda edit: edit.change == 0), 1):
        text.append(f"{number}. {words(edit)}")
        text.extend(f"       {line}" for line in lines(edit, plan.framework))
    return "\n".join(text)


def lines(edit: Edit, framework: str) -> list[str]:
    """Return an edit as lines of code.

    Args:
        edit: The edit.
        framework: ``pytorch`` or ``keras3``; other backends get no lines.
    """
    return _WRITERS[framework](edit) if framework in _WRITERS else []
