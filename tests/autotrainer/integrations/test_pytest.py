"""The pytest plugin: `watch_training` and `assert_healthy`, in sessions of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import autotrainer
from autotrainer import Attempt, Finding, RepairPlan, Report, Result, Severity
from autotrainer.errors import ConfigError, InputError
from autotrainer.integrations.pytest import assert_healthy
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[3]
PLUGIN = ("-p", "no:autotrainer", "-p", "autotrainer.integrations.pytest", "-p", "no:cacheprovider", "-p", "no:xdist")
"""The plugin of this checkout, whether autotrainer is installed or not."""

TRAINING = """
    import pytest
    import torch
    from torch import nn
    from autotrainer.integrations.pytest import assert_healthy

    def train(watch, *last, rate=0.003, steps=30):
        torch.manual_seed(0)
        x = torch.randn(256, 8)
        y = (x[:, 0] > x[:, 1]).long()
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2), *last)
        optimizer, loss_fn = torch.optim.Adam(model.parameters(), rate), nn.CrossEntropyLoss()
        monitor = watch(model, optimizer, loss_fn=loss_fn, steps=steps)
        for _ in range(steps):
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
        return monitor
"""


def test_a_process_without_measurements_is_healthy_only_if_another_one_reports_for_it() -> None:
    for facts, healthy in (({"ranks": 2.0, "rank": 1.0, "led_by": 0.0}, True), ({"ranks": 2.0, "rank": 1.0}, False)):
        report = Report.of_run([], RunHistory(), TaskContext("pytorch", asked=facts))
        with nullcontext() if healthy else pytest.raises(AssertionError, match="no step of this training"):
            assert_healthy(report)


@pytest.mark.slow
def test_healthy_training_passes_and_a_sick_one_says_why(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(
        TRAINING
        + """
    def test_healthy(watch_training):
        monitor = train(watch_training, rate=0.03)
        assert not monitor.closed
        assert_healthy(monitor)
        assert monitor.closed

    def test_sick(watch_training):
        assert_healthy(train(watch_training, nn.Softmax(1)))

    def test_allowed(watch_training):
        monitor = train(watch_training, nn.Softmax(1))
        monitor.close()
        assert_healthy(monitor, allow=[finding.code for finding in monitor.findings])

    def test_other_failure(watch_training):
        train(watch_training, nn.Softmax(1))
        assert 1 == 2

    def test_nothing_measured(watch_training):
        model = nn.Linear(2, 1)
        assert_healthy(watch_training(model, torch.optim.SGD(model.parameters(), 0.1)))

    def test_other():
        assert 1 == 2
    """
    )
    result = pytester.runpytest_subprocess(*PLUGIN, "--import-mode=importlib")
    result.assert_outcomes(passed=2, failed=4)
    sick = _section(result, "test_sick", "test_other_failure")
    for text in ("the training is not healthy", "AT401 improper_output_activation [error]", "    evidence: ",
                 "suggested repairs: fix_output_activation", "    at ", "- autotrainer -"):  # fmt: skip
        assert text in sick, text
    assert "autotrainer/integrations" not in sick
    assert "- autotrainer -" in _section(result, "test_other_failure", "test_nothing_measured")
    assert "no step of this training was measured" in _section(result, "test_nothing_measured", "test_other")
    assert "autotrainer" not in result.stdout.str().partition("_ test_other _")[2].partition("short test summary")[0]


@pytest.mark.slow
def test_example_of_the_page(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "integrations" / "testing.md").read_text("utf-8")
    blocks = re.findall(r"^```py(?:thon)?\n# (\w+)\.py\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    assert [name for name, _ in blocks] == ["train", "test_train"]
    pytester.makepyfile(**dict(blocks))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(pytester.path)]))
    result = pytester.runpytest_subprocess(*PLUGIN, "--import-mode=importlib")
    result.assert_outcomes(passed=1, failed=1)
    for line in re.findall(r"^E .*$", page, flags=re.MULTILINE):  # numbers and the ends of lines may differ
        words = re.sub(r"\d+ problems?|= [\d.]+|:\d+|…", "*", line.replace("[", "[[]").removeprefix("E"))
        result.stdout.fnmatch_lines([f"E*{words.strip()}*"])


def _section(result: pytest.RunResult, name: str, following: str) -> str:
    return result.stdout.str().partition(f"_ {name} _")[2].partition(f"_ {following} _")[0]


@pytest.mark.slow
def test_reports_cross_processes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(
        TRAINING
        + """
    def test_sick(watch_training):
        assert_healthy(train(watch_training, nn.Softmax(1)))
    """
    )
    result = pytester.runpytest_subprocess(*PLUGIN[:-2], "-n1")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*- autotrainer -*", "*AT401 improper_output_activation*"])


@pytest.fixture
def installed(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs pytest where the distribution is installed, by its metadata alone."""
    site = tmp_path / "site"
    metadata = site / "autotrainer_monitor-0.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: autotrainer-monitor\nVersion: 0.0\n")
    setup = (ROOT / "setup.cfg").read_text("utf-8")
    assert "pytest11 =\n    autotrainer = autotrainer.integrations.pytest\n" in setup
    (metadata / "entry_points.txt").write_text("[pytest11]\nautotrainer = autotrainer.integrations.pytest\n")
    (metadata / "RECORD").write_text("autotrainer/__init__.py,,\n")
    folder = tmp_path / "project"
    folder.mkdir()

    def run(test: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        (folder / "test_it.py").write_text(test)
        env = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}", **environment}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)

    return run


@pytest.mark.slow
def test_installed_plugin_imports_nothing_until_it_is_used(
    installed: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    heavy = "numpy", "torch", "keras", "tensorflow", "autotrainer.registry", "autotrainer.api"
    test = f"import sys\ndef test(): assert not [m for m in {heavy} if m in sys.modules]\n"
    assert installed(test, "-p", "no:xdist").returncode == 0
    fixture = "def test(watch_training): assert callable(watch_training)\n"
    assert installed(fixture).returncode == 0
    ran = installed(fixture, "-p", "no:autotrainer")
    assert ran.returncode == 1
    assert "fixture 'watch_training' not found" in ran.stdout


def _finding(severity: str, problem: str = "vanishing_gradient") -> Finding:
    return Finding(problem, "AT101", Severity(severity), 0.9, "m\n::error::x", ("layer\x1b[31m",), place="train.py:3")


def test_severity_and_allowed_problems_decide() -> None:
    assert_healthy([])
    assert_healthy([_finding("warning"), _finding("info")])
    with pytest.raises(AssertionError, match="1 problem"):
        assert_healthy([_finding("warning")], fail_on="warning")
    for allow in ("vanishing_gradient", ["AT101"], ("AT1",)):
        assert_healthy([_finding("error")], allow=allow)
    with pytest.raises(AssertionError, match="AT101") as raised:
        assert_healthy(Report((_finding("error"), _finding("error", "dying_relu"))), allow="dying_relu")
    assert str(raised.value).count("[error]") == 1
    assert all(line.isprintable() for line in str(raised.value).split("\n"))


@pytest.mark.parametrize("training", [None, 3, "monitor", [1], {"a": 1}])
def test_what_is_no_training_is_an_error_of_input(training: object) -> None:
    with pytest.raises(InputError, match="assert_healthy takes a monitor"):
        assert_healthy(training)  # type: ignore[arg-type]


def test_unknown_options_are_errors_of_input() -> None:
    with pytest.raises(ConfigError, match="did you mean 'dying_relu'"):
        assert_healthy([], allow="dyin_relu")
    with pytest.raises(ConfigError, match="fail_on"):
        assert_healthy([], fail_on="info")  # type: ignore[arg-type]


def test_an_invalid_argument_shows_no_frame_of_ours() -> None:
    with pytest.raises(ConfigError) as caught:
        assert_healthy([], allow="typo")
    shown = [entry for entry in caught.traceback if not entry.ishidden(caught)]
    assert [Path(entry.path).name for entry in shown] == ["test_pytest.py"]


def _result(status: str, findings: list[Finding], attempts: tuple[Attempt, ...] = ()) -> Result:
    return Result(
        status=status, stopped_by="done", model=None, optimizer=None, history={}, score=0.9, baseline_score=0.5,
        test_score=None, baseline_test_score=None, findings=findings, attempts=list(attempts),
        plan=attempts[0].plan if attempts else None,
    )  # type: ignore[arg-type]  # fmt: skip


def test_findings_of_the_returned_training_count() -> None:
    plan = RepairPlan(("scale_learning_rate",), ())
    assert_healthy(_result("healthy", []))
    assert_healthy(_result("repaired", [_finding("error")], (Attempt(plan, 0.9, None, (), 1.0),)))
    remaining = Attempt(plan, 0.9, None, (_finding("error", "dying_relu"),), 1.0)
    with pytest.raises(AssertionError, match="dying_relu"):
        assert_healthy(_result("improved", [_finding("error")], (remaining,)))
    with pytest.raises(AssertionError, match="although no error was found"):
        assert_healthy(_result("unrepaired", [_finding("warning")]))


def test_switched_off_monitor_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRAINER_OFF", "1")
    model = torch.nn.Linear(2, 1)
    with pytest.raises(pytest.skip.Exception, match="AUTOTRAINER_OFF"):
        assert_healthy(autotrainer.watch(model, torch.optim.SGD(model.parameters(), 0.1)))
