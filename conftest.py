"""Runs the tests in several processes of one thread each."""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module", autouse=True)
def old_objects_are_frozen() -> None:
    """Keep what is alive before a module out of its garbage collections, and of every search among all objects.

    Millions of objects of the frameworks are: a collection would take a second, at the end of a long run several.
    """
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # this module is not to blame
        gc.collect()
    gc.freeze()


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


_FORK_SERVER = """
import importlib, json, os, sys
for name in sys.argv[1].split():
    importlib.import_module(name)
for request in sys.stdin:
    folder, together, processes = json.loads(request)
    children, statuses = [], []
    for number, (script, arguments, environment) in enumerate(processes):
        child = os.fork()
        if child == 0:
            for descriptor, name in enumerate((os.devnull, f"{folder}/{number}.out", f"{folder}/{number}.err")):
                os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), descriptor)
            os.environ.update(environment)
            sys.argv[:] = ["script.py", *arguments]
            exec(compile(script, "script.py", "exec"), sys.modules["__main__"].__dict__)
            sys.exit()
        children.append(child)
        if not together:
            statuses.append(os.waitpid(child, 0)[1])
    statuses += [os.waitpid(child, 0)[1] for child in children[len(statuses):]]
    print(json.dumps([os.waitstatus_to_exitcode(status) for status in statuses]), flush=True)
"""
_FORK_IMPORTS = (
    "torch._dynamo",  # as the first optimizer does
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "autotrainer.cli",
    "autotrainer.backends.pytorch.watching.observer",
)


@pytest.fixture(scope="session")
def run_forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Runs scripts, each with arguments and an environment, in processes of their own, one by one or together.

    They are forked from a process that has imported PyTorch, which takes seconds. A process that has used TensorFlow
    can't be forked.
    """
    servers: list[subprocess.Popen[str]] = []

    def run(
        *processes: tuple[str, Sequence[str], Mapping[str, str]], together: bool = False
    ) -> list[subprocess.CompletedProcess[str]]:
        if not servers:
            command, env = [sys.executable, "-c", _FORK_SERVER, " ".join(_FORK_IMPORTS)], {"PYTHONPATH": str(ROOT)}
            pipe = subprocess.PIPE
            servers.append(
                subprocess.Popen(
                    command, env={**os.environ, **env}, stdin=pipe, stdout=pipe, text=True, start_new_session=True
                )
            )
        (server,), folder = servers, tmp_path_factory.mktemp("forked")
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps([str(folder), together, processes]) + "\n")
        server.stdin.flush()
        if not select.select([server.stdout], [], [], 300)[0]:
            os.killpg(server.pid, signal.SIGKILL)
            servers.pop().communicate()
            raise TimeoutError("the processes have not ended")
        return [
            subprocess.CompletedProcess((), status, *((folder / f"{n}.{name}").read_text() for name in ("out", "err")))
            for n, status in enumerate(json.loads(server.stdout.readline()))
        ]

    yield run
    for server in servers:
        server.communicate()
