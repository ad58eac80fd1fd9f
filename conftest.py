"""Runs the tests in several processes of one thread each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent
MOST_WORKERS = 2  # each comes to hold 2.5 GB, of PyTorch and TensorFlow mostly; with more memory: -n 8

for library in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(library, "1")  # models here are small: further threads would only wait for each other

settings.register_profile("autotrainer", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("autotrainer")  # how fast an example is says more about the machine than about the code


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell: tests send this signal
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Run slow tests too where tests are named."""
    if any("::" in argument for argument in config.args):
        config.option.markexpr = ""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of processes: none but this one where files or tests are named, so that they start at once."""
    return 0 if all(".py" in argument for argument in config.args) else min(MOST_WORKERS, os.cpu_count() or 1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests in ``tests/slow.txt`` as slow.

    Raises:
        pytest.UsageError: If a line names no test, when all tests are collected.
    """
    listed = (ROOT / "tests" / "slow.txt").read_text("utf-8").splitlines()
    lines_of: dict[str, list[str]] = {}
    for line in listed:
        if line and not line.startswith("#"):
            lines_of.setdefault(line.strip("!").partition("[")[0], []).append(line)
    unused = {line for lines in lines_of.values() for line in lines}
    for item in items:
        test = item.nodeid.partition("[")[0]
        matches = [line for line in lines_of.get(test, ()) if _names(line.strip("!"), test, item.nodeid)]
        unused.difference_update(matches)
        if matches and not any(line.startswith("!") for line in matches):
            item.add_marker(pytest.mark.slow)
    if unused and config.args == config.getini("testpaths"):
        raise pytest.UsageError(f"tests/slow.txt names tests that do not exist: {', '.join(sorted(unused))}")


def _names(line: str, test: str, case: str) -> bool:
    """Return whether a line names a test, one of its cases, or the beginning of the ids of cases."""
    return line in (test, case) or ("[" in line and not line.endswith("]") and case.startswith(line))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many attacks were tried and how many held: tests record theirs by ``record_property("attacks", n)``."""
    held, failed = (
        sum(
            int(str(value))
            for report in terminalreporter.stats.get(outcome, ())
            for name, value in report.user_properties
            if name == "attacks"
        )
        for outcome in ("passed", "failed")
    )
    if held or failed:
        terminalreporter.line(f"attacks: {held + failed:,} tried, {failed:,} in tests that failed")


@pytest.fixture(autouse=True)
def samples_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the steps that are sampled a matter of their numbers: a busy machine would have fewer sampled."""
    monkeypatch.setattr("autotrainer.monitoring.sampler.process_time", lambda: 0.0)


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a process of its own, with the autotrainer of this checkout; ``environment`` by keywords."""

    def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)

    return run
