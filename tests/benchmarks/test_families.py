"""Families of programs: names, injected faults, the reserved part, and the figures on seen and unseen programs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from autotrainer.errors import ConfigError
from benchmarks.calibration.suite import calibrate
from benchmarks.cases.case import Case, load_cases
from benchmarks.cases.scoring import case_state, sample_quality, score
from benchmarks.cases.sources import is_reserved, is_unseen
from benchmarks.data.datasets import load
from benchmarks.data.synthetic import SYNTHETIC, make_synthetic
from benchmarks.detect.generalization import GROUPS, generalization, group_of
from benchmarks.detect.verdicts import Verdict
from benchmarks.execution.runs import Runs
from benchmarks.generator.families.examples import EXAMPLES
from benchmarks.generator.families.generate import family_names, healthy_names
from benchmarks.generator.families.registry import FAMILIES, OPEN, RESERVED, RESERVED_SEEDS
from benchmarks.generator.faults_families import FAMILY_FAULTS
from benchmarks.programs import pytorch as build
from benchmarks.reporting.intervals import difference


def case_of(name: str) -> Case:
    (case,) = load_cases(["families"], [name])
    return case


def test_a_third_of_the_families_is_reserved() -> None:
    assert len(RESERVED) >= len(FAMILIES) / 3
    assert {name.split(".")[0] for name in family_names(44, 0, OPEN)} == set(OPEN)
    assert {case.family for case in load_cases(["unseen:22"])} == set(RESERVED)


@pytest.mark.parametrize(
    ("source", "reserved"),
    [
        ("families:30", False),
        (f"families:30:{RESERVED_SEEDS}", True),
        ("families:30:3@tags+gan", True),
        ("unseen:30:0", True),
        ("healthy:30:0", True),
        ("generated:30:23", False),
        ("real", False),
        ("world_hidden", True),
    ],
)
def test_calibration_refuses_reserved_programs(source: str, reserved: bool, tmp_path: Path) -> None:
    assert is_reserved(source) == reserved
    if reserved:
        with pytest.raises(ConfigError, match="reserved"):
            calibrate(Runs(["pytorch"], [source], out=tmp_path / "rows.jsonl"), plots=False)


def test_names_of_two_seeds_and_of_a_case_and_its_twin_differ_as_they_should() -> None:
    assert len(set(family_names(60, 0, OPEN)) | set(family_names(60, 1, OPEN))) == 120
    assert family_names(60, 0, OPEN)[:20] == family_names(20, 0, OPEN)
    faulty, healthy = case_of("tags.gru.rate_too_low.5"), case_of("tags.gru.healthy.5")
    assert faulty.fixed == healthy.original
    assert faulty.original.optimizer["lr"] < 0.1 * healthy.original.optimizer["lr"]
    assert healthy.fixed is None
    assert healthy.healthy
    assert not faulty.healthy
    assert case_of("tags.gru.healthy.6").original.dataset["draw"] != healthy.original.dataset["draw"]


def test_faults_change_the_training_and_keep_the_habits_of_its_loop() -> None:
    cases = load_cases(["families:66:1", "unseen:33:1"])
    for case in cases:
        assert case.fixed is not None
        assert case.fixed != case.original
        assert case.accepted
        habits = {name: value for name, value in case.original.loop.items() if name in case.fixed.loop}
        assert habits == case.fixed.loop
        assert set(case.fixed.loop) <= {"loss_call", "reporting"}
    assert len({case.faults for case in cases}) > 20


def test_every_fault_fits_some_family() -> None:
    faults = {part for name in family_names(1500, 0, list(FAMILIES)) for part in name.split(".")[2].split("+")}
    assert set(FAMILY_FAULTS) - faults <= {"mse_for_labels", "evaluates_in_training", "trains_in_evaluation"}


@pytest.mark.parametrize(
    "name",
    [
        "tags.gru.nothing.0",
        "tags.mlp.healthy.0",
        "tags.gru.healthy.x",
        "gan.ring.softmax_axis.0",
        "gates.mlp.shuffled_labels.0",
        "values.one.rate_too_low+rate_too_high.0",
    ],
)
def test_invalid_names_are_rejected(name: str) -> None:
    with pytest.raises(ConfigError):
        load_cases(["families"], [name])


@pytest.mark.parametrize("name", SYNTHETIC)
def test_synthetic_data_are_determined_by_their_seed(name: str) -> None:
    first, again, other = (make_synthetic(name, seed, {}) for seed in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()
    if name != "gates":
        assert not np.array_equal(first[0], other[0])
        assert len(first[0]) > len(first[2]) > 0


def test_labels_are_shuffled_only_in_training_rows() -> None:
    case = case_of("bags.counts.shuffled_labels.0")
    assert case.fixed is not None
    faulty, healthy = load(case.original, 0), load(case.fixed, 0)
    np.testing.assert_array_equal(faulty.x_train, healthy.x_train)
    np.testing.assert_array_equal(faulty.y_test, healthy.y_test)
    np.testing.assert_array_equal(np.sort(faulty.y_train), np.sort(healthy.y_train))
    assert np.mean(faulty.y_train == healthy.y_train) < 0.6


def test_validation_of_other_classes_has_none_of_the_first_class() -> None:
    data = load(case_of("bags.counts.other_classes.0").original, 0)
    assert 0 in data.y_train
    assert 0 not in data.y_test
    assert set(data.y_test) - set(data.y_train)


@pytest.mark.parametrize(
    ("name", "factor"), [("residual.plain.tiny_inputs.0", 1e-3), ("residual.plain.shifted_inputs.0", 1)]
)
def test_inputs_are_distorted_alike_in_training_and_test(name: str, factor: float) -> None:
    case = case_of(name)
    assert case.fixed is not None
    faulty, healthy = load(case.original, 0), load(case.fixed, 0)
    for part in ("x_train", "x_test"):
        a, b = getattr(faulty, part), getattr(healthy, part)
        assert a.std() <= 1.1 * factor * b.std()
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) > 0.99


@pytest.mark.parametrize("kind", FAMILIES["encodings"].kinds)
def test_odd_encodings_are_learned_as_well(kind: str) -> None:
    case = case_of(f"encodings.{kind}.healthy.1")
    data = load(case.original, 0)
    if kind == "bits":
        assert data.y_train.shape[1] == 3
    if kind == "signed":
        assert set(np.unique(data.y_train)) == {-1, 1}
    if kind == "from_one":
        assert data.y_train.min() == 1
    wrong = {"signed": -data.y_test, "bits": 1 - data.y_test}.get(kind)
    if wrong is not None:
        assert score(case.original, data.y_test, data.y_test) == 1
        assert score(case.original, wrong, data.y_test) == 0


def test_frozen_layers_are_not_trained() -> None:
    case = case_of("values.one.frozen_layers.0")
    model = build.build(case.original, (6,))
    trained = [parameter.requires_grad for parameter in model.parameters()]
    assert any(trained)
    assert not all(trained)


def test_stale_optimizer_has_the_last_layer_and_parameters_of_another_model() -> None:
    case = case_of("values.one.other_optimizer.0")
    data = load(case.original, 0)
    model = build.build(case.original, data.x_train.shape[1:])
    ids = {id(parameter) for parameter in build._optimized(case.original, model, data)}
    own = [id(parameter) in ids for parameter in model.parameters()]
    assert own[-2:] == [True, True]
    assert not any(own[:-2])
    assert len(ids) == len(own)


def test_causal_attention_sees_no_later_step() -> None:
    case = case_of("grammar.transformer.healthy.0")
    data = load(case.original, 0)
    model = build.build(case.original, data.x_train.shape[1:]).eval()
    x = torch.from_numpy(data.x_train[:4])
    changed = x.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % 14
    with torch.no_grad():
        before, after = model(x), model(changed)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_sample_quality_of_the_same_distribution_and_of_a_constant() -> None:
    real = make_synthetic("ring", 0, {})[0]
    assert sample_quality(real[::2], real[1::2]) > 0.95
    assert sample_quality(np.zeros_like(real) + real.mean(0), real) == pytest.approx(0)
    assert sample_quality(np.full_like(real, math.nan), real) == 0


def test_healthy_case_is_judged_by_the_score_to_reach() -> None:
    case = case_of("codes.mse.healthy.0")
    assert case_state(case, [0.9], [], "pytorch") == "healthy"
    assert "0.500" in case_state(case, [0.5], [], "pytorch")
    names = healthy_names(75, RESERVED_SEEDS, [*FAMILIES, *EXAMPLES])
    assert len(set(names)) == 75
    assert {name.split(".")[0] for name in names} == {*FAMILIES, *EXAMPLES}


@pytest.mark.parametrize("example", [f"{name}.{kind}" for name, family in EXAMPLES.items() for kind in family.kinds])
def test_examples_are_complete(example: str) -> None:
    case = case_of(f"{example}.healthy.0")
    data = load(case.original, 0)
    if case.original.loss != "composite":
        model = build.build(case.original, data.x_train.shape[1:])
        outputs = model(build.to_inputs(case.original, data.x_train[:4]))
        pair = build.for_loss(case.original, outputs, build.to_targets(data.y_train[:4], case.original))
        assert build.loss_module(case.original)(*pair).ndim == 0


def verdict(case: str, source: str, *, faulty: bool, errors: tuple[str, ...] = ()) -> Verdict:
    family = case.split(".")[0]
    return Verdict(
        case=case,
        source=source,
        faulty=faulty,
        score=0.5,
        errors=errors,
        raised=errors,
        warnings=(),
        rank=None,
        accepted=frozenset(),
        first_error=None,
        steps=100,
        family=family,
    )


@pytest.mark.parametrize(
    ("case", "source", "group"),
    [
        ("so50306988", "real", 0),
        ("demo_vanish", "zoo", 0),
        ("gh-gol_nn+fix", "real2", 1),
        ("moons.mlp.zero_init.7002", "generated", 2),
        ("moons.mlp.zero_init.23002+fix", "generated", 5),
        ("tags.gru.zero_init.3", "families", 3),
        ("tags.gru.zero_init.100003", "families", 6),
        ("gan.ring.rate_too_low.0", "unseen", 7),
        ("tags.gru.healthy.3", "healthy", 3),
        ("tags.gru.healthy.100003", "healthy", 6),
        ("gan.ring.healthy.0", "healthy", 7),
        ("tutorials.beginner.healthy.0", "healthy", 8),
        ("so-marks50", "world", 1),
        ("gh-talent92+fix", "world_hidden", 4),
    ],
)
def test_groups_of_seen_and_unseen_programs(case: str, source: str, group: int) -> None:
    name = list(GROUPS)[group]
    assert group_of(verdict(case, source, faulty=False)) == name
    assert is_unseen(source, case) == GROUPS[name]
    assert group_of(verdict(case, "custom.jsonl", faulty=False)) == ""


def test_difference_of_shares() -> None:
    middle, low, high = difference(56, 70, 48, 80)  # Newcombe's example (a)
    assert (middle, low, high) == (pytest.approx(0.2), pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))
    assert math.isnan(difference(1, 2, 0, 0)[0])


def test_table_of_seen_and_unseen_programs() -> None:
    def row(case: str, source: str, original: float, severity: str) -> dict[str, object]:
        found = {"problem": "not_learning", "severity": severity, "confidence": 0.9, "caused_by": None, "seen": 3}
        entry = {"steps": 100, "complaints": []}
        task = {"framework": "pytorch", "source": source, "case": case, "seed": 0, "variants": ["given", "fixed"]}
        faulty = {**entry, "score": original, "findings": [found], "raised": [found], "first_error": 3}
        healthy = {**entry, "score": 1.0, "findings": [], "raised": [], "first_error": None}
        return {"task": task, "given": faulty, "fixed": healthy}

    rows = [
        row("bags.counts.rate_too_low.0", "families", 0.3, "error"),
        row("verdicts.lstm.rate_too_low.0", "unseen", 0.5, "warning"),
    ]
    text = generalization(rows)
    assert "| open families | seen | 1 | 1/1 (100 %, 21–100) |" in text
    assert "| reserved families | unseen | 1 | 0/1 (0 %, 0–79) |" in text
    assert "| seen − unseen |  |  | +1.00 (-0.12 – +1.00) |" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gates.mlp", "handful.line", "gan.ring", "vae.sigmoid", "branches.two"])
def test_healthy_trainings_reach_their_score_and_a_fault_shows(name: str) -> None:
    from contextlib import nullcontext
    from types import SimpleNamespace

    silent = SimpleNamespace(log=lambda **_: None, end_epoch=lambda **_: None)
    scores = []
    for fault in ("healthy", "rate_too_low"):
        case = case_of(f"{name}.{fault}.0")
        data = load(case.original, 0)
        scores.append(build.train(case.original, data, 0, lambda *_, **__: nullcontext(silent))[0])
    assert scores[0] >= 0.95 * case.measured["torch"]["fixed"][0]
    assert scores[1] < scores[0] - 0.05
