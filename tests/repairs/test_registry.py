"""What holds for every repair."""

from __future__ import annotations

import itertools
import json
import math

import pytest

from autotrainer import registry
from autotrainer.edits import EDITS
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import LossInfo, OptimizerInfo, TargetSummary, TaskContext
from autotrainer.repair import DOC_SECTIONS, Repair
from autotrainer.reporting.patch import patch_lines
from autotrainer.reporting.plan import RepairPlan

every_repair = pytest.mark.parametrize("repair", registry.repairs(), ids=lambda repair: repair.name)
KINDS = ("binary", "signed", "index", "from_one", "one_hot", "real", "large")


def test_names_are_unique() -> None:
    names = [repair.name for repair in registry.repairs()]
    assert len(names) == len(set(names))


@every_repair
def test_page_has_all_sections_in_order(repair: type[Repair]) -> None:
    page = repair.documentation()
    places = [page.find(f"\n{section}:") for section in DOC_SECTIONS]
    assert -1 not in places
    assert places == sorted(places)


@every_repair
def test_fixes_known_problems_with_probabilities(repair: type[Repair]) -> None:
    assert set(repair.fixes) <= {rule.problem for rule in registry.rules()}
    assert all(0 < effect <= 1 for effect in repair.fixes.values())


@every_repair
def test_proposals_are_plans_that_print_and_serialize(repair, finding, context, targets) -> None:
    for problem, kind in itertools.product(repair.fixes, KINDS):
        proposals = list(repair().propose(finding(problem), context(), targets(kind)))
        effects = [proposal.effect for proposal in proposals]
        assert effects == sorted(effects, reverse=True), f"best first, for {problem} and {kind} targets"
        for proposal in proposals:
            _check_plan(repair, problem, proposal)


def _check_plan(repair, problem, proposal) -> None:
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


@every_repair
def test_an_empty_context_raises_nothing(repair, finding) -> None:
    for problem in repair.fixes:
        list(repair().propose(finding(problem), TaskContext(), TargetSummary()))
    list(repair().refine(TaskContext()))


@every_repair
@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf, 1e-320, 1e308])
def test_proposals_for_extreme_learning_rates_are_edits(repair, rate, finding, context, targets) -> None:
    for problem, name in itertools.product(repair.fixes, ("sgd", "adam")):
        extreme = context(optimizer=OptimizerInfo(name, rate, weight_decay=rate))
        evidence = {"usual_grad_norm": rate, "first_step": rate, "travel": rate, "output_spread": rate}
        list(repair().propose(finding(problem, evidence=evidence), extreme, targets("binary")))
        repair().dimension(extreme)
        list(repair().refine(extreme))
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
    cases += [(context(layers=(LayerInfo("fc1", "dense", frozen=True),)), "binary")]
    flat = (LayerInfo("fc1", "dense", "linear", 8, 40), LayerInfo("out", "dense", "linear", 1, 9, hidden=False))
    cases += [(context(layers=flat), "binary")]
    cases += [(context(dropout=0.9, penalized=True), "binary")]
    cases += [(numbers, "large"), (context(optimizer=OptimizerInfo("adam", 1e-3)), "binary")]
    evidence = {"equal_indices": 0.8, "reordered_classes": 4.0, "reordered_steps": 12.0}
    proposed = {
        type(edit).__name__
        for repair in registry.repairs()
        for problem in repair.fixes
        for given, kind in cases
        for facts in ({}, evidence)
        for proposal in repair().propose(finding(problem, layers=("fc1",), evidence=facts), given, targets(kind))
        for edit in proposal.edits
    }
    assert proposed == set(EDITS)
