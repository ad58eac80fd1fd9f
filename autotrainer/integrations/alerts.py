"""Alerts about findings, to a chat, by mail or to a webhook, through Apprise."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from autotrainer.config import is_first_process
from autotrainer.edits.base import shorten
from autotrainer.errors import ConfigError
from autotrainer.integrations._callback import require
from autotrainer.integrations.sinks._support import CopyableSink, is_alert
from autotrainer.records.findings import Finding, Severity
from autotrainer.safe_text import safe_line

__all__ = ["Alerts"]

_LOGGERS = ("apprise", "requests", "urllib3.connectionpool", "urllib3.poolmanager", "urllib3.util.retry")
"""Loggers that would show parts of the URLs."""
_KINDS = {Severity.ERROR: "failure", Severity.WARNING: "warning"}
_MAX_IN_MESSAGE = 10
"""Findings in one message, at most."""


class Alerts(CopyableSink):
    """A sink that sends an alert once for each root finding, not for its consequences.

    ```python
    alerts = Alerts(os.environ["ALERT_URL"])  # slack://…, mailto://…, json://…: see the documentation of Apprise
    with autotrainer.watch(model, optimizer, sinks=[alerts]):
        ...
    ```

    The first is sent at once. Those that follow within the cooldown are sent together when it is over, or at the end.
    The URLs hold secrets: they are in no message, log or ``repr``. In a distributed training, only the first process
    sends.

    Args:
        urls: One or several URLs of Apprise.
        cooldown: Seconds between two messages, and between two alerts about the same problem, >= 0.
        severity: ``"warning"``, or ``"error"`` for errors alone.
        name: Name of the training, in the title; None: that of the script.

    Raises:
        ConfigError: If the package ``apprise`` is missing, or an argument is invalid.
    """

    def __init__(
        self,
        urls: str | Iterable[str],
        *,
        cooldown: float = 300.0,
        severity: str = "warning",
        name: str | None = None,
    ) -> None:
        listed = [urls] if isinstance(urls, str) else list(urls) if isinstance(urls, Iterable) else []
        if not listed or not all(isinstance(url, str) and url.strip() for url in listed):
            raise ConfigError("Alerts takes one or several URLs of Apprise, as strings: for example 'slack://…'")
        if isinstance(cooldown, bool) or not isinstance(cooldown, int | float) or not 0 <= cooldown < float("inf"):
            raise ConfigError(f"Alerts: cooldown must be a number of seconds >= 0, not {shorten(cooldown)}")
        if severity not in ("warning", "error"):
            raise ConfigError(f"Alerts: severity must be 'warning' or 'error', not {shorten(severity)}")
        apprise = require("apprise", "alerts")
        self._services = [self._service(apprise, url, number) for number, url in enumerate(listed, 1)]
        self._cooldown, self._severity = float(cooldown), Severity(severity)
        self._name = safe_line(Path(sys.argv[0] or "training").name if name is None else str(name))
        self._first = is_first_process()
        self._alerted: dict[str, tuple[int, float]] = {}  # in this training: first step, and when
        self._waiting: list[Finding] = []
        self._sent = -float("inf")

    @staticmethod
    def _service(apprise: Any, url: str, number: int) -> Any:
        """Return the service of one URL; a service fails by itself.

        Raises:
            ConfigError: If Apprise does not understand it.
        """
        asset = apprise.AppriseAsset(async_mode=False)
        asset._service_timeout = (
            0  # a service with a deadline of Apprise runs in a pool, which ends with the main thread
        )
        service = apprise.Apprise(asset=asset)
        try:
            with _silent():
                valid = bool(service.add(url)) and len(service) > 0
        except Exception:  # noqa: BLE001 - its text would show the URL
            valid = False
        if not valid:
            raise ConfigError(f"Alerts: Apprise can't use URL number {number}: check its scheme and its parts")
        return service

    def reopen(self) -> None:
        """Begin another training: its findings are new ones, and only the cooldown between messages goes on."""
        self._alerted.clear()

    def scalars(self, step: int, mapping: Mapping[str, float], /) -> None:
        """Send what waits, once the cooldown is over."""
        self._send_if_due()

    def finding(self, finding: Finding, /) -> None:
        """Send an alert, or keep it until the cooldown is over."""
        if not self._first or not is_alert(finding) or finding.severity.rank > self._severity.rank:
            return
        episode, moment = self._alerted.get(finding.problem, (finding.step, -float("inf")))
        again = finding.problem in self._alerted
        if again and (episode == finding.step or monotonic() < moment + self._cooldown):
            return
        self._alerted[finding.problem] = (finding.step, monotonic())
        self._waiting.append(finding)
        self._send_if_due()

    def close(self) -> None:
        """Send what waits."""
        self._send_if_due(now=True)

    def _send_if_due(self, *, now: bool = False) -> None:
        if not self._waiting or not (now or monotonic() >= self._sent + self._cooldown):
            return
        findings, self._waiting, self._sent = self._waiting, [], monotonic()
        worst = min((finding.severity for finding in findings), key=lambda severity: severity.rank)
        title = f"autotrainer: {worst} in {self._name}"
        lines = [_text(finding) for finding in findings[:_MAX_IN_MESSAGE]]
        if len(findings) > _MAX_IN_MESSAGE:
            lines.append(f"and {len(findings) - _MAX_IN_MESSAGE} more")
        message = {"body": "\n\n".join(lines), "title": title, "notify_type": _KINDS[worst]}
        failed = [number for number, service in enumerate(self._services, 1) if not _notify(service, message)]
        if len(failed) == len(self._services):
            self._waiting = findings  # for another try
        if failed:
            raise RuntimeError(
                f"no alert was sent to URL number {', '.join(map(str, failed))} of {len(self._services)}"
            )


def _text(finding: Finding) -> str:
    repairs = f" Suggested repairs: {', '.join(finding.repairs[:3])}." if finding.repairs else ""
    return safe_line(f"{finding} Step {finding.step}, epoch {finding.epoch}.{repairs}")


def _notify(service: Any, message: Mapping[str, str]) -> bool:
    try:
        with _silent():
            return bool(service.notify(**message, body_format="text"))
    except Exception:  # noqa: BLE001 - its text would show the URL
        return False


@contextmanager
def _silent() -> Iterator[None]:
    """Log nothing of the libraries from this thread, or from those that it starts: their messages show URLs."""
    others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}

    def from_others(record: logging.LogRecord) -> bool:
        return record.thread in others

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(from_others)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(from_others)
