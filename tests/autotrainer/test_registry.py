from __future__ import annotations

import logging
import sys
import types
from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

from autotrainer import registry
from autotrainer.errors import ConfigError, InputError, PluginError
from autotrainer.plugins import loading as plugin_loading
from autotrainer.records.findings import Finding
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext
from autotrainer.rule import Rule


class AcmeRule(Rule):
    """A rule of another distribution."""

    problem = "acme"
    code = "ACME1"
    needs = frozenset()

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        return None


class _Distribution:
    name = "acme-rules"


def _point(name: str, value: str) -> EntryPoint:
    point = EntryPoint(name, value, "autotrainer.rules")
    vars(point)["dist"] = _Distribution()
    return point


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """Entry points to load; the cache of the registry is cleared before and after."""
    points: list[EntryPoint] = []
    module = types.ModuleType("acme_plugin")
    vars(module).update(Good=AcmeRule, NoRule=object)
    monkeypatch.setitem(sys.modules, "acme_plugin", module)
    monkeypatch.setattr(plugin_loading, "entry_points", lambda group: points if group == "autotrainer.rules" else [])
    registry.rules.cache_clear()
    yield points
    registry.rules.cache_clear()


def test_plugin_is_added_to_built_in_rules(plugins: list[EntryPoint]) -> None:
    plugins.append(_point("acme", "acme_plugin:Good"))
    assert registry.rules()[-1] is AcmeRule
    assert [rule.problem for rule in registry.make_rules("ACME")] == ["acme"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("acme_plugin:Missing", "can't be loaded"),
        ("acme_no_such_module:Good", "can't be loaded"),
        ("acme_plugin:NoRule", "is not a subclass of Rule"),
    ],
)
def test_broken_plugin_is_reported_and_skipped(
    plugins: list[EntryPoint], value: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    plugins += [_point("bad", value), _point("good", "acme_plugin:Good")]
    with caplog.at_level(logging.WARNING, "autotrainer"):
        loaded = registry.rules()
    assert loaded[-1] is AcmeRule
    (record,) = caplog.records
    assert record.getMessage().startswith("acme-rules: plugin 'bad'")
    assert message in record.getMessage()
    with pytest.raises(PluginError, match="acme-rules"):
        plugin_loading._load(plugins[0], Rule)


def test_names_and_codes_are_unique() -> None:
    rules = registry.rules()
    names = [name for rule in rules for name in (rule.problem, rule.code.lower(), *rule.aliases)]
    assert len(names) == len(set(names))
    repairs = [repair.name for repair in registry.repairs()]
    assert len(repairs) == len(set(repairs))
    assert not set(names) & set(repairs)


def test_builtin_rules_are_sorted_by_code() -> None:
    codes = [rule.code for rule in registry.rules()]
    assert codes == sorted(codes)


def test_paper_names_of_thresholds_are_unique() -> None:
    aliases = [t.alias for rule in registry.rules() for t in rule.THRESHOLDS.values() if t.alias]
    assert len(aliases) == len(set(aliases))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "no_such_problem"}, "unknown problem 'no_such_problem'"),
        ({"select": [3]}, "select and ignore take names"),
        ({"ignore": "vanishing_gradeint"}, "did you mean 'vanishing_gradient'"),
        ({"thresholds": {"vanishing_gradient.nope": 1}}, "unknown threshold 'vanishing_gradient.nope'"),
        ({"thresholds": {"beta_1": "x"}}, "must be a number"),
        ({"thresholds": {"gamma": 7.0}}, "must be a number in"),
        ({"thresholds": {"gamma": True}}, "must be a number in"),
    ],
)
def test_invalid_rule_options_are_rejected(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.make_rules(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("select", "ignore", "problems"),
    [
        ("AT101", (), {"vanishing_gradient"}),
        ("at101", (), {"vanishing_gradient"}),
        (["AT10"], ["exploding_gradient", "AT103"], {"vanishing_gradient", "no_gradient"}),
        (["nan", "dead_relu"], (), {"nonfinite", "dying_relu"}),
        ([], (), set()),
    ],
)
def test_rule_selection(select: str | list[str], ignore: str | list[str], problems: set[str]) -> None:
    assert {rule.problem for rule in registry.make_rules(select, ignore)} == problems


def test_unsupported_model_is_rejected() -> None:
    with pytest.raises(InputError, match=r"builtins\.dict is not a supported model"):
        registry.backend_of({})
