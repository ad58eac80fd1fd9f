"""The planner and the recipes of trainings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

import pytest

from autotrainer import registry
from autotrainer.adapter.spec import Support, SupportLevel, TrainingSpec
from autotrainer.edits import (
    ClipGradients,
    Edit,
    ResizeOutputLayer,
    SetLearningRate,
    SetMomentum,
    SwapActivation,
    SwapOptimizer,
)
from autotrainer.errors import ConfigError
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import LossInfo, OptimizerInfo, TargetSummary, TaskContext
from autotrainer.repair import Dimension, Proposal, Repair
from autotrainer.search.planner import STRATEGIES, Planner, actionable

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

LAYERS = tuple(LayerInfo(f"l{i}", "dense", "sigmoid", 5, 30) for i in range(4))
CONTEXT = TaskContext(
    "pytorch",
    "pytorch",
    LossInfo("BCELoss", "binary_cross_entropy", "probabilities"),
    OptimizerInfo("sgd", 0.01),
    (*LAYERS, LayerInfo("out", "dense", "relu", 1, 6, hidden=False)),
    "relu",
    1,
    "values",
    30,
    300,
)
TARGETS = TargetSummary(100, 100, 1, 1, True, True, 0.0, 1.0, 0.5, 0.25, (0.0, 1.0), classes=2, majority=0.5)


def _finding(
    problem: str, severity: Severity = ERROR, cause: str | None = None, layers: tuple[str, ...] = ()
) -> Finding:
    return Finding(problem, "AT000", severity, 0.9, problem, layers, caused_by=cause)


def _planner(strategy: str = "balance", **options: object) -> Planner:
    def supports(edit: Edit) -> Support:
        return Support(SupportLevel.REBUILD)

    return Planner(registry.repairs(), supports, strategy, **options)  # type: ignore[arg-type]


def test_errors_and_their_causes_are_actionable() -> None:
    findings = [
        _finding("abnormal_data", WARNING),
        _finding("dying_relu", WARNING, "abnormal_data"),
        _finding("not_learning", ERROR, "dying_relu"),
        _finding("overfitting", WARNING),
        _finding("nonfinite", INFO),
    ]
    repairable = {f.problem for f in findings}
    assert [f.problem for f in actionable(findings, repairable)] == ["abnormal_data", "dying_relu", "not_learning"]
    circle = [_finding("a", ERROR, "b"), _finding("b", ERROR, "a")]
    assert actionable(circle, {"a", "b"}), "circular causes"
    assert actionable(findings[:2], repairable) == []


def test_consequences_of_unrepairable_errors_are_not_actionable() -> None:
    findings = [_finding("nonfinite_data"), _finding("nonfinite", ERROR, "nonfinite_data"), _finding("dying_relu")]
    assert [f.problem for f in actionable(findings, {"nonfinite", "dying_relu"})] == ["dying_relu"]
    warned = [_finding("nonfinite_data", WARNING), _finding("nonfinite", ERROR, "nonfinite_data")]
    assert [f.problem for f in actionable(warned, {"nonfinite"})] == ["nonfinite_data", "nonfinite"]


def test_proven_repairs_of_all_findings_are_one_step() -> None:
    findings = [_finding("improper_output_activation"), _finding("abnormal_data"), _finding("not_learning")]
    step = _planner().proven(findings, CONTEXT, TARGETS)
    assert step is not None
    assert step.repairs == ("fix_output_activation", "scale_inputs")
    assert step.problems == ("improper_output_activation", "abnormal_data")
    assert _planner(max_change=0).proven(findings, CONTEXT, TARGETS) is None
    assert _planner().proven([_finding("not_learning")], CONTEXT, TARGETS) is None, "safe, but not proven"


def test_refinements_follow_the_options() -> None:
    context = replace(CONTEXT, planned_epochs=30)

    def names(**options: object) -> list[str]:
        return [proposal.repair for proposal in _planner(**options).refinements(context)]  # type: ignore[arg-type]

    rate, wider = "scale_learning_rate", "resize_hidden_layers"
    assert names() == [rate, rate, "schedule_learning_rate", "extend_training", wider], "the best chance for its cost"
    assert wider not in names(max_change=2)
    assert rate not in names(forbid=rate)


def test_dimensions_need_no_finding_where_the_outcome_is_suspect() -> None:
    unfixable = [_finding("shuffled_labels"), _finding("not_learning", ERROR, "shuffled_labels")]
    assert _planner().dimensions(unfixable, CONTEXT) == _planner().dimensions([], CONTEXT) == []
    assert _planner().dimensions(None, CONTEXT) == _planner().dimensions([_finding("not_learning")], CONTEXT) != []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_repairs_that_discard_weights_are_last_unless_layers_are_named(strategy: str) -> None:
    planner = _planner(strategy)
    unnamed = [s.repairs[0] for s in planner.steps([_finding("vanishing_gradient")], CONTEXT, TARGETS)]
    discarding = [name in ("swap_activation", "reinitialize") for name in unnamed]
    assert any(discarding)
    assert discarding == sorted(discarding)
    named = planner.steps([_finding("vanishing_gradient", layers=("l0",))], CONTEXT, TARGETS)
    if strategy == "balance":
        assert named[0].repairs == ("swap_activation",)


def test_structure_orders_by_change_and_balance_by_effect() -> None:
    finding = _finding("vanishing_gradient", layers=("l0",))
    steps = {s: _planner(s).steps([finding], CONTEXT, TARGETS) for s in STRATEGIES}
    changes = [max(edit.change for edit in step.edits) for step in steps["structure"]]
    assert changes == sorted(changes)
    assert set(steps["balance"]) == set(steps["structure"]) == set(steps["efficiency"])
    assert steps["balance"] != steps["structure"]


def test_repairs_of_roots_lead_those_of_consequences() -> None:
    findings = [_finding("exploding_gradient"), _finding("not_learning", ERROR, "exploding_gradient")]
    problems = [s.problems[0] for s in _planner().steps(findings, CONTEXT, TARGETS)]
    assert problems[:3] == ["exploding_gradient", "exploding_gradient", "exploding_gradient"]
    assert "not_learning" in problems[3:6]
    assert "exploding_gradient" in problems[4:]


def test_equal_edits_are_proposed_once() -> None:
    findings = [_finding("exploding_gradient"), _finding("nonfinite"), _finding("not_learning")]
    steps = _planner().steps(findings, CONTEXT, TARGETS)
    assert len({step.edits for step in steps}) == len(steps)


def test_notes_say_why_a_repair_was_left_out() -> None:
    def supports(edit: Edit) -> Support:
        refused = isinstance(edit, SwapActivation)
        return Support(SupportLevel.NONE, "F.relu is called inside forward") if refused else Support(SupportLevel.LIVE)

    planner = Planner(registry.repairs(), supports)
    steps = planner.steps([_finding("vanishing_gradient")], CONTEXT, TARGETS)
    assert all("swap_activation" not in step.repairs for step in steps)
    assert planner.notes["swap_activation"] == "F.relu is called inside forward"


def test_unknown_options_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="did you mean 'structure'"):
        _planner("structur")
    with pytest.raises(ConfigError, match="did you mean 'scale_inputs'"):
        _planner(forbid=("scale_input",))
    with pytest.raises(ConfigError, match="max_change"):
        _planner(max_change=-1)


def test_later_edit_replaces_earlier_one_of_same_kind_and_layers() -> None:
    spec = TrainingSpec(3, 0, (SetLearningRate(0.1), SwapActivation(("a",), "relu"), ClipGradients("norm", 1)))
    more = spec.with_edits((SetLearningRate(0.2), SwapActivation(("b",), "relu")))
    assert more.edits == (
        SwapActivation(("a",), "relu"),
        ClipGradients("norm", 1),
        SetLearningRate(0.2),
        SwapActivation(("b",), "relu"),
    )
    assert spec.with_edits((SwapActivation(("a",), "selu"),)).edits[-1] == SwapActivation(("a",), "selu")
    assert len(spec.with_edits((SwapActivation(("a",), "selu"),)).edits) == 3
    swapped = TrainingSpec(3, 0, (SetLearningRate(0.1), SetMomentum(0.9))).with_edits((SwapOptimizer("adam", 1e-3),))
    assert swapped.edits == (SwapOptimizer("adam", 1e-3),)


class Failing(Repair):
    """Proposes an edit that refuses its value."""

    name = "failing"
    fixes: ClassVar[dict[str, float]] = {"dying_relu": 1.0}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        yield Proposal(self.name, (SetLearningRate(0.1),), 1.0)
        yield Proposal(self.name, (SetLearningRate(-1.0),), 1.0)

    def dimension(self, context: TaskContext) -> Dimension:
        raise RuntimeError("broken")

    def refine(self, context: TaskContext) -> Iterable[Proposal]:
        raise RuntimeError("broken")


def test_repair_that_fails_is_left_out_and_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    def supports(edit: Edit) -> Support:
        return Support(SupportLevel.REBUILD)

    findings = [_finding("dying_relu")]
    planner = Planner((Failing, *registry.repairs()), supports)
    expected = _planner().steps(findings, CONTEXT, TARGETS)
    assert planner.steps(findings, CONTEXT, TARGETS) == planner.steps(findings, CONTEXT, TARGETS) == expected
    assert planner.dimensions(findings, CONTEXT) == _planner().dimensions(findings, CONTEXT)
    assert planner.refinements(CONTEXT) == _planner().refinements(CONTEXT)
    assert planner.notes["failing"].startswith("it failed: ")
    assert [record.getMessage() for record in caplog.records if "repair failing" in record.getMessage()] == [
        "repair failing failed and is left out: ConfigError('SetLearningRate: value must be a number > 0, not -1.0')"
    ]


def test_outputs_that_a_function_scores_keep_their_width() -> None:
    class Widen(Repair):
        """Widen the output."""

        name = "widen"
        fixes: ClassVar[dict[str, float]] = {"not_learning": 0.9}

        def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> list[Proposal]:
            return [Proposal("widen", (ResizeOutputLayer(3),), 0.9)]

    supported = Support(SupportLevel.REBUILD)
    planner = Planner((Widen,), lambda edit: supported, supports_together=lambda edits: supported)
    assert planner.steps([_finding("not_learning")], TaskContext(), TARGETS)
    planner.fixed_outputs = True
    assert planner.steps([_finding("not_learning")], TaskContext(), TARGETS) == []
    assert "metric is a function" in planner.notes["widen"]
