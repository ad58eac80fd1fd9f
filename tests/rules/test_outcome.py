from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.records.findings import Severity
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import LossInfo, TargetSummary
from autotrainer.rules._shared import skill
from autotrainer.rules._shared.layers import activated
from autotrainer.rules._shared.outcome import outcome, progress
from autotrainer.rules._shared.skill import SkillEstimate, highest
from autotrainer.rules._shared.trends import growth


@pytest.mark.parametrize(
    ("case", "share"),
    [
        ({"steps": 300, "planned_epochs": 30}, 0.5),
        ({"steps": 300, "planned_epochs": None, "planned_steps": 1200}, 0.25),
        ({"steps": 10, "planned_epochs": 30, "train_rows": 320}, 1 / 30),
        ({"steps": 900, "planned_epochs": 30}, 1.0),
        ({"steps": 300, "planned_epochs": None}, math.nan),
        ({"steps": 10, "planned_epochs": 30}, math.nan),
        ({"steps": 10, "planned_epochs": 30, "finished": True}, 1.0),
        ({"steps": 30, "planned_epochs": None, "finished": True}, math.nan),
        ({"steps": 30, "planned_epochs": None, "per_epoch": 3, "finished": True}, 1.0),
        ({"steps": 30, "planned_epochs": None, "per_epoch": 3}, math.nan),
        ({"steps": 60, "planned_epochs": None, "finished": True}, 1.0),
    ],
)
def test_progress(build: Callable[..., Any], case: dict[str, Any], share: float) -> None:
    assert progress(*build(**case)) == pytest.approx(share, nan_ok=True)


def test_skill_is_zero_at_the_trivial_predictor_and_one_for_a_perfect_model(build: Callable[..., Any]) -> None:
    assert outcome(*build(scalars={"accuracy": 0.5})).skill == pytest.approx(0)
    assert outcome(*build(scalars={"accuracy": 1.0})).skill == pytest.approx(1)
    case = {"targets": "real", "loss": "mse"}
    assert outcome(*build(**case, scalars={"squared_error": 1.0})).skill == pytest.approx(0)
    assert outcome(*build(**case, scalars={"squared_error": 0.0})).skill == pytest.approx(1)


def test_skill_is_unknown_with_few_rows(build: Callable[..., Any]) -> None:
    result = outcome(*build(loss="custom", steps=8, scalars={"accuracy": 0.5, "batch_size": 1}))
    assert not result.known
    assert not result.stuck()
    assert not result.learned(0.0)


def test_best_skill_estimate_counts(build: Callable[..., Any]) -> None:
    run = build(scalars={"accuracy": 0.5}, epochs={"val_accuracy": lambda e: 0.95})
    assert outcome(*run).learned(0.5)


def test_estimates_that_agree_are_pooled_for_the_upper_end() -> None:
    rough, fine, other = (SkillEstimate(0.5, m - h, m + h, m) for m, h in ((0.05, 0.2), (0.0, 0.1), (0.6, 0.1)))
    assert math.isnan(highest([]))
    assert highest([rough]) == rough.high
    # They may share rows, so the interval is that of the finer one.
    assert highest([rough, fine]) == pytest.approx((0.05 / 0.04 + 0) / (1 / 0.04 + 1 / 0.01) + 0.1)
    assert highest([replace(rough, by_loss=True), fine]) == rough.high  # shows a signal that accuracy does not
    assert highest([rough, other]) == other.high


def test_accuracies_of_epochs_may_be_in_percent(build: Callable[..., Any]) -> None:
    shares, percents = (
        build(scalars={"accuracy": 0.5}, epochs={"val_accuracy": lambda e, unit=unit: 0.52 * unit}) for unit in (1, 100)
    )
    assert outcome(*percents).skill == pytest.approx(outcome(*shares).skill)


def test_constant_prediction_of_unequal_classes_has_their_entropy(
    build: Callable[..., Any], target_summaries: dict[str, Any]
) -> None:
    shares = np.array([0.4, 0.4, 0.1, 0.1])  # the most common one leaves open how the others are shared
    entropy = float(-(shares * np.log(shares)).sum())
    targets = replace(target_summaries["index"], majority=0.4, entropy=entropy)
    run = build(
        targets=targets, loss="ce", output_units=4, losses=lambda t: entropy, scalars={"accuracy": np.nan}, steps=600
    )
    assert abs(outcome(*run).skill) < 0.05


@pytest.mark.parametrize(
    ("losses", "known"),
    [
        (lambda t: 1.0 - 0.0015 * t, False),
        (lambda t: 0.7 + 5 * np.exp(-t / 20), True),
    ],
    ids=["goes on falling", "fell at the start"],
)
def test_accuracy_at_chance_means_nothing_while_a_custom_loss_succeeds(
    build: Callable[..., Any], losses: Callable[[int], float], known: bool
) -> None:
    assert outcome(*build(loss="custom", losses=losses, scalars={"accuracy": 0.5})).known is known


@pytest.mark.parametrize("field", ["smoothed", "modulated"])
def test_losses_with_another_optimum_are_not_compared_with_entropies(build: Callable[..., Any], field: str) -> None:
    history, context = build(losses=lambda s: 0.9)
    assert skill._entropy(history, context)
    assert not skill._entropy(history, replace(context, loss=replace(context.loss, **{field: True})))


@pytest.mark.parametrize("field", [{"composite": True}, {"weighted": True}, {"reduction": "sum"}])
@pytest.mark.parametrize(("alone", "learned"), [(0.1, True), (math.log(2), False), (math.nan, None)])
def test_outcome_follows_the_loss_of_the_outputs_alone(
    build: Callable[..., Any], field: dict[str, Any], alone: float, learned: bool | None
) -> None:
    scalars = {"accuracy": math.nan, "data_loss": alone}
    history, context = build(losses=lambda s: 40.0, scalars=scalars)
    result = outcome(history, replace(context, loss=replace(context.loss, **field)))
    if learned is None:
        assert not result.known or result.skill < 0  # of weighted losses a level is still assumed to be comparable
    else:
        assert (result.learned(0.5), result.stuck()) == (learned, not learned)


@pytest.mark.parametrize(
    ("loss", "managed", "values", "losses"),
    [
        ({}, False, {"val_loss": 2.0}, 2.0),
        ({"composite": True}, False, {"val_loss": 2.0}, None),
        ({"composite": True}, True, {"val_loss": 2.0}, 2.0),
        ({"composite": True}, False, {"val_loss": 2.0, "val_data_loss": 0.5}, 0.5),
        ({"reduction": "sum"}, False, {"val_loss": 2.0}, None),
        ({"reduction": "sum"}, True, {"val_loss": 2.0}, 2.0),
    ],
)
def test_validation_losses_of_the_outputs_alone(
    build: Callable[..., Any], loss: dict[str, Any], managed: bool, values: dict[str, float], losses: float | None
) -> None:
    epochs = {name: lambda e, value=value: value for name, value in values.items()}
    history, context = build(epochs=epochs, managed=managed)
    context = replace(context, loss=replace(context.loss, **loss))
    assert set(skill.held_out_losses(history, context)) == (set() if losses is None else {losses})


@pytest.mark.parametrize(("rows", "known"), [(32, True), (lambda t: 32 - t % 2, False)])
def test_the_last_sample_of_the_same_rows_shows_the_outcome(build: Callable[..., Any], rows: Any, known: bool) -> None:
    errors = {"squared_error": lambda t: 3.0 if t < 200 else 0.02 if t == 599 else math.nan, "batch_size": rows}
    history, context = build(targets="real", loss="mse", per_epoch=1, planned_epochs=600, scalars=errors)
    context = replace(context, loss=replace(context.loss, reduction="sum"))
    assert outcome(history, context).skill == pytest.approx(0.98 if known else math.nan, nan_ok=True)


def test_old_samples_do_not_count(build: Callable[..., Any]) -> None:
    history, context = build(steps=10, loss="custom", scalars={"accuracy": 0.5})
    history.step = 500
    assert not outcome(history, context).known


def test_masked_targets_have_no_trivial_accuracy(build: Callable[..., Any], target_summaries: dict[str, Any]) -> None:
    from dataclasses import replace

    masked = replace(target_summaries["index"], minimum=-100.0, majority=0.9)
    assert not outcome(*build(targets=masked, loss="ce", output_units=4, scalars={"accuracy": 0.5})).known


def test_severity_of_a_verdict_by_schedule(build: Callable[..., Any]) -> None:
    assert outcome(*build()).worst is Severity.ERROR
    assert outcome(*build(planned_epochs=None)).worst is Severity.WARNING


def test_growth_is_distinguished_from_noise() -> None:
    rng = np.random.default_rng(0)
    assert growth(10.0 ** np.arange(8)) > 1e4
    assert growth(np.r_[np.ones(5), np.inf]) == math.inf
    assert growth(np.exp(0.01 * np.arange(100))) == pytest.approx(2.5, rel=0.1)
    assert max(growth(rng.lognormal(0, 2, 60)) for _ in range(100)) < 300
    assert np.mean([growth(rng.lognormal(0, 2, 60)) > 10 for _ in range(200)]) < 0.03
    assert math.isnan(growth(np.array([1.0])))


def test_activated_rows_are_inputs_of_the_next_layer(build: Callable[..., Any]) -> None:
    layers = [
        LayerInfo("fc", "dense"),
        LayerInfo("bn", "norm"),
        LayerInfo("act", "activation", "relu"),
        LayerInfo("fused", "dense", "relu"),
        LayerInfo("out", "dense", hidden=False),
    ]
    history, _ = build(layers=layers, table={"dead_units": 0.0})
    assert [layers[row].name for row in activated(history)] == ["act", "fused", "out"]


@pytest.mark.parametrize(
    ("loss", "trivial"), [("ce", math.log(4)), ("bce", -0.25 * math.log(0.25) - 0.75 * math.log(0.75))]
)
def test_cross_entropy_of_constant_predictions_is_zero_skill_for_one_hot_targets(
    build: Callable[..., Any], loss: str, trivial: float
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 600)
    run = build(
        targets="one_hot",
        loss=loss,
        output_units=4,
        losses=lambda t: trivial + noise[t],
        scalars={"accuracy": np.nan},
    )
    assert abs(outcome(*run).skill) < 0.15


def test_score_derived_from_the_loss_is_stated_as_a_loss(build: Callable[..., Any]) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 600)
    run = build(losses=lambda t: 3 * math.log(2) + noise[t], scalars={"accuracy": np.nan})

    result = outcome(*run)

    assert result.score == 0
    assert result.words == "the loss is 3 times that of a constant prediction"


def noisy(t: int) -> float:
    return math.sin(12.9898 * t * t)


@pytest.mark.parametrize(
    ("left", "error", "known"),
    [
        pytest.param(0.4, lambda t: 0.4 + 0.1 * noisy(t), False, id="halved"),
        pytest.param(0.7, lambda t: 0.4 - 0.1 * noisy(t), False, id="falls, while the squared error rises"),
        pytest.param(0.7, lambda t: 0.4 + 0.1 * noisy(t), True, id="falls and rises with the squared error"),
        pytest.param(1.0, lambda t: 0.4 - 0.1 * noisy(t), True, id="does not fall"),
    ],
)
def test_accuracy_of_a_loss_of_distances(
    build: Callable[..., Any], left: float, error: Callable[[int], float], known: bool
) -> None:
    scalars = {"accuracy": 0.5, "squared_error": error}
    run = build(loss="custom", losses=lambda t: (1.0 if t < 200 else left) + 0.1 * noisy(t), scalars=scalars)
    assert outcome(*run).known is known


def falls(t: int) -> float:
    return 1 + 2 * 0.98**t


@pytest.mark.parametrize(
    ("case", "known"),
    [
        pytest.param({"loss": "mse"}, True, id="mean squared error"),
        pytest.param({"loss": "custom"}, False, id="a custom loss that falls: a quantile may be wanted"),
        pytest.param({"loss": "custom", "losses": lambda t: 2.0}, True, id="one that does not fall"),
        pytest.param({"loss": "none"}, False, id="a loss that is only reported"),
        pytest.param({"loss": "none", "scalars": {"squared_error": falls}}, True, id="by its values a squared error"),
        pytest.param({"loss": "custom", "scalars": {"squared_error": 50.0}}, False, id="on another scale: it ranks"),
        pytest.param({"loss": "none", "losses": lambda t: 2.0, "scalars": {"squared_error": 50.0}}, False, id="so too"),
        pytest.param(
            {"loss": "custom", "scalars": {"squared_error": 0.99}}, False, id="falls, but not by its squared error"
        ),
        pytest.param(
            {"loss": "custom", "scalars": {"squared_error": 0.2}}, True, id="the squared error confirms success"
        ),
        pytest.param(
            {"loss": "custom", "losses": lambda t: 7.0, "scalars": {"squared_error": 50.0}},
            True,
            id="by its values the root of a squared error, far off",
        ),
        pytest.param(
            {"loss": "custom", "losses": lambda t: 3 + noisy(t), "scalars": {"squared_error": lambda t: 50 + noisy(t)}},
            True,
            id="moves with the squared error from batch to batch",
        ),
        pytest.param(
            {
                "loss": "custom",
                "losses": lambda t: 3 + noisy(t),
                "scalars": {"squared_error": lambda t: 50 + noisy(t + 3)},
            },
            False,
            id="moves by itself",
        ),
    ],
)
def test_squared_error_does_not_judge_losses_with_another_optimum(
    build: Callable[..., Any], case: dict[str, Any], known: bool
) -> None:
    case = {"targets": "real", "losses": falls, "scalars": {"squared_error": 2.0}} | case
    assert outcome(*build(**case)).known is known


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (
            {"targets": "real", "loss": "mse", "scalars": {"squared_error": math.inf}},
            "R² is below -1e+06 (always predicting the mean gives 0)",
        ),
        (
            {"targets": "real", "loss": "mse", "scalars": {"squared_error": 5.0}},
            "R² is -4 (always predicting the mean gives 0)",
        ),
    ],
)
def test_extreme_scores_are_stated_as_finite_numbers(
    build: Callable[..., Any], case: dict[str, Any], words: str
) -> None:
    assert outcome(*build(**case)).words.startswith(words)


@pytest.mark.parametrize(
    ("spread", "known"),
    [
        pytest.param(lambda t: 1.0 + t / 300, False, id="targets grow with the model"),
        pytest.param(lambda t: 1.0 + 0.2 * (t % 3), True, id="batches differ"),
    ],
)
def test_squared_error_does_not_judge_moving_targets(
    build: Callable[..., Any], spread: Callable[[int], float], known: bool
) -> None:
    scalars = {"squared_error": 1.0, "target_spread": spread}
    assert outcome(*build(targets="real", loss="mse", scalars=scalars)).known is known


RARE = TargetSummary(
    2000, 2000, 1, 1, True, True, 0.0, 1.0, 0.09, 0.0819, values=(0.0, 1.0), classes=2, majority=0.91, rarest=0.09
)


def around(level: float) -> Callable[[int], float]:
    """Return a loss that batches scatter around a level."""
    return lambda t: level * (1 + 0.1 * math.sin(12.9898 * t) * math.cos(78.233 * t))


@pytest.mark.parametrize(
    ("case", "stuck"),
    [
        pytest.param({"losses": around(0.25)}, False, id="below that of the class frequencies"),
        pytest.param({"losses": around(0.3025)}, True, id="that of the class frequencies"),
        pytest.param({"losses": around(0.04)}, True, id="less than the wrong predictions cost"),
        pytest.param({"losses": around(0.25), "loss": "mse"}, True, id="no cross-entropy"),
    ],
)
def test_cross_entropy_shows_a_signal_that_accuracy_hides(
    build: Callable[..., Any], case: dict[str, Any], stuck: bool
) -> None:
    assert outcome(*build(targets=RARE, scalars={"accuracy": 0.91}, **case)).stuck(0.2) is stuck


def test_weighted_classes_are_not_judged_by_accuracy(build: Callable[..., Any]) -> None:
    history, context = build(targets=RARE, losses=around(0.3025), scalars={"accuracy": 0.8})
    assert outcome(history, context).stuck()
    weighted = replace(context, loss=replace(context.loss, weighted=True))
    assert not outcome(history, weighted).known
    assert outcome(*build(targets=RARE, scalars={"accuracy": 0.99})).learned()


@pytest.mark.parametrize(("error", "stuck"), [(0.92, False), (0.99, True), (1.05, True)])
def test_low_but_certain_r2_is_not_stuck(build: Callable[..., Any], error: float, stuck: bool) -> None:
    scalars = {"squared_error": lambda t: error * around(1.0)(t)}
    case = {"targets": "real", "loss": "mse", "losses": around(error), "scalars": scalars}
    assert outcome(*build(**case)).stuck() is stuck


@pytest.mark.parametrize(
    ("spread", "known"), [(0.5, True), (lambda t: 0.5 + 0.01 * (t % 3), False)], ids=["same rows", "other rows"]
)
def test_score_on_all_rows_is_exact(build: Callable[..., Any], spread: Any, known: bool) -> None:
    scalars = {"accuracy": 0.5, "batch_size": 4, "target_spread": spread}
    result = outcome(*build(loss="custom", steps=12, scalars=scalars))
    assert result.known is known
    assert not known or result.low == result.high == 0


@pytest.mark.parametrize("targets", ["binary", "signed", "one_hot", "multilabel"])
def test_squared_error_of_a_constant_prediction_is_zero_skill(build: Callable[..., Any], targets: str) -> None:
    variance = build(targets=targets)[0].targets.variance
    units = 4 if targets in ("one_hot", "multilabel") else 1
    run = build(
        targets=targets, loss="mse", output_units=units, losses=lambda t: variance, scalars={"accuracy": np.nan}
    )
    assert outcome(*run).skill == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(("level", "stuck"), [(1.0, True), (1.1, True), (0.3, False)])
def test_ranking_losses_are_judged_by_their_margin(build: Callable[..., Any], level: float, stuck: bool) -> None:
    history, context = build(targets="real", losses=lambda t: level, scalars={"squared_error": np.nan})
    loss = LossInfo("TripletMarginLoss", "ranking", margin=1.0)
    result = outcome(history, replace(context, loss=loss))
    assert result.known
    assert result.stuck() is stuck


def test_a_huber_loss_is_not_below_half_the_squared_error(build: Callable[..., Any]) -> None:
    history, context = build(targets="real", losses=lambda t: 0.33, scalars={"squared_error": np.nan})
    assert outcome(history, replace(context, loss=LossInfo("SmoothL1Loss", "huber", "values"))).skill < 0.4


@pytest.mark.parametrize(("gain", "stuck"), [(0.0, True), (0.4, False)])
def test_poisson_losses_are_judged_by_their_deviance(build: Callable[..., Any], gain: float, stuck: bool) -> None:
    counts = TargetSummary(600, 600, 2, 1, False, True, 0.0, 12.0, 2.0, 3.0)
    trivial = 2.0 - 2.0 * math.log(2.0)
    history, context = build(
        targets=counts, losses=lambda t: trivial - gain + 0.1 * math.sin(t), scalars={"squared_error": np.nan}
    )
    result = outcome(history, replace(context, loss=LossInfo("PoissonNLLLoss", "poisson", "log_values")))
    assert result.known
    assert result.stuck() is stuck


@pytest.mark.parametrize(
    ("spread", "inputs", "error", "stuck"),
    [
        (1.0, 1.0, 1.0, False),  # a few noisy batches do not tell
        (1e-9, 1.0, 1.0, True),
        (1e-9, 0.0, 1.0, False),  # inputs that do not differ
        (1e-9, 1.0, 0.2, False),  # constant only at last
    ],
)
def test_constant_outputs_are_no_better_than_a_constant_prediction(
    build: Callable[..., Any], spread: float, inputs: float, error: float, stuck: bool
) -> None:
    noise = np.random.default_rng(0).lognormal(0, 0.6, 1000)
    scalars = {
        "squared_error": lambda t: error * noise[t],
        "output_spread": spread,
        "input_std": inputs,
        "batch_size": 8,
    }
    result = outcome(*build(targets="real", loss="mse", steps=30, losses=lambda t: 1.0, scalars=scalars))
    assert result.stuck() == stuck
    assert result.low <= result.high


@pytest.mark.parametrize(("spread", "known"), [(1.0, True), (0.0, False)])
def test_a_loss_shows_no_skill_of_constant_outputs(build: Callable[..., Any], spread: float, known: bool) -> None:
    """As of a softmax with one unit, whose logits Keras passes to the loss."""
    scalars = {"accuracy": math.nan, "output_spread": spread, "input_std": 1.0}
    assert outcome(*build(losses=lambda t: 0.1, scalars=scalars)).known == known


@pytest.mark.parametrize(("rows", "known"), [(32, False), (8, True)])
def test_targets_of_one_small_batch_do_not_move(build: Callable[..., Any], rows: int, known: bool) -> None:
    """Batches that keep their order: late samples meet the same one, whose targets happen to vary more."""
    scalars = {
        "squared_error": 7.0,
        "batch_size": rows,
        "target_spread": lambda t: 1.0 + 0.05 * math.sin(t) if t < 150 else 1.3 + (t % 97) * (rows > 8) * 1e-3,
    }
    result = outcome(*build(targets="real", loss="mse", losses=lambda t: 7.0, scalars=scalars))
    assert result.known == known
    assert result.stuck() == known
