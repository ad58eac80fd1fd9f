"""autotrainer: watches neural-network training, diagnoses problems and repairs them, in PyTorch and Keras.

Importing it imports no framework; what it exports is imported when it is used. Start with `watch`, `check`, `fit` or
`Loop`.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from autotrainer._version import __version__

if _TYPE_CHECKING:
    from autotrainer import errors
    from autotrainer.api.check import check
    from autotrainer.api.compare import compare
    from autotrainer.api.fit import fit
    from autotrainer.api.loop import Loop
    from autotrainer.api.replay import replay
    from autotrainer.api.watch import watch
    from autotrainer.monitoring.monitor import Monitor
    from autotrainer.records.findings import Finding, Severity
    from autotrainer.reporting.comparison import Comparison
    from autotrainer.reporting.plan import RepairPlan, load_plan
    from autotrainer.reporting.report import Report
    from autotrainer.reporting.result import Attempt, Result

_here = _Path(__file__).parent
if not (_here / "rules").exists() and (_here.parent / "rules" / "__init__.py").exists():
    __path__.append(str(_here.parent))  # a bare checkout: rules, repairs and backends stand beside this folder
del _here

_MODULES = {
    "Attempt": "reporting.result",
    "Comparison": "reporting.comparison",
    "Finding": "records.findings",
    "Loop": "api.loop",
    "Monitor": "monitoring.monitor",
    "RepairPlan": "reporting.plan",
    "Report": "reporting.report",
    "Result": "reporting.result",
    "Severity": "records.findings",
    "check": "api.check",
    "compare": "api.compare",
    "fit": "api.fit",
    "load_plan": "reporting.plan",
    "replay": "api.replay",
    "watch": "api.watch",
}
"""Modules of the public names, imported when one is used: a process that only starts pytest loads none of them."""


def __getattr__(name: str) -> _Any:
    if name == "errors":
        return _import_module("autotrainer.errors")
    if name not in _MODULES:
        raise AttributeError(f"module 'autotrainer' has no attribute {name!r}")
    value = globals()[name] = getattr(_import_module(f"autotrainer.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
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
]
