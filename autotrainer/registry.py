"""The registry of rules, repairs and backends: built-in ones, and plugins of other distributions."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from autotrainer.config import project_settings
from autotrainer.edits.base import shorten
from autotrainer.errors import ConfigError, InputError, PluginError, nearest
from autotrainer.repair import Repair
from autotrainer.rule import Rule

if TYPE_CHECKING:
    from autotrainer.adapter.backend import Backend

__all__ = ["backend_named", "backend_of", "backends", "make_rules", "problem_name", "repairs", "rules"]

logger = logging.getLogger("autotrainer")

_BACKENDS = ("autotrainer.backends.keras3", "autotrainer.backends.pytorch")
"""Keras first: on its torch engine, a Keras model is also a `torch.nn.Module`."""


@lru_cache
def rules() -> tuple[type[Rule], ...]:
    """Return all rule classes: built-in ones by code, then plugins."""
    builtin: tuple[type[Rule], ...] = importlib.import_module("autotrainer.rules").BUILTIN
    return builtin + tuple(_plugins("autotrainer.rules", Rule))


@lru_cache
def repairs() -> tuple[type[Repair], ...]:
    """Return all repair classes: built-in ones, then plugins."""
    builtin: tuple[type[Repair], ...] = importlib.import_module("autotrainer.repairs").BUILTIN
    return builtin + tuple(_plugins("autotrainer.repairs", Repair))


@lru_cache
def backends() -> tuple[Backend, ...]:
    """Return all backends: built-in ones, then plugins. A backend imports its framework only when it gets a model."""
    from autotrainer.adapter.backend import Backend

    builtin: list[Backend] = [importlib.import_module(name).BACKEND for name in _BACKENDS]
    return (*builtin, *(cls() for cls in _plugins("autotrainer.backends", Backend)))


def backend_of(model: Any) -> Backend:
    """Return the backend of a model.

    Raises:
        InputError: If the model belongs to no supported framework.
    """
    for backend in backends():
        if backend.accepts(model):
            return backend
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    raise InputError(f"{kind} is not a supported model: pass a torch.nn.Module or a keras.Model (Keras 3)")


def backend_named(name: str) -> Backend | None:
    """Return the backend of a name such as ``pytorch``, or None if it is unknown or not installed."""
    return next((backend for backend in backends() if backend.name == name), None)


def make_rules(
    select: str | Iterable[str] | None = None,
    ignore: str | Iterable[str] = (),
    thresholds: Mapping[str, float] | None = None,
) -> list[Rule]:
    """Return the active rules.

    Project defaults in ``[tool.autotrainer]`` of ``pyproject.toml`` apply, too: ``select`` if it is not passed,
    ``ignore`` in addition, and those ``thresholds`` that are not passed.

    Args:
        select: Names, codes, code prefixes or aliases of the problems to detect; None for all.
        ignore: The same, for problems to skip.
        thresholds: Values by ``problem.name``, or by the names in the AUTOTRAINER papers (``beta_1``).

    Returns:
        Rule objects, in the order of the registry.

    Raises:
        ConfigError: If a name is unknown or a value out of range.
    """
    all_rules = rules()
    project = project_settings()
    if thresholds is not None and not isinstance(thresholds, Mapping):
        raise ConfigError(f"thresholds must be a dict of numbers by problem.name, not {type(thresholds).__name__}")
    values = _threshold_values(thresholds or {}, all_rules)
    active = _matching(select, all_rules) if select is not None else set(all_rules)
    active -= _matching(ignore, all_rules)
    try:
        for rule, project_values in _threshold_values(project.thresholds, all_rules).items():
            values[rule] = project_values | values.get(rule, {})
        if select is None and project.select is not None:
            active &= _matching(project.select, all_rules)
        active -= _matching(project.ignore, all_rules)
    except ConfigError as error:
        raise ConfigError(f"{project.path}: {error}") from None
    return [rule(**values.get(rule, {})) for rule in all_rules if rule in active]


def _threshold_values(
    thresholds: Mapping[str, float], all_rules: Sequence[type[Rule]]
) -> dict[type[Rule], dict[str, float]]:
    values: dict[type[Rule], dict[str, float]] = {}
    for name, value in thresholds.items():
        rule, threshold = _threshold(name, all_rules)
        values.setdefault(rule, {})[threshold] = value
    for rule, rule_values in values.items():
        rule(**rule_values)  # an invalid value is an error even for a rule that is not active
    return values


def problem_name(name: str) -> str:
    """Return the name of the problem with a name, code or alias.

    Raises:
        ConfigError: If it is unknown.
    """
    for rule in rules():
        if name.lower() in (rule.problem, rule.code.lower(), *rule.aliases):
            return rule.problem
    names = [n for rule in rules() for n in (rule.problem, *rule.aliases)]
    raise ConfigError(f"unknown problem {shorten(name)}: {nearest(name, names)}")


def _matching(names: str | Iterable[str], all_rules: Sequence[type[Rule]]) -> set[type[Rule]]:
    matching: set[type[Rule]] = set()
    for name in [names] if isinstance(names, str) or not isinstance(names, Iterable) else names:
        if not isinstance(name, str):
            raise ConfigError(f"select and ignore take names, codes and code prefixes, not {shorten(name)}")
        by_prefix = {r for r in all_rules if name and r.code.lower().startswith(name.lower())}
        matching |= by_prefix or {r for r in all_rules if r.problem == problem_name(name)}
    return matching


def _threshold(name: str, all_rules: Sequence[type[Rule]]) -> tuple[type[Rule], str]:
    names = {}
    for rule in all_rules:
        for key, threshold in rule.THRESHOLDS.items():
            names[f"{rule.problem}.{key}"] = (rule, key)
            if threshold.alias:
                names[threshold.alias] = (rule, key)
    if not isinstance(name, str) or name not in names:
        hint = nearest(name if isinstance(name, str) else "", names)
        raise ConfigError(f"unknown threshold {shorten(name)}: {hint}")
    return names[name]


def _plugins(group: str, base: type[Any]) -> list[type[Any]]:
    plugins = []
    for point in entry_points(group=group):
        try:
            plugins.append(_load(point, base))
        except PluginError as error:
            logger.warning("%s", error)
    return plugins


def _load(point: EntryPoint, base: type[Any]) -> type[Any]:
    """Load one plugin.

    Raises:
        PluginError: If it fails to load or is not a subclass of the base class.
    """
    origin = point.dist.name if point.dist is not None else "an unknown distribution"
    try:
        loaded = point.load()
    except Exception as error:
        raise PluginError(f"{origin}: plugin {point.name!r} can't be loaded and is skipped: {error!r}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise PluginError(f"{origin}: plugin {point.name!r} is not a subclass of {base.__name__} and is skipped")
    return loaded
