"""Probes: forward passes on a copy of a model in evaluation mode that show how its outputs depend on its inputs.

Each probe is a function of its own; what it finds are facts that rules read. Sequences are cut, and a few rows suffice.
All changes are up to rounding: see `Calls.rounding`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from autotrainer.adapter.probed_model import NotProbedError, ProbedModel
from autotrainer.diagnostics.probes.calls import (
    Calls,
    Fields,
    NotComparableError,
    OutOfBudgetError,
    UnknownLayoutError,
    row_wise,
    take_rows,
)
from autotrainer.diagnostics.probes.causality import probe_causality
from autotrainer.diagnostics.probes.ignored_fields import probe_ignored_fields, testable_fields
from autotrainer.diagnostics.probes.padding import probe_padding
from autotrainer.diagnostics.probes.positions import probe_positions
from autotrainer.diagnostics.probes.repeatability import probe_repeatability
from autotrainer.diagnostics.probes.row_mixing import probe_row_mixing
from autotrainer.records.facts import NOT_PROBED, PROBES
from autotrainer.records.findings import Severity
from autotrainer.training.base_run import BaseRun
from autotrainer.training.budget import Budget

__all__ = ["ProbeResult", "probe_training", "run_probes"]

_ROWS = 8
"""Rows of the probes that need no sequences."""
_SEQUENCE_KINDS = ("embedding", "attention", "recurrent")
_SHARE = 0.05
"""Maximum work of all probes of a managed training, in baseline trainings."""

_FUNCTIONS: tuple[Callable[[Calls, Fields], dict[str, float]], ...] = (
    probe_repeatability,
    probe_row_mixing,
    probe_ignored_fields,
    probe_causality,
    probe_padding,
    probe_positions,
)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What probes have found.

    Attributes:
        facts: Facts of `PROBE_FACTS`.
        input_fields: Names of the tested inputs.
    """

    facts: dict[str, float] = field(default_factory=dict)
    input_fields: tuple[str, ...] = ()


def run_probes(
    make: Callable[[], ProbedModel | None], afford: Callable[[int], bool] = lambda rows: True
) -> ProbeResult:
    """Run all probes on a model.

    A probe that fails, because the model does not take the changed inputs, is left out, and told as such.

    Args:
        make: Returns the copy of the model; None if there is nothing to probe.
        afford: Takes a number of rows that are about to be passed through the model, and returns whether to do it.

    Returns:
        The facts, with ``not_probed``, the reason for which none was run, and ``failed_probes``.
    """
    try:
        model = make()
    except NotProbedError as error:
        return ProbeResult({"not_probed": float(NOT_PROBED.index(error.reason))})
    if model is None:
        return ProbeResult()
    calls = Calls(model, afford)
    rows = len(next(iter(row_wise(model.fields).values()), ()))
    fields = take_rows(model.fields, np.arange(min(_ROWS, rows)))
    facts = {"not_probed": 0.0}
    failed = 0
    for number, probe in enumerate(_FUNCTIONS):
        if facts.get("evaluation_state"):
            break  # nothing can be compared
        try:
            facts |= probe(calls, fields)
        except OutOfBudgetError:
            return ProbeResult({**facts, "not_probed": float(NOT_PROBED.index("the budget is too small"))})
        except UnknownLayoutError:
            break
        except NotComparableError:
            if not number:
                return ProbeResult({"not_probed": float(NOT_PROBED.index("its outputs are not finite numbers"))})
        except Exception:  # noqa: BLE001 - whatever a model raises on inputs that are changed
            if not number:
                return ProbeResult(
                    {"not_probed": float(NOT_PROBED.index("the inputs of its first call can't be repeated"))}
                )
            failed += 1 << number
    assert len(_FUNCTIONS) == len(PROBES)
    return ProbeResult({**facts, "failed_probes": float(failed)}, testable_fields(model))


def probe_training(make: Callable[[], ProbedModel | None], run: BaseRun, budget: Budget) -> None:
    """Run all probes on a managed training that has ended, and report the facts to its monitor.

    A training without an error is probed only if its model takes sequences: its score may be so good since the model
    sees its targets. Any other healthy training costs nothing more.

    Args:
        make: Returns the copy of its model.
        run: The core's side of the training; accounts for the work.
        budget: Has the work of one baseline training.
    """
    errors = [f for f in run.monitor.findings if f.severity is Severity.ERROR and f.problem != "data_leakage"]
    sequences = any(layer.kind in _SEQUENCE_KINDS for layer in run.monitor.context.layers)
    if not errors and not sequences:
        return
    left = _SHARE * (budget.unit or 0)

    def afford(rows: int) -> bool:
        nonlocal left
        work = rows * run.operations
        left -= work
        return left >= 0 and run.afford(work)

    with run.monitor.guard("the probes"):
        result = run_probes(make, afford)
        run.monitor.learn(result.facts, result.input_fields)
