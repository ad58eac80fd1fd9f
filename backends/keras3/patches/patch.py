"""One edit of a plan as lines of Keras code."""

from __future__ import annotations

from collections.abc import Sequence

from autotrainer.backends.keras3.patches import (  # noqa: F401 - the other files register their lines
    data,
    model,
    safeguards,
    schedules,
    training,
)
from autotrainer.backends.keras3.patches.base import patch_lines
from autotrainer.edits import Edit

__all__ = ["patch"]


def patch(edit: Edit, edits: Sequence[Edit] = ()) -> list[str]:
    """Return an edit as lines of code.

    Args:
        edit: The edit.
        edits: All edits of its plan: a warm-up and a decay make one schedule.

    Raises:
        ConfigError: If the edit has no lines.
    """
    return schedules.combined_lines(edit, edits) or patch_lines(edit)
