from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import LossInfo, OptimizerInfo
from autotrainer.rules.learning_rate_too_high import LearningRateTooHigh

CHANCE: dict[str, Any] = {"losses": lambda t: 2.0 if t > 3 else 0.7, "scalars": {"accuracy": 0.5}}


def steps(largest: float, growth: float, typical: float = 1e-3, start: float = 2.0) -> dict[str, Any]:
    """A training with large first steps, after which the weights are `growth` times as large."""
    return {
        "update_ratio": lambda t: largest if t < 3 else typical,
        "weight_norm": lambda t: start if t < 3 else growth * start,
    }


def turning(cosine: float) -> dict[str, Any]:
    """A training with rather large steps, whose gradients are at this angle from sample to sample."""
    return {"table": {"update_ratio": 0.012}, "scalars": {"accuracy": 0.5, "gradient_cosine": cosine}}


def grown(growth: float, typical: float = 0.032) -> dict[str, Any]:
    """A training whose weights grow step by step, by this factor within 80 steps."""
    return {"update_ratio": typical, "weight_norm": lambda t: 2.0 * growth ** (min(t, 80) / 80)}


LOST: dict[str, Any] = {"losses": lambda t: 0.4 if t < 50 else 0.9, "scalars": {"accuracy": 0.85}, "steps": 80}
COASTING: dict[str, Any] = {
    "losses": lambda t: 0.7 - 4e-3 * t,
    "scalars": {"accuracy": 0.85},
    "steps": 80,
    "table": grown(2.0),
    "optimizer": OptimizerInfo("sgd", 0.05, 0.999),
}


def explodes(t: int) -> float:
    return float(4.0 ** min(t, 100))


EACH_STEP: dict[str, Any] = {"steps": 48, "per_epoch": 2, "planned_epochs": 24}  # all of them are sampled


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(CHANCE | {"table": steps(0.5, 4)}, "error", id="thrown away, at chance since"),
        pytest.param(CHANCE | {"table": steps(0.5, 4), "steps": 120}, "error", id="a fifth of the schedule"),
        pytest.param(CHANCE | {"table": steps(0.5, 4), "planned_epochs": None}, "warning", id="no schedule"),
        pytest.param(
            {"losses": lambda t: 2.0, "scalars": {"accuracy": 0.7}, "table": steps(0.5, 4)},
            "error",
            id="thrown away, poor since",
        ),
        pytest.param({"losses": lambda t: 0.3, "scalars": {"accuracy": 0.97}, "table": steps(0.5, 4)}, None, id="good"),
        pytest.param(
            {"losses": lambda t: 0.6 + 0.1 * (t < 5), "scalars": {"accuracy": 0.7}, "table": steps(0.2, 4.5)},
            "warning",
            id="labels that may be noisy, and weights that grew a little",
        ),
        pytest.param(
            {"losses": lambda t: 0.6 + 0.1 * (t < 5), "scalars": {"accuracy": 0.7}, "table": {"update_ratio": 0.032}},
            "warning",
            id="labels that may be noisy, and large steps",
        ),
        pytest.param(
            {"losses": lambda t: 0.6 + 0.1 * (t < 5), "scalars": {"accuracy": 0.7}, "table": steps(0.5, 40)},
            "error",
            id="the weights have run away",
        ),
        pytest.param(
            {
                "losses": lambda t: 0.05 * (1 + t),
                "loss": "custom",
                "scalars": {"accuracy": np.nan},
                "table": steps(0.5, 4),
            },
            "warning",
            id="a custom loss that grows",
        ),
        pytest.param(
            {"steps": 8, "losses": explodes, "targets": "real", "loss": "mse", "table": steps(2.0, 100.0)},
            "error",
            id="the loss explodes at once",
        ),
        pytest.param(
            {"losses": explodes, "scalars": {"accuracy": 0.85}, "table": steps(2.0, 100.0)},
            "warning",
            id="the loss explodes, and yet it is fair",
        ),
        pytest.param(
            {
                "steps": 20,
                "losses": lambda t: 40.0,
                "scalars": {"accuracy": 0.5, "grad_norm": 0.0},
                "table": steps(2.0, 3.0),
            },
            "error",
            id="dead after one step",
        ),
        pytest.param(CHANCE | {"table": {"update_ratio": 0.05}}, "error", id="large steps all along"),
        pytest.param(CHANCE | {"table": {"update_ratio": 0.01}}, None, id="usual steps"),
        pytest.param(
            CHANCE | {"table": {"update_ratio": 0.02, "weight_norm": lambda t: 2.0 * 1.01**t}}, "error", id="grows on"
        ),
        pytest.param(
            {
                "losses": lambda t: 0.6,
                "scalars": {"accuracy": 0.75},
                "table": {"update_ratio": 0.02, "weight_norm": lambda t: 2.0 * 1.01**t},
            },
            None,
            id="weights that have to grow",
        ),
        pytest.param(
            CHANCE | EACH_STEP | turning(-0.9),
            "error",
            id="each step reverses the gradient",
        ),
        pytest.param(CHANCE | turning(-0.9), None, id="turned round after even numbers of steps: chance"),
        pytest.param(
            CHANCE | EACH_STEP | turning(0.1),
            None,
            id="gradients in all directions",
        ),
        pytest.param(CHANCE | {"table": steps(40.0, 30.0, start=1e-3)}, None, id="tiny weights take their usual size"),
        pytest.param(CHANCE | {"table": {"update_ratio": np.nan, "weight_norm": np.nan}}, None, id="not measured"),
        pytest.param({"steps": 1}, None, id="one step"),
        pytest.param(
            LOST | {"table": grown(3.0)}, "error", id="the loss is far above its best, and so are the weights"
        ),
        pytest.param(LOST | {"table": grown(3.0), "steps": 40}, None, id="young"),
        pytest.param(LOST | {"table": grown(1.0)}, None, id="the loss rose by itself"),
        pytest.param(
            LOST | {"table": grown(3.0), "scalars": {"accuracy": 0.96}}, None, id="the loss rose, and yet it is good"
        ),
        pytest.param(
            LOST | {"table": grown(3.0), "losses": lambda t: 0.7 * 0.99**t, "scalars": {"accuracy": 0.85}},
            None,
            id="weights that have to grow, while the loss falls",
        ),
        pytest.param(COASTING, "error", id="momentum that nothing damps, while it still learns"),
        pytest.param(COASTING | {"planned_epochs": None}, None, id="momentum without a schedule"),
        pytest.param(
            COASTING | {"scalars": {"accuracy": 0.97}}, None, id="momentum that leads where all is learned already"
        ),
        pytest.param(COASTING | {"optimizer": OptimizerInfo("sgd", 0.05, 0.9)}, None, id="usual momentum"),
        pytest.param(COASTING | {"planned_epochs": 300}, None, id="a schedule that damps it"),
        pytest.param(COASTING | {"table": grown(2.0, 1e-3)}, None, id="a rate that suits the momentum"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = LearningRateTooHigh().check(*build(**case))
    assert (finding.severity if finding else None) == expected


@pytest.mark.parametrize(
    ("largest", "dormant", "dead", "known", "expected"),
    [
        (0.4, 0.1, 0.9, False, "warning"),
        (0.4, 0.1, 0.6, False, None),  # as in healthy networks
        (0.4, 0.8, 0.9, False, None),  # dead from the start
        (0.05, 0.1, 0.9, False, None),
        (0.4, 0.1, 0.9, True, None),  # and good
    ],
)
def test_units_that_died_after_large_steps_show_it_where_the_outcome_is_unknown(
    build: Callable[..., Any], largest: float, dormant: float, dead: float, known: bool, expected: str | None
) -> None:
    table = steps(largest, 1.2) | {"dormant": dormant, "dead_units": dead}
    run = {"steps": 80, "losses": lambda t: 0.6 - 1e-3 * t, "table": table, "scalars": {"accuracy": 0.95}}
    loss: dict[str, Any] = {} if known else {"loss": "custom", "targets": None}
    finding = LearningRateTooHigh().check(*build(**run, **loss, finished=True))
    assert (finding.severity if finding else None) == expected


@pytest.mark.parametrize(
    ("context", "words"),
    [
        ({"optimizer": OptimizerInfo("sgd", 0.05, 0.999)}, "a momentum of 0.999 sums 1000 steps"),
        ({"optimizer": OptimizerInfo("sgd", 0.05, 0.9)}, "The learning rate of 0.05 is too high"),
    ],
)
def test_message_names_what_amplifies_the_rate(build: Callable[..., Any], context: dict[str, Any], words: str) -> None:
    finding = LearningRateTooHigh().check(*build(**CHANCE, table=steps(0.5, 4), **context))
    assert finding is not None
    assert words in finding.message


@pytest.mark.parametrize(("origin", "expected"), [("trained", "error"), ("drawn", None)])
def test_weights_that_were_trained_before_do_not_double(
    build: Callable[..., Any], origin: str, expected: str | None
) -> None:
    layers = tuple(replace(layer, origin=origin) for layer in build()[0].layers)
    table = {"weight_norm": lambda t: 20.0 * (1 + t / 300), "update_ratio": 0.01}
    finding = LearningRateTooHigh().check(*build(**CHANCE | {"layers": layers, "table": table}))
    assert (finding.severity if finding else None) == expected


def test_a_new_head_on_a_fixed_network_that_was_trained_before_may_grow(build: Callable[..., Any]) -> None:
    head, *rest = build()[0].layers
    body = [replace(layer, origin="trained", frozen=True, parameters=0) for layer in rest]
    table = {"weight_norm": lambda t: 20.0 * (1 + t / 300), "update_ratio": 0.01}
    case = CHANCE | {"layers": (replace(head, origin="drawn"), *body), "table": table}
    assert LearningRateTooHigh().check(*build(**case)) is None


def test_names_the_largest_rate_of_a_schedule(build: Callable[..., Any]) -> None:
    scalars = CHANCE["scalars"] | {"learning_rate": lambda t: 5.0 if 2 < t < 9 else 0.02}
    finding = LearningRateTooHigh().check(*build(**CHANCE | {"scalars": scalars}, table=steps(0.5, 4)))
    assert finding is not None
    assert "The learning rate of 5 is too high" in finding.message


def test_message_names_a_loss_summed_over_the_batch(build: Callable[..., Any]) -> None:
    history, context = build(**CHANCE, table=steps(0.5, 4))
    summed = type(context)(**{name: getattr(context, name) for name in context.__slots__} | {"loss": _summed()})
    finding = LearningRateTooHigh().check(history, summed)
    assert finding is not None
    assert "the loss is a sum over 32 samples" in finding.message


def _summed() -> LossInfo:
    return LossInfo("BCEWithLogitsLoss", "binary_cross_entropy", "logits", reduction="sum")


def test_adversarial_training_of_unknown_skill_is_not_judged(build: Callable[..., Any]) -> None:
    several = OptimizerInfo("adam", 0.1, several=True)
    run = {"targets": "real", "loss": "custom", "scalars": {"accuracy": np.nan}, "losses": explodes}
    assert LearningRateTooHigh().check(*build(**run, steps=12, table=steps(2.0, 9.0), optimizer=several)) is None


def test_evidence_has_the_first_step_for_the_repair(build: Callable[..., Any]) -> None:
    finding = LearningRateTooHigh().check(*build(**CHANCE, table=steps(0.5, 4)))
    assert finding is not None
    assert finding.evidence["first_step"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("losses", "optimizer", "sharpness"),
    [
        (lambda t: 5.0 * 4.0**t, "sgd", 3.0),
        (lambda t: 5.0 * 81.0**t, "sgd", 10.0),
        (lambda t: 5.0 * 4.0**t, "adam", None),  # no gradient descent
        (lambda t: 5.0 * 4.0 ** (t * t), "sgd", None),  # no quadratic
        (lambda t: 5.0 * (0.5 if t < 3 else 4.0**t), "sgd", None),  # it fell at first
    ],
)
def test_constant_growth_of_the_loss_gives_the_curvature(
    build: Callable[..., Any], losses: Callable[[int], float], optimizer: str, sharpness: float | None
) -> None:
    run = {"targets": "real", "loss": "mse", "scalars": {"squared_error": losses}, "losses": losses}
    finding = LearningRateTooHigh().check(
        *build(**run, steps=12, table=steps(2.0, 9.0), optimizer=OptimizerInfo(optimizer, 0.1))
    )
    assert finding is not None
    assert finding.evidence.get("sharpness") == (None if sharpness is None else pytest.approx(sharpness))


def test_thresholds_are_monotone(build: Callable[..., Any]) -> None:
    run = build(**CHANCE, table=steps(0.5, 2))
    reported = [LearningRateTooHigh(step=least).check(*run) is not None for least in (10.0, 0.4, 0.1)]
    assert reported == sorted(reported)
    assert reported[-1]
    assert not reported[0]


def test_frozen_layers_are_ignored(build: Callable[..., Any]) -> None:
    layers = (LayerInfo("a", "dense", "relu", 16, 100, frozen=True), LayerInfo("b", "dense", "relu", 16, 100))
    table = {
        "dead_units": 0.0,
        "update_ratio": lambda t: [0.5, 1e-3],
        "weight_norm": lambda t: [2.0 if t < 3 else 9.0, 2.0],
    }
    assert LearningRateTooHigh().check(*build(**CHANCE, table=table, layers=layers)) is None
