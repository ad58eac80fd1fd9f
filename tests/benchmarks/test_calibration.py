"""The calibration report: replays with other thresholds, counts, cross-validation, files."""

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
from benchmarks.calibration.replay import Axis, _scaled, axes, levels, levels_of_all
from benchmarks.calibration.run import kind_of
from benchmarks.calibration.scoring import Counts, Score, counts, cross_validate, has_effect, wins
from benchmarks.calibration.suite import calibrate, judged_logs, report
from benchmarks.cases.case import load_cases
from benchmarks.execution.runs import Runs
from benchmarks.reporting import plots

AXIS = Axis("dying_relu", "dead_units", 0.5, (0.25, 0.5, 0.75))


def one(found: str, *, faulty: bool, cause: str = "dying_relu", data: str = "a", kind: str = "dense") -> Score:
    """A training; ``found`` has a letter for each value of the axis: e(rror), w(arning) or a dash."""
    words = {"e": "error", "w": "warning", "-": None}
    named = frozenset({cause}) if faulty else frozenset[str]()
    return Score(faulty, named, {"data": data, "kind": kind}, {AXIS.name: [words[letter] for letter in found]})


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


def test_all_rules_have_an_axis_around_their_defaults() -> None:
    found = axes()
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
    assert min(by_name["exploding_gradient.growth"].values) >= 1  # smaller ones are refused


@pytest.mark.parametrize(
    ("default", "k", "value"), [(3.0, 2, 12.0), (0.5, 1, 2 / 3), (0.001, -1, 0.0005), (-1.5, 1, math.log10(2) - 1.5)]
)
def test_values_around_a_default(default: float, k: int, value: float) -> None:
    assert _scaled(default, k) == pytest.approx(value)
    assert _scaled(default, 0) == default
    assert _scaled(default, -4) < _scaled(default, -1) < default < _scaled(default, 4)


def test_one_replay_tries_a_value_of_each_rule(log: Path) -> None:
    wanted = [axis for axis in axes() if axis.problem in ("abnormal_data", "not_learning", "slow_convergence")]
    found = levels(log, wanted)
    std = next(axis for axis in wanted if axis.name == "abnormal_data.std")
    assert found[std.name][0] is not None
    assert found[std.name][-1] is None  # 320 is more than these inputs have
    for axis in wanted:
        for i in range(len(axis.values)) if axis is std else (0, len(axis.values) - 1):
            alone = autotrainer.replay(log, thresholds={axis.name: axis.values[i]}).findings
            assert found[axis.name][i] == next((str(f.severity) for f in alone if f.problem == axis.problem), None)


def test_a_log_that_is_gone_is_told(log: Path) -> None:
    short = [Axis("nonfinite", "", 0.0, (0.0,))]
    good, bad = levels_of_all([str(log), "no such file"], short, workers=1)
    assert good == {"nonfinite": [None]}
    assert isinstance(bad, str)
    assert "no such file" in bad


def test_counts() -> None:
    judged = [one("eew", faulty=True), one("e--", faulty=True), one("ew-", faulty=False), one("---", faulty=False)]
    judged.append(one("eee", faulty=True, cause="nonfinite"))
    assert counts(judged, AXIS) == [Counts(2, 0, 1, 2, 1), Counts(1, 1, 0, 2, 1), Counts(0, 2, 0, 2, 1)]
    assert counts(judged, AXIS, "warning")[1] == Counts(1, 1, 1, 2, 1)
    first, second, third = counts(judged, AXIS)
    assert (first.recall, first.precision, first.f1) == (1.0, pytest.approx(2 / 3), pytest.approx(0.8))
    assert (second.recall, second.precision) == (0.5, 1.0)
    assert third.f1 == 0.0
    assert math.isnan(third.precision)


def test_ties_and_nothing_to_find_keep_the_default() -> None:
    assert wins(counts([one("eee", faulty=True)], AXIS), AXIS) == 1
    assert wins(counts([one("e--", faulty=False)], AXIS), AXIS) == 1
    assert wins(counts([one("e--", faulty=True)], AXIS), AXIS) == 0
    assert not has_effect([one("eee", faulty=True), one("---", faulty=False)], AXIS)
    assert has_effect([one("eew", faulty=True)], AXIS)


def test_a_group_is_judged_by_what_the_others_choose() -> None:
    """On each data set alone another value looks best; what is chosen elsewhere fails there."""
    judged = [one("e--", faulty=True, data="a"), one("e--", faulty=True, data="a")]
    judged += [one("ee-", faulty=False, data="b"), one("--e", faulty=True, data="b"), one("--e", faulty=True, data="b")]
    found = cross_validate(judged, AXIS, "data")
    assert found.chosen == (0.75, 0.25)  # without a; without b
    assert found.held == Counts(hits=0, misses=4, alarms=1, healthy=1)
    assert found.default == Counts(hits=0, misses=4, alarms=1, healthy=1)
    assert max(c.f1 for c in counts(judged, AXIS)) > 0  # what choosing and judging on the same trainings would show
    assert cross_validate(judged, AXIS, "kind").groups == 1


def test_the_report_tells_defaults_and_choices() -> None:
    judged = [one("e--", faulty=True, data="a"), one("e--", faulty=True, data="b"), one("---", faulty=False)]
    never = Axis("nonfinite", "", 0.0, (0.0,))
    for training in judged:
        training.levels["nonfinite"] = [None]
    text = report(judged, [AXIS, never])
    assert "3 trainings: 2 faulty, 1 healthy" in text
    assert "| dying_relu | 0/2 (0 %) | – | 0/1 (0 %) | 0 | 0/2 (0 %) | 0/1 (0 %) |" in text
    assert "| nonfinite | – | – | 0/1 (0 %) | 0 | – | 0/1 (0 %) |" in text
    line = "| dying_relu.dead_units | 0.5 | 0.00 | 0.25 | 1.00 | 0.25 | 1.00 | 0.00 | 0.5 | 0.00 | 0.00 |"
    assert line in text
    assert "Without effect" not in text


def test_curves_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = [one("e--", faulty=True), one("ee-", faulty=False)]
    said = save_curves(judged, [AXIS], tmp_path / "curves", plots=False)
    assert "1 rules" in said
    told = json.loads((tmp_path / "curves" / "dying_relu.json").read_text())["thresholds"]["dead_units"]
    assert told["values"] == [0.25, 0.5, 0.75]
    assert told["error"]["alarms"] == [1, 1, 0]
    assert not list(tmp_path.rglob("*.svg"))
    pytest.importorskip("matplotlib")
    save_curves(judged, [AXIS], tmp_path / "curves")
    assert "dying_relu.dead_units" in (tmp_path / "curves" / "dying_relu.svg").read_text()
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="matplotlib"):
        calibrate(Runs(["pytorch"], ["real"], out=tmp_path / "rows.jsonl"))


MADE = {"cases": 2, "sources": ["generated:2"], "frameworks": ["pytorch"], "seeds": [0], "commit": "abc"}


def test_what_a_page_shows() -> None:
    judged = [one("e--", faulty=True, data="a"), one("e--", faulty=True, data="b"), one("e--", faulty=False)]
    judged.append(one("eee", faulty=True, cause="nonfinite"))
    told = calibration(judged, [AXIS], MADE)
    assert told["made"] == {**MADE, "trainings": 4, "healthy": 1}
    rule = told["rules"]["dying_relu"]
    assert (rule["bar"], rule["cause"], rule["usual"]) == ("error", 2, {"hits": 0, "alarms": 0, "beside": 1})
    lines = rule["thresholds"]["dead_units"]
    assert (lines["values"], lines["hits"], lines["alarms"]) == ([0.25, 0.5, 0.75], [2, 0, 0], [1, 0, 0])
    assert lines["chose"]["data"] == {"groups": 2, "values": [0.25, 0.25], "f1": 0.8, "default": 0.0}
    json.dumps(told, allow_nan=False)


def test_a_rule_that_never_errs_is_shown_by_its_warnings() -> None:
    rule = calibration([one("ww-", faulty=True), one("---", faulty=False)], [AXIS], MADE)["rules"]["dying_relu"]
    assert rule["bar"] == "warning"
    assert rule["thresholds"]["dead_units"]["hits"] == [1, 1, 0]
    rule = calibration([one("eee", faulty=True, cause="x"), one("---", faulty=False)], [AXIS], MADE)["rules"][
        "dying_relu"
    ]
    assert (rule["thresholds"], rule["still"]) == ({}, ["dead_units"])


def test_the_pages_file_has_a_line_for_each_rule(tmp_path: Path) -> None:
    judged = [one("e--", faulty=True), one("---", faulty=False)]
    path = tmp_path / "new" / "calibration.json"
    assert save_page(judged, [AXIS], MADE, path) == "Pages of 1 rules: calibration.json"
    assert json.loads(path.read_text()) == calibration(judged, [AXIS], MADE)
    assert [line[:12] for line in path.read_text().splitlines()] == ['{"made": {"c', '"rules": {', '"dying_relu"', "}}"]
    with pytest.raises(ConfigError, match="can't be written"):
        save_page(judged, [AXIS], MADE, path / "below")


def test_only_trainings_whose_state_is_known_are_replayed(log: Path) -> None:
    entry = {"log": str(log), "data": "d", "kind": "dense", "steps": 80}
    task: dict[str, Any] = {"framework": "pytorch", "source": "real", "case": "so50306988", "seed": 0}
    task |= {"variants": ["given", "fixed"], "logs": "x"}
    rows = [{"task": task, "given": {**entry, "score": 0.46}, "fixed": {**entry, "score": 1.0}}]
    rows.append({"task": {**task, "case": "so58609115"}, "error": "no end after 9 s"})
    judged, left_out = judged_logs(rows, [Axis("abnormal_data", "std", 20.0, (20.0, 320.0))], workers=1)
    assert [training.faulty for training in judged] == [True, False]
    assert judged[0].accepted
    assert judged[0].groups == {"data": "d", "kind": "dense"}
    assert judged[0].levels["abnormal_data.std"][1] is None
    assert left_out == ["pytorch, so58609115 (seed 0): no end after 9 s"]


def test_kinds_of_networks() -> None:
    names = ("waves.lstm.rate_too_low.0", "digit_images.cnn.rate_too_low.0", "moons.mlp.rate_too_low.0")
    kinds = [kind_of(case.given) for case in load_cases(["generated"], names)]
    assert kinds == ["recurrent", "convolutional", "dense"]


@pytest.mark.slow
def test_one_case_from_training_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [axis for axis in axes() if axis.problem == "slow_convergence"]
    monkeypatch.setattr(suite, "axes", lambda: wanted)
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
