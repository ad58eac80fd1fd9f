"""Where each kind of edit registers its lines of PyTorch code.

Lines that are not comments run as they stand after ``model`` and ``optimizer`` are created (clipping and what is
done in each epoch: inside the loop). What has to be done by hand is a comment.
"""

from __future__ import annotations

from functools import singledispatch

from autotrainer.edits import Edit
from autotrainer.errors import ConfigError

__all__ = ["patch_lines"]


@singledispatch
def patch_lines(edit: Edit) -> list[str]:
    """Return an edit as lines of PyTorch code.

    Raises:
        ConfigError: If the edit has no lines.
    """
    raise ConfigError(f"there are no lines of PyTorch code for {type(edit).__name__}")
