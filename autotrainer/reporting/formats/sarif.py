"""Findings as SARIF 2.1.0 (OASIS standard, 2020), which code scanning and editors show beside the source."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from autotrainer import registry
from autotrainer._version import __version__
from autotrainer.records.findings import Finding, Severity
from autotrainer.reporting.formats.json_text import json_text
from autotrainer.reporting.formats.training import Location, Training, locate
from autotrainer.reporting.text import FAILED, headline
from autotrainer.safe_text import safe_line

__all__ = ["render"]

_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_FINGERPRINT = "autotrainerFinding/v1"


def render(trainings: Sequence[Training], root: Path, failure: str = "") -> str:
    """Return the findings of all trainings as one run of SARIF.

    Its execution counts as successful (section 3.20.14) if autotrainer has measured what it should, whatever it has
    found: not without any training, for one of which no step was measured or a statistic failed, or with a failure.

    Args:
        trainings: The trainings.
        root: Root of the sources: paths below it are relative to ``%SRCROOT%``.
        failure: Why nothing could be measured; empty if it could.
    """
    findings = [finding for training in trainings for finding in training.findings]
    rules = list(dict.fromkeys((finding.code, finding.problem) for finding in findings))
    results = []
    for training, identity in zip(trainings, _identities(trainings), strict=True):
        places = [locate(finding, training, root) for finding in training.findings]
        files = [Location(place.path, None) for place in places if place is not None]
        for finding, place in zip(training.findings, places, strict=True):
            index = rules.index((finding.code, finding.problem))
            fingerprint = _fingerprint(finding, place, identity)
            # without a location in each result, code scanning of GitHub rejects the whole file
            location = place or next(iter(files), Location("./", None))
            results.append(_result(finding, index, location, training.name, fingerprint))
    notes = [_notification(headline(t.findings, t.run), failed=_has_failed(t)) for t in trainings]
    if failure or not trainings:
        notes.append(_notification(safe_line(failure or "no training run was found"), failed=True))
    successful = all(note["level"] != "error" for note in notes)
    driver = {"name": "autotrainer", "version": __version__, "rules": [_rule(*rule) for rule in rules]}
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "columnKind": "unicodeCodePoints",
                "invocations": [{"executionSuccessful": successful, "toolExecutionNotifications": notes}],
                "results": results,
            }
        ],
    }
    return json_text(log)


def _has_failed(training: Training) -> bool:
    """Return whether no step was measured, or a statistic could not be: it is then among what was not, with a word."""
    unmeasured = training.run.get("unmeasured") or ()
    return training.run.get("sampled_steps") == 0 or any(str(name).endswith(FAILED) for name in unmeasured)


def _notification(text: str, *, failed: bool) -> dict[str, Any]:
    return {"level": "error" if failed else "note", "message": _message(text)}


def _result(finding: Finding, index: int, place: Location, name: str, fingerprint: str) -> dict[str, Any]:
    values = finding.to_summary()
    text = [safe_line(finding.message)]
    if finding.caused_by is not None:
        text.append(safe_line(f"Caused by {finding.caused_by}."))
    if finding.repairs:
        text.append(safe_line(f"Suggested repairs: {', '.join(finding.repairs)}."))
    shown = ("problem", "confidence", "layers", "more_layers", "step", "epoch", "evidence", "repairs", "caused_by")
    return {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": _LEVELS[finding.severity],
        "message": _message(" ".join(text)),
        "rank": round(100 * finding.confidence, 2),
        "locations": [{"physicalLocation": _physical(place)}],
        "partialFingerprints": {_FINGERPRINT: fingerprint},
        "properties": {"training": name, **{key: values[key] for key in shown}},
    }


def _rule(code: str, problem: str) -> dict[str, Any]:
    pages = {rule.problem: rule.documentation() for rule in registry.rules()}
    page = pages.get(problem) or problem.replace("_", " ")
    summary = page.partition("\n")[0]
    return {
        "id": code,
        "name": problem,
        "shortDescription": _message(summary),
        "fullDescription": _message(summary),
        "help": {**_message(page), "markdown": _placeholders(_markdown(page))},
    }


def _markdown(page: str) -> str:
    """Return a page with its headings in bold and its paragraphs not indented, which Markdown takes for code."""
    return re.sub(
        r"^    ", "", re.sub(r"^(\S.*)\n(?=    )", r"**\1**\n\n", page, flags=re.MULTILINE), flags=re.MULTILINE
    )


def _physical(place: Location) -> dict[str, Any]:
    if place.relative:
        artifact = {"uri": quote(os.fsencode(place.path)), "uriBaseId": "%SRCROOT%"}
    else:
        artifact = {"uri": Path(place.path).as_uri()}
    region = {} if place.line is None else {"region": {"startLine": place.line}}
    return {"artifactLocation": artifact, **region}


def _identities(trainings: Sequence[Training]) -> Iterator[str]:
    """Yield what a training is called in every run of the script: its name, and its number among those of that name."""
    counts = Counter[str]()
    for training in trainings:
        name = "" if training.from_log else training.name
        counts[name] += 1
        yield f"{name}#{counts[name]}"


def _fingerprint(finding: Finding, place: Location | None, identity: str) -> str:
    """Return what stays the same when numbers, layers and lines move; a training has one finding of a problem."""
    file = "" if place is None else place.path if place.relative else Path(place.path).name
    parts = json.dumps([finding.problem, identity, file])
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def _message(text: str) -> dict[str, str]:
    """Return plain text as a message of SARIF (section 3.11): no brace is a placeholder, no bracket a link."""
    return {"text": re.sub(r"\[(?=[^\]]*\]\()", r"\\[", _placeholders(text))}


def _placeholders(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
