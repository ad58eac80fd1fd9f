"""Broken plugins: each is left out, is reported once with its distribution, and harms nothing else."""

from __future__ import annotations

import itertools
import logging
import math
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import autotrainer
from autotrainer import plugins, registry
from autotrainer.adapter.backend import Backend
from autotrainer.cli import main
from autotrainer.edits import Edit, SetLearningRate
from autotrainer.errors import ConfigError
from autotrainer.monitoring.engine import Engine
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import TargetSummary, TaskContext
from autotrainer.repair import Dimension, Proposal, Repair, Risk
from autotrainer.rule import Rule, Threshold
from autotrainer.search.planner import Planner
from autotrainer.testing import FakeBackend, FakeModel, Outcome

LOG = Path(__file__).parent / "api" / "saved" / "run.jsonl"
GROUPS = ("autotrainer.rules", "autotrainer.repairs", "autotrainer.backends")
DATA = (np.arange(400.0).reshape(200, 2), np.tile([0, 1], 100))


def model(kind: type[FakeModel] = FakeModel) -> FakeModel:
    """Return a model of `FakeBackend`, which tests install as one more plugin."""
    return kind(lambda edits: Outcome())


class Distribution:
    def __init__(self, name: str) -> None:
        self.name = name


class NoMetadata:
    @property
    def name(self) -> str:
        raise KeyError("Name")


class Module(types.ModuleType):
    """A module with one plugin; if that is a function, its result."""

    def __init__(self, name: str, value: Any) -> None:
        super().__init__(name)
        self._value = value

    def __getattr__(self, name: str) -> Any:
        if name != "Plugin":
            raise AttributeError(name)
        return self._value() if isinstance(self._value, types.FunctionType) else self._value


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs objects as plugins of the distribution ``acme-tools``; a function is called when it is loaded."""
    points: list[EntryPoint] = []

    def clear() -> None:
        for function in (registry.rules, registry.repairs, registry.backends):
            function.cache_clear()
        plugins.containment._origins.clear()
        plugins.containment._reported.clear()

    def add(*objects: Any, group: str = "autotrainer.rules", distribution: Any = None) -> None:
        for number, value in enumerate(objects, len(points)):
            module = Module(f"acme_{number}", value)
            monkeypatch.setitem(sys.modules, module.__name__, module)
            point = EntryPoint(f"plugin{number}", f"{module.__name__}:Plugin", group)
            vars(point)["dist"] = distribution or Distribution("acme-tools")
            points.append(point)

    clear()
    monkeypatch.setattr(
        plugins.loading, "entry_points", lambda group: [point for point in points if point.group == group]
    )
    yield add
    clear()


class AcmeRule(Rule):
    """The rule of a plugin.

    What it does
        Nothing.
    """

    problem = "acme"
    code = "ACME1"
    needs = frozenset({"loss"})
    aliases = ("acme_alias",)
    causes = ()
    THRESHOLDS: Mapping[str, Threshold] = {"steps": Threshold(10, "steps", "judgement", alias="acme_steps")}

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        return self.finding(Severity.WARNING, 0.5, "Acme.", {"steps": self.threshold("steps")})


class AcmeRepair(Repair):
    """The repair of a plugin."""

    name = "acme_repair"
    fixes: Mapping[str, float] = {"acme": 0.5}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Any:
        return [Proposal(self.name, (SetLearningRate(0.1),), 0.5)]


class AcmeBackend(FakeBackend):
    """The backend of a plugin."""

    name = "acme_backend"
    package = "acme_framework"

    def accepts(self, model: Any) -> bool:
        return type(model).__name__ == "AcmeModel"


def variant(base: type[Any], **attributes: Any) -> type[Any]:
    """Return a subclass with other attributes; those that are None are removed."""
    cls = type(f"Bad{base.__name__}", (base,), {k: v for k, v in attributes.items() if v is not ...})
    cls.__doc__ = base.__doc__
    return cls


def raises(error: BaseException) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        raise error

    return function


class MyBaseError(BaseException):
    """An error that is no `Exception`."""


class Meta(type(Rule)):  # type: ignore[misc]
    __hash__ = None  # type: ignore[assignment]


class RaisingMeta(type(Rule)):  # type: ignore[misc]
    @property
    def problem(cls) -> str:
        raise RuntimeError("no name")


class Unreadable(dict[str, Any]):
    def items(self) -> Any:
        raise OSError("gone")


def threshold(**values: Any) -> dict[str, Threshold]:
    return {"steps": Threshold(**{"default": 1.0, "about": "a", "source": "s", **values})}


ERRORS = (
    ImportError("no acme"), ModuleNotFoundError("no acme"), SyntaxError("bad"), RuntimeError("x" * 5000),
    RecursionError(), MemoryError(), OSError(28, "full"), UserWarning("old"), StopIteration(), SystemExit(0),
    SystemExit("bye"), GeneratorExit(), MyBaseError("odd"),
)  # fmt: skip


def _shown(value: object) -> str:
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))[:40]  # the same in each process


BAD_RULES: dict[str, Any] = {
    **{f"import raises {error!r:.40}": (lambda error=error: raises(error)()) for error in ERRORS},
    "no class": 7,
    "a module": types.ModuleType("acme_rules"),
    "an instance": AcmeRule(),
    "None": None,
    "another class": dict,
    "the base class": Rule,
    "a repair": AcmeRepair,
    "abstract": type("Abstract", (Rule,), {"problem": "x", "code": "X1", "needs": frozenset()}),
    "unhashable class": Meta("Unhashable", (AcmeRule,), {}),
    "class that raises": RaisingMeta("Raises", (AcmeRule,), {}),
    **{f"init raises {error!r:.40}": variant(AcmeRule, __init__=raises(error)) for error in ERRORS},
    "init needs an argument": variant(AcmeRule, __init__=lambda self, path: None),
    "init returns a value": variant(AcmeRule, __init__=lambda self: 3),
    "new raises": variant(AcmeRule, __new__=raises(RuntimeError())),
    **{f"problem {value!r}": variant(AcmeRule, problem=value) for value in (
        None, 7, "", "Acme", "a b", "a\nb", "\x1b[31m", "ac\u202eme", b"acme", "x" * 100, "1a", ("acme",),
    )},
    "problem is a property": variant(AcmeRule, problem=property(str)),
    **{f"code {value!r}": variant(AcmeRule, code=value) for value in (None, 7, "", "1", "A B", "A\n", b"A1", "A" * 99)},
    **{f"needs {value!r}": variant(AcmeRule, needs=value) for value in (
        None, "loss", 7, {"loss": 1}, [1], [None], {b"x"},
    )},
    **{f"{name} {value!r}": variant(AcmeRule, **{name: value})
       for name in ("aliases", "phrases", "causes", "repairs")
       for value in (None, "nan", 7, (7,), ("",), ("a\nb",), {"a"}, (b"a",))},
    **{f"place {value!r}": variant(AcmeRule, place=value) for value in (None, "", "moon", 7, ["layer"])},
    "static": variant(AcmeRule, static="yes"),
    **{f"thresholds {value!r}": variant(AcmeRule, THRESHOLDS=value) for value in (
        None, 7, "steps", [("steps", 1)], {"steps": 1.0}, {"steps": None}, {7: Threshold(1, "a", "s")},
        {"a b": Threshold(1, "a", "s")}, {"": Threshold(1, "a", "s")}, {"steps": Threshold},
    )},
    "thresholds can't be read": variant(AcmeRule, THRESHOLDS=Unreadable(steps=1)),
    **{f"threshold {values!r}": variant(AcmeRule, THRESHOLDS=threshold(**values)) for values in (
        {"default": math.nan}, {"default": math.inf}, {"default": "1"}, {"default": None}, {"default": True},
        {"default": -1}, {"default": 9, "maximum": 3}, {"minimum": 5, "maximum": 2}, {"default": 10**400},
        {"minimum": "0"}, {"maximum": None}, {"minimum": math.nan}, {"about": None}, {"source": 7}, {"alias": 7},
        {"alias": ""}, {"alias": "a b"}, {"default": 1j}, {"default": np.float32(1)},
    )},
    "name of a built-in rule": variant(AcmeRule, problem="nonfinite"),
    "code of a built-in rule": variant(AcmeRule, code="AT801"),
    "code of a built-in rule in lower case": variant(AcmeRule, code="at801"),
    "alias of a built-in rule": variant(AcmeRule, aliases=("nan",)),
    "alias of a built-in rule in upper case": variant(AcmeRule, aliases=("NaN",)),
    "name of a built-in repair": variant(AcmeRule, problem="clip_gradients"),
    "paper's name of a threshold": variant(AcmeRule, THRESHOLDS=threshold(alias="beta_1")),
    "documentation raises": variant(AcmeRule, documentation=classmethod(raises(RuntimeError()))),
    "documentation is no text": variant(AcmeRule, documentation=classmethod(lambda cls: None)),
}  # fmt: skip

BAD_REPAIRS: dict[str, Any] = {
    **{f"import raises {error!r:.40}": (lambda error=error: raises(error)()) for error in ERRORS},
    "no class": "x",
    "a rule": AcmeRule,
    "the base class": Repair,
    "abstract": type("Abstract", (Repair,), {"name": "x", "fixes": {}}),
    **{f"init raises {error!r:.40}": variant(AcmeRepair, __init__=raises(error)) for error in ERRORS},
    **{f"name {value!r}": variant(AcmeRepair, name=value) for value in (None, 7, "", "A", "a b", "a\nb", b"a")},
    **{f"fixes {value!r}": variant(AcmeRepair, fixes=value) for value in (
        None, 7, "acme", ["acme"], {"acme": "0.5"}, {"acme": None}, {"acme": 2}, {"acme": -1}, {"acme": math.nan},
        {7: 0.5}, {"acme": True}, Unreadable(acme=1),
    )},
    **{f"risk {value!r}": variant(AcmeRepair, risk=value) for value in (None, "safe", 7, Risk)},
    **{f"needs {value!r}": variant(AcmeRepair, needs=value) for value in (None, "loss", 7, [1])},
    "name of a built-in repair": variant(AcmeRepair, name="clip_gradients"),
    "name of a built-in rule": variant(AcmeRepair, name="nonfinite"),
    "alias of a built-in rule": variant(AcmeRepair, name="nan"),
    "documentation raises": variant(AcmeRepair, documentation=classmethod(raises(SystemExit()))),
}  # fmt: skip

BAD_BACKENDS: dict[str, Any] = {
    **{f"import raises {error!r:.40}": (lambda error=error: raises(error)()) for error in ERRORS},
    "no class": [],
    "an instance": AcmeBackend(),
    "the base class": Backend,
    "abstract": type("Abstract", (Backend,), {"name": "x", "package": "y"}),
    **{f"init raises {error!r:.40}": variant(AcmeBackend, __init__=raises(error)) for error in ERRORS},
    **{f"name {value!r}": variant(AcmeBackend, name=value) for value in (None, 7, "", "a b")},
    **{f"package {value!r}": variant(AcmeBackend, package=value) for value in (None, 7, "", b"torch")},
    "name of a built-in backend": variant(AcmeBackend, name="pytorch"),
}

CASES = [
    (group, name, value)
    for group, bad in zip(GROUPS, (BAD_RULES, BAD_REPAIRS, BAD_BACKENDS), strict=True)
    for name, value in bad.items()
]


def plugin_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def findings(report: Any) -> list[dict[str, Any]]:
    return [finding.to_dict() for finding in report.findings]


@pytest.fixture(scope="module")
def replayed() -> list[dict[str, Any]]:
    """The findings of the saved log without any plugin."""
    return findings(autotrainer.replay(LOG))


@pytest.mark.parametrize(("group", "name", "value"), CASES, ids=[f"{g}-{n}" for g, n, _ in CASES])
def test_broken_plugin_is_left_out(
    group: str, name: str, value: Any, install: Any, caplog: pytest.LogCaptureFixture, record_property: Any
) -> None:
    record_property("attacks", 1)
    good = {"autotrainer.rules": AcmeRule, "autotrainer.repairs": AcmeRepair, "autotrainer.backends": AcmeBackend}[
        group
    ]
    install(value, good, group=group)
    with caplog.at_level(logging.WARNING, "autotrainer"):
        for _ in range(2):
            loaded = [registry.rules(), registry.repairs(), registry.backends()][GROUPS.index(group)]
            registry.make_rules()
    (message,) = plugin_warnings(caplog)
    assert message.startswith("acme-tools: plugin 'plugin0' ")
    assert len(message) < 700
    assert loaded[-1] is good or isinstance(loaded[-1], good)
    assert len([cls for cls in loaded if cls is good or type(cls) is good]) == 1


@pytest.mark.parametrize("kind", ["import raises", "init raises", "thresholds", "needs", "name of", "documentation"])
def test_everything_works_beside_broken_plugins(
    kind: str, install: Any, replayed: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
    record_property: Any,
) -> None:  # fmt: skip
    bad = [(group, name, value) for group, name, value in CASES if name.startswith(kind)]
    record_property("attacks", len(bad))
    for group, _, value in bad:
        install(value, group=group)
    install(FakeBackend, group="autotrainer.backends")
    with caplog.at_level(logging.WARNING, "autotrainer"):
        assert findings(autotrainer.replay(LOG)) == replayed
        assert_commands_work(capsys)
        assert isinstance(autotrainer.check(model(), DATA), list)
        fitted = autotrainer.fit(model(), DATA, DATA, epochs=3, progress=False)
        assert_watch_works()
    assert fitted.model.epochs == 3
    messages = plugin_warnings(caplog)
    assert len(messages) == len(bad)
    assert all(message.startswith("acme-tools: plugin ") for message in messages)


def assert_watch_works() -> None:
    network = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    with autotrainer.watch(network, optimizer, loss_fn=(loss := nn.MSELoss())) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            loss(network(torch.ones(4, 2)), torch.ones(4, 1)).backward()
            optimizer.step()
    assert len(monitor.history.steps) == 3


def assert_commands_work(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["rules"],
        ["rules", "--json"],
        ["explain", "nan"],
        ["explain", "loss is nan"],
        ["replay", str(LOG)],
    ):
        assert main(arguments) == 0, arguments
    assert capsys.readouterr().out


def test_interrupt_while_a_plugin_is_loaded_goes_through(install: Any) -> None:
    install(lambda: raises(KeyboardInterrupt())())
    with pytest.raises(KeyboardInterrupt):
        registry.rules()


def test_plugin_that_is_registered_twice_is_used_once(install: Any, caplog: pytest.LogCaptureFixture) -> None:
    install(AcmeRule, AcmeRule)
    assert registry.rules().count(AcmeRule) == 1
    assert not plugin_warnings(caplog)


def test_second_plugin_with_the_same_name_is_left_out(install: Any, caplog: pytest.LogCaptureFixture) -> None:
    install(AcmeRule, variant(AcmeRule, code="ACME2"), variant(AcmeRule, problem="other", aliases=(), THRESHOLDS={}))
    registry.rules()
    assert [text.partition(":")[0] for text in plugin_warnings(caplog)] == ["acme-tools"] * 2
    assert [rule.problem for rule in registry.rules()[-1:]] == ["acme"]


@pytest.mark.parametrize("distribution", [NoMetadata(), Distribution("")])
def test_plugin_without_metadata_is_reported(install: Any, distribution: Any, caplog: pytest.LogCaptureFixture) -> None:
    install(7, distribution=distribution)
    registry.rules()
    assert "plugin 'plugin0' is not a subclass of Rule" in plugin_warnings(caplog)[0]


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("bad line"), RuntimeError(), KeyError("Name")])
def test_damaged_metadata_disable_plugins_only(
    error: Exception,
    install: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    record_property: Any,
) -> None:
    record_property("attacks", 1)
    monkeypatch.setattr(plugins.loading, "entry_points", raises(error))
    assert len(registry.rules()) > 40
    assert "plugins can't be listed" in plugin_warnings(caplog)[0]


# -- rules that fail later --------------------------------------------------------------------------------------------


class FailsLater(AcmeRule):
    """Can be instantiated once."""

    made = 0

    def __init__(self, **values: float) -> None:
        type(self).made += 1
        if type(self).made > 1:
            raise SystemExit(3)
        super().__init__(**values)


def test_rule_that_can_be_instantiated_only_once_is_left_out(install: Any, caplog: pytest.LogCaptureFixture) -> None:
    FailsLater.made = 0
    install(FailsLater)
    for options in ({}, {"thresholds": {"acme.steps": 3}}, {"select": "ACME1"}):
        assert "acme" not in [rule.problem for rule in registry.make_rules(**options)]  # type: ignore[arg-type]
    assert plugin_warnings(caplog) == ["acme-tools: FailsLater failed and is left out: SystemExit(3)"]


def test_invalid_threshold_of_a_plugin_is_the_users_error(install: Any) -> None:
    install(AcmeRule)
    with pytest.raises(ConfigError, match=r"threshold acme\.steps must be a number"):
        registry.make_rules(thresholds={"acme.steps": -1})
    (rule,) = registry.make_rules("acme_alias", thresholds={"acme_steps": 3})
    assert rule.threshold("steps") == 3


def finding(**values: Any) -> Finding:
    return Finding(**{
        "problem": "acme", "code": "ACME1", "severity": Severity.ERROR, "confidence": 0.5, "message": "A.", **values,
    })  # fmt: skip


class Mute(Finding):
    def __str__(self) -> str:
        raise RuntimeError


def endless() -> Iterator[Any]:
    yield from itertools.repeat(Proposal("acme_repair", (SetLearningRate(0.1),), 0.5))


BAD_CHECKS: dict[str, Callable[..., Any]] = {
    **{f"raises {error!r:.40}": raises(error) for error in ERRORS},
    **{f"returns {_shown(value)}": (lambda *args, value=value: value) for value in (
        "nan", "", 0, False, True, 3.5, [], [finding()], (finding(),), {}, {"problem": "acme"}, finding, Finding,
        object(), Severity.ERROR, np.array([1, 2]), iter(()), ..., NotImplemented, KeyboardInterrupt(),
    )},
    **{f"returns a finding with {values!r:.60}": (lambda *args, values=values: finding(**values)) for values in (
        {"confidence": math.nan}, {"confidence": 2.0}, {"confidence": -0.1}, {"confidence": "0.5"},
        {"confidence": None},
        {"confidence": 1j}, {"confidence": math.inf}, {"severity": "error"}, {"severity": "bad"}, {"severity": None},
        {"severity": 0}, {"layers": ("moon",)}, {"layers": "dense"}, {"layers": (7,)}, {"layers": None},
        {"layers": {"a"}},
        {"layers": (None,)}, {"evidence": {"a": "1"}}, {"evidence": {"a": None}}, {"evidence": {7: 1.0}},
        {"evidence": {"a": [1.0]}}, {"evidence": [("a", 1.0)]}, {"evidence": None},
        {"evidence": {"a": 10**400}}, {"evidence": {"a": 1j}}, {"evidence": Unreadable(a=1.0)}, {"message": None},
        {"evidence": "a"},
        {"message": ""}, {"message": b"A."}, {"message": 7}, {"problem": "nonfinite"}, {"problem": None},
        {"code": "AT801"},
        {"code": None}, {"repairs": "clip"}, {"repairs": (7,)}, {"repairs": None},
    )},
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_CHECKS)
def test_rule_that_returns_nonsense_switches_off_itself_alone(
    name: str, install: Any, replayed: Any, caplog: pytest.LogCaptureFixture, record_property: Any
) -> None:
    record_property("attacks", 2)
    install(variant(AcmeRule, check=BAD_CHECKS[name], static=True))
    install(FakeBackend, group="autotrainer.backends")
    with caplog.at_level(logging.WARNING, "autotrainer"):
        assert findings(autotrainer.replay(LOG)) == replayed
    (message,) = plugin_warnings(caplog)
    assert message.startswith("acme-tools: rule acme failed and is switched off: ")
    checked = autotrainer.check(model(), DATA)
    assert "acme" not in [f.problem for f in checked]


def test_interrupt_in_a_rule_goes_through(install: Any) -> None:
    install(variant(AcmeRule, check=raises(KeyboardInterrupt())))
    with pytest.raises(KeyboardInterrupt):
        autotrainer.replay(LOG)


def test_system_exit_in_a_built_in_rule_goes_through() -> None:
    """It then comes from a signal handler of the user."""
    with pytest.raises(SystemExit):
        Engine([variant(AcmeRule, check=raises(SystemExit()))()]).evaluate(RunHistory(), TaskContext())


def test_finding_of_a_plugin_holds_plain_values(install: Any) -> None:
    values = {"layers": ["a"], "evidence": {"x": np.float32(0.5), "y": 3, "z": math.nan}, "confidence": np.float64(1)}
    mute = Mute(**{field.name: getattr(finding(), field.name) for field in fields(Finding)})
    rule = variant(AcmeRule, check=lambda *args: replace(mute, **values, repairs=["clip_gradients"]))
    (plain,) = Engine([rule()]).evaluate(RunHistory((LayerInfo("a"),)), TaskContext())
    assert str(plain) == "ACME1 acme [error]: A."
    assert (plain.layers, plain.repairs, plain.confidence) == (("a",), ("clip_gradients",), 1.0)
    assert [type(value) for value in plain.evidence.values()] == [float] * 3


# -- repairs that fail later ------------------------------------------------------------------------------------------


class Foreign(Edit):
    """An edit outside the vocabulary."""


def proposal(**values: Any) -> Proposal:
    return Proposal(**{"repair": "acme_repair", "edits": (SetLearningRate(0.1),), "effect": 0.5, **values})


BAD_PROPOSALS: dict[str, Callable[..., Any]] = {
    **{f"raises {error!r:.40}": raises(error) for error in ERRORS},
    **{f"returns {_shown(value)}": (lambda *args, value=value: value) for value in (
        None, 7, "x", b"x", {}, proposal(), [None], [7], ["x"], [SetLearningRate(0.1)], [proposal(), 7], object(),
        Proposal,
        [proposal(repair="clip_gradients")], [proposal(repair=None)], [proposal(edits=[SetLearningRate(0.1)])],
        [proposal(edits=SetLearningRate(0.1))], [proposal(edits=None)], [proposal(edits=(7,))],
        [proposal(edits=(Foreign(),))],
        [proposal(effect=math.nan)], [proposal(effect="0.5")], [proposal(effect=2)], [proposal(effect=None)],
        [proposal(cost=math.nan)], [proposal(cost=-1)], [proposal(cost="1")], [proposal(cost=math.inf)],
    )},
    "is endless": lambda *args: endless(),
    "yields nonsense for ever": lambda *args: itertools.count(),
    "raises in the end": lambda *args: itertools.chain([proposal()], map(raises(SystemExit(1)), [1])),
}  # fmt: skip


def planner(*repairs: type[Repair]) -> Planner:
    return Planner(repairs, lambda edit: True)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("method", "name"),
    [(m, n) for m in ("propose", "dimension") for n in BAD_PROPOSALS if (m, n) != ("dimension", "returns None")],
)
def test_repair_that_returns_nonsense_is_left_out(
    method: str, name: str, install: Any, caplog: pytest.LogCaptureFixture, record_property: Any
) -> None:
    record_property("attacks", 1)
    result = BAD_PROPOSALS[name]
    install(variant(AcmeRepair, **{method: result}), group="autotrainer.repairs")
    plan = planner(registry.repairs()[-1], variant(AcmeRepair, name="good"))
    plan.repairs[1].propose = lambda *args: [proposal(repair="good")]  # type: ignore[method-assign]
    found = [finding()]
    with caplog.at_level(logging.WARNING, "autotrainer"):
        for _ in range(2):
            steps = plan.steps(found, TaskContext(), TargetSummary())
            plan.dimensions(found, TaskContext())
    assert [step.repairs for step in steps][-1:] == [("good",)] or method == "dimension"
    (message,) = plugin_warnings(caplog)
    assert message.startswith("acme-tools: repair acme_repair failed and is left out: ")
    assert plan.notes["acme_repair"].startswith("it failed: ")


@pytest.mark.parametrize(
    "options", [None, 7, "x", [None], [[SetLearningRate(0.1)]], ((7,),), itertools.repeat((SetLearningRate(0.1),))]
)
def test_dimension_with_nonsense_is_left_out(
    options: Any, install: Any, caplog: pytest.LogCaptureFixture, record_property: Any
) -> None:
    record_property("attacks", 1)
    install(
        variant(AcmeRepair, dimension=lambda self, context: Dimension("acme_repair", options)),
        group="autotrainer.repairs",
    )
    assert planner(registry.repairs()[-1]).dimensions([finding()], TaskContext()) == []
    assert len(plugin_warnings(caplog)) == 1


def test_interrupt_in_a_repair_goes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        planner(variant(AcmeRepair, propose=raises(KeyboardInterrupt()))).steps(
            [finding()], TaskContext(), TargetSummary()
        )


# -- backends that fail later -----------------------------------------------------------------------------------------


class NoTruth:
    def __bool__(self) -> bool:
        raise RuntimeError


BAD_ACCEPTS: dict[str, Callable[..., Any]] = {
    **{f"raises {error!r:.40}": raises(error) for error in ERRORS},
    **{f"returns {_shown(value)}": (lambda *args, value=value: value) for value in (
        None, 1, "yes", [], NoTruth(), np.True_,
    )},
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ACCEPTS)
def test_backend_that_cannot_tell_its_models_is_ignored(
    name: str, install: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, record_property: Any
) -> None:
    record_property("attacks", 1)
    install(variant(AcmeBackend, name="bad", accepts=BAD_ACCEPTS[name]), AcmeBackend, group="autotrainer.backends")
    acme_model = model(type("AcmeModel", (FakeModel,), {}))
    with caplog.at_level(logging.WARNING, "autotrainer"):
        for _ in range(2):
            assert isinstance(registry.backend_of(acme_model), AcmeBackend)
    assert len(plugin_warnings(caplog)) == 1
    assert plugin_warnings(caplog)[0].startswith("acme-tools: BadAcmeBackend failed and is left out: ")


@contextmanager
def _fails_at_exit() -> Iterator[None]:
    yield
    raise SystemExit(1)


BAD_CONTEXTS: dict[str, Callable[..., Any]] = {
    **{f"raises {error!r:.40}": raises(error) for error in ERRORS},
    **{f"returns {_shown(value)}": (lambda *args, value=value: value) for value in (None, 7, [], contextmanager)},
    "fails at its exit": lambda *args: _fails_at_exit(),
    "yields never": lambda *args: contextmanager(lambda: iter(()))(),
}


@pytest.mark.parametrize("name", BAD_CONTEXTS)
def test_context_of_a_backend_that_fails_harms_no_other_framework(
    name: str, install: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, record_property: Any,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    record_property("attacks", 2)
    bad = variant(
        AcmeBackend, package="acme_0", preserve_random_state=BAD_CONTEXTS[name], watch_everything=BAD_CONTEXTS[name]
    )
    install(bad, group="autotrainer.backends")
    with pytest.raises(ConfigError, match="calling"):
        autotrainer.fit(lambda needed: None, DATA, DATA, epochs=1, progress=False)
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint('done')\nsys.exit(5)\n")
    assert main(["run", str(script)]) == 5
    assert capsys.readouterr().out == "done\n"
    assert len([text for text in plugin_warnings(caplog) if "BadAcmeBackend" in text]) == 1


# -- one warning for one reason ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyError("loss"), OverflowError("x"), RecursionError(), MemoryError()])
def test_rules_that_fail_for_one_reason_are_one_warning(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, record_property: Any
) -> None:
    record_property("attacks", 1)
    rules = registry.make_rules()
    for rule in rules:
        monkeypatch.setattr(rule, "check", raises(error))
    engine = Engine(rules)
    for _ in range(3):
        assert engine.evaluate(RunHistory(), TaskContext()) == []
    (message,) = plugin_warnings(caplog)
    names = ", ".join(rule.problem for rule in rules[:3])
    assert message == f"{len(rules)} rules failed and are switched off ({names} and {len(rules) - 3} more): {error!r}"
    assert engine.rules == ()


def test_one_reason_is_one_warning_however_late_rules_fail(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(registry.make_rules())
    for rule in engine.rules:
        monkeypatch.setattr(rule, "check", raises(RuntimeError(f"<object at {hex(id(rule))}>")))
        engine.evaluate(RunHistory(), TaskContext())
    assert len(plugin_warnings(caplog)) == 1


def test_rules_that_fail_for_different_reasons_are_all_reported(caplog: pytest.LogCaptureFixture) -> None:
    one, two, good = (type(f"R{n}", (AcmeRule,), {"problem": f"r{n}", "code": f"R{n}"}) for n in range(3))
    one.check, two.check = raises(KeyError("a")), raises(KeyError("b"))  # type: ignore[attr-defined]
    engine = Engine([one(), two(), good()])
    assert [f.problem for f in engine.evaluate(RunHistory(), TaskContext())] == ["r2"]
    assert plugin_warnings(caplog) == [
        f"rule r{n} failed and is switched off: KeyError('{c}')" for n, c in enumerate("ab")
    ]


def test_broken_history_of_built_in_rules_is_few_warnings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("scalar", "layer", "epochs", "losses", "steps"):
        if hasattr(RunHistory, name):
            monkeypatch.setattr(RunHistory, name, property(raises(MemoryError("history"))))
    engine = Engine(registry.make_rules())
    engine.evaluate(RunHistory(), TaskContext())
    assert len(plugin_warnings(caplog)) == 1
