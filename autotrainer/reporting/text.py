"""The text form of a report: each problem with its consequences, then what to do."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from autotrainer.records.findings import Finding, Severity, fold
from autotrainer.reporting.outcome import AttemptRow, Outcome
from autotrainer.safe_text import escaped, safe_line

__all__ = [
    "JUDGED_ON_TRAINING",
    "MAX_CONSEQUENCES",
    "RERUN_VERDICTS",
    "UNCONFIRMED",
    "attempt_scope",
    "count",
    "headline",
    "judged_rows",
    "number",
    "render",
    "repair_names",
    "seed_scope",
    "selection_bias",
    "verdict",
    "work",
]

MAX_CONSEQUENCES = 2
"""Consequences of a root that are shown in full; the rest are only named, as one dead model has many."""

UNCONFIRMED = (
    "The gain may be due to chance: it is not significant at the 99.9% level and was not confirmed with another seed."
)

JUDGED_ON_TRAINING = (
    "Judged on the training rows, none of which can be spared for validation: shows that the model can fit them, not "
    "that it generalizes."
)

RERUN_VERDICTS = {"holds": "the gain holds", "refuted": "the gain does not hold"}

FAILED = " (failed)"
"""End of what was not measured because its measurement failed."""
_WIDTH = 100


def render(findings: Sequence[Finding], run: Mapping[str, Any], outcome: Outcome | None) -> str:
    """Return a report as plain text, in lines of at most about 100 characters.

    Args:
        findings: Findings, ranked.
        run: Facts of the run, by name.
        outcome: The outcome of a managed training; None for a watched or replayed run.
    """
    blocks = [_wrap(headline(findings, run)), *(_wrap(note) for note in run.get("notes") or ())]
    if outcome is not None:
        blocks.append(_outcome_lines(outcome))
    blocks += [_finding_lines(root, consequences) for root, consequences in fold(findings)]
    if outcome is not None:
        blocks += _repair_blocks(outcome)
    return "\n\n".join("\n".join(map(escaped, lines)) for lines in blocks if lines)


def number(value: float | None) -> str:
    """Return a number with four significant digits; a dash for an unknown one."""
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"


def count(amount: int, noun: str, plural: str = "") -> str:
    """Return an amount with its noun, in the plural where needed."""
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"


def headline(findings: Sequence[Finding], run: Mapping[str, Any]) -> str:
    """Return the report in one sentence: the number of findings by severity, and the length of the run."""
    amounts = {s: sum(f.severity is s for f in findings) for s in Severity}
    counts = [count(n, s.value if s is not Severity.INFO else "note") for s, n in amounts.items() if n]
    scope = []
    if run.get("steps") is not None:
        scope.append(f"in {count(run['steps'], 'step')}")
    if run.get("epochs"):
        scope.append(f"({count(run['epochs'], 'epoch')})" if scope else f"in {count(run['epochs'], 'epoch')}")
    if run.get("framework", "unknown") != "unknown":
        scope.append(f"of training a {run['framework']} model")
    if run.get("layers"):
        scope.append(f"with {count(run['layers'], 'layer')}")
    if run.get("processes"):
        scope.append(f"in {count(run['processes'], 'process', 'processes')}")
    if run.get("reported_by_rank") is not None:
        return " ".join([f"autotrainer: reported by rank {run['reported_by_rank']}", *scope])
    if run.get("sampled_steps") == 0:
        return " ".join(["autotrainer:", ", ".join(counts) or "nothing could be measured", *scope])
    if run.get("probe_seconds") is not None:
        seconds = f"{run['probe_seconds']:.2g} s"
        scope.append(f"(and {seconds} of probes at the start, outside the allowed overhead)")
    unmeasured = f"; not measured: {', '.join(run['unmeasured'])}" if run.get("unmeasured") else ""
    sinks = "".join(f"; {note}" for note in run.get("sinks", ()))
    return " ".join(["autotrainer:", ", ".join(counts) or "no problem found", *scope]) + unmeasured + sinks


def verdict(outcome: Outcome) -> str:
    """Return the status of a managed training with the reason for it."""
    if outcome.status == "healthy":
        tried = "no attempt was better by more than noise" if outcome.attempts else "so no repair was tried"
        if any(attempt.verdict == "original" for attempt in outcome.attempts):
            tried = "the error for which it was paused has passed"
        return f"healthy: no errors were found in the training or its outcome, {tried}."
    if outcome.status in ("repaired", "improved"):
        errors = "and no errors remain" if outcome.status == "repaired" else "but errors remain"
        if math.isnan(outcome.baseline_score):
            return f"{outcome.status}: the original run reached no score; the repaired one does, {errors}."
        return f"{outcome.status}: better by more than noise, {errors}."
    reason = "no attempt was better by more than noise"
    if not outcome.attempts and outcome.stopped_by != "done":
        reason = "the run ended before it could be judged healthy or a repair could be tried"
    return f"{outcome.status}: {reason}; the original model is returned."


def work(outcome: Outcome) -> str:
    """Return the total work of a managed training, and why it stopped early if it did."""
    stopped = {"budget": "; the budget is used up", "interrupt": "; interrupted"}.get(outcome.stopped_by, "")
    return f"{outcome.cost:.2f}× the cost of one training{stopped}"


def judged_rows(outcome: Outcome) -> str:
    """Return a note if the scores are those of the training rows; else empty."""
    return JUDGED_ON_TRAINING if outcome.judged_on == "training" else ""


def baseline_end(outcome: Outcome) -> str:
    """Return where and why the original training ended early; empty if it did not."""
    reason = {
        "stuck": "it was stuck",
        "beaten": "the cause of its error is known, and it was not expected to end better than the repaired run",
        "paused": "it was paused for a repaired run, and the search was interrupted",
    }.get(outcome.baseline_ended)
    if reason is None:
        return ""
    planned = f" of {outcome.epochs}" if outcome.epochs else ""
    return (
        f"The original run was not trained to its end, but ended after {outcome.baseline_epochs}{planned} epochs and "
        f"{count(outcome.baseline_steps, 'step')}: {reason}. Its score is the one "
        "there, not what it might have reached."
    )


def selection_bias(outcome: Outcome) -> str:
    """Return the note that the best of several scores on the same rows is optimistic; empty with test data."""
    scored = sum(a.score is not None and not a.verdict for a in outcome.attempts)
    if outcome.test_score is not None or not scored:
        return ""
    return (
        f"{count(scored, 'attempt')} and the original run were compared on the same {outcome.judged_on} set, so the "
        "best score there is slightly optimistic; pass test_data= for an unbiased one."
    )


def seed_scope(outcome: Outcome) -> str:
    """Return with how many seeds the gain was measured, and what that shows; empty without a gain."""
    if outcome.status not in ("repaired", "improved") or not math.isfinite(outcome.score - outcome.baseline_score):
        return ""
    if not outcome.rerun_scores:
        return (
            "The gain was measured with one seed and one set of initial weights, and its noise is that of the "
            f"{outcome.judged_on} rows: other seeds may give a smaller gain."
        )
    new, old = (outcome.score, *outcome.rerun_scores), (outcome.baseline_score, *outcome.baseline_rerun_scores)
    gain = (sum(new) / len(new) - sum(old) / len(old)) * (1 if outcome.mode == "max" else -1)
    return (
        f"With other seeds, but the same initial weights: {_spread(new)}, and the original {_spread(old)}. "
        f"The mean gain is {number(gain)}."
    )


def _spread(scores: Sequence[float]) -> str:
    mean = number(sum(scores) / len(scores))
    several = f" on average ({number(min(scores))} to {number(max(scores))})" if len(scores) > 1 else ""
    return f"{mean}{several} with {count(len(scores), 'seed')}"


def attempt_scope(attempt: AttemptRow, outcome: Outcome) -> str:
    """Return how an attempt differs from a full training with the usual seed; empty if it does not."""
    if attempt.verdict == "original":
        return "again from its start, after it had been paused"
    if attempt.verdict:
        return "with another seed"
    if attempt.epochs is None:
        return ""
    planned = f" of {outcome.epochs}" if outcome.epochs else ""
    return f"trained for {attempt.epochs}{planned} {'epochs' if planned or attempt.epochs != 1 else 'epoch'}"


def repair_names(attempt: AttemptRow) -> str:
    """Return the repairs of an attempt; a rerun of the original training has none."""
    return " + ".join(attempt.repairs) or "original"


def _finding_lines(root: Finding, consequences: Sequence[Finding]) -> list[str]:
    lines = [
        safe_line(f"{root.severity.upper()}  {root.code} {root.problem}")
        + f"   (first seen in epoch {root.epoch}, step {root.step}; {root.confidence:.0%} confidence)"
    ]
    lines += _wrap(root.message, "  ")
    if root.place:
        lines += _wrap(f"at {root.place}", "  ")
    if root.layers:
        layers = ", ".join(map(safe_line, root.layers[:6])) + (
            f" and {len(root.layers) - 6} more" if len(root.layers) > 6 else ""
        )
        lines += _wrap(f"layers: {layers}", "  ")
    if root.evidence:
        lines += _wrap("evidence: " + ", ".join(f"{k} = {number(v)}" for k, v in root.evidence.items()), "  ")
    for finding in consequences[:MAX_CONSEQUENCES]:
        lines += _wrap(f"└ causes {finding.code} {finding.problem} [{finding.severity}]: {finding.message}", "  ")
    if consequences[MAX_CONSEQUENCES:]:
        names = ", ".join(f"{f.code} {f.problem} [{f.severity}]" for f in consequences[MAX_CONSEQUENCES:])
        lines += _wrap(f"└ also causes {names}", "  ")
    if root.severity is not Severity.INFO:
        if root.repairs:
            lines += _wrap(f"suggested repairs: {', '.join(root.repairs)}", "  ")
        lines += _wrap(f"more: autotrainer explain {root.problem}", "  ")
    return lines


def _outcome_lines(outcome: Outcome) -> list[str]:
    lines = _wrap(verdict(outcome))
    if outcome.doubtful:
        lines += _wrap(UNCONFIRMED, "  ")
    metric = safe_line(outcome.metric)
    if note := judged_rows(outcome):
        lines += _wrap(note, "  ")
    lines.append(
        f"  {safe_line(outcome.judged_on)} {metric}: {number(outcome.baseline_score)} → {number(outcome.score)}"
    )
    if note := baseline_end(outcome):
        lines += _wrap(note, "  ")
    if note := seed_scope(outcome):
        lines += _wrap(note, "  ")
    if outcome.test_score is not None:
        before = number(outcome.baseline_test_score)
        lines.append(f"  test {metric}: {before} → {number(outcome.test_score)}")
    lines.append(f"  work: {work(outcome)}")
    return lines


def _repair_blocks(outcome: Outcome) -> list[list[str]]:
    blocks = []
    if outcome.patch is not None:
        lines = ["Changes to make in your code:"]
        blocks.append(lines + [f"  {line}" for line in outcome.patch.split("\n")])
    if outcome.attempts:
        lines = ["Attempts:", f"  {'score':>9}  {'cost':>5}  repairs"]
        for are_reruns, group in groupby(outcome.attempts, key=lambda a: a.verdict not in ("", "original")):
            rows = list(group)
            lines += [_reruns_line(rows)] if are_reruns else [_attempt_line(a, outcome) for a in rows]
        if note := selection_bias(outcome):
            lines += _wrap(note, "  ")
        blocks.append(lines)
    if outcome.left_out:
        lines = ["Repairs not used:"]
        for name, reason in outcome.left_out.items():
            lines += _wrap(f"{name}: {reason}", "  ")
        blocks.append(lines)
    return blocks


def _attempt_line(a: AttemptRow, outcome: Outcome) -> str:
    notes = [attempt_scope(a, outcome), f"from epoch {a.start}" if a.start else ""]
    if a.error:
        notes.append(f"failed: {a.error}")
    else:
        notes.append(f"errors left: {', '.join(a.remaining)}" if a.remaining else "no errors left")
    mark = "*" if a.chosen else " "
    return safe_line(
        f"{mark} {number(a.score):>9}  {a.cost:>5.2f}  {repair_names(a)} ({'; '.join(filter(None, notes))})"
    )


def _reruns_line(rows: Sequence[AttemptRow]) -> str:
    """Return one line for consecutive reruns with other seeds."""
    scores: dict[str, list[str]] = {}
    for a in rows:
        scores.setdefault(repair_names(a), []).append(number(a.score))
    results = "; ".join(f"{name} {', '.join(values)}" for name, values in scores.items())
    last = rows[-1]
    ending = f": {RERUN_VERDICTS[last.verdict]}" if last.verdict in RERUN_VERDICTS else ""
    ending += f" ({last.error})" if last.error else ""
    return safe_line(f"  {'':>9}  {sum(a.cost for a in rows):>5.2f}  └ with other seeds: {results}{ending}")


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        safe_line(text), _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False
    ) or [indent]
