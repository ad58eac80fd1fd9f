"""What single repairs propose."""

from __future__ import annotations

import math

import pytest

from autotrainer.edits import (
    ClipGradients,
    DropPenalties,
    InsertNormalization,
    LimitDropout,
    Reinitialize,
    SetBatchSize,
    SetLearningRate,
    SetLoss,
    SetMomentum,
    SetOutputActivation,
    SetWeightDecay,
    SwapActivation,
    SwapOptimizer,
)
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import LossInfo, OptimizerInfo
from autotrainer.repairs.add_dropout import AddDropoutRepair
from autotrainer.repairs.add_momentum import AddMomentumRepair
from autotrainer.repairs.change_batch_size import ChangeBatchSizeRepair
from autotrainer.repairs.clip_gradients import ClipGradientsRepair
from autotrainer.repairs.fix_loss import FixLossRepair
from autotrainer.repairs.fix_output_activation import FixOutputActivationRepair
from autotrainer.repairs.insert_normalization import InsertNormalizationRepair
from autotrainer.repairs.reinitialize import ReinitializeRepair
from autotrainer.repairs.rollback import RollbackRepair
from autotrainer.repairs.scale_inputs import ScaleInputsRepair
from autotrainer.repairs.scale_learning_rate import ScaleLearningRateRepair
from autotrainer.repairs.swap_activation import SwapActivationRepair
from autotrainer.repairs.swap_optimizer import SwapOptimizerRepair
from autotrainer.repairs.warm_up_learning_rate import WarmUpLearningRateRepair
from autotrainer.repairs.weaken_regularization import WeakenRegularizationRepair

CE_LOGITS = LossInfo("ce", "cross_entropy", "logits", "either", 1)
CE_PROBABILITIES = LossInfo("cce", "cross_entropy", "probabilities", "one_hot")
BCE = LossInfo("bce", "binary_cross_entropy", "probabilities")
BCE_LOGITS = LossInfo("bce", "binary_cross_entropy", "logits")
NLL = LossInfo("nll", "cross_entropy", "log_probabilities", "index", 1)
MSE = LossInfo("mse", "squared_error", "values")
OWN = LossInfo("mine", "custom")


@pytest.mark.parametrize(
    ("loss", "activation", "units", "kind", "wanted"),
    [
        (CE_PROBABILITIES, "relu", 3, "one_hot", [SetOutputActivation("softmax")]),
        (CE_LOGITS, "relu", 3, "index", [SetOutputActivation("linear")]),
        (CE_LOGITS, "softmax", 3, "index", [SetOutputActivation("linear")]),
        (BCE, "softmax", 1, "binary", [SetOutputActivation("sigmoid")]),
        (BCE_LOGITS, "sigmoid", 1, "binary", [SetOutputActivation("linear")]),
        (BCE, "softmax", 1, "signed", [SetOutputActivation("linear"), SetLoss("signed_logistic", "logits")]),
        (MSE, "sigmoid", 1, "real", [SetOutputActivation("linear")]),
        (MSE, "linear", 1, "real", None),
        (CE_PROBABILITIES, "softmax", 2, "index", None),
        (NLL, "softmax", 3, "index", [SetLoss("cross_entropy", "probabilities")]),
        (NLL, "linear", 3, "index", [SetOutputActivation("softmax"), SetLoss("cross_entropy", "probabilities")]),
    ],
)
def test_output_activation_fits_loss_and_targets(
    loss, activation, units, kind, wanted, finding, context, targets
) -> None:
    given = context(loss=loss, output_activation=activation, output_units=units)
    proposals = list(FixOutputActivationRepair().propose(finding("improper_output_activation"), given, targets(kind)))
    assert [list(p.edits) for p in proposals] == ([] if wanted is None else [wanted])


@pytest.mark.parametrize(
    ("loss", "activation", "units", "kind", "wanted"),
    [
        (MSE, "softmax", 3, "index", [SetLoss("cross_entropy", "probabilities")]),
        (BCE, "sigmoid", 3, "index", [SetOutputActivation("softmax"), SetLoss("cross_entropy", "probabilities")]),
        (BCE, "sigmoid", 1, "signed", [SetOutputActivation("linear"), SetLoss("signed_logistic", "logits")]),
        (BCE, "linear", 1, "real", [SetLoss("squared_error", "values")]),
        (BCE, "sigmoid", 1, "real", [SetOutputActivation("linear"), SetLoss("squared_error", "values")]),
        (BCE, "sigmoid", 1, "index", None),
    ],
)
def test_loss_fits_targets(loss, activation, units, kind, wanted, finding, context, targets) -> None:
    given = context(loss=loss, output_activation=activation, output_units=units)
    proposals = list(FixLossRepair().propose(finding("improper_loss"), given, targets(kind)))
    assert [list(p.edits) for p in proposals] == ([] if wanted is None else [wanted])


def test_swapped_layers_are_hidden_unfrozen_and_not_recurrent(finding, context, targets) -> None:
    layers = (
        LayerInfo("rnn", "recurrent", "tanh", 8, 100),
        LayerInfo("old", "dense", "relu", 8, 72, frozen=True),
        LayerInfo("fc", "dense", "relu", 8, 72),
        LayerInfo("act", "activation", "relu", 8),
        LayerInfo("out", "dense", "softmax", 3, 27, hidden=False),
    )
    proposals = list(SwapActivationRepair().propose(finding("dying_relu"), context(layers=layers), targets("index")))
    assert {p.edits[0].layers for p in proposals} == {("fc", "act")}
    assert proposals[0].edits[0] == SwapActivation(("fc", "act"), "selu")


@pytest.mark.parametrize(
    ("problem", "first"), [("exploding_gradient", 0.001), ("slow_convergence", 0.1), ("not_learning", 0.1)]
)
def test_direction_of_the_learning_rate_depends_on_the_problem(problem, first, finding, context, targets) -> None:
    proposals = list(ScaleLearningRateRepair().propose(finding(problem), context(), targets("binary")))
    assert proposals[0].edits == (SetLearningRate(first),)


@pytest.mark.parametrize(
    ("problem", "evidence", "rates"),
    [
        ("learning_rate_too_high", {}, [1e-3, 1e-4]),
        ("learning_rate_too_high", {"first_step": 1.5}, [1e-4, 1e-5, 1e-3]),
        ("learning_rate_too_high", {"first_step": 1.5, "sharpness": 3.7}, [1e-3, 1e-4]),
        ("learning_rate_too_high", {"first_step": 0.1, "sharpness": 30.0}, [1e-4, 1e-5, 1e-3]),
        ("learning_rate_too_high", {"first_step": 0.1}, [1e-3, 1e-4]),
        ("learning_rate_too_high", {"first_step": 0.01}, [1e-3, 1e-4]),  # it was momentum that made it too high
        ("learning_rate_too_low", {}, [0.1, 1.0]),
        ("learning_rate_too_low", {"travel": 0.05}, [1.0, 0.1, 10.0]),
        ("learning_rate_too_low", {"travel": 0.0}, [0.1, 1.0]),
    ],
)
def test_learning_rate_depends_on_the_measured_steps(problem, evidence, rates, finding, context, targets) -> None:
    proposals = list(ScaleLearningRateRepair().propose(finding(problem, evidence=evidence), context(), targets("real")))
    assert [p.edits[0].value for p in proposals] == pytest.approx(rates)


@pytest.mark.parametrize(("momentum", "wanted"), [(0.999, [SetMomentum(0.9)]), (0.9, []), (0.0, [])])
def test_momentum_is_lowered_if_steps_are_too_large(momentum, wanted, finding, context, targets) -> None:
    given = context(optimizer=OptimizerInfo("sgd", 0.05, momentum))
    proposals = list(AddMomentumRepair().propose(finding("learning_rate_too_high"), given, targets("real")))
    assert [p.edits[0] for p in proposals] == wanted


def test_unknown_learning_rate_proposes_nothing(finding, context, targets) -> None:
    given = context(optimizer=OptimizerInfo("sgd", math.nan))
    assert not list(ScaleLearningRateRepair().propose(finding("nonfinite"), given, targets("binary")))


@pytest.mark.parametrize(("steps", "rate"), [(100_000, 0.001), (1_000, 0.005), (100, 0.01), (None, 0.001)])
def test_learning_rate_of_adam_is_raised_for_short_trainings(steps, rate, finding, context, targets) -> None:
    given = context(planned_steps=steps)
    proposals = list(SwapOptimizerRepair().propose(finding("slow_convergence"), given, targets("binary")))
    assert proposals[0].edits == (SwapOptimizer("adam", rate),)
    assert all(p.edits[0].name != "sgd" for p in proposals)


@pytest.mark.parametrize(("evidence", "limit"), [({}, 1.0), ({"usual_grad_norm": 3.14159}, 3.1)])
def test_clipping_uses_the_usual_norm_of_the_run(evidence, limit, finding, context, targets) -> None:
    given = finding("exploding_gradient", evidence=evidence)
    proposals = list(ClipGradientsRepair().propose(given, context(), targets("binary")))
    assert proposals[0].edits == (ClipGradients("norm", limit),)


def test_reinitialization_suits_the_activation_and_is_limited_to_the_named_layers(finding, context, targets) -> None:
    layers = (
        LayerInfo("a", "dense", "relu", 8, 72),
        LayerInfo("b", "dense", "tanh", 8, 72),
        LayerInfo("c", "dense", "softmax", 3, 27, hidden=False),
    )
    given = context(layers=layers)
    everywhere = list(ReinitializeRepair().propose(finding("dying_relu"), given, targets("index")))
    assert set(everywhere[0].edits) == {Reinitialize(("a",), "he_uniform"), Reinitialize(("b", "c"), "glorot_uniform")}
    named = list(ReinitializeRepair().propose(finding("dying_relu", layers=("a",)), given, targets("index")))
    assert named[0].edits == (Reinitialize(("a",), "he_uniform"),)


def test_an_attention_layer_is_reinitialized_with_its_inner_layers(finding, context, targets) -> None:
    layers = (
        LayerInfo("words", "embedding", None, 16, 800),
        LayerInfo("block.attention", "attention", "linear", 16, 816),
        LayerInfo("block.attention.out_proj", "dense", "linear", 16, 272),
        LayerInfo("block.attention2", "attention", "linear", 16, 816),
        LayerInfo("out", "dense", "linear", 2, 34, hidden=False),
    )
    given = finding("attention_entropy_collapse", layers=("block.attention",))
    (proposal,) = ReinitializeRepair().propose(given, context(layers=layers), targets("binary"))
    assert proposal.edits == (Reinitialize(("block.attention", "block.attention.out_proj"), "glorot_uniform"),)


@pytest.mark.parametrize(
    ("size", "rows", "optimizer", "wanted"),
    [
        (1, 700, OptimizerInfo("sgd", 0.01), (SetBatchSize(32),)),
        (32, 7000, OptimizerInfo("adam", 0.001), (SetBatchSize(128), SetLearningRate(0.002))),
        (32, 100, OptimizerInfo("sgd", 0.01), None),
        (None, 100, OptimizerInfo("sgd", 0.01), None),
    ],
)
def test_batches_grow_within_the_data(size, rows, optimizer, wanted, finding, context, targets) -> None:
    given = context(batch_size=size, train_rows=rows, optimizer=optimizer)
    proposals = list(ChangeBatchSizeRepair().propose(finding("oscillating_loss"), given, targets("index")))
    assert [p.edits for p in proposals] == ([] if wanted is None else [wanted])


@pytest.mark.parametrize(("size", "kind"), [(64, "batch"), (2, "layer")])
def test_normalization_suits_the_batch(size, kind, finding, context, targets) -> None:
    given = context(batch_size=size)
    proposals = list(InsertNormalizationRepair().propose(finding("vanishing_gradient"), given, targets("binary")))
    assert proposals[0].edits == (InsertNormalization(("fc1", "fc2"), kind),)


def test_a_normalized_layer_gets_no_second_normalization(finding, context, targets) -> None:
    layers = (
        LayerInfo("fc1", "dense", "relu", 8, 72),
        LayerInfo("bn1", "norm", "relu", 8, 16),
        LayerInfo("fc2", "dense", "relu", 8, 72),
        LayerInfo("out", "dense", "softmax", 3, 27, hidden=False),
    )
    proposals = list(
        InsertNormalizationRepair().propose(finding("dying_relu"), context(layers=layers), targets("index"))
    )
    assert proposals[0].edits[0].layers == ("fc2",)


def test_nothing_is_proposed_twice(finding, context, targets) -> None:
    adam = context(optimizer=OptimizerInfo("adam", 0.001, momentum=0.9))
    assert not list(AddMomentumRepair().propose(finding("oscillating_loss"), adam, targets("binary")))
    dropped = context(layers=(*context().layers, LayerInfo("drop", "dropout")))
    assert not list(AddDropoutRepair().propose(finding("overfitting"), dropped, targets("binary")))
    index = context(input_kind="index")
    assert not list(ScaleInputsRepair().propose(finding("abnormal_data"), index, targets("binary")))


@pytest.mark.parametrize(
    ("evidence", "proposed"),
    [
        ({"input_std": 1.0, "input_offset": 0.1, "input_scale_ratio": 1.2, "hidden_mean_abs": 40.0}, False),
        ({"input_std": 200.0, "input_offset": 5.0, "input_scale_ratio": 1.1}, True),
        ({"input_std": 1.0, "input_offset": 0.1, "input_scale_ratio": 5000.0}, True),
        ({}, True),
    ],
)
def test_inputs_of_unit_scale_are_left_alone(evidence, proposed, finding, context, targets) -> None:
    given = finding("abnormal_data", evidence=evidence)
    assert bool(list(ScaleInputsRepair().propose(given, context(), targets("binary")))) is proposed


@pytest.mark.parametrize(
    ("problem", "evidence", "changes", "expected"),
    [
        ("insufficient_capacity", {"dropout": 0.9}, {"dropout": 0.9, "penalized": True}, [LimitDropout(0.2)]),
        ("insufficient_capacity", {"penalty": 0.9}, {"penalized": True}, [DropPenalties()]),
        ("insufficient_capacity", {"weight_decay": 1.0}, {}, [SetWeightDecay(1e-4)]),
        ("abnormal_update_ratio", {"decay": 0.1}, {}, [SetWeightDecay(1e-4)]),
        ("abnormal_update_ratio", {"ratio": 0.1}, {}, None),
        ("insufficient_capacity", {"units": 1}, {"dropout": 0.9}, None),
        ("not_learning", {}, {}, [SetWeightDecay(1e-4)]),
        ("not_learning", {}, {"optimizer": OptimizerInfo("adamw", 1e-3, weight_decay=0.01)}, None),
        ("not_learning", {}, {"optimizer": OptimizerInfo("sgd", 1e-3)}, None),
        ("not_learning", {}, {"optimizer": OptimizerInfo("sgd", 1e-3), "dropout": 0.5}, None),
        ("not_learning", {}, {"dropout": 0.7}, [LimitDropout(0.2), SetWeightDecay(1e-4)]),
    ],
)
def test_regularization_is_weakened_where_it_may_be_too_strong(
    problem, evidence, changes, expected, finding, context, targets
) -> None:
    given = context(**({"optimizer": OptimizerInfo("sgd", 0.1, weight_decay=1.0)} | changes))
    proposals = list(
        WeakenRegularizationRepair().propose(finding(problem, evidence=evidence), given, targets("binary"))
    )
    assert [list(proposal.edits) for proposal in proposals] == ([expected] if expected else [])


@pytest.mark.parametrize("present", ["sgd", "adam"])
def test_for_slow_trainings_a_usual_rate_comes_before_a_multiple_of_the_present_one(
    present, finding, context, targets
) -> None:
    given, problem = context(optimizer=OptimizerInfo(present, 1e-6)), finding("slow_convergence")
    proposals = [
        proposal
        for repair in (ScaleLearningRateRepair(), SwapOptimizerRepair())
        for proposal in repair.propose(problem, given, targets("binary"))
    ]
    first, second = sorted(proposals, key=lambda proposal: -proposal.effect)[:2]
    assert isinstance(first.edits[0], SwapOptimizer)
    assert isinstance(second.edits[0], SetLearningRate)


@pytest.mark.parametrize(
    ("problem", "suggested", "first"),
    [
        ("learning_rate_too_low", 0.5, 0.5),
        ("slow_convergence", 0.0004, 0.0004),
        ("not_learning", 0.347, 0.35),
        ("learning_rate_too_low", 0.02, 0.1),
        ("learning_rate_too_low", 0.0004, 0.1),
        ("exploding_gradient", 0.5, 0.001),
        ("not_learning", float("nan"), 0.1),
    ],
)
def test_the_rate_of_a_range_test_comes_first_unless_the_finding_contradicts_it(
    finding, context, targets, problem: str, suggested: float, first: float
) -> None:
    asked = {"suggested_rate": suggested}
    edits = [
        p.edits[0] for p in ScaleLearningRateRepair().propose(finding(problem), context(asked=asked), targets("binary"))
    ]
    assert edits[0] == SetLearningRate(first)


@pytest.mark.parametrize(
    "repair",
    [ClipGradientsRepair, RollbackRepair, ScaleLearningRateRepair, SwapOptimizerRepair, WarmUpLearningRateRepair],
)
def test_repairs_of_steps_are_not_proposed_for_problems_before_the_first_step(
    repair, finding, context, targets
) -> None:
    given = context(planned_epochs=10, planned_steps=1000, optimizer=OptimizerInfo("sgd", 0.1))
    for evidence, proposes in [({"first_step": 0.0}, False), ({"first_step": 7.0}, True), ({}, True)]:
        assert bool(list(repair().propose(finding("nonfinite", evidence=evidence), given, targets("real")))) is proposes
    replayed = finding("nonfinite", evidence={"first_step": 0.0, "first_bad_step": 3.0})
    assert list(repair().propose(replayed, given, targets("real")))


@pytest.mark.parametrize(
    ("loss", "first", "layers", "effect"),
    [(OWN, 0.0, (), 0.6), (OWN, 4.0, (), 0.3), (OWN, 0.0, ("0",), None), (MSE, 0.0, (), None)],
)
def test_a_custom_loss_that_is_the_first_nonfinite_value_is_replaced(
    loss, first, layers, effect, finding, context, targets
) -> None:
    given = context(loss=loss, output_activation="linear", output_units=1)
    found = finding("nonfinite", evidence={"first_step": first}, layers=layers)
    proposals = list(FixLossRepair().propose(found, given, targets("real")))
    assert [(p.edits, p.effect) for p in proposals] == (
        [] if effect is None else [((SetLoss("squared_error", "values"),), effect)]
    )


def test_no_loss_restores_the_order_of_outputs(finding, context, targets) -> None:
    found = finding("target_mismatch", evidence={"reordered_steps": 12.0, "reordered_classes": 3.0})
    given = context(loss=CE_LOGITS, output_units=3)
    assert not list(FixLossRepair().propose(found, given, targets("index")))
    assert list(FixLossRepair().propose(finding("target_mismatch"), given, targets("index")))
