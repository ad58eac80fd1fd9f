"""Finds plugins by their entry points, and checks each as it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from autotrainer.adapter.backend import Backend
from autotrainer.errors import PluginError
from autotrainer.output import logger
from autotrainer.plugins.containment import describe_error, register
from autotrainer.plugins.declarations import CHECKS, names, require

__all__ = ["load_plugins", "load_sink", "sink_names"]


def load_plugins(
    group: str,
    base: type[Any],
    builtin: Collection[type[Any]],
    others: Callable[[], Collection[type[Any]]] = tuple,
) -> list[Any]:
    """Return the plugins of one kind; broken ones are logged and left out.

    Args:
        group: Group of entry points.
        base: Base class: `Rule`, `Repair` or `Backend`.
        builtin: Built-in classes of this kind, whose names are taken.
        others: Returns classes of another kind whose names are taken, too; called only if there are plugins.
    """
    plugins: list[type[Any]] = []
    try:
        points = list(entry_points(group=group))
    except Exception as error:  # noqa: BLE001 - damaged metadata of any installed distribution
        logger.warning("plugins can't be listed, so none of %s is used: %s", group, describe_error(error))
        return []
    for point in points:
        try:
            plugin = _load(point, base)
            if plugin not in plugins:
                _check(point, plugin, [*builtin, *others(), *plugins])
                plugins.append(plugin)
        except PluginError as error:
            logger.warning("%s", error)
    return plugins


def load_sink(name: str) -> tuple[str, Any] | None:
    """Return distribution and object of the entry point of a name in ``autotrainer.sinks``; None without one.

    Raises:
        PluginError: If it can't be loaded, or several distributions have one of this name.
    """
    try:
        points = [point for point in entry_points(group="autotrainer.sinks") if point.name == name]
    except Exception as error:
        raise PluginError(f"sinks of other distributions can't be listed: {describe_error(error)}") from error
    if not points:
        return None
    if len({point.value for point in points}) > 1:
        owners = ", ".join(sorted(map(_distribution, points)))
        raise PluginError(f"several distributions have a sink {name!r} ({owners}): pass an object instead of the name")
    try:
        return _distribution(points[0]), points[0].load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        text = f"{_distribution(points[0])}: sink {name!r} can't be loaded: {describe_error(error)}"
        raise PluginError(text) from error


def sink_names() -> list[str]:
    """Return the names of sinks of other distributions."""
    with suppress(Exception):  # damaged metadata of any installed distribution
        return [point.name for point in entry_points(group="autotrainer.sinks")]
    return []


def _load(point: EntryPoint, base: type[Any]) -> type[Any]:
    """Load one plugin.

    Raises:
        PluginError: If it fails to load or is not a subclass of the base class.
    """
    try:
        loaded = point.load()
        valid = isinstance(loaded, type) and issubclass(loaded, base) and loaded is not base
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginError(_skipped(point, f"can't be loaded and is skipped: {describe_error(error)}")) from error
    if not valid:
        raise PluginError(_skipped(point, f"is not a subclass of {base.__name__} and is skipped"))
    plugin: type[Any] = loaded
    return plugin


def _check(point: EntryPoint, plugin: type[Any], classes: Collection[type[Any]]) -> None:
    """Check what a plugin declares, and that it can be instantiated.

    Raises:
        PluginError: If it is invalid, or claims a name of one of the classes.
    """
    base = next(base for base in CHECKS if issubclass(plugin, base))
    try:
        CHECKS[base](plugin)
        if base is not Backend:
            require(isinstance(plugin.documentation(), str), "documentation() must return a string")
        plugin()
        taken = {name: other for other in classes for name in names(other)}
        for name in names(plugin):
            require(name not in taken, f"{name!r} is a name of {taken.get(name, plugin).__name__} already")
    except KeyboardInterrupt:
        raise
    except PluginError as error:
        raise PluginError(_skipped(point, f"is invalid and is skipped: {error}")) from None
    except BaseException as error:
        raise PluginError(_skipped(point, f"can't be used and is skipped: {describe_error(error)}")) from error
    register(plugin, _distribution(point))


def _skipped(point: EntryPoint, reason: str) -> str:
    return f"{_distribution(point)}: plugin {point.name!r} {reason}"


def _distribution(point: EntryPoint) -> str:
    try:
        return str(point.dist.name)  # type: ignore[union-attr]
    except Exception:  # noqa: BLE001 - no distribution, or one whose metadata are damaged
        return "an unknown distribution"
