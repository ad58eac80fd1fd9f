"""Errors that autotrainer raises.

```
AutotrainerError
├── InputError (also a ValueError)   invalid arguments
│   ├── DataError                    invalid data, or data that do not fit the model
│   ├── BudgetError                  a budget that allows no work
│   └── ConfigError                  unknown or invalid names, options, thresholds
├── StateError                       a call at the wrong time
├── LogError                         a run log that can't be read
└── PluginError                      a plugin that can't be loaded
```

Every message says what is wrong, where, and how to fix it. As text, it is one line that is safe to print.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from autotrainer.safe_text import safe_line

__all__ = [
    "AutotrainerError",
    "BudgetError",
    "ConfigError",
    "DataError",
    "InputError",
    "LogError",
    "PluginError",
    "StateError",
    "nearest",
]


class AutotrainerError(Exception):
    """Base of all errors that autotrainer raises on purpose."""

    def __str__(self) -> str:
        return safe_line(" ".join(super().__str__().splitlines()))


class InputError(AutotrainerError, ValueError):
    """An invalid argument."""


class DataError(InputError):
    """Invalid data, or data that do not fit the model."""


class BudgetError(InputError):
    """A budget that allows no work."""


class ConfigError(InputError):
    """An unknown or invalid name, option or threshold."""


class StateError(AutotrainerError):
    """A call at the wrong time."""


class LogError(AutotrainerError):
    """A run log that can't be read."""


class PluginError(AutotrainerError):
    """A plugin of another distribution that can't be loaded."""


_MAX_LISTED = 12
"""Maximum number of names that are all listed; of more, only the closest few are."""
_MAX_COMPARED = 100
"""Characters of an unknown name that are compared with the valid ones."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint to an unknown name: the closest valid name, else all valid names, or the closest of many.

    Args:
        name: The unknown name.
        valid: All valid names.

    Returns:
        A clause such as ``did you mean 'balance'?``.
    """
    name, options = name[:_MAX_COMPARED], sorted(set(valid))
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    if len(options) <= _MAX_LISTED:
        return f"valid names: {', '.join(options)}"
    closest = difflib.get_close_matches(name, options, n=5, cutoff=0.0)
    return f"the closest of {len(options)} valid names: {', '.join(closest)}"
