"""What sinks share: loading a library, and findings as text."""

from __future__ import annotations

import importlib
from typing import Any

from autotrainer.errors import ConfigError
from autotrainer.records.findings import Finding, Severity

__all__ = ["is_alert", "load_library", "markdown", "title"]


def load_library(name: str, extra: str) -> Any:
    """Import the library of a sink.

    Args:
        name: Name of the module.
        extra: Name of the extra that installs it.

    Raises:
        ConfigError: If it is not installed, or fails to load.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        install = f"pip install 'autotrainer-monitor[{extra}]'"
        raise ConfigError(f"sink {extra!r} needs the package {package} ({error}): {install}") from error
    except Exception as error:
        raise ConfigError(f"sink {extra!r}: the package {name} fails to load: {error!r}") from error


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
