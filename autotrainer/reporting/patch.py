"""The text of a repair plan: its edits in words, each with the lines of code to paste."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from autotrainer import registry
from autotrainer.edits import (
    ClipGradients,
    DecayRate,
    Edit,
    ReduceOnPlateau,
    SetLearningRate,
    SetWeightDecay,
    TuneAdam,
    WarmUpRate,
)
from autotrainer.errors import ConfigError
from autotrainer.safe_text import escaped, safe_line

__all__ = ["in_patch_order", "patch_lines", "patch_steps", "patch_text"]

_AFTER_OPTIMIZER = (SetWeightDecay, TuneAdam, ReduceOnPlateau, WarmUpRate, DecayRate)
"""Edits whose lines use the optimizer and the learning rate that other lines set, in this order."""

_LONGEST_NAME = 500


def patch_text(
    edits: Sequence[Edit],
    framework: str,
    *,
    problems: Sequence[str] = (),
    places: Mapping[str, str] = MappingProxyType({}),
    changes: Sequence[str] = (),
    start: int = 0,
) -> str:
    """Return what to change in the user's code: first what to note, then each edit in words and lines.

    Args:
        edits: The edits of one plan.
        framework: Name of the backend that the lines are for; without such a backend there are only words.
        problems: Names of the problems that they fix.
        places: File and line that a problem points to, by its name.
        changes: What of the training changes that a user must know about.
        start: Epoch at whose start the edits take effect.
    """
    text = []
    if problems:
        located = [f"{name} ({places[name]})" if name in places else name for name in problems]
        text.append(safe_line(f"To fix {', '.join(located)}:"))
    if changes:
        text.append(f"Note: this changes the {', '.join(changes)} of the training.")
    if start:
        text.append(
            f"Apply this from the start of epoch {start} (the first epoch is 0); earlier epochs stay unchanged."
        )
    for number, (words, lines) in enumerate(patch_steps(edits, framework, start), 1):
        text.append(safe_line(f"{number}. {words}"))
        text.extend(f"       {line}" for line in lines)
    return "\n".join(map(escaped, text))


def patch_steps(edits: Sequence[Edit], framework: str, start: int = 0) -> list[tuple[str, list[str]]]:
    """Return each edit in words and as lines of code, in the order in which they are pasted.

    Args:
        edits: The edits of one plan.
        framework: Name of the backend that the lines are for.
        start: Epoch at whose start the edits take effect.
    """
    return [
        (str(edit), _from_epoch(start, edit, patch_lines(edit, framework, edits))) for edit in in_patch_order(edits)
    ]


def patch_lines(edit: Edit, framework: str, edits: Sequence[Edit] = ()) -> list[str]:
    """Return an edit as lines of code; none where the backend is unknown or does not know the edit.

    Args:
        edit: The edit.
        framework: Name of the backend that the lines are for.
        edits: All edits of its plan.
    """
    if any(len(name) > _LONGEST_NAME for name in (*getattr(edit, "layers", ()), *getattr(edit, "followers", ()))):
        return ["# the name of a layer is too long to print: plan.apply(model, optimizer) makes this change"]
    backend = registry.backend_named(framework)
    try:
        return [] if backend is None else list(backend.patch(edit, edits))
    except ConfigError:
        return []


def in_patch_order(edits: Sequence[Edit]) -> list[Edit]:
    """Return edits in the order in which their lines are pasted.

    Changes of the model come first, since an optimizer is created over the parameters that it then has; what creates
    the optimizer comes before what uses it.
    """
    late = {kind: place for place, kind in enumerate(_AFTER_OPTIMIZER, 2)}
    return sorted(edits, key=lambda edit: 0 if edit.change else late.get(type(edit), 1))


def _from_epoch(epoch: int, edit: Edit, lines: Sequence[str]) -> list[str]:
    """Return lines for the body of a loop over ``epoch``, to be run from an epoch on; unchanged for epoch 0.

    Settings are set once at the start of that epoch; what is done in each step stays where it is.
    """
    if not epoch or not lines:
        return list(lines)
    text = list(lines)
    if all(line.startswith("#") for line in lines):
        return [f"# from the start of epoch {epoch}:", *text]
    if isinstance(edit, SetLearningRate):
        text.append("# with a scheduler, multiply group['lr'] and its base_lrs by the same factor instead")
    return [f"if epoch {'>=' if isinstance(edit, ClipGradients) else '=='} {epoch}:", *(f"    {line}" for line in text)]
