"""Errors that autotrainer raises for its user.

```
AutotrainerError
├── InputError (also a ValueError)   what was given can't be used
│   ├── DataError                    data, or data that do not fit the model
│   ├── BudgetError                  a budget that allows nothing
│   └── ConfigError                  unknown or unfitting names, options, thresholds
├── StateError                       a call at the wrong time
├── LogError                         a run log that can't be read
└── PluginError                      an extension that fails to load
```

Every message says what is wrong, where, and how to mend it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

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


class InputError(AutotrainerError, ValueError):
    """Something that was given can't be used."""


class DataError(InputError):
    """Data that can't be used, or that do not fit the model."""


class BudgetError(InputError):
    """A budget that allows no work."""


class ConfigError(InputError):
    """An unknown or unfitting name, option or threshold."""


class StateError(AutotrainerError):
    """A call at a time at which it makes no sense."""


class LogError(AutotrainerError):
    """A run log that can't be read."""


class PluginError(AutotrainerError):
    """An extension of another distribution that fails to load."""


_SHOWN = 12
"""Names that are listed whole; of more the nearest few."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the closest known spelling, else the known names, or the nearest of many.

    Args:
        name: The unknown name.
        known: All names that would have been right.

    Returns:
        A sentence such as ``did you mean 'balance'?``.
    """
    options = sorted(set(known))
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    if len(options) <= _SHOWN:
        return f"known: {', '.join(options)}"
    few = difflib.get_close_matches(name, options, n=5, cutoff=0.0)
    return f"the nearest of {len(options)} known names: {', '.join(few)}"
