from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import TargetSummary
from autotrainer.rules.target_mismatch import TargetMismatch

CROSSED = {"squared_error": 1.3, "crossed_error": 2.0, "absolute_error": 0.7, "crossed_absolute_error": 0.9}
ENTROPIES = {"binary_entropy": 0.69, "crossed_binary_entropy": 0.694}
FRACTIONS = TargetSummary(600, 600, 1, 1, False, False, 0.0, 0.04, 0.02, 1e-4)
FROM_ONE = TargetSummary(
    600, 600, 1, 1, True, True, 1.0, 3.0, 2.0, 0.7, values=(1.0, 2.0, 3.0), classes=3, majority=0.34
)

DENSE, OUT = LayerInfo("fc", "dense", "relu", 16, 100), LayerInfo("out", "dense", "linear", 4, 17, hidden=False)
LAYERS = (LayerInfo("gru", "recurrent", None, 16, 100), DENSE, OUT)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(
            {"loss": "mse", "targets": "flat", "losses": lambda t: 2.0, "scalars": CROSSED},
            "error",
            id="broadcast",
        ),
        pytest.param(
            {"loss": "mse", "targets": "flat", "losses": lambda t: 1.3, "scalars": CROSSED},
            None,
            id="same shape",
        ),
        pytest.param(
            {"loss": "mse", "targets": "flat", "scalars": CROSSED | {"batch_size": 1024}},
            None,
            id="only some rows copied",
        ),
        pytest.param(
            {"loss": "none", "targets": "flat", "losses": lambda t: 2.0, "scalars": CROSSED},
            "error",
            id="broadcast in a function",
        ),
        pytest.param(
            {"loss": "custom", "targets": "real", "losses": lambda t: 2.0, "scalars": CROSSED},
            "error",
            id="a custom loss that squeezes one of them",
        ),
        pytest.param(
            {"loss": "custom", "targets": "real", "losses": lambda t: 2.4, "scalars": CROSSED},
            None,
            id="a custom loss that is neither",
        ),
        pytest.param(
            {"loss": "mse", "targets": "flat", "scalars": {"batch_size": 1024, "crossed_shapes": 1.0}},
            "error",
            id="only some rows copied, by the shapes that the loss received",
        ),
        pytest.param(
            {"loss": "custom", "targets": "flat", "scalars": {"batch_size": 1024, "crossed_shapes": 1.0}},
            None,
            id="a custom loss may reshape what it receives",
        ),
        pytest.param(
            {"loss": "none", "scalars": {"crossed_shapes": 2.0}}, "error", id="a loss whose graph shows all pairs"
        ),
        pytest.param(
            {"loss": "mae", "targets": "flat", "losses": lambda t: 0.9, "scalars": CROSSED},
            "error",
            id="absolute error",
        ),
        pytest.param(
            {
                "loss": "mae",
                "targets": "flat",
                "losses": lambda t: 0.7,
                "scalars": CROSSED,
            },
            None,
            id="declared shapes that the loss did not get",
        ),
        pytest.param(
            {"loss": "mse", "targets": "flat", "losses": lambda t: 1.4, "scalars": CROSSED},
            None,
            id="declared shapes, and a penalty in the loss",
        ),
        pytest.param(
            {"loss": "custom", "targets": "binary", "losses": lambda t: 0.694, "scalars": ENTROPIES},
            "error",
            id="custom binary cross-entropy, broadcast",
        ),
        pytest.param(
            {"loss": "custom", "targets": "binary", "losses": lambda t: 0.69, "scalars": ENTROPIES},
            None,
            id="custom binary cross-entropy, same shape",
        ),
        pytest.param(
            {"loss": "custom", "targets": "binary", "losses": lambda t: 0.693, "scalars": ENTROPIES},
            None,
            id="a loss in between: a penalty",
        ),
        pytest.param(
            {"loss": "scce", "targets": "index", "output_units": 3, "steps": 1}, "error", id="label too large"
        ),
        pytest.param({"loss": "scce", "targets": FRACTIONS, "output_units": 10, "steps": 1}, "error", id="fractions"),
        pytest.param({"loss": "cce", "targets": "one_hot", "output_units": 3, "steps": 1}, "error", id="other width"),
        pytest.param(
            {"loss": "ce", "targets": FROM_ONE, "output_units": 4, "scalars": {"accuracy": 0.3}},
            "warning",
            id="from one",
        ),
        pytest.param({"loss": "ce", "targets": FROM_ONE, "output_units": 4}, None, id="from one, learns"),
        pytest.param({"loss": "ce", "targets": "index", "output_units": 4}, None, id="indices"),
        pytest.param({"loss": "ce", "targets": "one_hot", "output_units": 4}, None, id="one-hot to torch"),
        pytest.param({"loss": "mse", "targets": "real", "scalars": {"squared_error": 9.0}}, None, id="columns"),
        pytest.param({"loss": "mse", "targets": "flat", "output_rank": 2, "steps": 1}, "error", id="(n,) for (n, 1)"),
        pytest.param({"loss": "mse", "targets": "real", "output_rank": 1, "steps": 1}, "error", id="(n, 1) for (n,)"),
        pytest.param({"loss": "mse", "targets": "real", "output_rank": 2, "steps": 1}, None, id="both (n, 1)"),
        pytest.param({"loss": "mse", "targets": "flat", "output_rank": 1, "steps": 1}, None, id="both (n,)"),
        pytest.param({"loss": "custom", "targets": "flat", "output_rank": 2, "steps": 1}, None, id="a custom loss"),
        pytest.param(
            {"loss": "mse", "targets": "real", "output_rank": 2, "output_units": 3, "steps": 1},
            "error",
            id="one column for three",
        ),
        pytest.param(
            {"loss": "mse", "targets": "flat", "output_rank": 2, "steps": 1, "scalars": {"batch_size": 1}},
            None,
            id="one row",
        ),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = TargetMismatch().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_targets_of_a_language_model_that_were_not_shifted(build: Callable[..., Any]) -> None:
    assert TargetMismatch().check(*build(asked={"repeats_input": 1.0})) is None  # another loss may shift them itself
    history, context = build(asked={"repeats_input": 1.0}, targets="index", loss="ce", output_units=4)
    subclass = replace(context, loss=replace(context.loss, name="ShiftedCrossEntropyLoss"))
    assert TargetMismatch().check(history, subclass) is None
    finding = TargetMismatch().check(history, context)
    assert finding is not None
    assert finding.severity == "error"
    assert "next token" in finding.message


@pytest.mark.parametrize(
    ("repeated", "accuracy", "expected"), [(2.0, 0.99, "info"), (2.0, 0.5, None), (1.0, 0.99, None)]
)
def test_a_model_that_repeats_its_tokens(
    build: Callable[..., Any], repeated: float, accuracy: float, expected: str | None
) -> None:
    scalars = {"next_targets": repeated, "accuracy": accuracy}
    case = {"targets": "index", "loss": "ce", "output_units": 4, "input_kind": "index", "losses": lambda t: 0.3}
    finding = TargetMismatch().check(*build(**case, scalars=scalars))
    assert (finding.severity if finding else None) == expected


def test_keras_squeezes_shapes_itself(build: Callable[..., Any]) -> None:
    history, context = build(loss="mse", targets="flat", losses=lambda t: 2.0, scalars=CROSSED)
    assert TargetMismatch().check(history, replace(context, framework="keras3")) is None


@pytest.mark.parametrize(
    ("case", "mended"),
    [
        pytest.param({"loss": "ce", "targets": "flat", "output_units": 4}, "targets.long()", id="float index"),
        pytest.param({"loss": "ce", "targets": "real", "output_units": 4}, "squeeze(1).long()", id="index in a column"),
        pytest.param({"loss": "ce", "targets": "one_hot", "output_units": 4}, "targets.float()", id="whole one-hot"),
        pytest.param({"loss": "scce", "targets": "one_hot", "output_units": 4}, "argmax(-1)", id="one-hot for indices"),
        pytest.param({"loss": "cce", "targets": "index", "output_units": 4}, "sparse variant", id="index for one-hot"),
        pytest.param({"loss": "bce_logits", "targets": "binary_flat"}, "[:, None]", id="no column"),
        pytest.param({"loss": "bce_logits", "targets": "binary", "output_rank": 1}, "[:, 0]", id="column too many"),
        pytest.param({"loss": "bce_logits", "targets": "multilabel", "output_units": 3}, "4 columns", id="width"),
        pytest.param({"loss": "mse", "targets": "index", "output_units": 4}, "4 columns", id="index for squared error"),
        pytest.param({"loss": "ce", "targets": "index", "output_units": 1}, None, id="the loss is wrong"),
        pytest.param({"loss": "bce", "targets": "binary"}, None, id="outputs out of range"),
        pytest.param({"loss": "bce_logits", "targets": "signed"}, None, id="targets out of range"),
        pytest.param({"loss": "custom", "targets": "real"}, None, id="a custom loss"),
    ],
)
def test_refused_targets_come_with_advice(
    build: Callable[..., Any], target_summaries: dict[str, TargetSummary], case: dict[str, Any], mended: str | None
) -> None:
    if case["targets"] == "binary_flat":
        case = case | {"targets": replace(target_summaries["binary"], rank=1)}
    if case["loss"] in ("ce",) and case["targets"] in ("flat", "real"):
        case = case | {"targets": replace(target_summaries[case["targets"]], integral=True, minimum=0.0)}
    history, context = build(**({"output_rank": 2, "steps": 1} | case))
    finding = TargetMismatch().check(
        history, replace(context, loss_refusal="outputs (8, 4) and targets (8,) (refused)")
    )
    if mended is None:
        assert finding is None
    else:
        assert finding is not None
        assert finding.severity == "error"
        assert mended in finding.message


@pytest.mark.parametrize(
    ("scalars", "more", "expected"),
    [
        pytest.param({}, {}, "warning", id="the last output is far better"),
        pytest.param(
            {"last_error": lambda t: 0.29 if t < 480 else 0.05}, {}, "warning", id="the last output gets better"
        ),
        pytest.param({"last_error": 0.3}, {}, None, id="all outputs are alike"),
        pytest.param({"last_error": 0.0, "mean_error": 0.0}, {"layers": (DENSE, DENSE, OUT)}, None, id="no sequences"),
        pytest.param({}, {"loss": "custom"}, None, id="a custom loss"),
        pytest.param({}, {"steps": 2}, None, id="young"),
    ],
)
def test_one_target_for_all_time_steps(
    build: Callable[..., Any], scalars: dict[str, Any], more: dict[str, Any], expected: str | None
) -> None:
    measured = {"repeated_targets": 12.0, "last_error": 0.01, "mean_error": 0.3} | scalars
    case = {"targets": "index", "loss": "ce", "output_units": 4, "layers": LAYERS, "scalars": measured} | more
    finding = TargetMismatch().check(*build(**case))
    assert (finding.severity if finding else None) == expected
    assert finding is None or "12 time steps" in finding.message


@pytest.mark.parametrize(("accuracy", "severity"), [(0.3, "error"), (0.95, "warning")])
def test_outputs_whose_axes_a_reshape_exchanges(build: Callable[..., Any], accuracy: float, severity: str) -> None:
    asked = {"reordered_steps": 12.0, "reordered_classes": 4.0}
    case = {"asked": asked, "targets": "index", "loss": "ce", "output_units": 4, "scalars": {"accuracy": accuracy}}
    finding = TargetMismatch().check(*build(**case))
    assert finding is not None
    assert (finding.severity, finding.repairs, finding.evidence) == (severity, ("restore_axes",), asked)
