"""`fit(resume=True)`: resumes after a crash, to the result of a run without one."""

from __future__ import annotations

import json
import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotrainer.adapter.spec import Evaluation, TrainingSpec
from autotrainer.edits import Edit, ScaleInputs, SetLearningRate
from autotrainer.errors import ConfigError, LogError
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.json_lines import LineWriter
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import OptimizerInfo, TaskContext
from autotrainer.scoring.metrics import Score
from autotrainer.training.budget import Budget
from autotrainer.training.trial import Failure, Trial
from autotrainer.workers.journal_reader import JOURNAL
from autotrainer.workers.trial_codec import from_record, restore_targets, to_record, to_text


class Crash(BaseException):
    """Ends everything, as if the process had died."""


def _crash_at(number: int, first: int) -> Any:
    """Return a callback that crashes in the training with that number, counted from the training ``first``."""

    def crash(edits: tuple[Edit, ...], done: int) -> None:
        if done - first == number:
            raise Crash

    return crash


def _crash(story: Any, number: int, folder: Path, **options: Any) -> None:
    with pytest.raises(Crash):
        story.fit(_crash_at(number, len(story.processes)), log_dir=folder, **options)


@pytest.mark.parametrize("number", [0, 1, 2, 7, 12, 20])
@pytest.mark.parametrize("metric", ["auto", "auc"])
def test_resumed_result_equals_uninterrupted_result(story: Any, tmp_path: Path, number: int, metric: str) -> None:
    options: dict[str, Any] = {"budget": 8.0, "metric": metric}
    whole = story.fit(**options)
    trainings = len(whole["attempts"]) + 1
    before = len(story.processes)
    _crash(story, number, tmp_path / "log", **options)
    resumed = story.fit(log_dir=tmp_path / "log", resume=True, **options)
    assert resumed == whole
    run = len(story.processes) - before - number - 1
    assert run <= trainings - number + 2, "of the recorded trainings, one step for a reference and the best are run"


def test_resumes_after_repeated_crashes(story: Any, tmp_path: Path) -> None:
    whole = story.fit(budget=8.0)
    _crash(story, 3, tmp_path / "log", budget=8.0)
    _crash(story, 3, tmp_path / "log", budget=8.0, resume=True)
    with (file := next((tmp_path / "log").glob("fit-*.jsonl"))).open("a") as cut:
        cut.write('{"key": "cut')
    lines = file.read_text().count("\n")
    assert story.fit(budget=8.0, log_dir=tmp_path / "log", resume=True) == whole
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(records) > lines
    assert len({record.get("key") for record in records}) == len(records), "no training twice"


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_resumes_wherever_the_journal_ends(story: Any, tmp_path: Path, lines: int) -> None:
    whole = story.fit(budget=3.0, log_dir=tmp_path)
    (file,) = tmp_path.glob("fit-*.jsonl")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:lines]))  # header, training as given, its test
    resumed = story.fit(budget=3.0, log_dir=tmp_path, resume=True)
    assert resumed == whole
    assert resumed["baseline_test_score"] == 0.5


def test_completed_fit_is_returned_from_its_journal(
    story: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = story.fit(log_dir=tmp_path)
    before = len(story.processes)
    caplog.set_level(logging.INFO, "autotrainer")
    assert story.fit(log_dir=tmp_path, resume=True) == whole
    assert len(story.processes) == before + 2, "one step for a reference, and the best"
    assert f"resuming after {len(whole['attempts']) + 2} records" in caplog.text


def test_resumes_with_workers(story: Any, tmp_path: Path) -> None:
    whole = story.fit(budget=8.0)
    _crash(story, 5, tmp_path / "log", budget=8.0)
    assert story.fit(budget=8.0, log_dir=tmp_path / "log", resume=True, workers=2) == whole


def test_starts_without_a_journal(story: Any, tmp_path: Path) -> None:
    (tmp_path / "fit-cut.jsonl").write_text('{"autotrainer_fit":1,"requ')
    result = story.fit(log_dir=tmp_path, resume=True)
    assert result == story.fit()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epochs": 10}, "epochs is 10, recorded 9"),
        ({"seed": 1}, "seed is 1, recorded 0"),
        ({"budget": 5.0}, "budget is '5.0', recorded '12.0'"),
        ({"metric": "auc", "strategy": "structure"}, "metric is 'auc', recorded 'auto', strategy is 'structure'"),
        ({"metric": lambda y, p: 0.0}, "metric is not the same"),
        ({"ignore": "bad_rate"}, "choice_of_rules is not the same"),
        ({"test_data": (np.zeros((4, 2)), np.zeros(4))}, "test_data is not the same"),
    ],
)
def test_journal_of_another_request_is_refused(story: Any, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    _crash(story, 2, tmp_path / "log")
    with pytest.raises(ConfigError) as error:
        story.fit(log_dir=tmp_path / "log", resume=True, **change)
    assert "is the journal of another fit: " in str(error.value)
    assert says in str(error.value)
    assert "leave resume out" in str(error.value)


def test_matching_journal_is_chosen_among_others(story: Any, tmp_path: Path) -> None:
    whole = story.fit(budget=8.0)
    _crash(story, 4, tmp_path / "log", budget=8.0)
    story.fit(budget=3.0, log_dir=tmp_path / "log")
    before = len(story.processes)
    assert story.fit(budget=8.0, log_dir=tmp_path / "log", resume=True) == whole
    assert len(story.processes) - before < len(whole["attempts"])


def test_damaged_journal_is_a_log_error(story: Any, tmp_path: Path) -> None:
    _crash(story, 4, tmp_path / "log")
    file = next((tmp_path / "log").glob("fit-*.jsonl"))
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "nonsense", *lines[2:], ""]))
    with pytest.raises(LogError, match="line 2 is damaged"):
        story.fit(log_dir=tmp_path / "log", resume=True)


def test_full_disk_ends_only_the_journal(
    story: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert story.fit(budget=3.0, log_dir=tmp_path)["status"] == "improved"
    assert caplog.text.count("No space left on device") == 1


def test_recorded_seconds_count_towards_wall_time(story: Any, tmp_path: Path) -> None:
    _crash(story, 3, tmp_path / "log", budget=timedelta(hours=1))
    file = next((tmp_path / "log").glob("fit-*.jsonl"))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[-1]["seconds"] = 3601.0
    with file.open("w") as rewritten:
        writer = LineWriter(rewritten, JOURNAL)
        for line in lines:
            del line["crc"]
            writer.write(json.dumps(line))
    result = story.fit(budget=timedelta(hours=1), log_dir=tmp_path / "log", resume=True)
    assert (result["stopped_by"], len(result["attempts"])) == ("budget", 2)


def test_budget_continues_from_a_snapshot() -> None:
    now = [100.0]
    budget = Budget(timedelta(seconds=60), clock=lambda: now[0])
    budget.measure(7)
    budget.spend(3)
    now[0] += 20
    budget.end_baseline()
    now[0] += 10
    other = Budget.of(budget.state)
    assert (other.unit, other.spent) == (7, 3)
    assert other.state.seconds == pytest.approx(30, abs=1)
    assert other.state.since_baseline == pytest.approx(10, abs=1)
    other.advance(61)
    other.advance(5)
    assert not other.allows(1)
    assert other.state.seconds == pytest.approx(61, abs=1)


def _trial() -> Trial:
    inputs = ScaleInputs(mean=(0.1, 1 / 3), std=(2.0, 1e-30))
    finding = Finding("x", "AT1", Severity.ERROR, 1 / 3, "é", ("a",), 3, 1, {"n": float("inf"), "m": 0.1}, ("r",), "y")
    context = TaskContext(
        "fake", optimizer=OptimizerInfo("sgd", 1e-3), layers=(LayerInfo("a", units=3),), asked={"q": 2.0}
    )
    score = Score(0.1 + 0.2, 0.0, np.array([1.0, np.nan, -1e-300]), None, Evaluation(np.eye(2), np.array([0, 1]), 0.5))
    return Trial(
        TrainingSpec(3, 0, (SetLearningRate(0.1),)), None, score, (finding,), context,
        {"loss": [1.5, float("nan")], "score": [0.5]},
        12, True, above_trivial=False, edits=(SetLearningRate(0.1), inputs), granted=5, peak=13, total=14, stuck=True,
        resumable=True,
    )  # fmt: skip


def test_trial_round_trip_is_exact() -> None:
    trial = _trial()
    line = to_text(to_record(trial))
    assert "\n" not in line
    rebuilt = from_record(json.loads(line), trial.spec)
    assert isinstance(rebuilt, Trial)
    restore_targets(rebuilt, Evaluation(np.zeros((2, 2)), np.array([0, 1]), 0.0))
    for name in (
        "spec",
        "findings",
        "work",
        "cut_short",
        "above_trivial",
        "edits",
        "granted",
        "peak",
        "total",
        "stuck",
        "resumable",
        "errors",
        "clean",
    ):
        assert getattr(rebuilt, name) == getattr(trial, name), name
    assert rebuilt.context.layers == trial.context.layers
    assert rebuilt.context.asked == trial.context.asked
    np.testing.assert_array_equal(rebuilt.history["loss"], trial.history["loss"])
    assert rebuilt.score is not None
    assert trial.score is not None
    assert rebuilt.score.value == trial.score.value
    np.testing.assert_array_equal(rebuilt.score.rows, trial.score.rows)  # type: ignore[arg-type]
    assert rebuilt.score.evaluation is not None
    np.testing.assert_array_equal(rebuilt.score.evaluation.outputs, np.eye(2))
    np.testing.assert_array_equal(rebuilt.score.evaluation.targets, [0, 1])
    for outputs in (np.zeros((3, 2)), np.zeros((2, 2), np.float32)):
        with pytest.raises(LogError, match="the journal has predictions of shape"):
            restore_targets(rebuilt, Evaluation(outputs, np.array([0, 1]), 0.0))
    failure = Failure("ValueError: ß", 3, 4)
    assert from_record(json.loads(to_text(to_record(failure))), trial.spec) == failure


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child_does_not_write_to_the_journal(story: Any, tmp_path: Path, record_property: Any) -> None:
    record_property("attacks", 3)
    parent, children = os.getpid(), []

    def fork(edits: tuple[Edit, ...], number: int) -> None:
        if os.getpid() == parent and len(children) < 3:
            children.append(process := os.fork())
            if process == 0:
                children.clear()

    try:
        result = story.fit(fork, log_dir=tmp_path / "log", budget=8.0)
    finally:
        if os.getpid() != parent:  # it has run the same fit to its end
            os._exit(0)
    for process in children:
        assert os.waitpid(process, 0)[1] == 0
    (journal,) = (tmp_path / "log").glob("fit-*.jsonl")
    keys = [json.loads(line).get("key") for line in journal.read_text().splitlines()]
    assert len(keys) == len(set(keys)) > 3
    before = len(story.processes)
    assert story.fit(log_dir=tmp_path / "log", budget=8.0, resume=True) == result
    assert len(story.processes) - before <= 2
