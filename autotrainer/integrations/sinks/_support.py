"""What sinks share: findings as text."""

from __future__ import annotations

from autotrainer.records.findings import Finding, Severity

__all__ = ["is_alert", "markdown", "title"]


def is_alert(finding: Finding) -> bool:
    """Return whether a finding is worth an alert: a root that is no mere info."""
    return finding.caused_by is None and finding.severity is not Severity.INFO


def title(finding: Finding) -> str:
    """Return a title of at most 63 characters, which every tracker accepts."""
    return f"autotrainer {finding.severity}: {finding.problem}"[:63]


def markdown(finding: Finding) -> str:
    """Return a finding as one paragraph of Markdown; ``str`` of it has made its names safe to show."""
    text = str(finding)
    for character in "\\`*_{}[]()<>#|!~$":
        text = text.replace(character, f"\\{character}")
    cause = f" Caused by {finding.caused_by}." if finding.caused_by else ""
    return f"**{finding.severity}** at step {finding.step} (epoch {finding.epoch}): {text}{cause}"
