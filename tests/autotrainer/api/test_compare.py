"""`autotrainer.compare`, ``watch(baseline=…)`` and ``autotrainer compare`` on real trainings."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import autotrainer
from autotrainer.cli import main
from autotrainer.errors import ConfigError, LogError


def _train(seed: int, *, scale: float = 1.0, rate: float = 0.05, **options: Any) -> autotrainer.Monitor:
    import torch
    from torch import nn

    torch.set_num_threads(1)
    data = torch.Generator().manual_seed(0)
    x = torch.randn(192, 4, generator=data)
    y = (x[:, 0] + x[:, 1] ** 2 > 1).float()[:, None]
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    with torch.no_grad():
        for parameter in model[2].parameters():
            parameter.mul_(scale)
    loss_fn, optimizer = nn.BCEWithLogitsLoss(), torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=10, overhead=1.0, **options) as monitor:
        for _ in range(10):
            for rows in torch.split(torch.randperm(192), 16):
                optimizer.zero_grad()
                loss_fn(model(x[rows]), y[rows]).backward()
                optimizer.step()
            with torch.no_grad():
                outputs = model(x)
            monitor.end_epoch(val_loss=loss_fn(outputs, y), val_accuracy=((outputs > 0) == (y > 0.5)).float().mean())
    return monitor


def _path(monitor: autotrainer.Monitor) -> str:
    assert monitor.log_path is not None
    return str(monitor.log_path)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("baseline")
    return [_path(_train(seed, log_dir=folder)) for seed in range(3)]


@pytest.fixture(scope="module")
def stuck(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _path(_train(7, rate=1e-6, log_dir=tmp_path_factory.mktemp("stuck")))


def test_healthy_run_of_another_seed_is_no_worse(baseline: list[str], tmp_path: Path) -> None:
    comparison = autotrainer.compare(baseline, _path(_train(7, log_dir=tmp_path)))
    assert not comparison.worse, comparison.text
    assert not comparison.differs, comparison.text
    assert not comparison.identical


def test_same_seed_is_identical(baseline: list[str], tmp_path: Path) -> None:
    again = _train(1, log_dir=tmp_path)
    assert autotrainer.compare(baseline, again).identical
    assert autotrainer.compare(baseline[1], _path(again)).identical


def test_run_that_learns_nothing_is_worse(baseline: list[str], stuck: str) -> None:
    comparison = autotrainer.compare(baseline, stuck)
    assert comparison.worse
    assert comparison.differs
    assert "optimizer learning rate: 0.05 → 1e-06" in comparison.setup
    assert {o.metric: o.verdict for o in comparison.outcomes}["val_accuracy"] == "worse"
    assert autotrainer.compare(baseline, stuck, metrics="val_accuracy").worse
    assert not autotrainer.compare(stuck, baseline).worse


def test_watch_compares_while_the_training_goes_on(baseline: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "autotrainer"):
        monitor = _train(7, scale=1e-3, baseline=baseline, ignore="AT")
    comparison = monitor.comparison
    assert comparison is not None
    assert comparison.parted is not None
    assert (comparison.parted.step, comparison.parted.layer, comparison.parted.statistic) == (0, "2", "weight_norm")
    lines = [record.getMessage() for record in caplog.records if "baseline" in record.getMessage()]
    assert len(lines) == 1, "once a run"
    assert "weight norm of layer 2: ×0.001 since step 0" in lines[0]
    report = monitor.report()
    assert report.comparison is comparison
    assert comparison.text in str(report)
    assert json.loads(report.to_json())["comparison"]["differs"] is True
    assert "Comparison with the baseline" in report.to_html()


def test_watch_without_baseline_has_no_comparison(baseline: list[str]) -> None:
    monitor = _train(1)
    assert monitor.comparison is None
    assert monitor.report().to_dict()["comparison"] is None
    assert autotrainer.compare(monitor, _train(2)).runs == ("this run",)


def test_baseline_changes_no_weight() -> None:
    one, other = _train(1), _train(1)
    assert autotrainer.compare(one, _train(1, baseline=other)).identical


@pytest.mark.parametrize("case", ["missing", "damaged", "empty", "other"])
def test_unreadable_logs_are_refused(case: str, baseline: list[str], tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    content = Path(baseline[0]).read_bytes()
    if case == "damaged":
        path.write_bytes(content.replace(b'"step":3,', b'"step":1,', 1))
    elif case == "empty":
        path.write_bytes(b"")
    elif case == "other":
        path.write_text('{"model": "weights"}\n')
    for arguments in ((baseline, path), (path, baseline)):
        with pytest.raises(LogError, match=r"run\.jsonl"):
            autotrainer.compare(*arguments)  # type: ignore[arg-type]
    with pytest.raises(LogError, match=r"run\.jsonl"):
        _train(1, baseline=path)


def test_interrupted_log_is_compared_up_to_its_end(baseline: list[str], tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl"
    content = Path(baseline[0]).read_bytes()
    cut.write_bytes(content[: len(content) * 2 // 3])
    comparison = autotrainer.compare(baseline[1:], cut)
    assert not comparison.worse, comparison.text
    assert any("which all runs have" in note for note in comparison.notes)


@pytest.mark.parametrize(
    ("baseline_option", "runs", "options"),
    [
        ([], "run.jsonl", {}),
        ("run.jsonl", [], {}),
        (3, "run.jsonl", {}),
        ("run.jsonl", [b"run"], {}),
        ("run.jsonl", "run.jsonl", {"fail_on": "info"}),
        ("run.jsonl", "run.jsonl", {"select": "no_such_problem"}),
    ],
)
def test_invalid_options_are_refused(baseline_option: Any, runs: Any, options: Any, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, LogError)) as error:
        autotrainer.compare(baseline_option, runs, **options)
    assert options == {} or error.type is ConfigError


@pytest.mark.parametrize("metric", ["val_acuracy", 3])
def test_unknown_metric_is_refused(baseline: list[str], metric: Any) -> None:
    with pytest.raises(ConfigError, match="val_accuracy"):
        autotrainer.compare(baseline[0], baseline[1], metrics=metric)


def test_findings_of_a_monitor_follow_the_selection(baseline: list[str]) -> None:
    monitor = _train(7, rate=1e-6)
    problems = [finding.problem for finding in monitor.findings]
    assert autotrainer.compare(baseline, monitor).findings
    assert not autotrainer.compare(baseline, monitor, ignore=problems).findings


def _status(arguments: Sequence[str]) -> int:
    return main(["compare", *arguments])


def test_command_ends_with_the_verdict(baseline: list[str], stuck: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _status(baseline[:2]) == 0
    assert "no difference" in capsys.readouterr().out
    assert _status([*baseline, "--with", stuck, "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert (printed["autotrainer_comparison"], printed["worse"]) == (1, True)
    assert _status(baseline) == 2
    assert "--with" in capsys.readouterr().err
    assert _status([baseline[0], "missing.jsonl"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def _fit(seed: int, *, rate: float = 0.05, **options: Any) -> autotrainer.Monitor:
    import keras
    import numpy as np

    x = np.random.default_rng(0).standard_normal((192, 4)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] ** 2 > 1).astype(np.float32)[:, None]
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(16, "relu"), keras.layers.Dense(16, "relu")]
    model = keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(1)])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), loss, metrics=["accuracy"])
    with autotrainer.watch(model, overhead=1.0, **options) as monitor:
        model.fit(x, y, batch_size=16, epochs=10, validation_data=(x, y), verbose=0)
    return monitor


@pytest.mark.slow
def test_keras_runs_are_compared(baseline: list[str], stuck: str, tmp_path: Path) -> None:
    others = [_path(_fit(seed, log_dir=tmp_path)) for seed in range(3)]
    again, stopped = _fit(1, baseline=others).comparison, _fit(5, rate=1e-6, baseline=others).comparison
    assert again is not None
    assert again.identical
    assert stopped is not None
    assert stopped.worse
    assert stopped.differs
    across = autotrainer.compare(baseline, others)
    assert "framework: pytorch → keras3" in across.setup
    assert not across.worse, across.text
    assert across.parted is not None
    assert across.parted.statistic in ("weight_norm", "bias_rms"), "initial weights are drawn from other distributions"
    assert autotrainer.compare(others, stuck).worse
