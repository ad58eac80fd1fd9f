"""Calibration: replays with other thresholds, counts, cross-validation, report and files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import autotrainer
from autotrainer.errors import ConfigError
from benchmarks.calibration import suite
from benchmarks.calibration.curves import save_curves
from benchmarks.calibration.pages import calibration, save_page
from benchmarks.calibration.replay import Axis, _scaled, levels, replay_all, threshold_axes
from benchmarks.calibration.run import kind_of
from benchmarks.calibration.scoring import Counts, LabelledRun, best_value, counts, cross_validate, has_effect
from benchmarks.calibration.suite import calibrate, label_logs, report
from benchmarks.cases.case import load_cases
from benchmarks.execution.runs import Runs
from benchmarks.reporting import plots

AXIS = Axis("dying_relu", "dead_units", 0.5, (0.25, 0.5, 0.75))


def training(
    detections: str, *, faulty: bool, cause: str = "dying_relu", data: str = "a", kind: str = "dense"
) -> LabelledRun:
    """A labelled training; ``detections`` has a letter for each value of the axis: e(rror), w(arning) or a dash."""
    severities = {"e": "error", "w": "warning", "-": None}
    named = frozenset({cause}) if faulty else frozenset[str]()
    return LabelledRun(
        faulty, named, {"data": data, "kind": kind}, {AXIS.name: [severities[letter] for letter in detections]}
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run log of a training on inputs of standard deviation 60 whose model learns nothing."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Sigmoid(), torch.nn.Linear(8, 1))
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), 1e-9), torch.nn.BCEWithLogitsLoss()
    x, y = 60 * torch.randn(64, 4), (torch.rand(64, 1) > 0.5).float()
    folder = tmp_path_factory.mktemp("logs")
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=10, log_dir=folder, overhead=1.0) as monitor:
        for _ in range(10):
            for i in range(0, 64, 8):
                optimizer.zero_grad()
                loss_fn(model(x[i : i + 8]), y[i : i + 8]).backward()
                optimizer.step()
            monitor.end_epoch(val_loss=0.7)
    assert monitor.log_path is not None
    return monitor.log_path


def test_each_rule_has_an_axis_around_its_defaults() -> None:
    found = threshold_axes()
    problems = {axis.problem for axis in found}
    assert {"nonfinite", "vanishing_gradient", "overfitting"} <= problems
    for axis in found:
        assert list(axis.values) == sorted(set(axis.values))
        assert axis.default in axis.values
        assert (len(axis.values) > 1) == bool(axis.threshold)
    by_name = {axis.name: axis for axis in found}
    assert "nonfinite" in by_name
    assert "vanishing_gradient.epochs" not in by_name
    assert max(by_name["dying_relu.dead_units"].values) < 1
    assert by_name["vanishing_gradient.ratio"].values[-1] == pytest.approx(16e-3)
    assert min(by_name["exploding_gradient.growth"].values) >= 1  # smaller ones are rejected


@pytest.mark.parametrize(
    ("default", "k", "value"), [(3.0, 2, 12.0), (0.5, 1, 2 / 3), (0.001, -1, 0.0005), (-1.5, 1, math.log10(2) - 1.5)]
)
def test_threshold_values_are_scaled_from_the_default(default: float, k: int, value: float) -> None:
    assert _scaled(default, k) == pytest.approx(value)
    assert _scaled(default, 0) == default
    assert _scaled(default, -4) < _scaled(default, -1) < default < _scaled(default, 4)


def test_levels_equal_separate_replays(log: Path) -> None:
    axes = [axis for axis in threshold_axes() if axis.problem in ("abnormal_data", "not_learning", "slow_convergence")]
    found = levels(log, axes)
    std = next(axis for axis in axes if axis.name == "abnormal_data.std")
    assert found[std.name][0] is not None
    assert found[std.name][-1] is None  # the inputs' standard deviation is 60
    for axis in axes:
        for i in range(len(axis.values)) if axis is std else (0, len(axis.values) - 1):
            alone = autotrainer.replay(log, thresholds={axis.name: axis.values[i]}).findings
            assert found[axis.name][i] == next((str(f.severity) for f in alone if f.problem == axis.problem), None)


def test_missing_log_is_reported(log: Path) -> None:
    short = [Axis("nonfinite", "", 0.0, (0.0,))]
    good, bad = replay_all([str(log), "no such file"], short, workers=1)
    assert good == {"nonfinite": [None]}
    assert isinstance(bad, str)
    assert "no such file" in bad


def test_counts_recall_precision_and_f1() -> None:
    labelled = [
        training("eew", faulty=True),
        training("e--", faulty=True),
        training("ew-", faulty=False),
        training("---", faulty=False),
    ]
    labelled.append(training("eee", faulty=True, cause="nonfinite"))
    assert counts(labelled, AXIS) == [Counts(2, 0, 1, 2, 1), Counts(1, 1, 0, 2, 1), Counts(0, 2, 0, 2, 1)]
    assert counts(labelled, AXIS, "warning")[1] == Counts(1, 1, 1, 2, 1)
    first, second, third = counts(labelled, AXIS)
    assert (first.recall, first.precision, first.f1) == (1.0, pytest.approx(2 / 3), pytest.approx(0.8))
    assert (second.recall, second.precision) == (0.5, 1.0)
    assert third.f1 == 0.0
    assert math.isnan(third.precision)


def test_default_wins_ties_and_without_detections() -> None:
    assert best_value(counts([training("eee", faulty=True)], AXIS), AXIS) == 1
    assert best_value(counts([training("e--", faulty=False)], AXIS), AXIS) == 1
    assert best_value(counts([training("e--", faulty=True)], AXIS), AXIS) == 0
    assert not has_effect([training("eee", faulty=True), training("---", faulty=False)], AXIS)
    assert has_effect([training("eew", faulty=True)], AXIS)


def test_cross_validation_scores_each_group_by_the_choice_of_the_others() -> None:
    """Each data set favours another value, and the value chosen on the others fails on it."""
    labelled = [training("e--", faulty=True, data="a"), training("e--", faulty=True, data="a")]
    labelled += [
        training("ee-", faulty=False, data="b"),
        training("--e", faulty=True, data="b"),
        training("--e", faulty=True, data="b"),
    ]
    found = cross_validate(labelled, AXIS, "data")
    assert found.chosen == (0.75, 0.25)  # without a; without b
    assert found.held_out == Counts(hits=0, misses=4, alarms=1, healthy=1)
    assert found.default == Counts(hits=0, misses=4, alarms=1, healthy=1)
    assert found.fitted.hits > 0
    assert found.optimism == pytest.approx(found.fitted.f1)
    assert max(c.f1 for c in counts(labelled, AXIS)) > 0  # if chosen and scored on the same trainings
    assert cross_validate(labelled, AXIS, "kind").groups == 1


def test_report_shows_defaults_and_chosen_values() -> None:
    labelled = [
        training("e--", faulty=True, data="a"),
        training("e--", faulty=True, data="b"),
        training("---", faulty=False),
    ]
    never = Axis("nonfinite", "", 0.0, (0.0,))
    for run in labelled:
        run.levels["nonfinite"] = [None]
    text = report(labelled, [AXIS, never])
    assert "3 trainings: 2 faulty, 1 healthy" in text
    assert "| dying_relu | 0/2 (0 %) | – | 0/1 (0 %) | 0 | 0/2 (0 %) | 0/1 (0 %) |" in text
    assert "| nonfinite | – | – | 0/1 (0 %) | 0 | – | 0/1 (0 %) |" in text
    line = "| dying_relu.dead_units | 0.5 | 0.00 | 0.25 | 1.00 | 0.25 | 1.00 | 0.00 | 0.00 | 0.5 | 0.00 | 0.00 |"
    assert line in text
    assert "Without effect" not in text


def test_curves_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled = [training("e--", faulty=True), training("ee-", faulty=False)]
    message = save_curves(labelled, [AXIS], tmp_path / "curves", plots=False)
    assert "1 rules" in message
    told = json.loads((tmp_path / "curves" / "dying_relu.json").read_text())["thresholds"]["dead_units"]
    assert told["values"] == [0.25, 0.5, 0.75]
    assert told["error"]["alarms"] == [1, 1, 0]
    assert not list(tmp_path.rglob("*.svg"))
    pytest.importorskip("matplotlib")
    save_curves(labelled, [AXIS], tmp_path / "curves")
    assert "dying_relu.dead_units" in (tmp_path / "curves" / "dying_relu.svg").read_text()
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="matplotlib"):
        calibrate(Runs(["pytorch"], ["real"], out=tmp_path / "rows.jsonl"))


PROVENANCE = {"cases": 2, "sources": ["generated:2"], "frameworks": ["pytorch"], "seeds": [0], "commit": "abc"}


def test_page_content() -> None:
    labelled = [
        training("e--", faulty=True, data="a"),
        training("e--", faulty=True, data="b"),
        training("e--", faulty=False),
    ]
    labelled.append(training("eee", faulty=True, cause="nonfinite"))
    told = calibration(labelled, [AXIS], PROVENANCE)
    assert told["made"] == {**PROVENANCE, "trainings": 4, "healthy": 1}
    rule = told["rules"]["dying_relu"]
    assert (rule["bar"], rule["cause"], rule["usual"]) == ("error", 2, {"hits": 0, "alarms": 0, "beside": 1})
    lines = rule["thresholds"]["dead_units"]
    assert (lines["values"], lines["hits"], lines["alarms"]) == ([0.25, 0.5, 0.75], [2, 0, 0], [1, 0, 0])
    assert lines["chose"]["data"] == {"groups": 2, "values": [0.25, 0.25], "f1": 0.8, "seen": 0.8, "default": 0.0}
    json.dumps(told, allow_nan=False)


def test_rule_without_errors_is_shown_by_its_warnings() -> None:
    rule = calibration([training("ww-", faulty=True), training("---", faulty=False)], [AXIS], PROVENANCE)["rules"][
        "dying_relu"
    ]
    assert rule["bar"] == "warning"
    assert rule["thresholds"]["dead_units"]["hits"] == [1, 1, 0]
    rule = calibration([training("eee", faulty=True, cause="x"), training("---", faulty=False)], [AXIS], PROVENANCE)[
        "rules"
    ]["dying_relu"]
    assert (rule["thresholds"], rule["still"]) == ({}, ["dead_units"])


def test_pages_file_has_one_line_per_rule(tmp_path: Path) -> None:
    labelled = [training("e--", faulty=True), training("---", faulty=False)]
    path = tmp_path / "new" / "calibration.json"
    assert save_page(labelled, [AXIS], PROVENANCE, path) == "Pages of 1 rules: calibration.json"
    assert json.loads(path.read_text()) == calibration(labelled, [AXIS], PROVENANCE)
    assert [line[:12] for line in path.read_text().splitlines()] == ['{"made": {"c', '"rules": {', '"dying_relu"', "}}"]
    with pytest.raises(ConfigError, match="can't be written"):
        save_page(labelled, [AXIS], PROVENANCE, path / "below")


def test_only_labelled_trainings_are_replayed(log: Path) -> None:
    entry = {"log": str(log), "data": "d", "kind": "dense", "steps": 80}
    task: dict[str, Any] = {"framework": "pytorch", "source": "real", "case": "so50306988", "seed": 0}
    task |= {"variants": ["given", "fixed"], "logs": "x"}
    rows = [{"task": task, "given": {**entry, "score": 0.46}, "fixed": {**entry, "score": 1.0}}]
    rows.append({"task": {**task, "case": "so58609115"}, "error": "no end after 9 s"})
    labelled, left_out = label_logs(rows, [Axis("abnormal_data", "std", 20.0, (20.0, 320.0))], workers=1)
    assert [run.faulty for run in labelled] == [True, False]
    assert labelled[0].accepted
    assert labelled[0].groups == {"data": "d", "kind": "dense"}
    assert labelled[0].levels["abnormal_data.std"][1] is None
    assert left_out == ["pytorch, so58609115 (seed 0): no end after 9 s"]


def test_kind_of_network() -> None:
    names = ("waves.lstm.rate_too_low.0", "digit_images.cnn.rate_too_low.0", "moons.mlp.rate_too_low.0")
    kinds = [kind_of(case.original) for case in load_cases(["generated"], names)]
    assert kinds == ["recurrent", "convolutional", "dense"]


@pytest.mark.slow
def test_calibrate_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = [axis for axis in threshold_axes() if axis.problem == "slow_convergence"]
    monkeypatch.setattr(suite, "threshold_axes", lambda: axes)
    runs = Runs(["pytorch"], ["generated"], names=["moons.mlp.rate_too_low.0"], out=tmp_path / "rows.jsonl", workers=1)
    page = tmp_path / "page.json"
    text = calibrate(runs, plots=False, page=page)
    made = json.loads(page.read_text())["made"]
    assert (made["cases"], made["sources"], made["seeds"]) == (1, ["moons.mlp.rate_too_low.0"], [0])
    assert "2 trainings: 1 faulty, 1 healthy" in text
    assert "| slow_convergence | 1/1 (100 %) | 1.00 | 0/1 (0 %) |" in text
    assert len(list((tmp_path / "rows-logs").glob("*.jsonl"))) == 2
    assert calibrate(runs, plots=False, page=page) == text  # from the rows and logs, without a training
    assert len(list((tmp_path / "rows-logs").glob("*.jsonl"))) == 2
