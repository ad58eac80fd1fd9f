"""Tables of ``detect``: by source, compared with trivial monitors; by problem; and the trainings behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from benchmarks.detect.verdicts import Verdict, case_count, with_reference_monitors
from benchmarks.generator.families.registry import OPEN
from benchmarks.reporting.tables import interval_share, listed, number, table

__all__ = ["by_family", "by_problem", "by_source", "details"]


def by_source(verdicts: Sequence[Verdict]) -> str:
    """Return recall, cause, delay and false alarms by source and monitor; shares with their 95 % intervals."""
    sources = sorted({v.source for v in verdicts})
    head = ["cases", "monitor", "faulty", "error found", "cause first", "cause in first two", "early"]
    head += ["delay, median", "healthy", "error at end", "error ever", "warning"]
    lines = []
    for source in [*sources, *(["all"] if len(sources) > 1 else [])]:
        chosen = [v for v in verdicts if source in (v.source, "all")]
        lines += [_source_line(source, monitor, judged) for monitor, judged in with_reference_monitors(chosen).items()]
    return table(head, lines)


def by_family(verdicts: Sequence[Verdict]) -> str:
    """Return recall, cause, delay and false alarms by family of generated programs; empty if there are none."""
    chosen = [v for v in verdicts if v.source in ("families", "unseen", "healthy")]
    head = ["family", "", "faulty", "error found", "cause in first two", "early", "healthy", "error at end", "warning"]
    lines = []
    for family in sorted({v.family for v in chosen}):
        of_family = [v for v in chosen if v.family == family]
        faulty, healthy = [v for v in of_family if v.faulty], [v for v in of_family if not v.faulty]
        lines.append(
            [
                family,
                "reserved" if family not in OPEN else "",
                str(len(faulty)),
                _count(faulty, lambda v: v.errors),
                _count([v for v in faulty if v.named is not None], lambda v: v.named),
                _count([v for v in faulty if v.early is not None], lambda v: v.early),
                str(len(healthy)),
                _count(healthy, lambda v: v.errors),
                _count(healthy, lambda v: v.warnings),
            ]
        )
    return table(head, lines) if lines else ""


def by_problem(verdicts: Sequence[Verdict]) -> str:
    """Return the same by the problem that is the true cause; a case with several causes counts under each.

    ``named``: an error or warning of this very problem at the end. ``false alarms``: its errors on healthy trainings.
    """
    problems = sorted({p for v in verdicts for p in (*v.accepted, *v.errors)})
    healthy = [v for v in verdicts if not v.faulty]
    lines = []
    for problem in problems:
        caused = [v for v in verdicts if problem in v.accepted]
        named = [v for v in caused if problem in (*v.errors, *v.warnings)]
        alarms = [v for v in healthy if problem in v.errors]
        lines.append(
            [
                problem,
                str(len(caused)),
                _count(caused, lambda v: v.errors),
                interval_share(len(named), len(caused), case_count(caused)),
                _count(caused, lambda v: v.named),
                _count([v for v in caused if v.early is not None], lambda v: v.early),
                interval_share(len(alarms), len(healthy), case_count(healthy)),
            ]
        )
    if not lines:
        return ""
    head = ["problem", "caused by it", "error found", "named", "cause in first two", "early", "false alarms"]
    return table(head, lines)


def details(verdicts: Sequence[Verdict], left_out: Sequence[str], complaints: Sequence[str]) -> str:
    """Return lists of the trainings that were missed, misnamed, late or false alarms, and of those left out."""
    parts = [
        *listed("No error found", _lines(v for v in verdicts if v.faulty and not v.errors)),
        *listed("Cause not named", _lines(v for v in verdicts if v.named is False and v.errors)),
        *listed("Late", _lines(v for v in verdicts if v.early is False and v.errors)),
        *listed("False alarms", _lines(v for v in verdicts if not v.faulty and (v.raised or v.warnings))),
        *listed("Left out", left_out),
        *listed("Parts that failed", complaints),
    ]
    return "\n".join(parts).strip()


def _source_line(source: str, monitor: str, verdicts: Sequence[Verdict]) -> list[str]:
    faulty = [v for v in verdicts if v.faulty]
    healthy = [v for v in verdicts if not v.faulty]
    caused = [v for v in faulty if v.named is not None]
    delays = [v.delay for v in faulty if v.delay is not None]
    return [
        source,
        monitor,
        str(len(faulty)),
        _count(faulty, lambda v: v.errors),
        _count(caused, lambda v: v.rank == 1),
        _count(caused, lambda v: v.named),
        _count([v for v in faulty if v.early is not None], lambda v: v.early),
        number(float(np.median(delays)) * 100, 0) + " %" if delays else "–",
        str(len(healthy)),
        _count(healthy, lambda v: v.errors),
        _count(healthy, lambda v: v.raised),
        _count(healthy, lambda v: v.warnings),
    ]


def _count(verdicts: Sequence[Verdict], test: Callable[[Verdict], object]) -> str:
    return interval_share(sum(bool(test(v)) for v in verdicts), len(verdicts), case_count(verdicts))


def _lines(verdicts: Iterable[Verdict]) -> list[str]:
    lines = []
    for v in verdicts:
        when = "never" if v.first_error is None else f"at step {v.first_error}"
        resolved = ", ".join(sorted(set(v.raised) - set(v.errors)))
        lines.append(
            f"{v.case} (seed {v.seed}): score {v.score:.3f}; errors {', '.join(v.errors) or 'none'}; warnings "
            f"{', '.join(v.warnings) or 'none'}; first error {when} of {v.steps}"
            + (f"; raised and resolved: {resolved}" if resolved else "")
        )
    return lines
