"""The registry of rules, repairs, backends and sinks: built-in ones, and plugins of other distributions."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from autotrainer import plugins
from autotrainer.adapter.backend import Backend
from autotrainer.config import project_settings
from autotrainer.edits.base import shorten
from autotrainer.errors import ConfigError, InputError, PluginError, nearest
from autotrainer.repair import Repair
from autotrainer.rule import Rule
from autotrainer.sink import Sink

__all__ = [
    "backend_named",
    "backend_of",
    "backends",
    "check_sinks",
    "find_backend",
    "make_rules",
    "make_sinks",
    "problem_name",
    "problem_names",
    "repairs",
    "rules",
]

_BACKENDS = ("autotrainer.backends.keras3", "autotrainer.backends.pytorch")
"""Keras first: on its torch engine, a Keras model is also a `torch.nn.Module`."""
_SINKS = {
    "jsonl": "JsonLinesSink",
    "mlflow": "MLflowSink",
    "opentelemetry": "OpenTelemetrySink",
    "tensorboard": "TensorBoardSink",
    "trackio": "TrackioSink",
    "wandb": "WandbSink",
}
"""Built-in sinks: class by the name of the module in `autotrainer.integrations.sinks`."""


@lru_cache
def rules() -> tuple[type[Rule], ...]:
    """Return all rule classes: built-in ones by code, then plugins."""
    builtin: tuple[type[Rule], ...] = importlib.import_module("autotrainer.rules").BUILTIN
    return builtin + tuple(plugins.load_plugins("autotrainer.rules", Rule, builtin, _builtin_repairs))


@lru_cache
def repairs() -> tuple[type[Repair], ...]:
    """Return all repair classes: built-in ones, then plugins."""
    builtin = _builtin_repairs()
    return builtin + tuple(plugins.load_plugins("autotrainer.repairs", Repair, builtin, rules))


def _builtin_repairs() -> tuple[type[Repair], ...]:
    builtin: tuple[type[Repair], ...] = importlib.import_module("autotrainer.repairs").BUILTIN
    return builtin


@lru_cache
def backends() -> tuple[Backend, ...]:
    """Return all backends: built-in ones, then plugins. A backend imports its framework only when it gets a model."""
    builtin: list[Backend] = [importlib.import_module(name).BACKEND for name in _BACKENDS]
    classes = plugins.load_plugins("autotrainer.backends", Backend, [type(backend) for backend in builtin])
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


def check_sinks(sinks: Any) -> tuple[str | Sink, ...]:
    """Return the entries of ``watch(sinks=…)``; nothing is loaded yet.

    Raises:
        ConfigError: If an entry is not a sink or the name of one, or is listed twice.
    """
    single = isinstance(sinks, str) or not isinstance(sinks, Iterable)
    entries: tuple[Any, ...] = (sinks,) if single else tuple(sinks)
    for number, entry in enumerate(entries):
        if any(entry is other or (isinstance(entry, str) and entry == other) for other in entries[:number]):
            raise ConfigError(f"sinks lists {shorten(entry)} twice: list it once")
        if isinstance(entry, str):
            names = (*_SINKS, *plugins.sink_names())
            if entry not in names:
                raise ConfigError(f"unknown sink {shorten(entry)}: {nearest(entry, names)}")
        else:
            _require_sink(entry, "sinks")
    return entries


def make_sinks(entries: Sequence[str | Sink], *, first: bool = True) -> dict[str, Sink]:
    """Return sinks by name, as messages call them; those that are given by name are made.

    Args:
        entries: What `check_sinks` returns.
        first: Whether this is the first process of a distributed training: in the others, none are made.

    Raises:
        InputError: If a library is missing, or a sink can't be used.
        PluginError: If one of another distribution can't be used.
    """
    made: dict[str, Sink] = {}
    try:
        for number, entry in enumerate(entries):
            if not isinstance(entry, str):
                name = type(entry).__name__
                made[name if name not in made else f"{name} {number + 1}"] = entry
                _reopen(entry, name)
            elif first:
                made[entry] = _make_sink(entry)
    except BaseException:
        for name, sink in made.items():
            if name in entries:  # made here, so that nobody else closes it
                with suppress(Exception):
                    sink.close()
        raise
    return made


def _reopen(sink: Any, name: str) -> None:
    """Have a sink that an earlier training may have closed prepare for another one."""
    reopen = getattr(sink, "reopen", None)
    try:
        if callable(reopen):
            reopen()
    except InputError:
        raise
    except Exception as error:
        raise ConfigError(f"sink {name} can't be used again: {plugins.describe_error(error)}") from error


def _make_sink(name: str) -> Sink:
    if name in _SINKS:
        try:
            module = importlib.import_module(f"autotrainer.integrations.sinks.{name}")
            builtin: Sink = getattr(module, _SINKS[name])()
            return builtin
        except InputError:
            raise
        except Exception as error:
            raise ConfigError(f"sink {name!r} can't be used: {plugins.describe_error(error)}") from error
    distribution, make = plugins.load_sink(name) or ("an unknown distribution", None)
    try:
        made: Any = make() if callable(make) else make
        _require_sink(made, name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        text = error if isinstance(error, InputError) else plugins.describe_error(error)
        raise PluginError(f"{distribution}: sink {name!r} can't be used: {text}") from error
    sink: Sink = made
    return sink


def _require_sink(sink: Any, name: str) -> None:
    """Raise `ConfigError` if an object is not a sink."""
    methods = ("scalars", "finding", "close")
    missing = [method for method in methods if not callable(getattr(sink, method, None))]
    if isinstance(sink, type) and not missing:
        raise ConfigError(f"{name}: pass an object of {sink.__name__}, not the class")
    if missing:
        valid = "the name of one or an object with scalars(step, mapping), finding(finding) and close()"
        raise ConfigError(f"{name}: {shorten(sink)} is not a sink, it lacks {', '.join(missing)}: pass {valid}")


def problem_names(names: str | Iterable[str]) -> frozenset[str]:
    """Return the names of all problems with these names, codes, code prefixes or aliases.

    Raises:
        ConfigError: If one is unknown.
    """
    return frozenset(rule.problem for rule in _matching(names, rules()))


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
