"""What the repairs of schedules, optimizers and safeguards propose, and when nothing."""

from __future__ import annotations

import json

import pytest

from autotrainer import edits as e
from autotrainer import registry
from autotrainer.edits import edit_from_dict
from autotrainer.errors import ConfigError
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import OptimizerInfo, TaskContext

ADAM = {"optimizer": OptimizerInfo("adam", 1e-3)}
SCHEDULED = {"optimizer": OptimizerInfo("sgd", 0.1, scheduled=True)}
UNITS = (
    LayerInfo("conv", "conv", "relu", 8, 80),
    LayerInfo("frozen", "dense", "relu", 8, 72, frozen=True),
    LayerInfo("plain", "dense", None, 8, 72),
    LayerInfo("rnn", "recurrent", "tanh", 8, 100),
    LayerInfo("fc", "dense", "gelu", 8, 72),
    LayerInfo("out", "dense", "sigmoid", 1, 9, hidden=False),
)


@pytest.mark.parametrize(
    ("repair", "problem", "evidence", "given", "wanted"),
    [
        ("warm_up_learning_rate", "exploding_gradient", {}, {"planned_steps": 500}, [e.WarmUpRate(50)]),
        ("warm_up_learning_rate", "exploding_gradient", {}, {"planned_steps": 90_000}, [e.WarmUpRate(2000)]),
        ("warm_up_learning_rate", "exploding_gradient", {}, {"planned_steps": 40}, []),
        ("warm_up_learning_rate", "exploding_gradient", {}, {"planned_steps": None}, []),
        ("schedule_learning_rate", "oscillating_loss", {}, {}, [e.DecayRate()]),
        ("schedule_learning_rate", "oscillating_loss", {}, SCHEDULED, []),
        ("schedule_learning_rate", "wrong_schedule", {}, SCHEDULED, [e.DecayRate(instead=True)]),
        ("schedule_learning_rate", "oscillating_loss", {}, {"planned_epochs": 2}, []),
        ("extend_training", "too_few_epochs", {"steps": 500}, {}, [e.ExtendTraining(200), e.ExtendTraining(400)]),
        (
            "extend_training",
            "too_few_epochs",
            {"steps": 30},
            {"planned_epochs": 3},
            [e.ExtendTraining(12), e.ExtendTraining(30), e.ExtendTraining(6)],
        ),
        ("extend_training", "too_few_epochs", {"steps": 500}, {"planned_epochs": None}, []),
        *(
            (
                "extend_training",
                "too_few_epochs",
                {"steps": 500, "needed_length": needed, "shortest_length": shortest, "longest_length": longest},
                {},
                [e.ExtendTraining(epochs) for epochs in lengths],
            )
            for needed, shortest, longest, lengths in (
                (2.503, 2.4, 2.6, (251,)),
                (2.5, 2.0, 5.0, (250, 500)),
                (1.01, 1.0, 1.02, (125,)),
                (80.0, 70.0, 100.0, (1000,)),
                (3.0, 1.2, 30.0, (200, 400)),
            )
        ),
        ("tune_adam", "stale_second_moment", {"ratio": 3.0}, {}, []),
        (
            "tune_adam",
            "stale_second_moment",
            {"ratio": 3.0},
            ADAM,
            [e.TuneAdam(0.95, clip_updates=True), e.TuneAdam(0.99, clip_updates=True)],
        ),
        (
            "tune_adam",
            "stale_second_moment",
            {"ratio": 0.01},
            ADAM,
            [e.TuneAdam(0.95, 1e-15), e.TuneAdam(epsilon=1e-15)],
        ),
        ("reset_optimizer_state", "stale_second_moment", {}, ADAM, [e.ResetOptimizerState(10)]),
        ("reset_optimizer_state", "stale_second_moment", {}, {}, []),
        ("skip_update", "gradient_spike", {}, {}, [e.SkipUpdates()]),
        ("skip_update", "gradient_spike", {}, {"planned_steps": 300}, [e.SkipUpdates(window=30)]),
        ("skip_update", "gradient_spike", {}, {"planned_steps": None}, [e.SkipUpdates()]),
        ("rollback", "divergence", {}, {}, [e.Rollback()]),
        ("rollback", "divergence", {}, {"planned_epochs": 2}, []),
        ("revive_units", "dying_relu", {}, {"layers": UNITS}, [e.ReviveUnits(("conv", "fc"))]),
        ("revive_units", "dying_relu", {}, {"layers": UNITS[1:4]}, []),
        ("revive_units", "dying_relu", {}, {"layers": UNITS, "planned_epochs": 3}, []),
        ("raise_precision", "loss_scale_collapse", {}, {}, [e.RaisePrecision()]),
        ("raise_precision", "nonfinite", {}, {}, []),
        ("raise_precision", "nonfinite", {}, {"asked": {"first_bad_half": 1.0}}, [e.RaisePrecision()]),
        ("restore_zero_grad", "missing_zero_grad", {}, {}, [e.RestoreZeroGrad()]),
        ("set_mode", "wrong_training_mode", {}, {}, [e.SetMode()]),
    ],
)
def test_proposals(repair, problem, evidence, given, wanted, finding, context, targets) -> None:
    made = {r.name: r for r in registry.repairs()}[repair]()
    found = list(made.propose(finding(problem, evidence=evidence), context(**given), targets("binary")))
    assert [list(proposal.edits) for proposal in found] == [[edit] for edit in wanted]


def test_the_optimizer_gets_the_layers_of_the_finding(finding, context, targets) -> None:
    repair = {r.name: r for r in registry.repairs()}["complete_optimizer"]()
    found = repair.propose(finding("parameters_not_optimized", layers=("fc1", "out")), context(), targets("binary"))
    assert [proposal.edits for proposal in found] == [(e.CompleteOptimizer(("fc1", "out")),)]


def test_a_longer_training_costs_more_and_is_proven_only_if_it_fixes_a_root_cause(finding, context, targets) -> None:
    repair = {r.name: r for r in registry.repairs()}["extend_training"]()
    root, follows = (
        list(repair.propose(finding("too_few_epochs", caused_by=cause), context(), targets("real")))
        for cause in (None, "learning_rate_too_low")
    )
    assert [proposal.cost for proposal in root] == [2.0, 4.0]
    assert root[0].effect >= 0.5 > follows[0].effect


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (e.WarmUpRate, {"steps": 0}, r"steps must be a whole number >= 1, not 0"),
        (e.DecayRate, {"floor": 1.0}, r"floor must be a number >= 0 and < 1, not 1.0"),
        (e.DecayRate, {"steps": -1}, r"steps must be a whole number >= 0"),
        (e.ExtendTraining, {"epochs": 2.5}, r"epochs must be a whole number"),
        (e.TuneAdam, {"beta_2": 1.0}, r"beta_2 must be a number >= 0 and < 1"),
        (e.TuneAdam, {"epsilon": 0.0}, r"epsilon must be a number > 0"),
        (e.SkipUpdates, {"deviations": float("nan")}, r"deviations must be a number > 0, not nan"),
        (e.SkipUpdates, {"window": True}, r"window must be a whole number >= 2, not True"),
        (e.Rollback, {"limit": 1.0}, r"limit must be a number > 1"),
        (e.Rollback, {"shrink": 2.0}, r"shrink must be a number > 0 and <= 1"),
        (e.ReviveUnits, {"layers": ("a",), "threshold": 1}, r"threshold must be a number >= 0 and < 1"),
        (e.ResetOptimizerState, {"every": "often"}, r"every must be a whole number >= 0, not 'often'"),
    ],
)
def test_numbers_out_of_range_are_refused(kind, values, message) -> None:
    with pytest.raises(ConfigError, match=f"{kind.__name__}: {message}"):
        kind(**values)


@pytest.mark.parametrize("edit", [e.TuneAdam(0.9, None, True), e.DecayRate(0.1, True, 40), e.ReviveUnits(("a", "b"))])
def test_edits_come_back_from_json_unchanged(edit) -> None:
    assert edit_from_dict(json.loads(json.dumps(edit.to_dict()))) == edit


def test_trainings_that_work_are_refined_around_their_settings() -> None:
    layers = tuple(layer for layer in UNITS if layer.kind == "dense")
    context = TaskContext(
        optimizer=OptimizerInfo("sgd", 0.1), layers=layers, planned_epochs=30, batch_size=16, train_rows=100
    )
    refined = {repair.name: [p.edits for p in repair().refine(context)] for repair in registry.repairs()}
    assert {name: edits for name, edits in refined.items() if edits} == {
        "scale_learning_rate": [(e.SetLearningRate(0.2),), (e.SetLearningRate(0.05),)],
        "extend_training": [(e.ExtendTraining(60),)],
        "change_batch_size": [(e.SetBatchSize(8),), (e.SetBatchSize(32),)],
        "resize_hidden_layers": [(e.ResizeLayers(("plain", "fc"), (16, 16)),)],
        "schedule_learning_rate": [(e.DecayRate(),)],
    }
    edges = TaskContext(optimizer=OptimizerInfo("sgd", 8.0, scheduled=True), batch_size=6, train_rows=20)
    refined = {repair.name: [p.edits for p in repair().refine(edges)] for repair in registry.repairs()}
    assert {name: edits for name, edits in refined.items() if edits} == {
        "scale_learning_rate": [(e.SetLearningRate(4.0),)]
    }, "no batch of less than 4 rows or more than half of them, no rate above 10"
