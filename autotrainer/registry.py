"""Finds rules, repairs and backends: the built-in ones and those that other distributions register."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from autotrainer.config import project_settings
from autotrainer.errors import ConfigError, InputError, PluginError, nearest
from autotrainer.repair import Repair
from autotrainer.rule import Rule

if TYPE_CHECKING:
    from autotrainer.adapter.backend import Backend

__all__ = ["backend_named", "backend_of", "backends", "make_rules", "problem_name", "repairs", "rules"]

logger = logging.getLogger("autotrainer")

_BACKENDS = ("autotrainer.backends.keras3", "autotrainer.backends.pytorch")
"""Keras first: on its torch engine, a Keras model is a `torch.nn.Module` too."""


@lru_cache
def rules() -> tuple[type[Rule], ...]:
    """Return all rule classes: built-in ones by code, then those of other distributions."""
    builtin: tuple[type[Rule], ...] = importlib.import_module("autotrainer.rules").BUILTIN
    return builtin + tuple(_plugins("autotrainer.rules", Rule))


@lru_cache
def repairs() -> tuple[type[Repair], ...]:
    """Return all repair classes: built-in ones, then those of other distributions."""
    builtin: tuple[type[Repair], ...] = importlib.import_module("autotrainer.repairs").BUILTIN
    return builtin + tuple(_plugins("autotrainer.repairs", Repair))


@lru_cache
def backends() -> tuple[Backend, ...]:
    """Return all backends. None of them imports its framework before it has to do with a model of it."""
    from autotrainer.adapter.backend import Backend

    found: list[Backend] = [importlib.import_module(name).BACKEND for name in _BACKENDS]
    return (*found, *(cls() for cls in _plugins("autotrainer.backends", Backend)))


def backend_of(model: Any) -> Backend:
    """Return the backend that a model belongs to.

    Raises:
        InputError: If the model is of no known framework.
    """
    for backend in backends():
        if backend.accepts(model):
            return backend
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    raise InputError(f"{kind} is no model of a known framework: give a torch.nn.Module or a keras.Model (Keras 3)")


def backend_named(name: str) -> Backend | None:
    """Return the backend of a name such as ``pytorch``, or None if it is unknown or not installed."""
    return next((backend for backend in backends() if backend.name == name), None)


def make_rules(
    select: str | Iterable[str] | None = None,
    ignore: str | Iterable[str] = (),
    thresholds: Mapping[str, float] | None = None,
) -> list[Rule]:
    """Build the rules in force.

    What the project says in ``[tool.autotrainer]`` of its ``pyproject.toml`` holds too: its ``select`` where none is
    given, its ``ignore`` besides, and its ``thresholds`` where the same one is not given.

    Args:
        select: Names, codes, code prefixes or everyday aliases of the problems to look for; None for all.
        ignore: The same, for problems to leave out.
        thresholds: Values by ``problem.name``, or by the papers' names (``beta_1``).

    Returns:
        Rule objects in the order of the registry.

    Raises:
        ConfigError: If a name is unknown or a value out of range.
    """
    known = rules()
    project = project_settings()
    if thresholds is not None and not isinstance(thresholds, Mapping):
        raise ConfigError(f"thresholds must be a dict of numbers by problem.name, not {type(thresholds).__name__}")
    values = _values(thresholds or {}, known)
    chosen = _matching(select, known) if select is not None else set(known)
    chosen -= _matching(ignore, known)
    try:
        for rule, of_project in _values(project.thresholds, known).items():
            values[rule] = of_project | values.get(rule, {})
        if select is None and project.select is not None:
            chosen &= _matching(project.select, known)
        chosen -= _matching(project.ignore, known)
    except ConfigError as error:
        raise ConfigError(f"{project.path}: {error}") from None
    return [rule(**values.get(rule, {})) for rule in known if rule in chosen]


def _values(thresholds: Mapping[str, float], known: Sequence[type[Rule]]) -> dict[type[Rule], dict[str, float]]:
    values: dict[type[Rule], dict[str, float]] = {}
    for name, value in thresholds.items():
        rule, threshold = _threshold(name, known)
        values.setdefault(rule, {})[threshold] = value
    for rule, given in values.items():
        rule(**given)  # a wrong value is an error even for a rule that is left out
    return values


def problem_name(name: str) -> str:
    """Return the problem that a name, code or everyday alias means.

    Raises:
        ConfigError: If it is unknown.
    """
    for rule in rules():
        if name.lower() in (rule.problem, rule.code.lower(), *rule.aliases):
            return rule.problem
    names = [n for rule in rules() for n in (rule.problem, *rule.aliases)]
    raise ConfigError(f"unknown problem {name!r}: {nearest(name, names)}")


def _matching(wanted: str | Iterable[str], known: Sequence[type[Rule]]) -> set[type[Rule]]:
    found: set[type[Rule]] = set()
    for name in [wanted] if isinstance(wanted, str) or not isinstance(wanted, Iterable) else wanted:
        if not isinstance(name, str):
            raise ConfigError(f"select and ignore take names, codes and code prefixes, not {name!r}")
        by_prefix = {r for r in known if name and r.code.lower().startswith(name.lower())}
        found |= by_prefix or {r for r in known if r.problem == problem_name(name)}
    return found


def _threshold(name: str, known: Sequence[type[Rule]]) -> tuple[type[Rule], str]:
    names = {}
    for rule in known:
        for threshold, meaning in rule.THRESHOLDS.items():
            names[f"{rule.problem}.{threshold}"] = (rule, threshold)
            if meaning.alias:
                names[meaning.alias] = (rule, threshold)
    if name not in names:
        raise ConfigError(f"unknown threshold {name!r}: {nearest(str(name), names)}")
    return names[name]


def _plugins(group: str, base: type[Any]) -> list[type[Any]]:
    found = []
    for point in entry_points(group=group):
        try:
            found.append(_load(point, base))
        except PluginError as error:
            logger.warning("%s", error)
    return found


def _load(point: EntryPoint, base: type[Any]) -> type[Any]:
    """Load one extension.

    Raises:
        PluginError: If it fails to load or is not a subclass of the base; names its distribution.
    """
    origin = point.dist.name if point.dist is not None else "an unknown distribution"
    try:
        loaded = point.load()
    except Exception as error:
        raise PluginError(f"{origin}: extension {point.name!r} fails to load and is left out: {error!r}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise PluginError(f"{origin}: extension {point.name!r} is no subclass of {base.__name__} and is left out")
    return loaded
