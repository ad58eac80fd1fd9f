"""The public API: names, signatures, errors and fields."""

from __future__ import annotations

import inspect

import pytest

import autotrainer
from autotrainer import errors

NAMES = {
    "Attempt",
    "Comparison",
    "Finding",
    "Loop",
    "Monitor",
    "RepairPlan",
    "Report",
    "Result",
    "Severity",
    "__version__",
    "check",
    "compare",
    "errors",
    "fit",
    "load_plan",
    "replay",
    "watch",
}


def test_exported_names() -> None:
    assert set(autotrainer.__all__) == NAMES
    assert all(hasattr(autotrainer, name) for name in NAMES)


def _signature(function: object) -> dict[str, object]:
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    return {("*" if p.kind is p.KEYWORD_ONLY else "") + p.name: p.default for p in parameters}


REQUIRED = inspect.Parameter.empty


@pytest.mark.parametrize(
    ("function", "signature"),
    [
        (
            autotrainer.watch,
            {
                "model": REQUIRED,
                "optimizer": None,
                "*loss_fn": None,
                "*epochs": None,
                "*steps": None,
                "*overhead": 0.01,
                "*select": None,
                "*ignore": (),
                "*thresholds": None,
                "*log_dir": None,
                "*on_finding": None,
                "*baseline": None,
                "*probe": False,
                "*state": None,
                "*sinks": (),
                "*progress": True,
            },
        ),
        (
            autotrainer.check,
            {
                "model": REQUIRED,
                "train_data": REQUIRED,
                "*loss": None,
                "*optimizer": None,
                "*select": None,
                "*ignore": (),
                "*thresholds": None,
            },
        ),
        (
            autotrainer.fit,
            {
                "model": REQUIRED,
                "train_data": REQUIRED,
                "validation_data": None,
                "*loss": None,
                "*optimizer": None,
                "*epochs": REQUIRED,
                "*batch_size": 32,
                "*metric": "auto",
                "*mode": None,
                "*step": None,
                "*scheduler": None,
                "*fit_args": None,
                "*repair": True,
                "*strategy": "balance",
                "*max_change": 3,
                "*extra_memory": True,
                "*keep": (),
                "*forbid": (),
                "*until": "healthy",
                "*budget": None,
                "*test_data": None,
                "*select": None,
                "*ignore": (),
                "*thresholds": None,
                "*seed": 0,
                "*workers": 1,
                "*log_dir": None,
                "*resume": False,
                "*progress": True,
            },
        ),
        (
            autotrainer.Loop,
            {
                "model": REQUIRED,
                "optimizer": REQUIRED,
                "loss_fn": REQUIRED,
                "train_loader": REQUIRED,
                "*epochs": REQUIRED,
                "*score": None,
                "*mode": None,
                "*scheduler": None,
                "*scaler": None,
                "*repair": True,
                "*strategy": "balance",
                "*max_change": 3,
                "*extra_memory": True,
                "*keep": (),
                "*forbid": (),
                "*until": "healthy",
                "*budget": None,
                "*select": None,
                "*ignore": (),
                "*thresholds": None,
                "*seed": 0,
                "*log_dir": None,
                "*progress": True,
            },
        ),
    ],
)
def test_signatures(function: object, signature: dict[str, object]) -> None:
    assert _signature(function) == signature


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (errors.InputError, (errors.AutotrainerError, ValueError)),
        (errors.DataError, (errors.InputError,)),
        (errors.BudgetError, (errors.InputError,)),
        (errors.ConfigError, (errors.InputError,)),
        (errors.StateError, (errors.AutotrainerError,)),
        (errors.LogError, (errors.AutotrainerError,)),
        (errors.PluginError, (errors.AutotrainerError,)),
    ],
)
def test_errors(error: type[Exception], bases: tuple[type[Exception], ...]) -> None:
    assert all(issubclass(error, base) for base in bases)


def test_finding_has_the_documented_fields() -> None:
    fields = {"problem", "code", "severity", "confidence", "layers", "step", "epoch", "message", "evidence"}
    assert fields | {"repairs", "caused_by"} <= set(autotrainer.Finding.__dataclass_fields__)


def test_result_has_the_documented_fields() -> None:
    expected = {"status", "stopped_by", "model", "optimizer", "history", "score", "baseline_score", "test_score"}
    expected |= {"baseline_test_score", "findings", "plan", "attempts", "cost"}
    assert expected <= set(autotrainer.Result.__dataclass_fields__)
    assert {"plan", "score", "error", "findings", "cost"} <= set(autotrainer.Attempt.__dataclass_fields__)
    assert callable(autotrainer.Result.report)
    assert callable(autotrainer.Result.save)
