from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from autotrainer import __version__, registry
from autotrainer.cli import COMMANDS, calibration, main
from autotrainer.records.findings import Finding, Severity
from autotrainer.reporting.formats import document
from autotrainer.reporting.report import Report
from autotrainer.reporting.terminal import import_quietly

ROOT = Path(__file__).parents[3]
Capture = pytest.CaptureFixture[str]


def _run_module(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = f"import runpy, sys; runpy.run_path({str(ROOT / 'conftest.py')!r}); sys.argv[1:] = {list(arguments)!r};"
    code += "from autotrainer.cli import main; sys.exit(main())"
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["demoo"], "unknown command 'demoo': did you mean 'demo'?"),
        (["rules", "--nope"], "unrecognized arguments: --nope"),
        (["report", "x.jsonl"], "-o/--output"),
        (["replay", "no such file"], "can't read the run log no such file"),
        (["replay", "x", "--fail-on", "info"], "invalid choice"),
        (["replay", "x", "--select", "vanishing_gradeint"], "did you mean 'vanishing_gradient'?"),
        (["replay", "x", "--threshold", "beta_1"], "--threshold takes NAME=VALUE"),
        (["explain", "vanishing_gradeint"], "did you mean vanishing_gradient, "),
        (["explain", "gradient"], "no clear match for 'gradient': did you mean "),
        (["check", "train.py"], "an entry point is MODULE:FUNCTION"),
        (["check", "no_such_module:make"], "no module 'no_such_module'"),
        (["check", "json:dupm"], "module json has no function 'dupm': did you mean 'dump'?"),
        (["check", "os:getcwd"], "must return a dict of check's arguments"),
        (["check", "json:loads"], "json:loads, called without arguments, fails with TypeError"),
        (["demo", "--framework", "caffe"], "invalid choice"),
        (["reproduce", "--model", "m.h5"], "--config"),
        (["mcp", "no_such_folder"], "DIR: there is no folder 'no_such_folder'"),
        (["mcp", ".", "--source", "no_such_folder"], "--source: there is no folder"),
    ],
)
def test_bad_input_is_one_line_on_stderr_with_status_2(arguments: list[str], message: str, capsys: Capture) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("autotrainer: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_mcp_names_the_package_that_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    monkeypatch.delitem(sys.modules, "autotrainer.cli.mcp.server", raising=False)
    assert main(["mcp", str(tmp_path)]) == 2
    assert "pip install 'autotrainer-monitor[mcp]'" in capsys.readouterr().err


def test_version_and_help(capsys: Capture) -> None:
    for option in ("--version", "--help"):
        with pytest.raises(SystemExit) as ended:
            main([option])
        assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert f"autotrainer {__version__}" in printed
    assert all(command.NAME in printed for command in COMMANDS)


def test_python_m_autotrainer_is_the_command_line() -> None:
    code = f"import runpy; runpy.run_path({str(ROOT / 'conftest.py')!r})"
    code += "; runpy.run_module('autotrainer', run_name='__main__')"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith("autotrainer: ")


def test_rules_lists_every_problem_once(capsys: Capture) -> None:
    assert main(["rules"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["code", "problem", "thresholds"]
    assert [line.split()[:2] for line in lines[1:]] == [[rule.code, rule.problem] for rule in registry.rules()]
    assert main(["rules", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [r["problem"] for r in listed] == [r.problem for r in registry.rules()]
    for rule, entry in zip(registry.rules(), listed, strict=True):
        for name, threshold in rule.THRESHOLDS.items():
            least, most = entry["thresholds"][name]["minimum"], entry["thresholds"][name]["maximum"]
            assert threshold.minimum == (-math.inf if least is None else least)
            assert threshold.maximum == (math.inf if most is None else most)


def test_explain_accepts_problem_code_alias_and_repair(capsys: Capture) -> None:
    for rule in registry.rules():
        for name in (rule.problem, rule.code, rule.code.lower(), *rule.aliases):
            assert main(["explain", name]) == 0
            printed = capsys.readouterr().out
            assert printed.startswith(f"{rule.code} {rule.problem}\n")
            assert "What it does" in printed
    for repair in registry.repairs():
        assert main(["explain", repair.name]) == 0
        assert repair.name in capsys.readouterr().out
    assert main(["explain", "clip-gradients", "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert (page["kind"], page["schema_version"], page["version"]) == ("repair", 1, __version__)
    definitions = document.schema()["$defs"]
    jsonschema.validate(page, {**definitions["explanation"], "$defs": definitions})


_LINES = {"default": 0.001, "values": [0.0005, 0.001, 0.002], "hits": [1, 2, 3], "alarms": [0, 0, 1]}
_CHOSE = {"groups": 6, "values": [0.001, 0.002], "f1": 0.5, "default": 0.75}


def _calibrated(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> Path:
    """Replace the calibration by one of four trainings with a vanishing gradient and ten healthy ones."""
    file = folder / "calibration.json"
    thresholds = {
        "ratio": {**_LINES, "beside": [0, 0, 0], "chose": {"data": _CHOSE, "kind": {**_CHOSE, "groups": 1}}},
        "gone": {},
    }
    usual = {"hits": 2, "alarms": 0, "beside": 7}
    rule = {"bar": "error", "cause": 4, "usual": usual, "thresholds": thresholds, "still": ["first"], **changes}
    made: dict[str, object] = {
        "cases": 9,
        "sources": ["real"],
        "frameworks": ["pytorch"],
        "seeds": [0, 1],
        "commit": "abc123",
    }
    stored = {"made": {**made, "trainings": 17, "healthy": 10}, "rules": {"vanishing_gradient": rule}}
    file.write_text(json.dumps(stored))
    monkeypatch.setattr(calibration, "_calibration_file", lambda rule: file)
    return file


def test_explain_shows_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    file = _calibrated(tmp_path, monkeypatch)
    assert main(["explain", "AT101"]) == 0
    page = " ".join(capsys.readouterr().out.partition("\nCalibration\n")[2].split())
    assert "found in 2/4 (50 %) of the faulty runs with this cause" in page
    table = "0.0005 1/4 (25 %) 1.00 0/10 (0 %) * 0.001 2/4 (50 %) 1.00 0/10 (0 %) 0.002 3/4 (75 %) 0.75 1/10 (10 %)"
    assert f"vanishing_gradient.ratio cause found precision false alarms {table}" in page
    assert "over 6 data sets (best F1 on the others): chosen 0.001 – 0.002; F1 on those left out 0.50, with" in page
    assert "with the default 0.75" in page
    assert "kinds of network" not in page  # there is only one
    assert "The default was" not in page
    assert "Based on 17 runs, 10 of them healthy by their scores, in 9 cases" in page
    assert "commit abc123" in page
    assert main(["explain", "dying_relu"]) == 0  # not in the file
    assert "Calibration" not in capsys.readouterr().out
    file.unlink()
    assert main(["explain", "AT101"]) == 0
    assert "Calibration" not in capsys.readouterr().out


def test_outdated_or_damaged_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    lines = {**_LINES, "default": 0.002, "beside": [0, 0, 0], "chose": {}}
    file = _calibrated(tmp_path, monkeypatch, thresholds={"ratio": lines}, cause=0)
    assert main(["explain", "AT101"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "(The default was 0.002 at that time, and is 0.001 now.)" in page
    assert "* 0.001 – – 0/10 (0 %)" in page
    for broken in ("no json", "[]", '{"rules": {"vanishing_gradient": {}}}'):
        file.write_text(broken)
        assert main(["explain", "AT101"]) == 2
        assert "is not a calibration of rules" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("severity", "fail_on", "status"),
    [("error", "error", 1), ("warning", "error", 0), ("warning", "warning", 1), ("info", "warning", 0)],
)
@pytest.mark.parametrize("command", ["replay", "report"])
def test_status_depends_on_findings(
    severity: str, fail_on: str, status: int, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = Report((Finding("p", "AT1", Severity(severity), 1.0, "m"),))
    for module in ("replay", "report"):
        monkeypatch.setattr(f"autotrainer.cli.{module}.replay", lambda log, **options: report)
    output = ["-o", str(tmp_path / "r.html")] if command == "report" else []
    assert main([command, "run.jsonl", "--fail-on", fail_on, *output]) == status
    assert (tmp_path / "r.html").exists() == (command == "report")


MODULE = """
import torch
from torch import nn

def batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 4, generator=generator)
    return x, (x[:, :1] > 0).float()

def healthy():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), batch(), {"loss": nn.BCEWithLogitsLoss()}

def positional():
    return (*healthy()[:2], nn.BCEWithLogitsLoss())

def both():
    model, data, rest = healthy()
    return (model, data), rest

def keywords():
    model, data, rest = healthy()
    return {"model": model, "train_data": data, **rest}

def faulty():
    model, (x, y), rest = healthy()
    x[3, 2] = float("nan")
    return model, (x, y), rest

def fails():
    raise RuntimeError("first line\\nsecond line")

def strange():
    return {"modle": 1}
"""


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A folder with a module of the user's; returns what to give to ``check``."""
    name = f"user_module_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return lambda function: f"{name}:{function}"


@pytest.mark.parametrize("function", ["healthy", "positional", "both", "keywords"])
def test_check_healthy_training(in_folder: Callable[[str], str], function: str, capsys: Capture) -> None:
    path = list(sys.path)
    assert main(["check", in_folder(function)]) == 0
    assert "no problem found" in capsys.readouterr().out
    assert sys.path == path


def test_check_faulty_training(in_folder: Callable[[str], str], capsys: Capture) -> None:
    assert main(["check", in_folder("faulty")]) == 1
    assert "nonfinite_data" in capsys.readouterr().out
    assert main(["check", in_folder("faulty"), "--ignore", "AT502", "--ignore", "AT8", "--json"]) == 0
    assert "nonfinite_data" not in [f["problem"] for f in json.loads(capsys.readouterr().out)]


@pytest.mark.parametrize(
    ("function", "message"),
    [("fails", "fails with RuntimeError: first line second line"), ("strange", "does not fit autotrainer.check")],
)
def test_check_invalid_function(in_folder: Callable[[str], str], function: str, message: str, capsys: Capture) -> None:
    assert main(["check", in_folder(function)]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_closed_pipe_is_not_an_error() -> None:
    code = "import runpy; runpy.run_path('conftest.py'); from autotrainer.cli import main; main(['rules'])"
    ran = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{code}" | true'], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ran.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device without space")
def test_full_disk_is_reported_in_one_line() -> None:
    code = (
        "import runpy, sys; runpy.run_path('conftest.py'); from autotrainer.cli import main; sys.exit(main(['rules']))"
    )
    with open("/dev/full", "w") as full:
        ran = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert ran.returncode == 2
    assert ran.stderr.startswith("autotrainer: can't write the output")
    assert ran.stderr.count("\n") == 1


def test_closed_output_is_not_an_error() -> None:
    code = "import runpy; runpy.run_path('conftest.py'); from autotrainer.cli import main; main(['rules'])"
    ran = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{code}" >&-'], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_piped_output_is_plain_text() -> None:
    ran = _run_module("rules", FORCE_COLOR="")
    assert ran.returncode == 0
    assert "\x1b" not in ran.stdout
    assert "│" not in ran.stdout


def test_quiet_import_hides_only_output_of_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    name = f"loud_module_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text("import os; os.write(2, b'noise')")
    monkeypatch.syspath_prepend(tmp_path)
    import_quietly(name)
    with pytest.raises(ImportError):
        import_quietly("no_such_module")
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"
