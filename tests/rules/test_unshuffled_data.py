from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import OptimizerInfo, TargetSummary
from autotrainer.rules.unshuffled_data import UnshuffledData

RNG = np.random.default_rng(0)


def classes(*shares: float, rows: int = 600, **more: Any) -> TargetSummary:
    """Return the summary of class indices with these shares."""
    p = np.array(shares) / sum(shares)
    values: dict[str, Any] = {
        "count": rows,
        "rows": rows,
        "rank": 1,
        "integer_type": True,
        "integral": True,
        "minimum": 0.0,
        "maximum": len(p) - 1.0,
        "values": tuple(map(float, range(len(p)))) if len(p) <= 32 else (),
        "classes": len(p),
        "majority": float(p.max()),
        "entropy": float(-(p * np.log(p)).sum()),
        "rarest": float(p.min()),
    }
    return TargetSummary(**values | more)


def drawn(shares: list[float], rows: int) -> Callable[[int], float]:
    """Return the entropy of the classes of random batches, by step."""

    def entropy(step: int) -> float:
        counts = RNG.multinomial(rows, np.array(shares) / sum(shares))
        p = counts[counts > 0] / rows
        return float(-(p * np.log(p)).sum())

    return entropy


TEN = [1.0] * 10
TAIL = [0.5**k for k in range(12)]
JUDGED = tuple(LayerInfo(name, "dense", "relu", 8, 8 * (name == "a"), name != "a", name != "c") for name in "abc")
CLASSES: dict[str, Any] = {"targets": classes(*TEN), "loss": "ce", "output_units": 10}
SORTED: dict[str, Any] = CLASSES | {"scalars": {"class_entropy": lambda t: 0.4 * (t % 6 == 0)}}
TWO: dict[str, Any] = {"targets": classes(1, 1), "scalars": {"class_entropy": 0.02}}
POOR: dict[str, Any] = {"epochs": {"val_accuracy": lambda e: 0.2}}
FINE: dict[str, Any] = {"epochs": {"val_accuracy": lambda e: 0.97}}


def forgetting(loss: float, run: int) -> dict[str, Any]:
    """Return a case whose loss rises every 60 steps, with batches of one class in runs of this length."""
    of_class = {name: lambda t: t // run % 10 for name in ("target_min", "target_max")}
    return SORTED | {
        "losses": lambda t: loss if t % 60 < 3 else 0.05,
        "scalars": {"class_entropy": 0.0, **of_class},
    }


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(SORTED, "warning", id="sorted, no validation"),
        pytest.param(SORTED | POOR, "error", id="sorted, poor on validation data"),
        pytest.param(SORTED | POOR | {"steps": 100}, "error", id="sorted, poor after a sixth of the schedule"),
        pytest.param(SORTED | POOR | {"steps": 50}, "warning", id="sorted, young"),
        pytest.param(SORTED | POOR | {"planned_epochs": None}, "warning", id="sorted, no schedule"),
        pytest.param(SORTED | FINE, "warning", id="sorted, learned anyway"),
        pytest.param(forgetting(4.0, run=60), "error", id="sorted, each class forgotten"),
        pytest.param(forgetting(1.0, run=60), "warning", id="sorted, none forgotten"),
        pytest.param(forgetting(4.0, run=1), "warning", id="a group in each batch, some of which are hard"),
        pytest.param(SORTED | FINE | {"arrays": True}, None, id="whole arrays, whose order is not that of training"),
        pytest.param(TWO, "warning", id="two classes, sorted"),
        pytest.param(
            TWO | {"optimizer": OptimizerInfo("adam", 1e-3, several=True)},
            None,
            id="batches of a GAN, all real or all generated",
        ),
        pytest.param(TWO | {"scalars": {"class_entropy": 0.4}}, None, id="two classes, a little imbalanced by batch"),
        pytest.param(
            {"targets": classes(99, 1), "scalars": {"class_entropy": drawn([99, 1], 32)}}, None, id="rare class"
        ),
        pytest.param(CLASSES | {"scalars": {"class_entropy": drawn(TEN, 32)}}, None, id="shuffled"),
        pytest.param(
            CLASSES | {"scalars": {"class_entropy": drawn(TEN, 4), "batch_size": 4}}, None, id="tiny batches, shuffled"
        ),
        pytest.param(CLASSES | {"scalars": {"class_entropy": 0.0, "batch_size": 4}}, "warning", id="tiny, sorted"),
        pytest.param(
            {"targets": classes(6, *[1.0] * 6), "scalars": {"class_entropy": 0.0, "batch_size": 4}, "steps": 40}
            | {"loss": "ce", "output_units": 7},
            "warning",
            id="tiny, sorted, more rows of the first class so far",
        ),
        pytest.param(
            {"targets": classes(9, 1), "scalars": {"class_entropy": drawn([9, 1], 4), "batch_size": 4}},
            None,
            id="tiny batches of one dominant class",
        ),
        pytest.param(CLASSES | {"scalars": {"class_entropy": 0.0, "batch_size": 1}}, None, id="single rows"),
        pytest.param(
            {
                "targets": classes(*[1.0] * 1000),
                "loss": "ce",
                "output_units": 1000,
                "scalars": {"class_entropy": drawn([1.0] * 1000, 32)},
            },
            None,
            id="a thousand classes, shuffled",
        ),
        pytest.param(
            {"targets": classes(*TAIL), "loss": "ce", "output_units": 12, "scalars": {"class_entropy": drawn(TAIL, 8)}},
            None,
            id="a long tail, shuffled",
        ),
        pytest.param(
            {
                "targets": classes(*[1.0] * 100),
                "loss": "custom",
                "output_units": 128,
                "scalars": {"class_entropy": 2.08},
            },
            None,
            id="eight classes per batch, for a contrastive loss",
        ),
        pytest.param(
            CLASSES | {"scalars": {"class_entropy": lambda t: 2.2 * np.exp(-t / 300)}}, None, id="actions of a policy"
        ),
        pytest.param(SORTED | {"loss": "custom"}, "warning", id="sorted, custom loss"),
        pytest.param(SORTED | {"targets": classes(*TEN, rank=2, width=40)}, None, id="tokens: many classes per row"),
        pytest.param(SORTED | {"targets": classes(*TEN, masked=True)}, None, id="masked"),
        pytest.param(SORTED | {"scalars": {"class_entropy": np.nan}}, None, id="not measured"),
        pytest.param({"targets": "real", "loss": "mse", "scalars": {"class_entropy": 0.0}}, None, id="regression"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = UnshuffledData().check(*build(**case))
    assert (finding.severity if finding else None) == expected


@pytest.mark.parametrize(
    ("targets", "steps", "case", "expected"),
    [
        pytest.param(classes(1, rows=128), 4, {}, "warning", id="four batches of one class"),
        pytest.param(classes(1, rows=64), 4, {}, None, id="few rows"),
        pytest.param(classes(1, rows=600), 60, {}, None, id="a whole epoch: constant targets"),
        pytest.param(classes(1, rows=128), 4, {"arrays": True}, None, id="the first rows of an array"),
        pytest.param(classes(1, rows=128), 4, {"loss": "custom"}, None, id="placeholder targets of a custom loss"),
        pytest.param(
            classes(1, rows=128), 4, {"scalars": {"direct_loss": 0.0}}, None, id="one of several calls of the loss"
        ),
        pytest.param(classes(1, rows=128), 4, {"layers": JUDGED}, None, id="a generator, whose judge is frozen"),
    ],
)
def test_one_class_at_the_start(
    build: Callable[..., Any], targets: TargetSummary, steps: int, case: dict[str, Any], expected: str | None
) -> None:
    case = {"loss": "ce", **case, "scalars": {"class_entropy": 0.0} | case.get("scalars", {})}
    run = build(targets=targets, output_units=10, steps=steps, **case)
    finding = UnshuffledData().check(*run)
    assert (finding.severity if finding else None) == expected


@pytest.mark.parametrize(
    ("loss", "accuracy", "expected"),
    [
        pytest.param(0.6, 0.5, "error", id="neither loss nor validation fits one dominant class"),
        pytest.param(0.05, 0.5, None, id="loss fits a dominant class"),
        pytest.param(0.6, 0.95, None, id="validation accuracy fits a dominant class"),
    ],
)
def test_one_class_in_the_few_samples_of_the_first_epoch(
    build: Callable[..., Any], loss: float, accuracy: float, expected: str | None
) -> None:
    history, context = build(
        targets=classes(1, rows=320), loss="bce", steps=10, scalars={"class_entropy": 0.0}, planned_epochs=20
    )
    history.add_losses([(step, loss) for step in range(10, 200)])
    for epoch in range(10):
        history.add_epoch(epoch, 20 * epoch + 19, {"val_accuracy": accuracy})
    history.step = 199
    finding = UnshuffledData().check(history, context)
    assert (finding.severity if finding else None) == expected


def test_random_batches_are_never_reported(build: Callable[..., Any]) -> None:
    for seed in range(60):
        shares = list(np.random.default_rng(seed).dirichlet(np.ones(2 + seed % 20)))
        rows = (2, 3, 8, 32)[seed % 4]
        scalars = {"class_entropy": drawn(shares, rows), "batch_size": rows}
        run = build(targets=classes(*shares), loss="ce", output_units=len(shares), scalars=scalars, steps=60)
        assert UnshuffledData(share=1).check(*run) is None, seed


def test_message_has_the_numbers(build: Callable[..., Any]) -> None:
    finding = UnshuffledData().check(*build(**SORTED, **POOR))
    assert finding is not None
    assert finding.evidence["entropy"] == pytest.approx(math.log(10))
    assert finding.evidence["batch_entropy"] < finding.evidence["expected_entropy"] < finding.evidence["entropy"]
    assert "validation accuracy is 0.2" in finding.message
