"""Published figures of related tools, for orientation: measured on other cases and machines."""

from __future__ import annotations

from benchmarks.reporting.tables import table

__all__ = ["PUBLISHED", "published"]

Figure = tuple[str, str, str]

_REPLICA = "Kim et al., ICST 2023 (arXiv 2301.11568)"

PUBLISHED: dict[str, tuple[Figure, ...]] = {
    "detect": (
        (
            "real buggy programs detected, of DeepFD's 52",
            "DeepFD; DEFault",
            "UMLAUT 50, AUTOTRAINER 12, DeepLocalize 36, DeepFD 47; DEFault 94.3 %",
        ),
        (
            "fault type named correctly, of the same",
            "DeepFD; DEFault",
            "UMLAUT 14, AUTOTRAINER 10, DeepLocalize 7, DeepFD 27; DEFault 63.5 %",
        ),
        ("false alarms on AUTOTRAINER's healthy models", "DeepDiagnosis, DeepLocalize", "36 %, 72 %"),
        (
            "silent errors in PyTorch",
            "TrainCheck (OSDI 2025)",
            "18 of 20 within one iteration, false alarms < 2–5 %; needs reference runs",
        ),
    ),
    "repair": (
        (
            "buggy models repaired, on its own benchmark",
            "AUTOTRAINER (ICSE 2021)",
            "255 of 262 (97.33 %), mean accuracy +47.08 points",
        ),
        ("the same, extended", "AUTOTRAINER (TDSC 2024)", "414 of 422 (98.1 %), mean accuracy +36.42 points"),
        (
            "improved by more than 5 points, to above chance",
            "recomputed from its table",
            "81.3 % of the buggy; 12 of the 414 gained nothing",
        ),
        (
            "cost of a repair, in trainings",
            "recomputed from its table",
            "median 1.76, mean 2.41, p90 3.26; an independent replication: median 12.6",
        ),
        (
            "clipped IR on 30 faults, 20 trainings",
            _REPLICA,
            "random search .50, AUTOTRAINER .24, HEBO .49, BOHB .48; best of the four .68",
        ),
        (
            "significantly repaired of 30, at 10 · 20 trainings",
            _REPLICA,
            "random search 14 · 17, AUTOTRAINER 6 · 10, HEBO 11 · 19, BOHB 18 · 19",
        ),
    ),
    "overhead": (
        (
            "normal training",
            "AUTOTRAINER, recomputed from its table",
            "claimed ~1 %; median 2.1 %, mean 6 %, small data 24 %",
        ),
        ("every step", "Cockpit, economy", "1.4–4.2×; gradient norm alone 1.025×"),
        ("selective", "TrainCheck (OSDI 2025)", "median 1.048×, worst 1.36×"),
        ("every 10 steps", "SageMaker Debugger", "~1.9×"),
    ),
}
"""Figures by suite: result, source, figure."""


def published(suite: str) -> str:
    """Return the published figures of a suite as Markdown."""
    head = ["result", "source", "figure"]
    return "### Published by others\n\nMeasured on other cases, data and machines; not part of this run.\n\n" + table(
        head, PUBLISHED[suite]
    )
