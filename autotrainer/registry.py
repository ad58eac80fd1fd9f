"""The registry of rules, repairs and backends: built-in ones, and plugins of other distributions."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from autotrainer import plugins
from autotrainer.adapter.backend import Backend
from autotrainer.config import project_settings
from autotrainer.edits.base import shorten
from autotrainer.errors import ConfigError, InputError, PluginError, nearest
from autotrainer.repair import Repair
from autotrainer.rule import Rule

__all__ = ["backend_named", "backend_of", "backends", "find_backend", "make_rules", "problem_name", "repairs", "rules"]

_BACKENDS = ("autotrainer.backends.keras3", "autotrainer.backends.pytorch")
"""Keras first: on its torch engine, a Keras model is also a `torch.nn.Module`."""


@lru_cache
def rules() -> tuple[type[Rule], ...]:
    """Return all rule classes: built-in ones by code, then plugins."""
    builtin: tuple[type[Rule], ...] = importlib.import_module("autotrainer.rules").BUILTIN
    return builtin + tuple(plugins.load_plugins("autotrainer.rules", Rule, builtin, _builtin_repairs()))


@lru_cache
def repairs() -> tuple[type[Repair], ...]:
    """Return all repair classes: built-in ones, then plugins."""
    builtin = _builtin_repairs()
    return builtin + tuple(plugins.load_plugins("autotrainer.repairs", Repair, builtin, rules()))


def _builtin_repairs() -> tuple[type[Repair], ...]:
    builtin: tuple[type[Repair], ...] = importlib.import_module("autotrainer.repairs").BUILTIN
    return builtin


@lru_cache
def backends() -> tuple[Backend, ...]:
    """Return all backends: built-in ones, then plugins. A backend imports its framework only when it gets a model."""
    builtin: list[Backend] = [importlib.import_module(name).BACKEND for name in _BACKENDS]
    classes = plugins.load_plugins("autotrainer.backends", Backend, [type(backend) for backend in builtin], ())
    instances: list[Backend] = []
    for cls in classes:
        with plugins.contain(cls):
            instances.append(cls())
    return (*builtin, *instances)


def find_backend(model: Any) -> Backend | None:
    """Return the backend of a model, or None if it belongs to no supported framework."""
    for backend in backends():
        with plugins.contain(type(backend)):
            accepts = backend.accepts(model)
            if not isinstance(accepts, bool):
                raise PluginError(f"accepts() returned a {type(accepts).__name__}, not True or False")
            if accepts:
                return backend
    return None


def backend_of(model: Any) -> Backend:
    """Return the backend of a model.

    Raises:
        InputError: If the model belongs to no supported framework.
    """
    backend = find_backend(model)
    if backend is not None:
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
    made = (_make(rule, values.get(rule, {})) for rule in all_rules if rule in active)
    return [rule for rule in made if rule is not None]


def _make(rule: type[Rule], values: Mapping[str, float]) -> Rule | None:
    """Return a rule with these thresholds; None if it is a plugin that can't be instantiated.

    Raises:
        ConfigError: If a value is invalid.
    """
    try:
        return rule(**values)
    except BaseException as error:
        if (values and isinstance(error, ConfigError)) or not (
            plugins.origin(rule) and plugins.is_contained(error, rule)
        ):
            raise
        plugins.report_failure(rule, error)
        return None


def _threshold_values(
    thresholds: Mapping[str, float], all_rules: Sequence[type[Rule]]
) -> dict[type[Rule], dict[str, float]]:
    values: dict[type[Rule], dict[str, float]] = {}
    for name, value in thresholds.items():
        rule, threshold = _threshold(name, all_rules)
        values.setdefault(rule, {})[threshold] = value
    for rule, rule_values in values.items():
        _make(rule, rule_values)  # an invalid value is an error even for a rule that is not active
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
