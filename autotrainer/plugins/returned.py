"""What rules and repairs of other distributions return, as plain and valid values."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from numbers import Real
from typing import Any

from autotrainer.edits import EDITS, Edit
from autotrainer.errors import PluginError
from autotrainer.plugins.declarations import is_number, is_share, require
from autotrainer.records.findings import Finding, Severity
from autotrainer.repair import Dimension, Proposal, Repair
from autotrainer.rule import Rule

__all__ = ["check_dimension", "check_proposals", "valid_finding"]

_MAX_PROPOSALS = 200
"""Most proposals of a repair for one finding, and most values of a dimension: a generator may be endless."""


def valid_finding(finding: object, rule: Rule, layers: Collection[str]) -> Finding:
    """Return what a rule returned, as plain values.

    Args:
        finding: What it returned.
        rule: The rule.
        layers: Names of the model's layers.

    Raises:
        PluginError: If it is not a valid finding of this rule.
    """
    if not isinstance(finding, Finding):
        raise PluginError(f"check() returned a {type(finding).__name__}, not a Finding or None")
    same = (finding.problem, finding.code) == (rule.problem, rule.code)
    require(same, f"the finding is of the problem {finding.code!r} {finding.problem!r}")
    require(isinstance(finding.severity, Severity), f"the severity is {finding.severity!r}, not a Severity")
    confidence = isinstance(finding.confidence, Real) and 0 <= float(finding.confidence) <= 1
    require(confidence, f"the confidence is {finding.confidence!r}, not a number in [0, 1]")
    require(isinstance(finding.message, str) and bool(finding.message), "the message is not a sentence")
    for name, value in (("layers", finding.layers), ("repairs", finding.repairs)):
        valid = isinstance(value, tuple | list) and all(isinstance(entry, str) for entry in value)
        require(valid, f"{name} are {value!r}, not a tuple of names")
    unknown = [name for name in finding.layers if name not in layers]
    require(not unknown, f"the model has no layer {', '.join(map(repr, unknown))}")
    require(isinstance(finding.evidence, Mapping), f"the evidence is {finding.evidence!r}, not a mapping")
    for key, number in finding.evidence.items():
        valid = isinstance(key, str) and isinstance(number, Real)
        require(valid, f"the evidence {key!r} is {number!r}, not a number")
    return Finding(  # not `replace`: a subclass may have methods that fail
        finding.problem,
        finding.code,
        finding.severity,
        float(finding.confidence),
        finding.message,
        layers=tuple(finding.layers),
        evidence={key: float(value) for key, value in finding.evidence.items()},
        repairs=tuple(finding.repairs),
    )


def check_proposals(proposals: Iterable[Proposal], repair: type[Repair]) -> list[Proposal]:
    """Return what a repair proposed as a list.

    Raises:
        PluginError: If it is not an iterable of valid proposals, or has too many.
    """
    listed = _bounded(proposals, "propose()")
    for proposal in listed:
        require(isinstance(proposal, Proposal), f"propose() gave a {type(proposal).__name__}, not a Proposal")
        require(proposal.repair == repair.name, f"the proposal is of the repair {proposal.repair!r}")
        _check_edits(proposal.edits)
        require(is_share(proposal.effect), f"the effect is {proposal.effect!r}, not a number in [0, 1]")
        cost = is_number(proposal.cost) and math.isfinite(proposal.cost) and proposal.cost >= 0
        require(cost, f"the cost is {proposal.cost!r}, not a number >= 0")
    return listed


def check_dimension(dimension: Any, repair: type[Repair]) -> Dimension | None:
    """Return the dimension of a repair.

    Raises:
        PluginError: If it is neither None nor valid.
    """
    if dimension is None:
        return None
    require(isinstance(dimension, Dimension), f"dimension() returned a {type(dimension).__name__}")
    options = _bounded(dimension.options, "dimension()")
    for edits in options:
        _check_edits(edits)
    return Dimension(repair.name, tuple(options))


def _bounded(values: Any, method: str) -> list[Any]:
    require(isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping), f"{method} gave {values!r}")
    listed = list(islice(values, _MAX_PROPOSALS + 1))
    require(len(listed) <= _MAX_PROPOSALS, f"{method} gives more than {_MAX_PROPOSALS} values")
    return listed


def _check_edits(edits: Any) -> None:
    valid = isinstance(edits, Sequence) and all(
        isinstance(edit, Edit) and type(edit) in EDITS.values() for edit in edits
    )
    require(valid and isinstance(edits, tuple), f"the edits are {edits!r}, not a tuple of autotrainer.edits")
