"""The search for the first non-finite value: which steps, how much work, and how operations are named."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from autotrainer.adapter.spec import Evaluation
from autotrainer.diagnostics.nonfinite_search import NonfiniteReplay, ended_nonfinite, suspect_steps
from autotrainer.records.facts import FACTS
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.nonfinite import FirstNonfinite, Operation, is_intended, kind_of_operation
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, LayerInfo, StepStats
from autotrainer.records.task import TaskContext

EVALUATION = Evaluation(np.zeros((1, 1)), np.zeros(1), 0.5)


def _history(losses: Callable[[int], float], steps: int = 50, weights: Callable[[int], float] = float) -> RunHistory:
    """Return the history of a run whose every tenth step is sampled."""
    history = RunHistory((LayerInfo("fc"),))
    for step in range(steps):
        if step % 10:
            history.add_losses([(step, losses(step))])
            continue
        row, table = np.full(len(STEP_COLUMNS), np.nan), np.full((1, len(LAYER_COLUMNS)), np.nan)
        row[STEP_COLUMNS.index("loss")] = losses(step)
        table[0, LAYER_COLUMNS.index("weight_norm")] = weights(step)
        history.add_step(StepStats(step, 0, row, table))
    return history


@pytest.mark.parametrize(
    ("losses", "weights", "expected"),
    [
        pytest.param(lambda t: 0.5 if t < 33 else math.inf, lambda t: 1.0, (32, 35), id="loss of an unsampled step"),
        pytest.param(lambda t: math.inf, lambda t: 1.0, (0, 2), id="from the start"),
        pytest.param(lambda t: 0.5, lambda t: 1.0 if t < 20 else math.inf, (19, 22), id="weights alone"),
        pytest.param(lambda t: math.nan, lambda t: 1.0 if t < 20 else math.inf, (0, 22), id="losses not known"),
        pytest.param(lambda t: 0.5, lambda t: 1.0, None, id="finite"),
    ],
)
def test_suspect_steps(
    losses: Callable[[int], float], weights: Callable[[int], float], expected: tuple[int, int] | None
) -> None:
    assert suspect_steps(_history(losses, weights=weights)) == expected


def test_only_nonfinite_errors_count() -> None:
    def finding(problem: str, severity: Severity) -> Finding:
        return Finding(problem, "AT801", severity, 1.0, (), 0, 0, "", {}, ())

    assert ended_nonfinite([finding("nonfinite", Severity.ERROR)])
    assert not ended_nonfinite([finding("nonfinite", Severity.WARNING), finding("divergence", Severity.ERROR)])


def test_work_is_counted_and_limited() -> None:
    spent: list[int] = []
    run = NonfiniteReplay(2, 10, 200.0, lambda work: spent.append(work) is None)
    run.start(TaskContext(), 1.0)
    assert [run.spend(10, training=True) for _ in range(3)] == [True, True, True]
    assert spent == [30, 30, 60], "a step that is checked counts twice"
    assert run.spend(10, training=False)
    assert run.steps == 3
    assert run.spend(10, training=True)
    assert not run.spend(10, training=True), "190 of 200 are spent"
    assert sum(spent) == 190


def test_ends_when_found_or_after_the_last_step() -> None:
    run = NonfiniteReplay(0, 1, math.inf, lambda work: True)
    run.start(TaskContext(), 1.0)
    assert run.spend(1, training=True)
    assert run.end_epoch(0, {}, EVALUATION)
    assert run.spend(1, training=True)
    assert not run.spend(1, training=True), "steps 0 and 1 are the last"
    run = NonfiniteReplay(0, 10, math.inf, lambda work: True)
    assert run.spend(1, training=True)
    run.found = FirstNonfinite(0, "loss")
    assert not run.spend(1, training=True)
    assert not run.spend(1, training=False)
    assert not run.end_epoch(0, {}, EVALUATION)


@pytest.mark.parametrize(
    ("first", "found", "confirmed"),
    [
        (7, FirstNonfinite(8, "output"), True),
        (7, FirstNonfinite(7, "gradient"), True),
        (7, FirstNonfinite(7, "loss"), False),
        (7, FirstNonfinite(6, "weight"), False),
        (0, FirstNonfinite(0, "weight"), True),
        (0, FirstNonfinite(0, "loss"), True),
    ],
)
def test_inconsistent_replay_is_not_confirmed(first: int, found: FirstNonfinite, confirmed: bool) -> None:
    run = NonfiniteReplay(first, 10, math.inf, lambda work: True)
    assert run.confirmed is None
    run.found = found
    assert (run.confirmed is found) is confirmed


def test_stays_within_the_budget() -> None:
    run = NonfiniteReplay(0, 10, math.inf, lambda work: False)
    assert not run.spend(1, training=True)
    assert run.steps == 0


def test_facts_are_declared_and_finite() -> None:
    first = FirstNonfinite(3, "output", "fc2", operation=Operation("softmax", -math.inf, 2.0, 0.5))
    facts = first.facts([LayerInfo("fc1"), LayerInfo("fc2")])
    assert facts["first_bad_layer"] == 1
    assert "first_bad_lowest" not in facts, "infinity can't be written to a log"
    assert set(facts) <= set(FACTS)
    assert TaskContext.from_dict({"asked": facts}).asked == facts
    assert "first_bad_layer" not in FirstNonfinite(3, "output", "elsewhere").facts([LayerInfo("fc1")])


@pytest.mark.parametrize(
    ("name", "lowest", "highest", "nearest", "nan", "backward", "expected"),
    [
        ("aten.log.default", 0.0, 1.0, 0.0, False, False, "logarithm"),
        ("aten.log.default", -2.0, 1.0, 0.1, True, False, "logarithm"),
        ("aten._log_softmax.default", -1e38, 1e38, 0.1, True, False, "overflow"),
        ("aten._softmax.default", -math.inf, -math.inf, math.inf, True, False, "softmax"),
        ("aten.div.Tensor SqrtBackward0", -1.0, 1.0, 0.0, True, True, "root"),
        ("SqrtGrad", -1.0, 1.0, 0.0, True, True, "root"),
        ("aten.mul.Tensor SqrtBackward0", -1e38, 1e38, 0.1, False, True, "overflow"),
        ("aten.pow.Tensor_Scalar", -1e30, 1e30, 0.0, False, False, "overflow"),
        ("Pow", -1.0, 1.0, 0.2, True, False, "root"),
        ("RealDiv", 0.0, 1.0, 0.0, True, False, "division"),
        ("RealDiv", 1e-30, 1e30, 1e-30, False, False, "overflow"),
        ("aten.native_batch_norm.default", 1.0, 1.0, 1.0, True, False, "deviation"),
        ("aten.linalg_vector_norm.default", -1e30, 1e30, 0.0, False, False, "overflow"),
        ("aten.exp.default", -1.0, 300.0, 0.1, False, False, "exponential"),
        ("aten.expand.default", -1.0, 300.0, 0.1, False, False, "overflow"),
        ("aten.addmm.default", -1e38, 1e38, 0.1, False, False, "overflow"),
    ],
)
def test_kind_of_operation_from_name_and_values(
    name: str, lowest: float, highest: float, nearest: float, nan: bool, backward: bool, expected: str
) -> None:
    values = {"lowest": lowest, "highest": highest, "nearest": nearest}
    assert kind_of_operation(name, values, nan=nan, backward=backward) == expected


@pytest.mark.parametrize(
    ("name", "nan", "expected"),
    [
        ("aten.masked_fill.Scalar", False, True),
        ("aten.masked_fill.Scalar", True, False),
        ("aten.empty.memory_format", True, True),
        ("ReadVariableOp", True, True),
        ("SelectV2", False, True),
        ("aten.mul.Tensor", False, False),
    ],
)
def test_intended_nonfinite_values(name: str, nan: bool, expected: bool) -> None:
    assert is_intended(name, nan=nan) is expected
