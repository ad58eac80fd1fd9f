"""Transformers with faults: names, data, networks of both frameworks, weights, and the table by component."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch  # before TensorFlow

from autotrainer.errors import ConfigError
from benchmarks.cases.case import Case, load_cases
from benchmarks.cases.scoring import is_costly, is_faulty, score
from benchmarks.cases.sources import is_reserved, is_unseen
from benchmarks.data.datasets import load
from benchmarks.data.tokens import FIRST, IGNORED, MARK, PAD, pretraining_batch
from benchmarks.detect.components import auroc, by_component
from benchmarks.detect.locating import names_component
from benchmarks.detect.verdicts import judge_all
from benchmarks.generator.transformers.faults import COMPONENTS, FAULTS
from benchmarks.generator.transformers.names import transformer_names
from benchmarks.generator.transformers.recipes import KINDS
from benchmarks.programs import pytorch as build
from benchmarks.programs import transformer_weights
from benchmarks.programs.pytorch_pretraining import pretrain
from benchmarks.programs.pytorch_transformer import Transformer, set_weights, weights_of
from benchmarks.programs.transformer_training import beginnings, last_scores, rate_factor
from benchmarks.programs.transformer_weights import cache_folder, edited, pretrained

STYLES = [("plain", "separate"), ("plain", "joint"), ("fused", "separate"), ("fused", "joint"), ("module", "joint")]


def case_of(name: str) -> Case:
    (case,) = load_cases(["transformers"], [f"transformers.{name}"])
    return case


def spec_of(form: str = "decoder", **changes: Any) -> dict[str, Any]:
    spec = {"type": "transformer", "form": form, "units": 8, "heads": 2, "blocks": 2, "outputs": 20}
    spec |= {"attention": "plain", "projections": "separate", "norm": "pre", "activation": "gelu"}
    return {**spec, **changes}


def test_cases_take_turns_over_components_and_kinds() -> None:
    names = transformer_names(200, 0)
    assert len(set(names) | set(transformer_names(200, 1))) == 400
    cases = load_cases(["transformers:200:0"])
    assert {case.component for case in cases} == set(COMPONENTS)
    assert {case.id.split(".")[1] for case in cases} == set(KINDS)
    assert len({case.id.split(".")[2] for case in cases}) >= 60
    for case in cases:
        assert case.fixed is not None
        assert case.fixed != case.original
        assert case.accepted
        assert case.family == case.component


def test_healthy_trainings_are_distinct() -> None:
    cases = load_cases(["transformers:60:0@healthy"])
    assert len({case.recipe for case in cases}) == 60
    assert all(case.healthy and not case.component for case in cases)


def test_seeds_from_100_are_reserved() -> None:
    assert not is_reserved("transformers:40:3")
    assert is_reserved("transformers:40:100@mask")
    assert not is_unseen("transformers", "transformers.encoder_tuned.key_zero.3002")
    assert is_unseen("transformers", "transformers.encoder_tuned.key_zero.100002+fix")


@pytest.mark.parametrize(
    "name",
    ["encoder_tuned.nothing.0", "encoder.key_zero.0", "encoder_tuned.key_zero.x", "encoder_tuned.causal_missing.0"],
)
def test_unknown_faults_are_rejected(name: str) -> None:
    with pytest.raises(ConfigError):
        case_of(name)


def test_unknown_components_are_rejected() -> None:
    with pytest.raises(ConfigError, match="normalization"):
        load_cases(["transformers:5:0@norms"])


def test_a_fault_of_one_projection_has_separate_projections() -> None:
    for number in range(12):
        case = case_of(f"encoder_tuned.key_zero.{number}")
        assert case.original.layers[0]["projections"] == "separate"
        assert any(name.endswith("attention.key") for name in case.original.layers[0]["frozen"])


def test_class_is_that_of_the_token_after_the_mark() -> None:
    case = next(
        c for c in (case_of(f"encoder_tuned.healthy.{i}") for i in range(20)) if "after" in str(c.original.dataset)
    )
    data = load(case.original, 0)
    rows, places = np.nonzero(data.x_train == MARK)
    classes: dict[int, set[int]] = {}
    for row, token in zip(rows, data.x_train[rows, places + 1], strict=True):
        classes.setdefault(int(token), set()).add(int(data.y_train[row]))
    assert len(classes) > 10
    assert all(len(values) == 1 for values in classes.values())


def test_answers_of_a_copy_repeat_the_text() -> None:
    x, y = pretraining_batch("decoder", np.random.default_rng(0), 8)
    text, targets = x[0], y[0]  # the first task is the copy
    length = int(np.flatnonzero(text == MARK)[0]) - 1
    np.testing.assert_array_equal(targets[length + 1 : 2 * length + 1], text[1 : length + 1])
    assert (targets[text == PAD] == IGNORED).all()


@pytest.mark.parametrize(("attention", "projections"), STYLES)
def test_weights_survive_all_kinds_of_projections(attention: str, projections: str) -> None:
    torch.manual_seed(0)
    plain, other = Transformer(spec_of()), Transformer(spec_of(attention=attention, projections=projections))
    x = torch.from_numpy(pretraining_batch("decoder", np.random.default_rng(0), 8)[0])
    set_weights(other, weights_of(plain))
    for name, value in weights_of(other).items():
        np.testing.assert_array_equal(value, weights_of(plain)[name])
    torch.testing.assert_close(plain(x)[x != PAD], other(x)[x != PAD], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("fault", "leaks"), [(None, False), ("missing", True), ("off_by_one", True), ("inverted", True)]
)
def test_only_a_faulty_mask_lets_later_tokens_through(fault: str | None, leaks: bool) -> None:
    torch.manual_seed(0)
    model = Transformer(spec_of(wrong={"causal_mask": fault})).eval()
    x = torch.randint(FIRST, 20, (4, 20))
    changed = x.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 16 + FIRST
    with torch.no_grad():
        difference = (model(x) - model(changed))[:, :10].abs().max()
    assert bool(difference > 1e-6) == leaks


@pytest.mark.parametrize(
    ("wrong", "differs"),
    [({}, False), ({"attention_dropout": 0.5}, True), ({"norm": "over_batch"}, False), ({"dead_heads@1": 1}, False)],
)
def test_only_dropout_that_is_always_on_makes_evaluations_differ(wrong: dict[str, Any], differs: bool) -> None:
    torch.manual_seed(0)
    x = torch.randint(FIRST, 20, (4, 20))
    model = Transformer(spec_of(wrong=wrong, attention="fused")).eval()
    with torch.no_grad():
        assert torch.equal(model(x), model(x)) != differs


def test_faults_in_weights() -> None:
    weights = {"blocks.0.a.weight": np.ones((4, 3)), "blocks.1.a.weight": np.ones((4, 3)), "head.weight": np.eye(4)}
    scaled = edited(weights, [{"names": ["blocks.*.a"], "change": "scale", "value": 25}], 0)
    assert (scaled["blocks.0.a.weight"] == 25).all()
    assert (scaled["blocks.1.a.weight"] == 25).all()
    assert (weights["blocks.0.a.weight"] == 1).all()
    one = edited(weights, [{"names": ["blocks.1"], "change": "add", "value": 2}], 0)
    assert (one["blocks.0.a.weight"] == 1).all()
    assert (one["blocks.1.a.weight"] == 3).all()
    shuffled = edited(weights, [{"names": ["head"], "change": "shuffle", "value": 0}], 2)["head.weight"]
    assert sorted(shuffled.argmax(1)) == [0, 1, 2, 3]
    assert (shuffled != np.eye(4)).any()
    drawn = edited(weights, [{"names": ["head"], "change": "draw", "value": 0.1}], 0)["head.weight"]
    assert 0.01 < drawn.std() < 0.3
    rows = edited(weights, [{"names": ["head"], "change": "zero_rows", "value": 0.5}], 0)["head.weight"]
    assert 0 < (rows.sum(1) == 0).sum() < 4


def test_rates_rise_and_fall() -> None:
    rates = [rate_factor(step, 100, {"schedule": "linear", "warm_up": 0.1}) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1
    assert rates[-1] == 0
    assert rate_factor(1000, 100, {"schedule": "cosine"}) == pytest.approx(0)
    assert rate_factor(1000, 100, {}) == 1


def test_a_decoder_is_scored_on_what_it_writes() -> None:
    x = np.arange(1, 7).reshape(2, 3)
    texts = beginnings(x)
    assert texts.tolist() == [[1, 0, 0], [1, 2, 0], [1, 2, 3], [4, 0, 0], [4, 5, 0], [4, 5, 6]]
    assert last_scores(texts[..., None] * 10.0, 2)[..., 0].tolist() == [[10, 20, 30], [40, 50, 60]]


def test_likelihood_of_tokens_that_count() -> None:
    program = case_of("decoder_tuned.healthy.0").original
    targets = np.array([[1, IGNORED], [0, IGNORED]])
    outputs = np.log(np.array([[[0.2, 0.8], [1, 1e-9]], [[0.2, 0.8], [1, 1e-9]]]))
    assert score(program, outputs, targets) == pytest.approx(0.4)
    assert score(program, outputs * np.nan, targets) == 0


def test_costly_faults() -> None:
    encoder, decoder = case_of("encoder_tuned.key_zero.0"), case_of("decoder_tuned.key_zero.0")
    assert is_costly(encoder, 0.6, 0.99)
    assert not is_costly(encoder, 0.8, 0.99)
    assert is_costly(decoder, 0.7, 0.99)
    assert not is_costly(decoder, 0.9, 0.99)


def test_pretraining_is_deterministic_and_learns() -> None:
    (first, early), (again, _) = pretrain("encoder_pre", 2), pretrain("encoder_pre", 2)
    assert all(np.array_equal(value, again[name]) for name, value in first.items())
    assert "head.weight" in first
    assert math.isfinite(early)


def test_pretrained_weights_are_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def write(command: list[str], **_: Any) -> None:
        calls.append(command)
        np.savez(command[-1], tokens=np.ones(3))

    monkeypatch.setattr(transformer_weights.subprocess, "run", write)
    for _ in range(2):
        assert pretrained("encoder_pre")["tokens"].tolist() == [1, 1, 1]
    assert len(calls) == 1
    assert Path(calls[0][-1]).parent == cache_folder()


@pytest.mark.parametrize(
    ("layers", "message", "component", "named"),
    [
        (["blocks.0.attention.key"], "", "attention", True),
        (["block_0/attention/qkv"], "", "attention", True),
        (["blocks.0.norm1", "head"], "", "normalization", True),
        (["head"], "", "normalization", False),
        (["blocks.0.attention.attention.heads"], "", "head", False),
        (["tokens"], "", "embedding", True),
        (["blocks.1"], "", "residual", True),
        ([], "A later token changes an earlier output: the causal mask is wrong.", "mask", True),
        ([], "Positions get no gradient.", "positions", False),
        ([], "The positions get no gradient.", "positions", True),
        ([], "The loss is flat.", "loop", False),
    ],
)
def test_findings_that_name_a_component(layers: list[str], message: str, component: str, named: bool) -> None:
    assert names_component({"layers": layers, "message": message}, component) == named


def finding(problem: str, severity: str, confidence: float = 0.9) -> dict[str, Any]:
    return {"problem": problem, "severity": severity, "confidence": confidence, "caused_by": None, "layers": ["tokens"]}


def row(name: str, scores: tuple[float, float], *found: dict[str, Any]) -> dict[str, Any]:
    task = {"framework": "pytorch", "source": "transformers", "case": f"transformers.{name}", "seed": 0}
    entry = {"steps": 100, "complaints": []}
    faulty = {**entry, "score": scores[0], "findings": list(found), "raised": [], "first_error": 3 if found else None}
    healthy = {**entry, "score": scores[1], "findings": [], "raised": [], "first_error": None}
    return {"task": {**task, "variants": ["given", "fixed"]}, "given": faulty, "fixed": healthy}


def test_table_by_component() -> None:
    rows = [
        row("encoder_tuned.embedding_redrawn.0", (0.5, 1.0), finding("not_learning", "error")),
        row("encoder_tuned.embedding_shuffled.0", (0.9, 1.0)),
        row("encoder_tuned.not_loaded.0", (0.4, 1.0), finding("checkpoint_not_loaded", "warning")),
    ]
    verdicts, left_out = judge_all(rows, "pytorch")
    assert not left_out
    assert [v.located for v in verdicts if v.faulty] == [True, False, True]
    assert [v.named for v in verdicts if v.faulty] == [False, False, True]
    assert [v.costly for v in verdicts if v.faulty] == [True, False, True]
    assert auroc(verdicts) == pytest.approx((2 * 3 + 0.5 * 3) / 9)
    text = by_component(verdicts)
    assert "| embedding | 2 | 1/2 (50 %" in text
    assert "AUROC 0.83" in text
    assert by_component([]) == ""


def test_every_fault_has_a_component_of_its_description() -> None:
    by_description: dict[str, set[str]] = {}
    for fault in FAULTS.values():
        by_description.setdefault(fault.description, set()).add(fault.component)
    assert all(len(components) == 1 for components in by_description.values())


@pytest.mark.slow
@pytest.mark.parametrize(("attention", "projections"), STYLES)
def test_both_frameworks_make_the_same_network(attention: str, projections: str) -> None:
    from benchmarks.programs import keras3_transformer as keras_build

    draw = np.random.default_rng(0)
    turned = STYLES.index((attention, projections)) % 2
    for form, norm in zip(("encoder", "decoder"), ("post", "pre") if turned else ("pre", "post"), strict=True):
        x = pretraining_batch(form, draw, 12)[0]
        tied = (form, norm) == ("decoder", "pre")
        spec = spec_of(form, attention=attention, projections=projections, norm=norm, tied=tied, pool="mean")
        model, other = Transformer(spec), keras_build.build(spec)
        weights = {name: draw.normal(0, 0.3, w.shape).astype("f") for name, w in weights_of(model).items()}
        set_weights(model, weights)
        keras_build.set_weights(other, weights)
        loaded = keras_build.weights_of(other)
        assert loaded.keys() == weights.keys()
        for name, value in loaded.items():
            np.testing.assert_array_equal(value, weights[name])
        with torch.no_grad():
            expected = model.eval()(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(np.asarray(other(x.astype("int32"))), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["encoder_tuned.query_zero.0", "decoder_tuned.causal_missing.0", "encoder_scratch.value_zero.0"]
)
def test_faults_cost_score(name: str) -> None:
    silent = SimpleNamespace(log=lambda **_: None, end_epoch=lambda **_: None)
    case = case_of(name)
    assert case.fixed is not None
    scores = [
        build.train(program, load(program, 0), 0, lambda *_, **__: nullcontext(silent))[0]
        for program in (case.original, case.fixed)
    ]
    assert is_faulty(case, *scores)
    assert scores[1] >= 0.95 * case.measured["torch"]["fixed"][0]
