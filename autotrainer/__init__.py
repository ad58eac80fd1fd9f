"""autotrainer: watches a neural network while it trains, names what goes wrong, and repairs it.

Importing it imports no framework. See `watch`, `check`, `fit` and `Loop`.
"""

from __future__ import annotations

from autotrainer import errors
from autotrainer._version import __version__
from autotrainer.checking import check
from autotrainer.findings import Finding, Severity
from autotrainer.fitting import fit
from autotrainer.loop import Loop
from autotrainer.monitor import Monitor
from autotrainer.plan import RepairPlan, load_plan
from autotrainer.replaying import replay
from autotrainer.report import Report
from autotrainer.result import Attempt, Result
from autotrainer.watching import watch

__all__ = [
    "Attempt",
    "Finding",
    "Loop",
    "Monitor",
    "RepairPlan",
    "Report",
    "Result",
    "Severity",
    "__version__",
    "check",
    "errors",
    "fit",
    "load_plan",
    "replay",
    "watch",
]
