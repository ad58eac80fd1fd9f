"""Replaying a run log gives the findings of the live run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autotrainer
from autotrainer.cli import main
from autotrainer.errors import ConfigError, LogError
from autotrainer.monitoring.logs.run_log import RUN_LOG
from autotrainer.records.findings import Severity
from autotrainer.records.json_lines import LineWriter


def _train(log_dir: Path, activation: Any, *, rate: float = 0.1, epochs: int = 12) -> autotrainer.Monitor:
    import torch
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(1)
    x = torch.randn(256, 4)
    y = (x[:, 0] * x[:, 1] > 0).float()[:, None]
    hidden = [module for _ in range(8) for module in (nn.Linear(6, 6), activation())]
    model = nn.Sequential(nn.Linear(4, 6), *hidden, nn.Linear(6, 1))
    loss_fn, optimizer = nn.BCEWithLogitsLoss(), torch.optim.SGD(model.parameters(), rate)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=epochs, log_dir=log_dir) as monitor:
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(256), 32):
                optimizer.zero_grad()
                loss_fn(model(x[rows]), y[rows]).backward()
                optimizer.step()
            with torch.no_grad():
                outputs = model(x)
            monitor.end_epoch(val_loss=loss_fn(outputs, y), val_accuracy=((outputs > 0) == (y > 0.5)).float().mean())
    return monitor


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> autotrainer.Monitor:
    from torch import nn

    return _train(tmp_path_factory.mktemp("log"), nn.Sigmoid)


def _dicts(findings: Any) -> list[dict[str, Any]]:
    return [finding.to_dict() for finding in findings]


def test_replay_gives_the_live_findings(recorded: autotrainer.Monitor) -> None:
    assert recorded.log_path is not None
    report = autotrainer.replay(recorded.log_path)
    assert any(f.severity is Severity.ERROR for f in recorded.findings)
    assert _dicts(report.findings) == _dicts(recorded.findings)
    assert report.to_json() == recorded.report().to_json()


def test_truncated_log_gives_findings_up_to_its_end(
    recorded: autotrainer.Monitor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert recorded.log_path is not None
    content = recorded.log_path.read_bytes()
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(content[: int(len(content) * 0.9)])
    with caplog.at_level(logging.WARNING, "autotrainer"):
        report = autotrainer.replay(cut)
    assert "incomplete" in caplog.text
    assert any(f.severity is not Severity.INFO for f in report.findings)
    assert 0 < report.run["steps"] <= recorded.report().run["steps"]


def test_damaged_line_is_an_error(recorded: autotrainer.Monitor, tmp_path: Path) -> None:
    assert recorded.log_path is not None
    lines = recorded.log_path.read_text("utf-8").splitlines(keepends=True)
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text("".join([*lines[:5], lines[5][:-20] + "\n", *lines[6:]]), "utf-8")
    with pytest.raises(LogError, match="line 6 is damaged"):
        autotrainer.replay(damaged)


@pytest.mark.parametrize(
    ("kind", "change"),
    [("step", {"scalars": "x"}), ("context", {"context": 3}), ("epoch", {"values": None}), ("check", {"step": "x"})],
)
def test_malformed_record_is_an_error(
    recorded: autotrainer.Monitor, tmp_path: Path, kind: str, change: dict[str, Any]
) -> None:
    assert recorded.log_path is not None
    records = [json.loads(line) for line in recorded.log_path.read_text("utf-8").splitlines()]
    target = next(r for r in records if r.get("type") == kind)
    target.update(change)
    path = tmp_path / "strange.jsonl"
    with path.open("w", encoding="utf-8") as file:
        writer = LineWriter(file, RUN_LOG)
        for record in records:
            del record["crc"]
            writer.write(json.dumps(record))
    with pytest.raises(LogError, match=rf"line {records.index(target) + 1} is damaged \({next(iter(change))}: "):
        autotrainer.replay(path)


@pytest.mark.parametrize("log", [None, 5, "missing.jsonl"])
def test_unreadable_log_is_an_error(log: object) -> None:
    with pytest.raises(LogError, match="can't read the run log"):
        autotrainer.replay(log)  # type: ignore[arg-type]


def test_replay_options(recorded: autotrainer.Monitor) -> None:
    assert recorded.log_path is not None
    problems = {f.problem for f in recorded.findings}
    code = recorded.findings[0].code
    assert {f.code for f in autotrainer.replay(recorded.log_path, select=code).findings} == {code}
    ignored = autotrainer.replay(recorded.log_path, ignore=recorded.findings[0].problem).findings
    assert {f.problem for f in ignored} <= problems - {recorded.findings[0].problem}
    with pytest.raises(ConfigError, match="unknown threshold"):
        autotrainer.replay(recorded.log_path, thresholds={"nope": 1.0})


def test_log_contains_no_samples(recorded: autotrainer.Monitor) -> None:
    import torch

    assert recorded.log_path is not None
    torch.manual_seed(0)
    sample = float(torch.randn(256, 4)[0, 0])
    text = recorded.log_path.read_text("utf-8")
    assert f"{sample:.5f}" not in text
    assert all(len(json.loads(line).get("scalars", [])) < 100 for line in text.splitlines())


def test_replay_command(recorded: autotrainer.Monitor, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = str(recorded.log_path)
    assert main(["replay", log]) == 1
    assert recorded.findings[0].problem in capsys.readouterr().out
    assert main(["replay", log, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"] == [finding.to_summary() for finding in recorded.findings]
    assert main(["report", log, "-o", str(tmp_path / "r.html")]) == 1
    assert 'id="curves"' in (tmp_path / "r.html").read_text("utf-8")
    capsys.readouterr()
    assert main(["report", log, "-o", str(tmp_path / "r.pdf")]) == 2
    assert np.isin(["suffix"], capsys.readouterr().err.split()).all()
