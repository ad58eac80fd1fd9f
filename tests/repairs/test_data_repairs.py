"""What the repairs of data and targets propose, and where they keep quiet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autotrainer.adapter.spec import Support, SupportLevel
from autotrainer.edits import (
    DropBadRows,
    EncodeTargets,
    NumberClasses,
    ReshapeTargets,
    ScaleTargets,
    SetOutputActivation,
    ShuffleData,
    WeightClasses,
)
from autotrainer.records.task import LossInfo, TargetSummary
from autotrainer.repair import Risk
from autotrainer.repairs.drop_bad_rows import DropBadRowsRepair
from autotrainer.repairs.encode_targets import EncodeTargetsRepair
from autotrainer.repairs.fix_loss import FixLossRepair
from autotrainer.repairs.reshape_targets import ReshapeTargetsRepair
from autotrainer.repairs.scale_targets import ScaleTargetsRepair
from autotrainer.repairs.shuffle_data import ShuffleDataRepair
from autotrainer.repairs.weight_classes import WeightClassesRepair
from autotrainer.search.planner import Planner

MSE = LossInfo("MSELoss", "squared_error", "values")
HUBER = LossInfo("SmoothL1Loss", "huber", "values")
OWN = LossInfo("my_loss")
POISSON = LossInfo("PoissonNLLLoss", "poisson", "log_values")
CE = LossInfo("CrossEntropyLoss", "cross_entropy", "logits", "either", 1)
SPARSE = LossInfo("sparse", "cross_entropy", "probabilities", "index")
ONE_HOT = LossInfo("categorical", "cross_entropy", "probabilities", "one_hot")
NLL = LossInfo("NLLLoss", "cross_entropy", "log_probabilities", "index", 1)
BCE = LossInfo("BCELoss", "binary_cross_entropy", "probabilities")
BCE_LOGITS = LossInfo("BCEWithLogitsLoss", "binary_cross_entropy", "logits")
MARGIN = LossInfo("SoftMarginLoss", "hinge", "logits")


def numbers(mean: float, std: float) -> TargetSummary:
    return TargetSummary(
        count=100, rows=100, rank=2, minimum=mean - 3 * std, maximum=mean + 3 * std, mean=mean, variance=std**2
    )


def labels(*values: float, rank: int = 1, integers: bool = True) -> TargetSummary:
    return TargetSummary(
        count=100, rows=100, rank=rank, integer_type=integers, integral=True, minimum=min(values), maximum=max(values),
        mean=1.0, variance=1.0, values=tuple(values), classes=len(values), majority=0.5, rarest=0.1,
    )  # fmt: skip


def rows(*, integers: bool, width: int = 3) -> TargetSummary:
    return replace(labels(0.0, 1.0, rank=2, integers=integers), width=width, one_hot=True, classes=width)


@pytest.mark.parametrize(
    ("problem", "loss", "activation", "targets", "wanted"),
    [
        ("unscaled_targets", MSE, "linear", numbers(50_000, 4_000), (ScaleTargets(),)),
        ("unscaled_targets", HUBER, None, numbers(0, 100), (ScaleTargets(),)),
        ("unscaled_targets", MSE, "sigmoid", numbers(0, 100), (SetOutputActivation("linear"), ScaleTargets())),
        ("not_learning", MSE, "linear", numbers(1_000, 1), (ScaleTargets(),)),
        ("nonfinite", OWN, "linear", numbers(0, 1e5), (ScaleTargets(),)),
        ("not_learning", MSE, "linear", numbers(1, 2), None),
        ("not_learning", MSE, "linear", numbers(5, 0.1), None),  # far from zero in its own units, yet small
        ("unscaled_targets", POISSON, "linear", numbers(500, 100), None),
        ("not_learning", CE, "linear", labels(0, 1, 2), None),
        ("nonfinite", MSE, "linear", TargetSummary(), None),
    ],
)
def test_only_numbers_far_from_unit_scale_are_scaled(
    problem, loss, activation, targets, wanted, finding, context
) -> None:
    given = context(loss=loss, output_activation=activation, output_units=1)
    proposals = list(ScaleTargetsRepair().propose(finding(problem), given, targets))
    assert [p.edits for p in proposals] == ([] if wanted is None else [wanted])


def test_a_custom_loss_makes_scaling_of_targets_less_certain(finding, context) -> None:
    effects = [
        next(
            iter(ScaleTargetsRepair().propose(finding("unscaled_targets"), context(loss=loss), numbers(0, 100)))
        ).effect
        for loss in (MSE, OWN)
    ]
    assert effects[1] < 0.5 < effects[0]


@pytest.mark.parametrize(
    ("loss", "units", "framework", "targets", "wanted"),
    [
        (CE, 3, "pytorch", labels(1, 2, 3), NumberClasses()),
        (SPARSE, 3, "keras3", labels(0, 10, 20), NumberClasses(fill=0.0)),
        (CE, 3, "pytorch", labels(1, 2, 3, 4), None),  # more classes than outputs
        (CE, 3, "pytorch", labels(-1, 0, 1), None),
        (CE, 3, "pytorch", labels(0, 1, 2), None),
        (CE, 3, "pytorch", labels(0, 1, 2, integers=False), EncodeTargets("index")),
        (NLL, 3, "pytorch", rows(integers=False), EncodeTargets("index")),
        (SPARSE, 3, "keras3", rows(integers=False), EncodeTargets("index")),
        (CE, 3, "pytorch", rows(integers=False), None),  # it takes rows of floats
        (CE, 3, "pytorch", rows(integers=True), EncodeTargets("index")),
        (CE, 4, "pytorch", rows(integers=True), None),
        (ONE_HOT, 3, "keras3", labels(0, 1, 2), EncodeTargets("one_hot")),
        (ONE_HOT, 3, "keras3", rows(integers=False), None),
        (ONE_HOT, 3, "keras3", labels(1, 2, 3), None),
        (BCE_LOGITS, 1, "pytorch", labels(-1, 1), EncodeTargets("zero_one")),
        (BCE, 1, "pytorch", labels(-1, 1), ScaleTargets((-1.0,), (2.0,))),
        (MARGIN, 1, "pytorch", labels(0.0, 1.0), EncodeTargets("signed")),
        (MARGIN, 1, "keras3", labels(0.0, 1.0), None),  # Keras does so itself
        (MARGIN, 1, "pytorch", labels(-1, 1), None),
        (MSE, 1, "pytorch", labels(0, 1), None),
    ],
)
def test_labels_are_encoded_as_the_loss_expects_them(loss, units, framework, targets, wanted, finding, context) -> None:
    given = context(loss=loss, output_units=units, framework=framework)
    for problem in EncodeTargetsRepair.fixes:
        proposals = list(EncodeTargetsRepair().propose(finding(problem), given, targets))
        assert [p.edits for p in proposals] == ([] if wanted is None else [(wanted,)])


@pytest.mark.parametrize(
    ("problem", "loss", "activation", "values", "wanted"),
    [
        ("target_mismatch", BCE, "sigmoid", (1.0, 2.0), EncodeTargets("zero_one", (1.0, 2.0))),
        ("improper_loss", BCE, "sigmoid", (-1.0, 1.0), ScaleTargets((-1.0,), (2.0,))),
        ("improper_loss", OWN, "sigmoid", (1.0, 2.0), EncodeTargets("zero_one", (1.0, 2.0))),
        ("not_learning", OWN, "sigmoid", (1.0, 2.0), None),  # nothing says that the loss wants 0 and 1
        ("improper_loss", BCE, "linear", (1.0, 2.0), None),
        ("improper_loss", BCE, "sigmoid", (0.0, 1.0), None),
        ("improper_loss", BCE, "sigmoid", (1.0, 2.0, 3.0), None),
    ],
)
def test_two_labels_become_zero_and_one(problem, loss, activation, values, wanted, finding, context) -> None:
    given = context(loss=loss, output_activation=activation, output_units=1)
    proposals = list(EncodeTargetsRepair().propose(finding(problem), given, labels(*values)))
    assert [p.edits for p in proposals] == ([] if wanted is None else [(wanted,)])


@pytest.mark.parametrize(
    ("loss", "rank", "target_rank", "evidence", "proposed"),
    [
        (MSE, 2, 1, {}, True),
        (HUBER, 1, 2, {}, True),
        (BCE, 2, 1, {}, True),
        (OWN, None, 1, {"crossed_error": 2.0}, True),
        (OWN, None, 1, {"crossed_binary_entropy": 2.0}, True),
        (MSE, 2, 2, {}, False),
        (OWN, None, 1, {}, False),
        (CE, 2, 1, {}, False),
    ],
)
def test_targets_are_reshaped_only_if_nothing_else_differs(
    loss, rank, target_rank, evidence, proposed, finding, context
) -> None:
    given = context(loss=loss, output_units=1, output_rank=rank)
    targets = replace(numbers(0, 1), rank=target_rank)
    proposals = list(ReshapeTargetsRepair().propose(finding("target_mismatch", evidence=evidence), given, targets))
    assert [p.edits for p in proposals] == ([(ReshapeTargets(),)] if proposed else [])
    aligned = replace(given, framework="keras3", output_rank=target_rank)  # the loss itself changes the shapes
    assert not list(ReshapeTargetsRepair().propose(finding("target_mismatch", evidence=evidence), aligned, targets))
    wide = replace(targets, width=3)
    assert not list(ReshapeTargetsRepair().propose(finding("target_mismatch", evidence=evidence), given, wide))


@pytest.mark.parametrize(
    ("repair", "problem", "edit", "risk"),
    [
        (ShuffleDataRepair, "unshuffled_data", ShuffleData(), Risk.SAFE),
        (DropBadRowsRepair, "nonfinite_data", DropBadRows(), Risk.SAFE),
        (DropBadRowsRepair, "nonfinite", DropBadRows(), Risk.SAFE),
        (WeightClassesRepair, "class_imbalance", WeightClasses(), Risk.UNSAFE),
    ],
)
def test_each_finding_about_data_has_its_repair(repair, problem, edit, risk, finding, context, targets) -> None:
    rare = replace(targets("binary"), majority=0.95, rarest=0.05)
    proposals = list(repair().propose(finding(problem), context(), rare))
    assert [p.edits for p in proposals] == [(edit,)]
    assert repair.risk is risk


def test_classes_are_weighted_only_if_each_row_has_one(finding, context, targets) -> None:
    several = replace(targets("index"), rank=2, width=5)
    assert not list(WeightClassesRepair().propose(finding("class_imbalance"), context(), several))
    assert not list(WeightClassesRepair().propose(finding("class_imbalance"), context(loss=MSE), targets("real")))


def test_classes_that_are_equally_frequent_are_not_weighted(finding, context, targets) -> None:
    equal = replace(targets("binary"), majority=0.52, rarest=0.48)
    assert not list(WeightClassesRepair().propose(finding("class_imbalance"), context(), equal))
    weighted = context(loss=replace(BCE, weighted=True))
    assert list(WeightClassesRepair().propose(finding("class_imbalance"), weighted, equal))


def test_weights_that_favor_common_classes_are_balanced_or_left_out(finding, context, targets) -> None:
    inverted = replace(finding("class_imbalance"), evidence={"weight_slope": 1.0})
    proposals = list(WeightClassesRepair().propose(inverted, context(loss=CE, output_units=3), targets("index")))
    assert [p.edits for p in proposals] == [(WeightClasses(),), (WeightClasses((1.0, 1.0, 1.0)),)]
    assert proposals[0].effect > proposals[1].effect


def test_evidence_selects_one_of_two_repairs_for_the_same_problem(finding, context) -> None:
    """The shape alone, or the whole loss: both together would be the same twice."""
    planner = Planner((FixLossRepair, ReshapeTargetsRepair), lambda edit: Support(SupportLevel.REBUILD))
    given = context(loss=HUBER, output_activation="linear", output_rank=2)
    step = planner.proven([finding("target_mismatch")], given, replace(numbers(0, 1), rank=1))
    assert step is not None
    assert step.edits == (ReshapeTargets(),)
