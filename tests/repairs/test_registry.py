"""What holds for every repair."""

from __future__ import annotations

import json
import math

import pytest

from autotrainer import registry
from autotrainer.edits import EDITS
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import LossInfo, OptimizerInfo
from autotrainer.repair import DOC_SECTIONS, Repair
from autotrainer.reporting.patch import patch_lines
from autotrainer.reporting.plan import RepairPlan

CASES = [
    pytest.param(repair, problem, id=f"{repair.name}-{problem}")
    for repair in registry.repairs()
    for problem in repair.fixes
]


def test_names_are_unique() -> None:
    names = [repair.name for repair in registry.repairs()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("repair", registry.repairs(), ids=lambda r: r.name)
def test_page_has_all_sections_in_order(repair: type[Repair]) -> None:
    page = repair.documentation()
    places = [page.find(f"\n{section}:") for section in DOC_SECTIONS]
    assert -1 not in places
    assert places == sorted(places)


@pytest.mark.parametrize("repair", registry.repairs(), ids=lambda r: r.name)
def test_fixes_known_problems_with_probabilities(repair: type[Repair]) -> None:
    assert set(repair.fixes) <= {rule.problem for rule in registry.rules()}
    assert all(0 < effect <= 1 for effect in repair.fixes.values())


@pytest.mark.parametrize(("repair", "problem"), CASES)
@pytest.mark.parametrize("kind", ["binary", "signed", "index", "from_one", "one_hot", "real", "large"])
def test_proposals_are_plans_that_print_and_serialize(repair, problem, kind, finding, context, targets) -> None:
    proposals = list(repair().propose(finding(problem), context(), targets(kind)))
    effects = [proposal.effect for proposal in proposals]
    assert effects == sorted(effects, reverse=True), "best first"
    for proposal in proposals:
        assert proposal.repair == repair.name
        assert 0 < proposal.effect <= 1
        assert 0 <= proposal.change <= 3
        for framework in ("pytorch", "keras3"):
            plan = RepairPlan((repair.name,), proposal.edits, (problem,), framework)
            assert RepairPlan.from_dict(json.loads(plan.to_json())) == plan
            text = str(plan)
            for edit in proposal.edits:
                assert str(edit) in text
                assert patch_lines(edit, framework)


@pytest.mark.parametrize(("repair", "problem"), CASES)
def test_an_empty_context_raises_nothing(repair, problem, finding) -> None:
    from autotrainer.records.task import TargetSummary, TaskContext

    list(repair().propose(finding(problem), TaskContext(), TargetSummary()))


@pytest.mark.parametrize(("repair", "problem"), CASES)
@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf, 1e-320, 1e308])
def test_proposals_for_extreme_learning_rates_are_edits(repair, problem, rate, finding, context, targets) -> None:
    for name in ("sgd", "adam"):
        extreme = context(optimizer=OptimizerInfo(name, rate, weight_decay=rate))
        evidence = {"usual_grad_norm": rate, "first_step": rate, "travel": rate, "output_spread": rate}
        list(repair().propose(finding(problem, evidence=evidence), extreme, targets("binary")))
        repair().dimension(extreme)
        asked = context(asked={"suggested_rate": rate})
        list(repair().propose(finding(problem), asked, targets("binary")))


def test_every_edit_is_proposed_by_some_repair(finding, context, targets) -> None:
    deep = tuple(LayerInfo(f"fc{i}", "dense", "sigmoid", 32, 1056) for i in range(8))
    labels = context(loss=LossInfo("ce", "cross_entropy", "logits", "either", 1), output_units=3)
    numbers = context(loss=LossInfo("mse", "squared_error", "values"), output_activation="linear")
    cases = [
        (given, kind)
        for kind in ("binary", "real")
        for given in (context(), context(output_activation="relu"), context(layers=deep), context(output_rank=2))
    ] + [(labels, "from_one"), (context(loss=LossInfo("bce", "binary_cross_entropy", "logits")), "signed")]
    cases += [(numbers, "large"), (context(optimizer=OptimizerInfo("adam", 1e-3)), "binary")]
    proposed = {
        type(edit).__name__
        for repair in registry.repairs()
        for problem in repair.fixes
        for given, kind in cases
        for proposal in repair().propose(finding(problem, layers=("fc1",)), given, targets(kind))
        for edit in proposal.edits
    }
    assert proposed == set(EDITS)
