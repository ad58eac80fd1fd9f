"""Lines of edits that are in force from a later epoch on."""

from __future__ import annotations

from collections.abc import Sequence

from autotrainer.edits import ClipGradients, Edit, SetLearningRate

__all__ = ["from_epoch"]


def from_epoch(epoch: int, edit: Edit, lines: Sequence[str]) -> list[str]:
    """Return lines for the body of a loop over ``epoch``, to be run from an epoch on; as they are for epoch 0.

    Settings are set once at the beginning of that epoch; what is done in each step goes where it was.
    """
    if not epoch or not lines:
        return list(lines)
    text = list(lines)
    if isinstance(edit, SetLearningRate):
        text.append(f"# a scheduler starts at {edit.value:g} then: scale group['lr'] and its base_lrs alike instead")
    return [f"if epoch {'>=' if isinstance(edit, ClipGradients) else '=='} {epoch}:", *(f"    {line}" for line in text)]
