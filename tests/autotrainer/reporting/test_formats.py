"""Formats of findings: JSON that fits its schema, SARIF that fits its own, annotations that nothing can forge."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotrainer import Finding, Report, Severity
from autotrainer.reporting.formats import document, github, sarif
from autotrainer.reporting.formats.training import Training, source_root

HOSTILE = "a::error file=x::b\r\n::set-output name=t::1\x1b[31m\u202e %0A {0} [AT101](http://x) ,:\udcff\0"
ROOT = Finding(
    "exploding_gradient", "AT102", Severity.ERROR, 0.9, "The gradient grew by a factor of 50%.", ("0", "2"), 12, 1,
    {"growth": math.inf, "loss": math.nan, "steps": 3.0}, ("clip_gradients", "scale_learning_rate"), place="train.py:7",
)  # fmt: skip
CONSEQUENCE = Finding("nonfinite", "AT801", Severity.WARNING, 0.5, "It is NaN.", caused_by="exploding_gradient")
FACT = Finding("dormant_neurons", "AT206", Severity.INFO, 0.3, "It is over.", place="/elsewhere/a b.py:3")
FINDINGS = (ROOT, CONSEQUENCE, FACT)
RUN = {"framework": "pytorch", "steps": 40, "epochs": 2, "layers": 3, "sampled_steps": 9, "unmeasured": ["targets"]}


def _training(*findings: Finding, name: str = "Sequential", file: str = "/checkout/train.py") -> Training:
    curves = {"loss": ((0.0, 0.7), (1.0, math.nan), (2.0, math.inf))}
    return Training(name, findings, Report(findings, RUN, curves).to_dict(), file)


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_json_fits_its_schema(checkout: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(document.schema())
    jsonschema.Draft202012Validator.check_schema(document.schema())
    hostile = replace(ROOT, message=HOSTILE, layers=(HOSTILE,), place=f"{HOSTILE}:4")
    for trainings in ([], [_training()], [_training(*FINDINGS), _training(hostile, name=HOSTILE, file="")]):
        values = json.loads(document.render(trainings, "run", checkout))
        validator.validate(values)
    assert values["findings"][3]["message"] == HOSTILE.replace("\udcff", "\ufffd")
    for key, value in {"severity": "fatal", "training": -1, "line": "7", "evidence": {"x": "big"}}.items():
        changed = {**values, "findings": [{**values["findings"][0], key: value}]}
        assert not validator.is_valid(changed), key
    assert not validator.is_valid({**values, "schema_version": 2})
    of_report = jsonschema.Draft202012Validator({"$defs": document.schema()["$defs"], "$ref": "#/$defs/report"})
    report = json.loads(Report(FINDINGS, RUN).to_json())
    of_report.validate(report)
    assert not of_report.is_valid({**report, "run": {"steps": "many"}})


def test_json_names_training_file_and_line(checkout: Path) -> None:
    trainings = [_training(ROOT, file=str(checkout / "train.py")), _training(CONSEQUENCE, file=str(checkout / "b.py"))]
    values = json.loads(document.render(trainings, "run", checkout))
    located = [(f["problem"], f["training"], f["file"], f["line"]) for f in values["findings"]]
    assert located == [("exploding_gradient", 0, "train.py", 7), ("nonfinite", 1, "b.py", None)]
    assert [t["file"] for t in values["trainings"]] == ["train.py", "b.py"]
    assert values["findings"][0]["evidence"] == {"growth": "inf", "loss": "nan", "steps": 3.0}


def test_sarif_has_the_structure_of_the_standard(checkout: Path) -> None:
    trainings = [_training(*FINDINGS, file=str(checkout / "my train.py")), _training(ROOT)]
    log = json.loads(sarif.render(trainings, checkout))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules, results = run["tool"]["driver"]["rules"], run["results"]
    assert [rule["id"] for rule in rules] == ["AT102", "AT801", "AT206"]
    assert all(rule["help"]["text"] and rule["shortDescription"]["text"] and "helpUri" not in rule for rule in rules)
    assert [result["level"] for result in results] == ["error", "warning", "note", "error"]
    for result in results:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert 0 <= result["rank"] <= 100
    places = [result["locations"][0]["physicalLocation"] for result in results]
    assert places[0] == {
        "artifactLocation": {"uri": "train.py", "uriBaseId": "%SRCROOT%"}, "region": {"startLine": 7}
    }  # fmt: skip
    assert places[1] == {"artifactLocation": {"uri": "my%20train.py", "uriBaseId": "%SRCROOT%"}}
    assert places[2] == {"artifactLocation": {"uri": "file:///elsewhere/a%20b.py"}, "region": {"startLine": 3}}
    fingerprints = [result["partialFingerprints"]["autotrainerFinding/v1"] for result in results]
    assert len(set(fingerprints)) == len(fingerprints)  # also of the same problem in two trainings


def test_fingerprints_stay_when_numbers_and_lines_move(checkout: Path) -> None:
    def fingerprint(finding: Finding) -> str:
        (run,) = json.loads(sarif.render([_training(finding)], checkout))["runs"]
        return str(run["results"][0]["partialFingerprints"])

    moved = replace(ROOT, message="It grew by 60%.", step=30, layers=("4",), place="train.py:9", confidence=0.7)
    assert fingerprint(moved) == fingerprint(ROOT)
    assert fingerprint(replace(ROOT, place="other.py:7")) != fingerprint(ROOT)
    logs = [Training(f"logs/run-{n}.jsonl", [ROOT], from_log=True) for n in range(2)]
    first, second = (json.loads(sarif.render([log], checkout))["runs"][0]["results"] for log in logs)
    assert first[0]["partialFingerprints"] == second[0]["partialFingerprints"]


@pytest.mark.parametrize(("findings", "file"), [((CONSEQUENCE, ROOT), "train.py"), ((CONSEQUENCE,), "./")])
def test_each_result_of_sarif_has_a_location(findings: tuple[Finding, ...], file: str, checkout: Path) -> None:
    (run,) = json.loads(sarif.render([_training(*findings, file="")], checkout))["runs"]
    (location,) = run["results"][0]["locations"]
    assert location["physicalLocation"] == {"artifactLocation": {"uri": file, "uriBaseId": "%SRCROOT%"}}


@pytest.mark.integrations
def test_sarif_fits_a_model_generated_from_the_schema(checkout: Path) -> None:
    model = pytest.importorskip("pydantic_sarif.model").StaticAnalysisResultsFormatSarifVersion210JsonSchema
    hostile = replace(ROOT, message=HOSTILE, layers=(HOSTILE,), place=f"{HOSTILE}:4", evidence={HOSTILE: 1.0})
    for trainings in ([], [_training()], [_training(*FINDINGS), _training(hostile, name=HOSTILE, file="")]):
        model.model_validate_json(sarif.render(trainings, checkout))
    broken = json.loads(sarif.render([_training(ROOT)], checkout))
    broken["runs"][0]["results"][0]["level"] = "fatal"
    with pytest.raises(ValueError):
        model.model_validate(broken)


@pytest.mark.parametrize(
    ("trainings", "failure", "successful"),
    [
        ([_training(*FINDINGS)], "", True),  # whatever is wrong with the training
        ([_training(), _training(ROOT)], "", True),
        ([Training("empty", [], {"run": {"sampled_steps": 0}})], "", False),
        ([_training(), Training("part", [], {"run": {"unmeasured": ["loss", "rank (failed)"]}})], "", False),
        ([Training("part", [], {"run": {"unmeasured": ["loss"]}})], "", True),
        ([], "", False),
        ([], "there is no log {x}", False),
    ],
)
def test_sarif_says_whether_the_tool_has_succeeded(
    trainings: list[Training], failure: str, successful: bool, checkout: Path
) -> None:
    (run,) = json.loads(sarif.render(trainings, checkout, failure))["runs"]
    (invocation,) = run["invocations"]
    notes = invocation["toolExecutionNotifications"]
    assert invocation["executionSuccessful"] == successful
    assert any(note["level"] == "error" for note in notes) != successful
    assert not failure or notes[0]["message"]["text"] == "there is no log {{x}}"


def test_text_in_sarif_is_no_placeholder_and_no_link(checkout: Path) -> None:
    (run,) = json.loads(sarif.render([_training(replace(ROOT, message=HOSTILE))], checkout))["runs"]
    text = run["results"][0]["message"]["text"]
    assert "{{0}}" in text
    assert r"\[AT101](http" in text
    assert text.isprintable()


def test_annotations(checkout: Path) -> None:
    lines = github.render([_training(*FINDINGS, file=str(checkout / "a,b.py"))], checkout).split("\n")
    assert lines[0].startswith("autotrainer: 1 error, 1 warning, 1 note in 40 steps")
    assert lines[1:] == [
        "::error file=train.py,line=7,title=AT102 exploding_gradient::The gradient grew by a factor of 50%25."
        "%0ASuggested repairs: clip_gradients, scale_learning_rate",
        "::warning file=a%2Cb.py,title=AT801 nonfinite::It is NaN.%0ACaused by exploding_gradient.",
        "::notice file=/elsewhere/a b.py,line=3,title=AT206 dormant_neurons::It is over.",
    ]


def test_hostile_text_forges_no_annotation(checkout: Path) -> None:
    hostile = replace(
        ROOT, problem=HOSTILE, message=HOSTILE, repairs=(HOSTILE,), caused_by=HOSTILE, place=f"{HOSTILE}:4"
    )
    trainings = [_training(hostile, name=HOSTILE, file=HOSTILE), _training()]
    lines = github.render(trainings, checkout).split("\n")
    assert [line.partition(" ")[0] for line in lines] == ["autotrainer:", "::error", "autotrainer:"]
    assert all(line.isprintable() for line in lines)
    command = re.fullmatch(r"::error ((?:\w+=[^,:]*,?)+)::(.*)", lines[1])
    assert command is not None
    assert [part.partition("=")[0] for part in command[1].split(",")] == ["title"]  # a file with NUL is no file


def test_paths_are_relative_to_the_checkout_of_a_workflow(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "sub").mkdir()
    monkeypatch.chdir(checkout / "sub")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(checkout))
    (annotation,) = github.render([_training(ROOT)], source_root()).split("\n")[1:]
    assert "file=sub/train.py,line=7" in annotation
    monkeypatch.setenv("GITHUB_WORKSPACE", str(checkout / "other"))
    assert source_root() == checkout / "sub"


@pytest.mark.parametrize("place", ["<ipython-input-3>:4", "train.py", "train.py:x", "train.py:0", "train.py:²", ":3"])
def test_places_that_are_none(checkout: Path, place: str) -> None:
    values: dict[str, Any] = json.loads(
        document.render([_training(replace(ROOT, place=place), file="")], "run", checkout)
    )
    assert (values["findings"][0]["file"], values["findings"][0]["line"]) == (None, None)


def test_report_is_saved_as_sarif(checkout: Path) -> None:
    path = Report(FINDINGS, RUN).save("r.sarif")
    assert [r["ruleId"] for r in json.loads(path.read_text())["runs"][0]["results"]] == ["AT102", "AT801", "AT206"]
