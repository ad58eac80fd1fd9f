"""A pytest plugin: the fixture `watch_training`, and `assert_healthy`.

```python
from autotrainer.integrations.pytest import assert_healthy


def test_training_is_healthy(watch_training):
    model, optimizer, loss_fn = build()
    monitor = watch_training(model, optimizer, loss_fn=loss_fn, epochs=3)
    train(model, optimizer, loss_fn, epochs=3)
    assert_healthy(monitor)
```

It is loaded wherever autotrainer is installed, as ``autotrainer``: ``-p no:autotrainer`` leaves it out. It imports
nothing but pytest until a test uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import pytest

if TYPE_CHECKING:
    from autotrainer.monitoring.monitor import Monitor
    from autotrainer.records.findings import Finding
    from autotrainer.reporting.report import Report
    from autotrainer.reporting.result import Result

__all__ = ["assert_healthy", "watch_training"]

_monitors: WeakKeyDictionary[pytest.Item, list[Monitor]] = WeakKeyDictionary()
"""Monitors of the trainings of a test."""
_MAX_EVIDENCE = 8


@pytest.fixture
def watch_training(request: pytest.FixtureRequest) -> Iterator[Callable[..., Monitor]]:
    """Watch trainings as `autotrainer.watch` does, until the test ends.

    Returns a function with the arguments of `autotrainer.watch`; ``overhead`` is 1.0 unless passed, so that the same
    training gets the same verdict on a busy machine. A failing test shows the reports of its trainings.
    """
    from autotrainer.api.watch import watch

    monitors = _monitors.setdefault(request.node, [])

    def start(model: Any, optimizer: Any = None, **options: Any) -> Monitor:
        monitor = watch(model, optimizer, **{"overhead": 1.0, **options})
        monitors.append(monitor)
        return monitor

    yield start
    for monitor in monitors:
        monitor.close()


@pytest.hookimpl(hookwrapper=True)  # which older versions of pytest have, too
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add the reports of watched trainings to a failing test."""
    outcome: Any = yield
    report = outcome.get_result()
    if call.when == "call" and report.failed:
        for monitor in _monitors.get(item, []):
            with suppress(Exception):  # an error here would end the whole session
                monitor.close()  # the training has ended, by whatever made the test fail
                report.sections.append(("autotrainer", str(monitor.report())))


def assert_healthy(
    training: Monitor | Result | Report | Iterable[Finding],
    *,
    allow: str | Iterable[str] = (),
    fail_on: Literal["error", "warning"] = "error",
) -> None:
    """Fail unless a training is healthy: something was measured, and there is no finding but allowed ones.

    ```python
    monitor = watch_training(model, optimizer, loss_fn=loss_fn, epochs=3)
    train(model, optimizer, loss_fn, epochs=3)
    assert_healthy(monitor, allow=["too_few_epochs"], fail_on="warning")
    ```

    Args:
        training: The monitor of a training that has ended: it is closed first, because some verdicts need the end. Or
            what `autotrainer.fit` returns, of which the findings of the returned training count; a report; or findings,
            such as those of `autotrainer.check`.
        allow: Names, codes, code prefixes (``"AT4"``) or aliases of problems that may occur.
        fail_on: Lowest severity that fails.

    Raises:
        AssertionError: If it is not healthy; the message has each finding with its place, evidence and repairs.
        InputError: If ``training`` is none of these, or an option is invalid.
    """
    __tracebackhide__ = True
    from autotrainer.errors import InputError

    try:
        severe, unmeasured = _judged(training, allow, fail_on)
    except InputError as error:
        raise error.with_traceback(None) from None  # of this call alone: its one line says all
    if unmeasured and not severe:
        raise AssertionError(unmeasured)
    if severe:
        raise AssertionError(_failure(severe))


def _judged(training: Any, allow: Any, fail_on: str) -> tuple[Sequence[Finding], str]:
    """Return the findings that make a training unhealthy, and why there may be none: empty if it was measured.

    Raises:
        InputError: If an argument is invalid.
    """
    __tracebackhide__ = True
    from autotrainer.config import switched_off
    from autotrainer.errors import ConfigError
    from autotrainer.records.findings import Severity
    from autotrainer.registry import problem_names

    if fail_on not in ("error", "warning"):
        raise ConfigError(f'fail_on is "error" or "warning", not {fail_on!r}')
    allowed = problem_names(allow)
    findings, unmeasured = _evaluated(training)
    if unmeasured and switched_off():
        pytest.skip("autotrainer is switched off by AUTOTRAINER_OFF")
    return [f for f in findings if f.severity.rank <= Severity(fail_on).rank and f.problem not in allowed], unmeasured


def _evaluated(training: Any) -> tuple[Sequence[Finding], str]:
    """Return the findings of a training, and why they may say nothing: empty if they do.

    Raises:
        InputError: If it is no training.
    """
    from autotrainer.edits.base import shorten
    from autotrainer.errors import InputError
    from autotrainer.monitoring.monitor import Monitor
    from autotrainer.records.findings import Finding
    from autotrainer.reporting.report import Report
    from autotrainer.reporting.result import Result

    if isinstance(training, Monitor):
        training.close()
        training = training.report()
    if isinstance(training, Report):
        nothing = training.run.get("sampled_steps") == 0 and "reported_by_rank" not in training.run
        reason = "no step of this training was measured: is the watched model the one that is trained?"
        return training.findings, reason if nothing else ""
    if isinstance(training, Result):
        findings = training.findings if training.plan is None else _remaining(training)
        hidden = training.status == "unrepaired" and not any(f.severity == "error" for f in findings)
        return (
            findings,
            "the training is not healthy, although no error was found: see result.report()" if hidden else "",
        )
    if isinstance(training, Iterable) and not isinstance(training, str | bytes):
        listed = list(training)
        if all(isinstance(finding, Finding) for finding in listed):
            return listed, ""
    raise InputError(
        f"assert_healthy takes a monitor, a result of autotrainer.fit, a report or findings, not {shorten(training)}"
    )


def _remaining(result: Result) -> Sequence[Finding]:
    """Return the findings of the repaired training that is returned."""
    attempts = [a for a in result.attempts if a.plan == result.plan and a.score is not None and a.epochs is None]
    return attempts[-1].findings if attempts else ()


def _failure(findings: Sequence[Finding]) -> str:
    """Return the findings in a few lines each, roots first."""
    from autotrainer.safe_text import safe_line

    count = f"{len(findings)} problem{'s' if len(findings) > 1 else ''}"
    lines = [f"the training is not healthy: {count}"]
    for finding in findings:
        lines.append(f"  {finding}")
        if finding.place:
            lines.append(safe_line(f"    at {finding.place}"))
        if finding.layers:
            lines.append(safe_line(f"    layers: {', '.join(finding.layers)}"))
        evidence = list(finding.evidence.items())[:_MAX_EVIDENCE]
        if evidence:
            lines.append(safe_line(f"    evidence: {', '.join(f'{name} = {value:.4g}' for name, value in evidence)}"))
        if finding.caused_by:
            lines.append(safe_line(f"    caused by {finding.caused_by}"))
        elif finding.repairs:
            lines.append(safe_line(f"    suggested repairs: {', '.join(finding.repairs)}"))
    lines.append(f"  more: autotrainer explain {findings[0].problem}")
    return "\n".join(lines)
