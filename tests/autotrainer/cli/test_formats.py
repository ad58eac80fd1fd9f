"""``--format`` of run, check and replay: what goes where, and with which exit status."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest

from autotrainer import Finding, Report, Severity
from autotrainer.cli import _parser, main

Capture = pytest.CaptureFixture[str]
ERROR = Finding("dying_relu", "AT201", Severity.ERROR, 1.0, "two\nlines ::warning::x", place="train.py:3")

CHECKED = """
import torch
from torch import nn
print("printed")
def make():
    x = torch.zeros(8, 4)
    x[0, 0] = float("nan")
    return nn.Linear(4, 1), (x, torch.zeros(8, 1)), nn.MSELoss()
"""
SCRIPT = """
import os, sys
import torch
from torch import nn
torch.manual_seed(0)
x = torch.randn(64, 8)
y = (x[:, 0] > x[:, 1]).long()
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2), nn.Softmax(1))
optimizer = torch.optim.Adam(model.parameters(), 0.001)
for step in range(20):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
print("{not json")
os.write(1, b"written\\n")
"""


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    monkeypatch.chdir(tmp_path)


def _findings(format_name: str, printed: str) -> list[tuple[str, str | None, int | None]]:
    """Return code, file and line of each finding."""
    if format_name == "json":
        return [(f["code"], f["file"], f["line"]) for f in json.loads(printed)["findings"]]
    if format_name == "sarif":
        places = []
        for result in json.loads(printed)["runs"][0]["results"]:
            place = result["locations"][0]["physicalLocation"] if result["locations"] else {"artifactLocation": {}}
            line = place.get("region", {}).get("startLine")
            places.append((result["ruleId"], place["artifactLocation"].get("uri"), line))
        return places
    commands = [line for line in printed.splitlines() if line.startswith("::")]
    assert all(line.startswith(("::error ", "::warning ", "::notice ")) for line in commands)
    parsed = []
    for line in commands:
        values = dict(part.split("=", 1) for part in line.partition(" ")[2].partition("::")[0].split(","))
        parsed.append(
            (values["title"].partition(" ")[0], values.get("file"), int(values["line"]) if "line" in values else None)
        )
    return parsed


@pytest.mark.parametrize("format_name", ["json", "sarif", "github"])
@pytest.mark.parametrize(("severity", "fail_on", "status"), [
    ("error", "error", 1), ("warning", "error", 0), ("warning", "warning", 1), ("info", "warning", 0)
])  # fmt: skip
def test_replay(
    format_name: str, severity: str, fail_on: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    report = Report((replace(ERROR, severity=Severity(severity)),))
    monkeypatch.setattr("autotrainer.cli.replay.replay", lambda log, **options: report)
    assert main(["replay", "run.jsonl", "--format", format_name, "--fail-on", fail_on]) == status
    captured = capsys.readouterr()
    assert _findings(format_name, captured.out) == [("AT201", "train.py", 3)]
    assert captured.err == ""


@pytest.mark.parametrize("arguments", [["replay", "no.jsonl"], ["check", "no_such_module:make"], ["run", "no.py"]])
def test_a_command_that_fails_says_so_in_sarif(arguments: list[str], capsys: Capture) -> None:
    command, target = arguments
    assert main([command, "--format", "sarif", target]) == 2
    captured = capsys.readouterr()
    (invocation,) = json.loads(captured.out)["runs"][0]["invocations"]
    assert invocation["executionSuccessful"] is False
    assert target.partition(":")[0] in invocation["toolExecutionNotifications"][0]["message"]["text"]
    assert captured.err.count("\n") == 1
    assert main([command, "--format", "json", target]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", ["run", "check", "replay"])
@pytest.mark.parametrize("options", [["--format", "xml"], ["--format"]])
def test_unknown_format_is_one_line(command: str, options: list[str], capsys: Capture) -> None:
    assert main([command, "x:y", *options]) == 2 if command != "run" else main([command, *options, "x.py"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "--format" in captured.err or "required: SCRIPT" in captured.err


def test_format_and_json_exclude_each_other(capsys: Capture) -> None:
    assert main(["replay", "x.jsonl", "--json", "--format", "sarif"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize("format_name", ["json", "sarif", "github"])
def test_check(format_name: str, tmp_path: Path, capsys: Capture) -> None:
    module = f"module_of_format_{format_name}"
    (tmp_path / f"{module}.py").write_text(CHECKED)
    assert main(["check", f"{module}:make", "--format", format_name, "--select", "nonfinite_data"]) == 1
    captured = capsys.readouterr()
    assert _findings(format_name, captured.out) == [("AT502", f"{module}.py", None)]
    assert "printed" not in captured.out
    assert main(["check", f"{module}:make", "--format", format_name, "--select", "AT1"]) == 0
    assert _findings(format_name, capsys.readouterr().out) == []


@pytest.mark.parametrize("format_name", ["json", "sarif", "github"])
def test_run(format_name: str, tmp_path: Path, capsys: Capture) -> None:
    Path("train.py").write_text(SCRIPT)
    options = ["--format", format_name, "--select", "improper_output_activation", "-o", "findings.sarif"]
    assert main(["run", *options, "train.py"]) == 1
    captured = capsys.readouterr()
    if format_name == "github":
        assert captured.out.startswith("{not json\n")
    assert _findings(format_name, captured.out) == [("AT401", "train.py", 8)]
    assert _findings("sarif", Path("findings.sarif").read_text()) == [("AT401", "train.py", 8)]
    Path("train.py").write_text("print('no training')")
    assert main(["run", *options, "train.py"]) == 0
    captured = capsys.readouterr()
    assert _findings(format_name, captured.out) == []
    assert "no training run was found" in captured.err


def test_run_names_the_file_of_a_module(tmp_path: Path, capsys: Capture) -> None:
    Path("trained_module.py").write_text(SCRIPT)
    assert main(["run", "--format", "json", "--select", "improper_output_activation", "-m", "trained_module"]) == 1
    assert json.loads(capsys.readouterr().out)["trainings"][0]["file"] == "trained_module.py"


def test_annotations_of_a_script_that_replaces_stdout(capsys: Capture) -> None:
    Path("train.py").write_text(f"{SCRIPT}\nimport io\nsys.stdout = io.StringIO()\nprint('logged')")
    with redirect_stdout(sys.stdout):  # restores it
        assert main(["run", "--format", "github", "--select", "improper_output_activation", "train.py"]) == 1
    printed = capsys.readouterr().out
    assert _findings("github", printed) == [("AT401", "train.py", 8)]
    assert "logged" not in printed


@pytest.mark.slow
def test_stdout_holds_nothing_but_the_document(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    Path("train.py").write_text(SCRIPT)
    code = "import sys\nfrom autotrainer.cli import main\nsys.exit(main(sys.argv[1:]))"
    ran = run_python(code, "run", "--format", "json", "--select", "AT401", "train.py")
    assert ran.returncode == 1
    assert _findings("json", ran.stdout) == [("AT401", "train.py", 8)]
    assert "{not json" in ran.stderr
    assert "written" in ran.stderr


ROOT = Path(__file__).parents[3]


def test_documented_commands_parse() -> None:
    page = (ROOT / "docs" / "integrations" / "formats.md").read_text("utf-8")
    commands = re.findall(r"^ +(?:run|entry): (autotrainer .*)$", page, flags=re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        args = _parser().parse_args(shlex.split(command)[1:])
        assert args.format in ("text", "github")


def test_hook_and_workflow_are_valid_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
    assert {"id", "name", "entry", "language"} <= hook.keys()
    assert _parser().parse_args([*shlex.split(hook["entry"])[1:], "train:make"]).target == "train:make"
    page = (ROOT / "docs" / "integrations" / "formats.md").read_text("utf-8")
    workflow, hooks, local = map(yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    assert all("uses" in step or "run" in step for step in workflow["jobs"]["training"]["steps"])
    assert hooks["repos"][0]["hooks"][0]["id"] == hook["id"] == local["repos"][0]["hooks"][0]["id"]
