"""A repair plan in words and as lines to paste into one's own code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from autotrainer.edits import DecayRate, Edit, ReduceOnPlateau, SetWeightDecay, TuneAdam, WarmUpRate
from autotrainer.reporting.patches import course, data, guarding, model, training  # noqa: F401 - their lines register themselves
from autotrainer.reporting.patches.base import keras_lines, pytorch_lines, words
from autotrainer.reporting.patches.later import from_epoch

__all__ = ["describe", "in_patch_order", "lines", "words"]

_WRITERS: Mapping[str, Callable[[Edit], list[str]]] = {"pytorch": pytorch_lines, "keras3": keras_lines}
_LATE = (SetWeightDecay, TuneAdam, ReduceOnPlateau, WarmUpRate, DecayRate)
"""What goes by the optimizer and the rate that other lines set, in this order."""


def describe(
    edits: Sequence[Edit],
    framework: str,
    *,
    problems: Sequence[str] = (),
    places: Mapping[str, str] = MappingProxyType({}),
    changes: Sequence[str] = (),
    start: int = 0,
) -> str:
    """Return what to change in one's own code: what is to be known first, then each change in words and lines.

    Args:
        edits: The edits of one plan.
        framework: Name of the backend that the lines are for.
        problems: Names of the problems that they answer.
        places: File and line that a problem points to, by its name.
        changes: What of the training changes that a user must know first.
        start: Epoch from whose beginning on the edits are in force.
    """
    text = []
    if problems:
        told = [f"{name} ({places[name]})" if name in places else name for name in problems]
        text.append(f"Against {', '.join(told)}:")
    if changes:
        text.append(f"Know first: this changes the {', '.join(changes)} of the training.")
    if start:
        text.append(f"From the beginning of epoch {start} on, counted from 0; the epochs before run as given.")
    for number, edit in enumerate(in_patch_order(edits), 1):
        text.append(f"{number}. {words(edit)}")
        text.extend(f"       {line}" for line in from_epoch(start, edit, lines(edit, framework, edits)))
    return "\n".join(text)


def lines(edit: Edit, framework: str, beside: Sequence[Edit] = ()) -> list[str]:
    """Return an edit as lines of code.

    Args:
        edit: The edit.
        framework: ``pytorch`` or ``keras3``; other backends get no lines.
        beside: All edits of its plan.
    """
    if framework not in _WRITERS:
        return []
    return course.schedule_lines(edit, framework, beside) or _WRITERS[framework](edit)


def in_patch_order(edits: Sequence[Edit]) -> list[Edit]:
    """Return edits in the order in which their lines are pasted.

    Changes of the model come first, since an optimizer is made over the parameters that it then has; what makes the
    optimizer anew comes before what hangs on it.
    """
    late = {kind: place for place, kind in enumerate(_LATE, 2)}
    return sorted(edits, key=lambda edit: 0 if edit.change else late.get(type(edit), 1))
