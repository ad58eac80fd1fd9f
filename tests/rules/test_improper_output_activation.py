from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.task import TargetSummary
from autotrainer.rules.improper_output_activation import ImproperOutputActivation

ONE = {"output_min": 0.0, "output_max": 1.0, "accuracy": 0.5}
FOUR = ONE | {"output_row_sum": 1.0, "output_row_sum_error": 0.0}
POOR = {"accuracy": 0.25}


def case(loss: str, activation: str | None, targets: str, units: int, steps: int = 3, **scalars: Any) -> dict[str, Any]:
    return {
        "loss": loss,
        "output_activation": activation,
        "targets": targets,
        "output_units": units,
        "steps": steps,
        "scalars": scalars,
        "losses": lambda t: math.log(max(units, 2)),
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(
            case("cce", "softmax", "one_hot", 4, output_min=-np.inf, output_max=np.inf),
            None,
            id="outputs of a training that has failed",
        ),
        pytest.param(case("bce", "softmax", "binary", 1, **ONE), "error", id="softmax of one unit"),
        pytest.param(
            case("bce", None, "binary", 1, output_min=1.0, output_max=1.0), "error", id="softmax of one unit, by value"
        ),
        pytest.param(
            case("bce", "sigmoid", "binary", 1, output_min=1.0, output_max=1.0), None, id="a sigmoid that is saturated"
        ),
        pytest.param(case("mse", "softmax", "binary", 1, **ONE), "error", id="softmax of one unit, squared error"),
        pytest.param(case("bce_logits", "sigmoid", "binary", 1, **ONE), "error", id="doubled sigmoid"),
        pytest.param(case("bce_logits", "relu", "binary", 1, **ONE), "error", id="relu before binary logits"),
        pytest.param(case("ce", "softmax", "index", 4, **FOUR), "error", id="doubled softmax"),
        pytest.param(case("ce", None, "index", 4, **FOUR), "error", id="doubled softmax, by value"),
        pytest.param(case("ce", "sigmoid", "index", 4, **ONE), "error", id="sigmoid before logits"),
        pytest.param(case("ce", "relu", "index", 4, output_min=0.0, output_max=5.0), "warning", id="relu on logits"),
        pytest.param(
            case("ce", "relu", "index", 4, 600, output_min=0.0, output_max=5.0, accuracy=0.78),
            "warning",
            id="relu, with more to be gained at the end",
        ),
        pytest.param(
            case("ce", "relu", "index", 4, 300, output_min=0.0, output_max=5.0, accuracy=0.78),
            None,
            id="relu, midway",
        ),
        pytest.param(
            case("ce", "relu", "index", 4, 600, output_min=0.0, output_max=5.0, **POOR), "error", id="relu, at chance"
        ),
        pytest.param(
            case("cce", "relu", "one_hot", 4, output_min=0.0, output_max=9.0), "error", id="relu, probabilities"
        ),
        pytest.param(case("cce", "linear", "one_hot", 4), "error", id="linear, probabilities"),
        pytest.param(
            case("bce", "tanh", "binary", 1, output_min=-0.2, output_max=0.9), "error", id="tanh, probabilities"
        ),
        pytest.param(
            case("bce", "tanh", "binary", 1, output_min=0.1, output_max=0.9),
            None,
            id="outputs of tanh that the loss gets as probabilities",
        ),
        pytest.param(
            case("cce", "relu", "one_hot", 4, output_min=0.0, output_max=0.8), "error", id="small outputs of relu"
        ),
        pytest.param(case("nll", "softmax", "index", 4, **FOUR), "error", id="nll on probabilities"),
        pytest.param(case("kl", "softmax", "real", 4, **FOUR), "error", id="divergence on probabilities"),
        pytest.param(
            case("kl", "log_softmax", "real", 4, output_min=-3.0, output_max=-0.1), None, id="divergence, distillation"
        ),
        pytest.param(case("nll", "linear", "index", 4), "error", id="nll on logits"),
        pytest.param(case("mse", "sigmoid", "large", 1, **ONE), "error", id="sigmoid, large targets"),
        pytest.param(case("mse", "relu", "real", 1, output_min=0.0), "error", id="relu, negative targets"),
        pytest.param(case("mse", "gelu", "real", 1, output_min=-0.17), "error", id="gelu, negative targets"),
        pytest.param(case("mse", "silu", "real", 1, output_min=-0.9), None, id="other values of that name"),
        pytest.param(case("mse", "sigmoid", "signed", 1, **ONE), "error", id="sigmoid, labels -1 and 1"),
        pytest.param(case("bce", "softmax", "multilabel", 4, **FOUR), "error", id="softmax, several labels"),
        pytest.param(
            case("cce", "sigmoid", "one_hot", 4, **ONE | {"output_row_sum": 2.0}), "info", id="sigmoids for classes"
        ),
        pytest.param(
            case("ce", "softmax", "index", 4, 600, **FOUR | {"accuracy": 0.98}), "warning", id="doubled, but learned"
        ),
        pytest.param(
            case("cce", "sigmoid", "one_hot", 4, 600, **ONE | {"output_row_sum": 2.0, "accuracy": 0.9}),
            None,
            id="sigmoids for classes, learned",
        ),
        pytest.param(
            case("cce", "softmax", "one_hot", 4, 600, **FOUR | {"output_row_sum": 0.3, "accuracy": 0.5}),
            "error",
            id="softmax over the rows",
        ),
        pytest.param(
            case("cce", "softmax", "one_hot", 4, 600, **FOUR | {"output_row_sum": 0.3, "accuracy": 0.95}),
            "warning",
            id="softmax over the rows, learned",
        ),
        pytest.param(case("bce", "sigmoid", "binary", 1, **ONE), None, id="sigmoid and bce"),
        pytest.param(case("bce_logits", "linear", "binary", 1), None, id="logits"),
        pytest.param(case("ce", "linear", "index", 4), None, id="logits of classes"),
        pytest.param(
            case("ce", "log_softmax", "index", 4, output_min=-3.0, output_max=-0.1), None, id="log softmax twice"
        ),
        pytest.param(case("nll", "log_softmax", "index", 4, output_min=-3.0, output_max=-0.1), None, id="nll"),
        pytest.param(case("cce", "softmax", "one_hot", 4, **FOUR), None, id="softmax and cce"),
        pytest.param(case("bce", "sigmoid", "multilabel", 4, **ONE | {"output_row_sum": 2.0}), None, id="multilabel"),
        pytest.param(case("mse", "linear", "large", 1), None, id="regression"),
        pytest.param(
            case("mse", "tanh", "signed", 1, output_min=-1.0, output_max=1.0), None, id="tanh, labels -1 and 1"
        ),
        pytest.param(case("mse", None, "real", 1), None, id="unknown activation"),
        pytest.param(case("custom", "relu", "real", 1), None, id="unknown loss"),
        pytest.param(case("bce", None, "binary", 1, output_min=np.nan, output_max=np.nan), None, id="nothing measured"),
    ],
)
def test_verdict(build: Callable[..., Any], given: dict[str, Any], expected: str | None) -> None:
    finding = ImproperOutputActivation().check(*build(**given))
    assert (finding.severity if finding else None) == expected


def test_threshold_of_the_paper_is_used(build: Callable[..., Any]) -> None:
    run = build(**case("cce", "sigmoid", "one_hot", 4, **ONE | {"output_row_sum": 2.0}))
    assert ImproperOutputActivation(row_sum=3).check(*run) is None
    assert ImproperOutputActivation(row_sum=1.5).check(*run) is not None


def test_names_layer_and_numbers(build: Callable[..., Any]) -> None:
    finding = ImproperOutputActivation().check(*build(**case("mse", "sigmoid", "large", 1, **ONE)))
    assert finding is not None
    assert finding.layers == ("out",)
    assert finding.evidence["target_max"] == 9e4
    assert "sigmoid" in finding.message


SILENT = {"dead_units": [0.2, 0.1, 1.0], "grad_norm": 0.0}
PARTLY = {"dead_units": [0.2, 0.1, 0.25]}


def test_dead_outputs_are_reported_without_targets(build: Callable[..., Any], target_summaries: dict[str, Any]) -> None:
    nothing = type(target_summaries["real"])()
    given = case("custom", "relu", nothing, 1, 12, output_min=0.0, output_max=0.0, accuracy=np.nan)  # type: ignore[arg-type]
    finding = ImproperOutputActivation().check(*build(**given, table=SILENT))
    assert finding is not None
    assert finding.severity == "error"
    assert "0 for every input" in finding.message
    assert finding.layers == ("out",)
    learning = SILENT | {"grad_norm": 0.5}  # another path, such as a second output, still learns
    assert ImproperOutputActivation().check(*build(**given, table=learning)) is None


@pytest.mark.parametrize(("accuracy", "steps", "expected"), [(0.8, 400, "error"), (0.98, 400, "warning")])
def test_dead_relu_classes_are_an_error_unless_the_model_is_good(
    build: Callable[..., Any], accuracy: float, steps: int, expected: str | None
) -> None:
    given = case("ce", "relu", "index", 4, steps, output_min=0.0, output_max=5.0, accuracy=accuracy)
    finding = ImproperOutputActivation().check(*build(**given, table=PARTLY))
    assert (finding.severity if finding else None) == expected
    whole = ImproperOutputActivation().check(*build(**given))
    assert whole is None


def test_relu_on_class_outputs_with_a_functional_loss(build: Callable[..., Any]) -> None:
    given = case("none", "relu", "binary", 1, 600, output_min=0.0, output_max=0.9, accuracy=0.5)
    finding = ImproperOutputActivation().check(*build(**given))
    assert finding is not None
    assert finding.severity == "error"


@pytest.mark.parametrize(
    ("facts", "accuracy", "expected"),
    [
        ({"overlap_outside": 0.4, "overlap_alone": 1.0}, math.nan, "error"),
        ({"overlap_outside": 0.4, "overlap_alone": 0.0}, math.nan, "warning"),  # beside a cross-entropy
        ({"overlap_outside": 0.0, "overlap_alone": 1.0}, math.nan, None),
        ({}, math.nan, None),
    ],
)
def test_overlap_of_raw_outputs(
    build: Callable[..., Any], facts: dict[str, float], accuracy: float, expected: str | None
) -> None:
    run = case("custom", None, "binary", 1, 60, output_min=-3.0, output_max=2.0, accuracy=accuracy)
    finding = ImproperOutputActivation().check(*build(**run, asked=facts))
    assert (finding.severity if finding else None) == expected
    assert finding is None or "from -3 to 2" in finding.message


COUNTS = TargetSummary(600, 600, 2, 1, False, True, 0.0, 40.0, 3.0, 9.0, distinct=33)


@pytest.mark.parametrize(
    ("loss", "activation", "lowest", "expected"),
    [
        ("poisson", "softplus", 0.001, "warning"),  # held above 0
        ("poisson", "relu", 0.0, "warning"),
        ("poisson", "softplus", 0.7, None),  # all rates are well above 1
        ("poisson", "linear", 0.0, None),
        ("poisson_rates", "softplus", 0.001, None),  # log_input=False
    ],
)
def test_logarithms_of_rates_are_not_limited(
    build: Callable[..., Any], loss: str, activation: str, lowest: float, expected: str | None
) -> None:
    given = case(loss, activation, "binary", 1, 600, output_min=lowest, output_max=4.0)
    finding = ImproperOutputActivation().check(*build(**given | {"targets": COUNTS, "finished": True}))
    assert (finding.severity if finding else None) == expected
