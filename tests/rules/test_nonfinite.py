from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.records.facts import BAD_OPERATIONS, BAD_TENSORS
from autotrainer.rules.nonfinite import NonFinite


def breaks(value: float) -> Callable[[int], float]:
    return lambda t: value if t < 300 else np.inf


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param({"losses": breaks(0.5)}, "error", id="loss"),
        pytest.param(
            {"scalars": {"grad_norm": breaks(0.5)}, "table": {"grad_norm": breaks(0.5)}}, "error", id="gradient"
        ),
        pytest.param({"table": {"weight_norm": lambda t: [2.0, breaks(2.0)(t), 2.0]}}, "error", id="weights"),
        pytest.param({"table": {"activation_max_abs": np.inf}, "steps": 1}, "error", id="before training"),
        pytest.param({"epochs": {"val_loss": lambda e: np.inf}}, "error", id="validation loss"),
        pytest.param({"losses": lambda t: np.inf if t == 599 - 1 else 0.5}, None, id="once, and over"),
        pytest.param({"losses": lambda t: np.inf if t == 100 else 0.5}, None, id="long ago"),
        pytest.param({"losses": lambda t: np.nan}, None, id="loss not measured"),
        pytest.param({}, None, id="finite"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = NonFinite().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_names_the_first_layer_and_step(build: Callable[..., Any]) -> None:
    table = {"weight_norm": lambda t: [2.0, 2.0 if t < 6 else np.inf, 2.0 if t < 6 else np.inf]}
    finding = NonFinite().check(
        *build(steps=10, table=table, scalars={"output_max": lambda t: 1.0 if t < 6 else np.inf})
    )
    assert finding is not None
    assert finding.layers == ("fc2",)
    assert finding.evidence["first_step"] == 6


@pytest.mark.parametrize(
    ("loss", "low", "high", "message"),
    [
        pytest.param("custom", 0.0, 0.9, "outputs have reached 0, where the logarithm", id="probability of 0"),
        pytest.param("custom", 0.0, 1.0, "outputs have reached 0 and 1, where", id="probabilities of 0 and 1"),
        pytest.param("custom", 0.2, 0.9, "although the outputs are finite", id="probabilities inside"),
        pytest.param(
            "custom", -0.7, 0.9, "outputs are as low as -0.7, where a logarithm or root in the loss", id="negative"
        ),
        pytest.param("bce", 0.0, 0.9, "although the outputs are finite", id="a loss of the framework clips"),
    ],
)
def test_logarithms_in_custom_losses_are_named(
    build: Callable[..., Any], loss: str, low: float, high: float, message: str
) -> None:
    scalars = {"loss": breaks(0.5), "output_min": low, "output_max": high, "grad_norm": breaks(0.5)}
    finding = NonFinite().check(*build(loss=loss, losses=breaks(0.5), scalars=scalars))
    assert finding is not None
    assert message in finding.message
    assert finding.layers == ()


@pytest.mark.parametrize(
    ("name", "loss", "named"),
    [
        ("CTCLoss", np.inf, True),
        ("ctc_loss", np.inf, True),
        ("CtcLoss", np.inf, True),
        ("CTCLoss", 0.5, False),
    ],
)
def test_targets_without_an_alignment_are_named(build: Callable[..., Any], name: str, loss: float, named: bool) -> None:
    scalars = {"loss": loss, "output_min": -2.0, "grad_norm": np.inf}
    history, context = build(loss="custom", losses=lambda t: loss, scalars=scalars)
    finding = NonFinite().check(history, replace(context, loss=replace(context.loss, name=name)))
    assert finding is not None
    assert ("a target has no alignment" in finding.message) is named
    assert "logarithm" not in finding.message


@pytest.mark.parametrize("name", ["ObjectClassLoss", "objectclass_loss", "DictCriterion"])
def test_names_that_only_hold_its_letters_are_no_temporal_classification(build: Callable[..., Any], name: str) -> None:
    scalars = {"loss": np.inf, "output_min": -2.0, "grad_norm": np.inf}
    history, context = build(loss="custom", losses=lambda t: np.inf, scalars=scalars)
    finding = NonFinite().check(history, replace(context, loss=replace(context.loss, name=name)))
    assert finding is not None
    assert "alignment" not in finding.message


def test_message_is_grammatical(build: Callable[..., Any]) -> None:
    of_loss = NonFinite().check(*build(losses=breaks(0.5)))
    of_weights = NonFinite().check(*build(table={"weight_norm": lambda t: [2.0, breaks(2.0)(t), 2.0]}))
    assert of_loss is not None
    assert of_loss.message.startswith("The loss has been NaN or infinite")
    assert of_weights is not None
    assert of_weights.message.startswith("The weights of layer fc2 have been NaN or infinite")


INFINITE = {"loss": np.inf, "grad_norm": np.inf}


@pytest.mark.parametrize(
    ("scalars", "table", "layers", "message"),
    [
        pytest.param(
            INFINITE | {"output_max": np.inf},
            {"activation_max_abs": [4.0, np.inf, np.inf], "grad_norm": np.inf},
            ("fc2",),
            "The outputs of layer fc2 have been NaN or infinite since step 4.",
            id="outputs before gradients",
        ),
        pytest.param(
            INFINITE,
            {"grad_norm": np.inf},
            (),
            "The loss has been NaN or infinite since step 4, although the outputs are finite.",
            id="loss before gradients",
        ),
        pytest.param(
            INFINITE | {"output_max": np.nan},
            {"activation_max_abs": np.nan},
            (),
            "The loss has been NaN or infinite since step 4.",
            id="outputs not measured",
        ),
        pytest.param(
            INFINITE | {"output_max": np.inf},
            {"activation_max_abs": np.nan},
            (),
            "The outputs of the model have been NaN or infinite since step 4.",
            id="layers not measured",
        ),
        pytest.param(
            {"grad_norm": np.inf},
            {"grad_norm": [np.inf, np.inf, 1.0]},
            ("fc2",),
            "The gradients of layer fc2 have been NaN or infinite since step 4, although the loss is finite.",
            id="gradients in backward order",
        ),
        pytest.param(
            INFINITE | {"output_max": np.inf},
            {"weight_norm": [2.0, np.inf, np.inf], "activation_max_abs": np.inf},
            ("fc2",),
            "The weights of layer fc2 (and 1 more layer) have been NaN or infinite since step 4, after an earlier "
            "update that was not sampled.",
            id="weights left by an earlier step",
        ),
    ],
)
def test_names_what_a_step_computes_first(
    build: Callable[..., Any], scalars: dict[str, Any], table: dict[str, Any], layers: tuple[str, ...], message: str
) -> None:
    def late(value: Any, usual: float) -> Callable[[int], Any]:
        return lambda t: value if t >= 4 else usual

    history, context = build(
        steps=8,
        losses=lambda t: scalars.get("loss", 0.5) if t >= 4 else 0.5,
        scalars={name: late(value, 1.0) for name, value in scalars.items()},
        table={name: late(value, 1.0) for name, value in table.items()},
    )
    finding = NonFinite().check(history, context)
    assert finding is not None
    assert (finding.layers, finding.message) == (layers, message)


def test_message_reports_a_later_measurement(build: Callable[..., Any]) -> None:
    rises = {name: lambda t: np.inf if t >= 301 else 1.0 for name in ("loss", "grad_norm", "output_max")}
    table = {"activation_max_abs": lambda t: [1.0, np.inf, np.inf] if t >= 301 else 1.0}
    finding = NonFinite().check(
        *build(steps=400, losses=lambda t: np.inf if t >= 301 else 0.5, scalars=rises, table=table)
    )
    assert finding is not None
    assert (
        finding.message
        == "The outputs of layer fc2 have been NaN or infinite since step 301 (first measured in step 304)."
    )


def _facts(tensor: str, operation: str = "unknown", layer: int | None = None, **more: float) -> dict[str, float]:
    named = {} if layer is None else {"layer": float(layer)}
    numbers = {"lowest": 0.0, "highest": 2.0, "nearest": 0.0} | more
    codes = {"tensor": BAD_TENSORS.index(tensor), "operation": BAD_OPERATIONS.index(operation), "step": 3}
    facts = {"after": 0, "backward": 0, "half": 0} | codes | named | numbers
    return {f"first_bad_{name}": float(value) for name, value in facts.items()}


@pytest.mark.parametrize(
    ("facts", "layers", "message"),
    [
        (_facts("input"), (), "NaN or infinite values first appear in the inputs in step 3."),
        (
            _facts("loss", "logarithm"),
            (),
            "NaN or infinite values first appear in the loss in step 3, caused by the logarithm of 0.",
        ),
        (
            _facts("output", "logarithm", 1, lowest=-0.5),
            ("fc2",),
            "NaN or infinite values first appear in the outputs of layer fc2 in step 3, caused by the logarithm of a "
            "negative number (as low as -0.5).",
        ),
        (
            _facts("output", "division", 0, after=1),
            ("fc1",),
            "NaN or infinite values first appear in values computed after layer fc1 in step 3, caused by a division by "
            "0.",
        ),
        (
            _facts("gradient", "root", 1, backward=1),
            ("fc2",),
            "NaN or infinite values first appear in the gradients of layer fc2 in step 3, caused by a division by 0 in "
            "the backward pass, at a root of 0.",
        ),
        (
            _facts("gradient", "overflow", 1, after=1, backward=1, highest=3e38),
            ("fc2",),
            "NaN or infinite values first appear in the gradients that reach layer fc2 in step 3, caused by an "
            "overflow of values up to 3e+38 in the backward pass.",
        ),
        (
            _facts("output", "overflow", 2, half=1, highest=9e4),
            ("out",),
            "NaN or infinite values first appear in the outputs of layer out in step 3, caused by an overflow of "
            "values up to 9e+04 in half precision (largest number 65504).",
        ),
        (
            _facts("weight", "unknown", 0),
            ("fc1",),
            "NaN or infinite values first appear in the weights of layer fc1 in step 3.",
        ),
    ],
)
def test_message_names_the_origin_in_a_replay(
    build: Callable[..., Any], facts: dict[str, float], layers: tuple[str, ...], message: str
) -> None:
    finding = NonFinite().check(*build(losses=breaks(0.5), asked=facts))
    assert finding is not None
    assert (finding.severity, finding.layers, finding.message) == ("error", layers, message)
    assert finding.evidence["first_bad_step"] == 3


def test_probabilities_of_zero_are_named(build: Callable[..., Any]) -> None:
    finding = NonFinite().check(*build(losses=breaks(0.5), loss="cce", asked=_facts("loss", "logarithm")))
    assert finding is not None
    assert finding.message.endswith("in step 3, caused by the cross-entropy of a probability that is exactly 0.")


def test_facts_of_a_finite_training_are_ignored(build: Callable[..., Any]) -> None:
    assert NonFinite().check(*build(asked=_facts("loss", "logarithm"))) is None
