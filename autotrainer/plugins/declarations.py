"""What plugins declare about themselves: names, codes, thresholds, probabilities."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from autotrainer.adapter.backend import Backend
from autotrainer.errors import PluginError
from autotrainer.repair import Repair, Risk
from autotrainer.rule import Place, Rule, Threshold

__all__ = ["CHECKS", "is_number", "is_share", "names", "require"]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")


def require(condition: bool, message: str) -> None:
    """Raise `PluginError` if a condition does not hold."""
    if not condition:
        raise PluginError(message)


def _check_rule(rule: type[Rule]) -> None:
    _check_text(rule, "problem", _NAME)
    _check_text(rule, "code", _CODE)
    _check_texts(rule, "needs", set | frozenset | tuple | list)
    for name in ("aliases", "phrases", "causes", "repairs"):
        _check_texts(rule, name, tuple | list)
    require(rule.place in get_args(Place), f"place must be one of {', '.join(get_args(Place))}, not {rule.place!r}")
    require(isinstance(rule.static, bool), f"static must be True or False, not {rule.static!r}")
    require(isinstance(rule.THRESHOLDS, Mapping), "THRESHOLDS must be a mapping of Threshold by name")
    for name, threshold in rule.THRESHOLDS.items():
        _check_threshold(name, threshold)
    require(rule in {rule}, "the class must be hashable")


def _check_threshold(name: Any, threshold: Any) -> None:
    require(isinstance(name, str) and name.isidentifier(), f"{name!r} in THRESHOLDS is not an identifier")
    require(isinstance(threshold, Threshold), f"THRESHOLDS[{name!r}] must be a Threshold, not {threshold!r}")
    default, least, most = threshold.default, threshold.minimum, threshold.maximum
    require(all(map(is_number, (default, least, most))), f"default and limits of {name!r} must be numbers")
    require(math.isfinite(default) and least <= default <= most, f"the default of {name!r} must be within its limits")
    texts = isinstance(threshold.about, str) and isinstance(threshold.source, str)
    alias = threshold.alias is None or (isinstance(threshold.alias, str) and threshold.alias.isidentifier())
    require(texts and alias, f"about, source and alias of {name!r} must be strings")


def _check_repair(repair: type[Repair]) -> None:
    _check_text(repair, "name", _NAME)
    _check_texts(repair, "needs", set | frozenset | tuple | list)
    require(isinstance(repair.risk, Risk), f"risk must be a Risk, not {repair.risk!r}")
    fixes = getattr(repair, "fixes", None)
    valid = isinstance(fixes, Mapping) and all(isinstance(p, str) and is_share(s) for p, s in fixes.items())
    require(valid, "fixes must be a mapping of probabilities in [0, 1] by problem")
    require(repair in {repair}, "the class must be hashable")


def _check_backend(backend: type[Backend]) -> None:
    _check_text(backend, "name", _NAME)
    package = getattr(backend, "package", None)
    require(isinstance(package, str) and bool(package), f"package must be the name of a package, not {package!r}")


CHECKS: Mapping[type[Any], Callable[[Any], None]] = {
    Rule: _check_rule,
    Repair: _check_repair,
    Backend: _check_backend,
}


def _check_text(plugin: type[Any], attribute: str, pattern: re.Pattern[str]) -> None:
    value = getattr(plugin, attribute, None)
    valid = isinstance(value, str) and pattern.fullmatch(value) is not None
    require(valid, f"{attribute} must be a name such as {pattern.pattern}, not {value!r}")


def _check_texts(plugin: type[Any], attribute: str, kinds: Any) -> None:
    value = getattr(plugin, attribute, None)
    valid = isinstance(value, kinds) and all(
        isinstance(entry, str) and entry.isprintable() and entry for entry in value
    )
    require(valid, f"{attribute} must be a collection of names, not {value!r}")


def names(plugin: type[Any]) -> set[str]:
    """Return the names that must be unique among plugins of the same and of similar kinds."""
    if not issubclass(plugin, Rule):
        return {plugin.name}
    paper_names = {threshold.alias for threshold in plugin.THRESHOLDS.values() if threshold.alias}
    return {plugin.problem, plugin.code.lower(), *(alias.lower() for alias in plugin.aliases), *paper_names}


def is_number(value: Any) -> bool:
    """Return whether a value is a number other than NaN; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def is_share(value: Any) -> bool:
    """Return whether a value is a number from 0 to 1."""
    return is_number(value) and 0 <= value <= 1
