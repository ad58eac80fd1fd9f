"""The command line: options passed on, and bad input reported in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.agreement import suite as agreement
from benchmarks.calibration import suite as calibration
from benchmarks.detect import suite as detect
from benchmarks.execution import pool
from benchmarks.repair import suite as repair
from benchmarks.reporting import plots


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    arguments: list[Any] = []
    suites = (detect, "detect"), (repair, "repair"), (calibration, "calibrate"), (agreement, "agreement")
    for module, name in suites:
        monkeypatch.setattr(module, name, lambda *args, **kwargs: arguments.extend([*args, *kwargs.values()]) or "")
    return arguments


def test_options_are_passed_on(passed: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repair", "--budget", "20,3,10", "--methods", "fit, random uniform", "--seeds", "2"]) == 0
    runs, budgets, methods = passed
    assert (runs.frameworks, runs.sources, runs.seeds) == (("pytorch", "keras3"), ("real", "zoo"), 2)
    assert (budgets, methods) == ((3.0, 10.0, 20.0), ("fit", "random uniform"))
    assert capsys.readouterr().out.startswith("`python -m benchmarks repair --budget 20,3,10")


def test_file_paths_are_not_shown(passed: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "rows.jsonl")
    assert main(["detect", "--out", out, "--framework=keras3"]) == 0
    assert main(["calibrate", f"--out={out}", "--curves", str(tmp_path), "--page", str(tmp_path / "p.json")]) == 0
    assert capsys.readouterr().out.split("`")[1::2] == [
        "python -m benchmarks detect --framework=keras3",
        "python -m benchmarks calibrate",
    ]
    assert passed[-3:] == [tmp_path, True, tmp_path / "p.json"]


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("detect", detect.QUICK),
        ("repair", repair.QUICK),
        ("calibrate", detect.QUICK),
        ("agreement", agreement.QUICK),
    ],
)
def test_quick_runs_part_of_the_default_cases(passed: list[Any], command: str, names: tuple[str, ...]) -> None:
    assert main([command, "--quick"]) == 0
    assert passed[0].names == names
    passed.clear()
    assert main([command, "--quick", "--cases", "generated:2"]) == 0
    assert passed[0].names == ()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["detect", "--only", "nothing"], "'nothing'"),
        (["detect", "--cases", "nowhere"], "'nowhere'"),
        (["detect", "--cases", "generated:60:x"], "generated:60:7"),
        (["detect", "--cases", "generated:5@imbd"], "'imbd'"),
        (["detect", "--cases", ""], "nothing to run"),
        (["detect", "--framework", "keras3", "--cases", "generated", "--only", "moons.mlp.no_zero_grad.0"], "keras3"),
        (["repair", "--cases", "generated", "--only", "moons.mlp.no_zero_grad.0"], "moons.mlp.no_zero_grad.0"),
        (["repair", "--methods", "prayer"], "'prayer'"),
        (["repair", "--budget", "0.5"], "at least 1"),
        (["page", "missing.jsonl"], "missing.jsonl"),
        (["compare", "missing.jsonl", "missing.jsonl"], "missing.jsonl"),
        (["generalization", "missing.jsonl"], "missing.jsonl"),
        (["calibrate", "--cases", "unseen:5"], "reserved"),
    ],
)
def test_bad_input_ends_with_status_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert words in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        *(["repair", "--budget", budget] for budget in ("x", "nan", "3,inf", "")),
        *(["detect", "--overhead", share] for share in ("x", "nan", "0", "-1", "7")),
        ["detect", "--seeds", "0"],
        ["detect", "--html", "x"],
    ],
)
def test_invalid_options_end_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--html", "--page", "--curves", "--out", "--output"])
def test_unwritable_files_are_reported_before_the_run(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pool, "_run_one", lambda *args: pytest.fail("a task was run"))
    (tmp_path / "file").touch()
    path, rows = str(tmp_path / "file" / "x"), str(tmp_path / "rows.jsonl")
    command = ["calibrate", "--no-plots"] if option in ("--page", "--curves") else ["detect"]
    command += ["--cases", "generated", "--only", "moons.mlp.zero_init.0"]
    command += ["--out", rows] if option != "--out" else []
    if option == "--output":
        task = {
            "framework": "pytorch",
            "source": "generated",
            "case": "moons.mlp.zero_init.0",
            "seed": 0,
            "variants": [],
        }
        (tmp_path / "rows.jsonl").write_text(json.dumps({"task": task, "error": "no end"}))
        command = ["page", rows]
    assert main([*command, option, path]) == 2
    message = capsys.readouterr().err
    assert path in message
    assert "can't be written" in message
    assert len(message.splitlines()) == 1


def test_missing_library_is_reported_before_the_run(
    passed: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    assert main(["detect", "--out", str(tmp_path / "rows.jsonl"), "--html", str(tmp_path / "page.html")]) == 2
    assert "autotrainer-monitor[bench]" in capsys.readouterr().err
    assert not passed


def test_missing_optuna_is_reported_before_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pool, "_run_one", lambda *args: pytest.fail("a task was run"))
    monkeypatch.setattr(repair, "find_spec", lambda name: None if name == "cmaes" else name)
    assert main(["repair", "--only", "so39525358", "--framework", "pytorch"]) == 2
    assert "cmaes missing" in capsys.readouterr().err
