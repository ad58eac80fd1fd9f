"""Plugins: rules, repairs and backends of other distributions, which may fail without harm to anything else.

A plugin is checked when it is loaded, and so is what it returns. One that is broken is left out, which is logged once
with the name of its distribution.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from importlib.metadata import EntryPoint, entry_points
from itertools import islice
from numbers import Real
from typing import Any, get_args

from autotrainer.adapter.backend import Backend
from autotrainer.edits import EDITS, Edit
from autotrainer.errors import PluginError
from autotrainer.output import logger
from autotrainer.records.findings import Finding, Severity
from autotrainer.repair import Dimension, Proposal, Repair, Risk
from autotrainer.rule import Place, Rule, Threshold

__all__ = [
    "check_dimension",
    "check_proposals",
    "contain",
    "describe_error",
    "is_contained",
    "isolated",
    "load_plugins",
    "load_sink",
    "origin",
    "report_failure",
    "sink_names",
    "valid_finding",
]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_MAX_PROPOSALS = 200
"""Most proposals of a repair for one finding, and most values of a dimension: a generator may be endless."""
_MAX_ERROR = 300
"""Characters of an error in a message."""

_origins: dict[type[Any], str] = {}
"""Distribution of each plugin."""
_reported: set[type[Any]] = set()
"""Plugins whose failure after loading has been logged."""


# -- errors -----------------------------------------------------------------------------------------------------------


def origin(plugin: type[Any]) -> str:
    """Return the distribution of a plugin as the beginning of a message; empty for a built-in class."""
    return f"{_origins[plugin]}: " if plugin in _origins else ""


def is_contained(error: BaseException, plugin: type[Any]) -> bool:
    """Return whether an error of a plugin, or of a built-in class, must not reach the user.

    A plugin may not end the process: its `SystemExit` is an error like any other. Ctrl-C always goes through.
    """
    return isinstance(error, Exception) or (plugin in _origins and not isinstance(error, KeyboardInterrupt))


def describe_error(error: BaseException) -> str:
    """Return type and message of an error, without addresses: the same text for the same reason."""
    try:
        text = re.sub(r"\b0x[0-9a-fA-F]{4,}", "0x…", repr(error))
    except Exception:  # noqa: BLE001 - an error of somebody else may have no text
        text = type(error).__name__
    return text if len(text) <= _MAX_ERROR else f"{text[:_MAX_ERROR]}…"


def report_failure(plugin: type[Any], error: BaseException, consequence: str = "is left out") -> None:
    """Log, once per class, that a plugin failed."""
    if plugin not in _reported:
        _reported.add(plugin)
        logger.warning("%s%s failed and %s: %s", origin(plugin), plugin.__name__, consequence, describe_error(error))


@contextmanager
def contain(plugin: type[Any]) -> Iterator[None]:
    """Suppress and log whatever a plugin raises; built-in classes raise as usual."""
    try:
        yield
    except BaseException as error:
        if plugin not in _origins or not is_contained(error, plugin):
            raise
        report_failure(plugin, error)


@contextmanager
def isolated(plugin: type[Any], make: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Enter a context manager of a plugin, which can neither raise nor suppress the error of the block."""
    stack = ExitStack()
    with contain(plugin):
        stack.enter_context(make())
    try:
        yield
    finally:
        with contain(plugin):
            stack.close()


# -- loading ----------------------------------------------------------------------------------------------------------


def load_plugins(
    group: str, base: type[Any], builtin: Collection[type[Any]], others: Collection[type[Any]]
) -> list[Any]:
    """Return the plugins of one kind; broken ones are logged and left out.

    Args:
        group: Group of entry points.
        base: Base class: `Rule`, `Repair` or `Backend`.
        builtin: Built-in classes of this kind, whose names are taken.
        others: Classes of another kind whose names are taken, too.
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
                _check(point, plugin, [*builtin, *others, *plugins])
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
    base = next(base for base in _CHECKS if issubclass(plugin, base))
    try:
        _CHECKS[base](plugin)
        if base is not Backend:
            _require(isinstance(plugin.documentation(), str), "documentation() must return a string")
        plugin()
        taken = {name: other for other in classes for name in _names(other)}
        for name in _names(plugin):
            _require(name not in taken, f"{name!r} is a name of {taken.get(name, plugin).__name__} already")
    except KeyboardInterrupt:
        raise
    except PluginError as error:
        raise PluginError(_skipped(point, f"is invalid and is skipped: {error}")) from None
    except BaseException as error:
        raise PluginError(_skipped(point, f"can't be used and is skipped: {describe_error(error)}")) from error
    _origins[plugin] = _distribution(point)


def _skipped(point: EntryPoint, reason: str) -> str:
    return f"{_distribution(point)}: plugin {point.name!r} {reason}"


def _distribution(point: EntryPoint) -> str:
    try:
        return str(point.dist.name)  # type: ignore[union-attr]
    except Exception:  # noqa: BLE001 - no distribution, or one whose metadata are damaged
        return "an unknown distribution"


# -- declarations -----------------------------------------------------------------------------------------------------


def _require(condition: bool, message: str) -> None:
    """Raise `PluginError` if a condition does not hold."""
    if not condition:
        raise PluginError(message)


def _check_rule(rule: type[Rule]) -> None:
    _check_text(rule, "problem", _NAME)
    _check_text(rule, "code", _CODE)
    _check_texts(rule, "needs", set | frozenset | tuple | list)
    for name in ("aliases", "phrases", "causes", "repairs"):
        _check_texts(rule, name, tuple | list)
    _require(rule.place in get_args(Place), f"place must be one of {', '.join(get_args(Place))}, not {rule.place!r}")
    _require(isinstance(rule.static, bool), f"static must be True or False, not {rule.static!r}")
    _require(isinstance(rule.THRESHOLDS, Mapping), "THRESHOLDS must be a mapping of Threshold by name")
    for name, threshold in rule.THRESHOLDS.items():
        _check_threshold(name, threshold)
    _require(rule in {rule}, "the class must be hashable")


def _check_threshold(name: Any, threshold: Any) -> None:
    _require(isinstance(name, str) and name.isidentifier(), f"{name!r} in THRESHOLDS is not an identifier")
    _require(isinstance(threshold, Threshold), f"THRESHOLDS[{name!r}] must be a Threshold, not {threshold!r}")
    default, least, most = threshold.default, threshold.minimum, threshold.maximum
    _require(all(map(_is_number, (default, least, most))), f"default and limits of {name!r} must be numbers")
    _require(math.isfinite(default) and least <= default <= most, f"the default of {name!r} must be within its limits")
    texts = isinstance(threshold.about, str) and isinstance(threshold.source, str)
    alias = threshold.alias is None or (isinstance(threshold.alias, str) and threshold.alias.isidentifier())
    _require(texts and alias, f"about, source and alias of {name!r} must be strings")


def _check_repair(repair: type[Repair]) -> None:
    _check_text(repair, "name", _NAME)
    _check_texts(repair, "needs", set | frozenset | tuple | list)
    _require(isinstance(repair.risk, Risk), f"risk must be a Risk, not {repair.risk!r}")
    fixes = getattr(repair, "fixes", None)
    valid = isinstance(fixes, Mapping) and all(isinstance(p, str) and _is_share(s) for p, s in fixes.items())
    _require(valid, "fixes must be a mapping of probabilities in [0, 1] by problem")
    _require(repair in {repair}, "the class must be hashable")


def _check_backend(backend: type[Backend]) -> None:
    _check_text(backend, "name", _NAME)
    package = getattr(backend, "package", None)
    _require(isinstance(package, str) and bool(package), f"package must be the name of a package, not {package!r}")


_CHECKS: Mapping[type[Any], Callable[[Any], None]] = {
    Rule: _check_rule,
    Repair: _check_repair,
    Backend: _check_backend,
}


def _check_text(plugin: type[Any], attribute: str, pattern: re.Pattern[str]) -> None:
    value = getattr(plugin, attribute, None)
    valid = isinstance(value, str) and pattern.fullmatch(value) is not None
    _require(valid, f"{attribute} must be a name such as {pattern.pattern}, not {value!r}")


def _check_texts(plugin: type[Any], attribute: str, kinds: Any) -> None:
    value = getattr(plugin, attribute, None)
    valid = isinstance(value, kinds) and all(
        isinstance(entry, str) and entry.isprintable() and entry for entry in value
    )
    _require(valid, f"{attribute} must be a collection of names, not {value!r}")


def _names(plugin: type[Any]) -> set[str]:
    """Return the names that must be unique among plugins of the same and of similar kinds."""
    if not issubclass(plugin, Rule):
        return {plugin.name}
    paper_names = {threshold.alias for threshold in plugin.THRESHOLDS.values() if threshold.alias}
    return {plugin.problem, plugin.code.lower(), *(alias.lower() for alias in plugin.aliases), *paper_names}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


# -- what plugins return ----------------------------------------------------------------------------------------------


def valid_finding(finding: object, rule: Rule, layers: Collection[str]) -> Finding:
    """Return what a rule returned, as plain values.

    Args:
        finding: What it returned.
        rule: The rule.
        layers: Names of the model's layers.

    Raises:
        PluginError: If it is not a valid finding of this rule.
    """
    if not isinstance(finding, Finding):
        raise PluginError(f"check() returned a {type(finding).__name__}, not a Finding or None")
    same = (finding.problem, finding.code) == (rule.problem, rule.code)
    _require(same, f"the finding is of the problem {finding.code!r} {finding.problem!r}")
    _require(isinstance(finding.severity, Severity), f"the severity is {finding.severity!r}, not a Severity")
    confidence = isinstance(finding.confidence, Real) and 0 <= float(finding.confidence) <= 1
    _require(confidence, f"the confidence is {finding.confidence!r}, not a number in [0, 1]")
    _require(isinstance(finding.message, str) and bool(finding.message), "the message is not a sentence")
    for name, value in (("layers", finding.layers), ("repairs", finding.repairs)):
        valid = isinstance(value, tuple | list) and all(isinstance(entry, str) for entry in value)
        _require(valid, f"{name} are {value!r}, not a tuple of names")
    unknown = [name for name in finding.layers if name not in layers]
    _require(not unknown, f"the model has no layer {', '.join(map(repr, unknown))}")
    _require(isinstance(finding.evidence, Mapping), f"the evidence is {finding.evidence!r}, not a mapping")
    for key, number in finding.evidence.items():
        valid = isinstance(key, str) and isinstance(number, Real)
        _require(valid, f"the evidence {key!r} is {number!r}, not a number")
    return Finding(  # not `replace`: a subclass may have methods that fail
        finding.problem,
        finding.code,
        finding.severity,
        float(finding.confidence),
        finding.message,
        layers=tuple(finding.layers),
        evidence={key: float(value) for key, value in finding.evidence.items()},
        repairs=tuple(finding.repairs),
    )


def check_proposals(proposals: Iterable[Proposal], repair: type[Repair]) -> list[Proposal]:
    """Return what a repair proposed as a list.

    Raises:
        PluginError: If it is not an iterable of valid proposals, or has too many.
    """
    listed = _bounded(proposals, "propose()")
    for proposal in listed:
        _require(isinstance(proposal, Proposal), f"propose() gave a {type(proposal).__name__}, not a Proposal")
        _require(proposal.repair == repair.name, f"the proposal is of the repair {proposal.repair!r}")
        _check_edits(proposal.edits)
        _require(_is_share(proposal.effect), f"the effect is {proposal.effect!r}, not a number in [0, 1]")
        cost = _is_number(proposal.cost) and math.isfinite(proposal.cost) and proposal.cost >= 0
        _require(cost, f"the cost is {proposal.cost!r}, not a number >= 0")
    return listed


def check_dimension(dimension: Any, repair: type[Repair]) -> Dimension | None:
    """Return the dimension of a repair.

    Raises:
        PluginError: If it is neither None nor valid.
    """
    if dimension is None:
        return None
    _require(isinstance(dimension, Dimension), f"dimension() returned a {type(dimension).__name__}")
    options = _bounded(dimension.options, "dimension()")
    for edits in options:
        _check_edits(edits)
    return Dimension(repair.name, tuple(options))


def _bounded(values: Any, method: str) -> list[Any]:
    _require(
        isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping), f"{method} gave {values!r}"
    )
    listed = list(islice(values, _MAX_PROPOSALS + 1))
    _require(len(listed) <= _MAX_PROPOSALS, f"{method} gives more than {_MAX_PROPOSALS} values")
    return listed


def _check_edits(edits: Any) -> None:
    valid = isinstance(edits, Sequence) and all(
        isinstance(edit, Edit) and type(edit) in EDITS.values() for edit in edits
    )
    _require(valid and isinstance(edits, tuple), f"the edits are {edits!r}, not a tuple of autotrainer.edits")
