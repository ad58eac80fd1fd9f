"""Configuration: ``[tool.autotrainer]`` in ``pyproject.toml``, the off switch, and the folder for logs."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotrainer.errors import ConfigError, nearest

__all__ = ["ProjectSettings", "as_path", "is_first_process", "log_folder", "project_settings", "switched_off"]

_TABLE = "tool.autotrainer"
_KEYS = ("select", "ignore", "thresholds")
_MAX_INTEGER = 2**63
"""TOML allows at least 64 bits; larger integers need not fit a float."""


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """Project defaults for the arguments of the same names of `autotrainer.watch`.

    Attributes:
        path: Path of the file; None if there is none.
        select: Problems to detect; None for all.
        ignore: Problems to skip.
        thresholds: Values by ``problem.name``, or by the names in the AUTOTRAINER papers.
    """

    path: Path | None = None
    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    thresholds: Mapping[str, Any] = field(default_factory=dict)


def switched_off() -> bool:
    """Return whether ``AUTOTRAINER_OFF=1`` is set."""
    return os.environ.get("AUTOTRAINER_OFF", "") not in ("", "0")


def is_first_process() -> bool:
    """Return whether this is the first process of a distributed training, by what launchers set; the only one is, too.

    ``RANK`` is that of torchrun and accelerate; Lightning sets ``LOCAL_RANK`` and ``NODE_RANK`` for the processes that
    it starts.
    """
    ranks = ["RANK"] if os.environ.get("RANK") else ["LOCAL_RANK", "NODE_RANK"]
    return all(os.environ.get(name, "") in ("", "0") for name in ranks)


def as_path(path: Any, name: str) -> Path:
    """Return an argument as a path; whether it can be used shows only then.

    Args:
        path: The argument.
        name: Its name, for messages.

    Raises:
        ConfigError: If it is not a string or path, is empty, or can't name a file on this system.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise ConfigError(f"{name} must be a string or path, not {type(path).__name__}")
    try:
        usable = text != "" and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # lone surrogates, or characters that the file system's encoding lacks
        usable = False
    if not usable:
        raise ConfigError(f"{name} {text!r:.200} can't name a file on this system; choose another")
    return Path(text)


def log_folder(value: Any) -> Path | None:
    """Return the option ``log_dir`` as a path, or None: see `as_path`."""
    return None if value is None else as_path(value, "log_dir")


def project_settings(folder: Path | None = None) -> ProjectSettings:
    """Read the nearest ``pyproject.toml`` with a table ``[tool.autotrainer]``.

    Args:
        folder: Folder to search first, before its parents; None for the current folder.

    Returns:
        The settings; empty ones if there is no such file.

    Raises:
        ConfigError: If the table can't be read, or has an unknown or invalid setting.
    """
    try:
        start = Path.cwd() if folder is None else folder
    except OSError:  # the current folder has been deleted
        return ProjectSettings()
    for parent in (start, *start.parents):
        path = parent / "pyproject.toml"
        try:
            content = path.read_bytes() if path.is_file() else b""
        except OSError:  # not readable
            continue
        if _TABLE.encode() in content:
            table = _table(path, content)
            if table is not None:
                return _settings(path, table)
    return ProjectSettings()


def _table(path: Path, content: bytes) -> Any:
    try:
        tools = tomllib.loads(content.decode("utf-8")).get("tool")
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply, so [{_TABLE}] can't be read") from None
    except ValueError as error:  # invalid UTF-8 or TOML, or a number of too many digits
        raise ConfigError(f"{path} is not valid TOML, so [{_TABLE}] can't be read: {error}") from None
    return tools.get("autotrainer") if isinstance(tools, Mapping) else None


def _settings(path: Path, table: Any) -> ProjectSettings:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{path}: {_TABLE} must be a table with {', '.join(_KEYS)}")
    for key in table:
        if key not in _KEYS:
            raise ConfigError(f"{path}: unknown setting {key!r} in [{_TABLE}]: {nearest(key, _KEYS)}")
    select = table.get("select")
    return ProjectSettings(
        path=path,
        select=None if select is None else _names(path, "select", select),
        ignore=_names(path, "ignore", table.get("ignore", ())),
        thresholds=dict(_numbers(path, table.get("thresholds", {}))),
    )


def _names(path: Path, key: str, value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: {key} in [{_TABLE}] must be a list of names, codes and code prefixes")
    return tuple(names)


def _numbers(path: Path, table: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield thresholds by their full name, written either as a quoted key or as a table of the problem."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{path}: thresholds in [{_TABLE}] must be a table of numbers by problem.name")
    for name, value in table.items():
        if isinstance(value, Mapping) and not prefix:
            yield from _numbers(path, value, f"{name}.")
        elif isinstance(value, int) and abs(value) >= _MAX_INTEGER:
            raise ConfigError(f"{path}: threshold {prefix}{name} in [{_TABLE}] is too large")
        else:
            yield prefix + name, value
