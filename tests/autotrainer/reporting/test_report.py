from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotrainer.edits import SetLearningRate
from autotrainer.errors import InputError
from autotrainer.records.findings import Finding, Severity, fold
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, LayerInfo, StepStats
from autotrainer.records.task import TaskContext
from autotrainer.reporting.plan import RepairPlan
from autotrainer.reporting.report import Report
from autotrainer.reporting.result import Attempt, Result

ROOT = Finding(
    "abnormal_data",
    "AT501",
    Severity.ERROR,
    0.97,
    "Inputs reach 255.",
    ("fc1", "fc2"),
    21,
    3,
    {"max": 255.0, "norm": math.inf},
    ("scale_inputs", "insert_normalization"),
)
MIDDLE = Finding("dying_relu", "AT201", Severity.ERROR, 0.9, "Half is dead.", caused_by="abnormal_data")
LEAF = Finding("not_learning", "AT303", Severity.ERROR, 0.9, "It stays at chance.", caused_by="dying_relu")
NOTE = Finding("oscillating_loss", "AT301", Severity.INFO, 0.9, "It swung. Resolved by step 30.", repairs=("x",))


def _history(losses: list[float]) -> tuple[RunHistory, TaskContext]:
    context = TaskContext("pytorch", "pytorch", layers=(LayerInfo("fc1", parameters=12),))
    history = RunHistory(context.layers)
    for step, loss in enumerate(losses):
        scalars = np.full(len(STEP_COLUMNS), np.nan)
        scalars[STEP_COLUMNS.index("loss")] = loss
        history.add_step(StepStats(step, 0, scalars, np.zeros((1, len(LAYER_COLUMNS)))))
    history.add_epoch(0, len(losses) - 1, {"val_loss": 0.4})
    return history, context


def _result(**changes: Any) -> Result:
    plan = RepairPlan(("scale_learning_rate",), (SetLearningRate(0.01),), ("learning_rate_too_high",))
    other = replace(plan, edits=(SetLearningRate(0.1),))
    attempts = [Attempt(other, None, "CUDA <out> of memory", (), 0.2), Attempt(plan, 0.9, None, (NOTE,), 1.0)]
    values: dict[str, Any] = {
        "status": "repaired",
        "stopped_by": "done",
        "model": None,
        "optimizer": None,
        "history": {"loss": [1.0, 0.5], "val_loss": [1.0, 0.6]},
        "score": 0.9,
        "baseline_score": 0.5,
        "test_score": None,
        "baseline_test_score": None,
        "findings": [ROOT, MIDDLE, LEAF],
        "plan": plan,
        "attempts": attempts,
        "cost": 2.2,
        "metric": "accuracy",
        "notes": {"swap_activation": "F.relu is called as a function"},
    }
    return Result(**{**values, **changes})


def test_text_shows_root_before_its_consequences() -> None:
    text = str(Report((ROOT, MIDDLE, LEAF, NOTE)))
    blocks = text.split("\n\n")
    assert blocks[0] == "autotrainer: 3 errors, 1 note"
    assert blocks[1].splitlines() == [
        "ERROR  AT501 abnormal_data   (first seen in epoch 3, step 21; 97% confidence)",
        "  Inputs reach 255.",
        "  layers: fc1, fc2",
        "  evidence: max = 255, norm = inf",
        "  └ causes AT201 dying_relu [error]: Half is dead.",
        "  └ causes AT303 not_learning [error]: It stays at chance.",
        "  suggested repairs: scale_inputs, insert_normalization",
        "  more: autotrainer explain abnormal_data",
    ]
    assert blocks[2].startswith("INFO  AT301 oscillating_loss")
    assert "suggested repairs" not in blocks[2]
    assert len(blocks) == 3


def test_text_lists_further_consequences_in_one_line() -> None:
    names = ("dying_relu", "no_gradient", "not_learning", "slow_convergence")
    after = [Finding(p, "AT1", Severity.ERROR, 0.9, f"{p} it is.", caused_by=ROOT.problem) for p in names]
    lines = [line for line in str(Report((ROOT, *after))).splitlines() if line.startswith("  └")]
    assert lines == [
        "  └ causes AT1 dying_relu [error]: dying_relu it is.",
        "  └ causes AT1 no_gradient [error]: no_gradient it is.",
        "  └ also causes AT1 not_learning [error], AT1 slow_convergence [error]",
    ]


def test_headline_without_findings_describes_the_run() -> None:
    headline, note = str(Report.of_run([], *_history([1.0, 0.5]))).split("\n\n")
    assert note.startswith("No gradient was observed")
    assert " ".join(headline.split()) == (
        "autotrainer: no problem found in 2 steps (1 epoch) of training a pytorch model with 1 layer; not measured: "
        "gradients, targets"
    )


@pytest.mark.parametrize(
    ("facts", "headline", "note"),
    [
        ({"rank": 2, "led_by": 0}, "autotrainer: reported by rank 0 in 0 steps", "rank 0 reports for all"),
        (
            {"rank": 0, "late_group": 1},
            "autotrainer: nothing could be",
            "connected after watch was called, so that rank 0",
        ),
        ({"rank": 1, "watched_ranks": 3, "unwatched_rank": 2}, "autotrainer: nothing could be", "rank 2 is not"),
    ],
)
def test_report_of_one_of_several_processes(facts: dict[str, float], headline: str, note: str) -> None:
    report = Report.of_run([], RunHistory(), TaskContext("pytorch", asked={"ranks": 4.0, **facts}))
    assert " ".join(str(report).split()).startswith(headline)
    assert any(note in sentence for sentence in report.run["notes"])
    assert bool(report.run["unmeasured"]) == ("led_by" not in facts)


@pytest.mark.parametrize(
    ("causes", "groups"),
    [
        ({"a": None, "b": "a"}, {"a": ["b"]}),
        ({"a": "gone", "b": None}, {"a": [], "b": []}),
        ({"a": "b", "b": "a", "c": "b"}, {"a": ["b", "c"]}),
        ({"a": "a"}, {"a": []}),
    ],
)
def test_fold_keeps_every_finding_once(causes: dict[str, str | None], groups: dict[str, list[str]]) -> None:
    findings = [Finding(p, "AT1", Severity.ERROR, 1.0, "m", caused_by=c) for p, c in causes.items()]
    assert {root.problem: [f.problem for f in rest] for root, rest in fold(findings)} == groups


def test_text_of_result() -> None:
    text = str(_result().report())
    assert "repaired: better by more than noise, and no errors remain." in text
    assert "validation accuracy: 0.5 → 0.9" in text
    assert "swap_activation: F.relu is called as a function" in text
    assert "work: 2.20× the cost of one training" in text
    assert str(_result().plan).splitlines()[0] in text
    assert "CUDA <out> of memory" in text
    assert "1 attempt and the original run were compared on the same validation set" in text
    assert [line[0] for line in text.splitlines() if "scale_learning_rate (" in line] == [" ", "*"]


def test_test_score_replaces_selection_bias_note() -> None:
    text = str(_result(test_score=0.88, baseline_test_score=0.51).report())
    assert "0.51 → 0.88" in text
    assert "compared on the same validation set" not in text


@pytest.mark.parametrize("status", ["healthy", "repaired", "improved", "unrepaired"])
@pytest.mark.parametrize("stopped_by", ["done", "budget", "interrupt"])
def test_every_outcome_renders_in_all_formats(status: str, stopped_by: str) -> None:
    plan = {} if status in ("repaired", "improved") else {"plan": None}
    report = _result(status=status, stopped_by=stopped_by, score=math.nan, **plan).report()
    assert status in str(report)
    assert json.loads(report.to_json())["result"]["status"] == status
    assert status in report.to_html()


def test_json_is_strict_and_versioned() -> None:
    report = Report.of_run([ROOT], *_history([1.0, math.inf, math.nan, 0.5]))
    values = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert values["autotrainer_report"] == 1
    assert values["result"] is None
    assert values["findings"][0]["evidence"] == {"max": 255.0, "norm": "inf"}
    assert values["run"]["steps"] == 4
    assert [y for _, y in values["curves"]["loss"]] == [1.0, "inf", 0.5]


def test_long_curves_are_downsampled() -> None:
    report = Report.of_run([], *_history([float(i) for i in range(3000)]))
    points = report.curves["loss"]
    assert len(points) == 400
    assert (points[0], points[-1]) == ((0.0, 0.0), (2999.0, 2999.0))


@pytest.mark.parametrize(("suffix", "start"), [("html", "<!doctype html>"), ("json", "{"), ("TXT", "autotrainer:")])
def test_save_by_suffix(tmp_path: Path, suffix: str, start: str) -> None:
    path = tmp_path / "new" / f"report.{suffix}"
    assert Report((ROOT,)).save(path) == path
    assert path.read_text("utf-8").startswith(start)
    assert list(path.parent.iterdir()) == [path]


def test_save_rejects_unknown_suffix_and_unwritable_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"suffix selects the format, did you mean '\.html'"):
        Report().save(tmp_path / "report.htm")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not NoneType"):
        Report.of_run([], RunHistory(), TaskContext()).save(None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="can't write"):
        Report().save(tmp_path / "file" / "report.html")


def test_attempts_are_reported_with_their_plans_in_words() -> None:
    outcome = json.loads(_result().report().to_json())["result"]
    assert [attempt["plan"] for attempt in outcome["attempts"]] == [["learning rate 0.1"], ["learning rate 0.01"]]
    assert [step["words"] for step in outcome["patch_steps"]] == ["learning rate 0.01"]
    assert all(line in outcome["patch"] for step in outcome["patch_steps"] for line in step["code"])


def test_lists_of_numbers_are_one_line_of_json_each() -> None:
    text = Report.of_run([], *_history([1.0, math.inf, 0.5])).to_json()
    assert '[1.0, "inf"]' in text
    assert json.loads(text)["curves"]["loss"] == [[0.0, 1.0], [1.0, "inf"], [2.0, 0.5]]


def test_control_characters_are_escaped() -> None:
    assert "\x1b" not in str(Report((replace(ROOT, layers=("\x1b[2J",)),)))


def _search_result() -> Result:
    """Return a result of a search: two short trainings, one of them taken to its end."""
    plan = RepairPlan(("scale_learning_rate",), (SetLearningRate(0.01),))
    other = replace(plan, repairs=("swap_<b>",), edits=(SetLearningRate(0.1),))
    attempts = [
        Attempt(plan, 0.7, None, (), 0.2, epochs=3),
        Attempt(other, 0.6, None, (), 0.2, epochs=3),
        Attempt(other, None, "it broke", (), 0.1),
        Attempt(plan, 0.9, None, (NOTE,), 1.0),
    ]
    return _result(plan=plan, attempts=attempts, epochs=15, cost=2.5)


def test_short_attempts_are_labeled_and_never_chosen() -> None:
    report = _search_result().report()
    assert [a.chosen for a in report.outcome.attempts] == [False, False, False, True]
    lines = [line for line in str(report).splitlines() if "scale_learning_rate (" in line or "swap_<" in line]
    assert lines == [
        "        0.7   0.20  scale_learning_rate (trained for 3 of 15 epochs; no errors left)",
        "        0.6   0.20  swap_<b> (trained for 3 of 15 epochs; no errors left)",
        "          –   0.10  swap_<b> (failed: it broke)",
        "*       0.9   1.00  scale_learning_rate (no errors left)",
    ]
    assert [a["epochs"] for a in json.loads(report.to_json())["result"]["attempts"]] == [3, 3, None, None]
    assert "trained for 3 of 15 epochs: none" in report.to_html()


def test_seed_repeats_are_labeled_and_never_chosen() -> None:
    result = _search_result()
    plan, original = result.attempts[0].plan, RepairPlan((), ())
    result.attempts += [
        Attempt(original, 0.5, None, (NOTE,), 0.3, verdict="open"),
        Attempt(plan, 0.4, None, (), 1.0, verdict="refuted"),
    ]
    report = result.report()
    assert [a.chosen for a in report.outcome.attempts] == [False, False, False, True, False, False]
    reruns = "└ with other seeds: original 0.5; scale_learning_rate 0.4: the gain does not hold"
    assert f"              1.30  {reruns}" in str(report).splitlines()
    assert "due to chance" not in str(report) + report.to_html()
    doubtful = replace(result, doubtful=True).report()
    assert "The gain may be due to chance: it is not significant at the 99.9% level" in str(doubtful)
    assert "The gain may be due to chance" in doubtful.to_html()
    assert json.loads(doubtful.to_json())["result"]["doubtful"] is True
    assert "3 attempts and the original run were compared" in str(report)
    page = report.to_html()
    assert "with another seed: the gain does not hold" in page
    assert "3 attempts and the original run were compared" in page


def test_gain_says_with_how_many_seeds_it_was_measured() -> None:
    result = _search_result()
    once = "The gain was measured with one seed and one set of initial weights"
    assert once in str(result.report())
    assert once in result.report().to_html()
    result.attempts.append(Attempt(RepairPlan((), ()), 0.6, None, (), 0.3, verdict="open"))
    assert once in str(result.report()), "a rerun of the original alone shows nothing about the gain"
    result.attempts += [Attempt(result.plan, score, None, (), 1.0, verdict="holds") for score in (0.8, None, 0.7)]
    note = (
        "With other seeds, but the same initial weights: 0.8 on average (0.7 to 0.9) with 3 seeds, and the original "
        "0.55 on average (0.5 to 0.6) with 2 seeds. The mean gain is 0.25."
    )
    assert note in " ".join(str(result.report()).split())
    assert note in result.report().to_html()
    lower = replace(result, mode="min", score=0.1, baseline_score=1.6)
    assert "The mean gain is 0.5667." in " ".join(str(lower.report()).split())
    for status in ("healthy", "unrepaired"):
        unrepaired = replace(result, status=status, plan=None, score=result.baseline_score)
        assert "seeds" not in str(unrepaired.report()).split("Attempts:")[0]
    assert "initial weights" not in str(replace(result, baseline_score=math.nan).report())


def test_facts_about_probes_that_nobody_writes_are_ignored() -> None:
    for fact in (99.0, -1.0, math.inf, math.nan):
        context = TaskContext(asked={"not_probed": fact, "failed_probes": fact})
        assert not any("probe" in name for name in Report.of_run((), RunHistory(), context).run["unmeasured"])
    context = TaskContext(asked={"failed_probes": 2.0})
    assert "probe of row mixing" in Report.of_run((), RunHistory(), context).run["unmeasured"]


def test_findings_about_thousands_of_layers_leave_the_report_small() -> None:
    names = tuple(f"encoder.layers.{i}.attention.projection" for i in range(10_000))
    report = Report(tuple(replace(ROOT, problem=f"problem_{i}", layers=names) for i in range(30)))
    for text in (report.to_json(), report.to_sarif()):
        assert len(text) < 200_000
    for finding in json.loads(report.to_json())["findings"]:
        assert len(finding["layers"]) + finding["more_layers"] == len(names)
        assert finding["layers"][0] == names[0]
    assert json.loads(Report((ROOT,)).to_json())["findings"][0]["more_layers"] == 0
    assert "and 9994 more" in report.to_html()
