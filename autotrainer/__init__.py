"""autotrainer: watches neural-network training, diagnoses problems and repairs them, in PyTorch and Keras.

Importing it imports no framework. Start with `watch`, `check`, `fit` or `Loop`.
"""

from __future__ import annotations

from pathlib import Path as _Path

from autotrainer import errors
from autotrainer._version import __version__
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
