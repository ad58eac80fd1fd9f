"""Probes on models that are plain functions of arrays: what each probe measures, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from autotrainer.adapter.probed_model import NotProbedError, ProbedModel, check_memory
from autotrainer.diagnostics.probes import run_probes
from autotrainer.diagnostics.probes.positions import order_conflicts, order_in_inputs
from autotrainer.diagnostics.probes.sequences import class_indices, find_padding
from autotrainer.records.facts import NOISE_SOURCES, NOT_PROBED, PROBES

RNG = np.random.default_rng(0)
VOCABULARY = 12
TOKENS = RNG.integers(1, VOCABULARY, (16, 13))
TABLE = RNG.normal(size=(VOCABULARY, 6))
PLACES = RNG.normal(size=(64, 6))
HEAD = RNG.normal(size=(6, 5))
ROWS = RNG.normal(size=(10, 7)).astype(np.float32)


class Fake(ProbedModel):
    """A function of the fields, a random generator and a state, which is the number of calls since the last reset."""

    def __init__(self, function: Callable[..., Any], fields: Mapping[str, Any], targets: Any = None, **traits: Any):
        self.fields, self.targets, self._function = dict(fields), targets, function
        self.weight, self.state, self.rows = 1.0, 0, 0
        for name, value in traits.items():
            setattr(self, name, value)

    def outputs(self, fields: Mapping[str, Any], *, seed: int = 0, keep_state: bool = False) -> list[Any]:
        self.state = self.state + 1 if keep_state else 0
        self.rows += len(next(iter(fields.values())))
        result = self._function(
            self, np.random.default_rng(seed), **{k.replace(" ", "_"): v for k, v in fields.items()}
        )
        return list(result) if isinstance(result, tuple) else [np.asarray(result, np.float64)]

    @contextmanager
    def perturbed(self) -> Iterator[bool]:
        before, self.weight = self.weight, self.weight + 0.5
        yield True
        self.weight = before

    @contextmanager
    def without_normalization(self) -> Iterator[None]:
        self.normalizes = False
        yield
        self.normalizes = True

    normalizes = True


def facts(model: ProbedModel) -> dict[str, float]:
    return run_probes(lambda: model).facts


def attended(x: Any, mask: Any = None, places: bool = True) -> Any:
    """Attention with keys, queries and values equal to the embeddings."""
    hidden = TABLE[x] + places * PLACES[: x.shape[1]]
    logits = hidden @ hidden.swapaxes(1, 2) / 6
    logits = logits if mask is None else np.where(mask, logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)) @ hidden


def causal(x: Any) -> Any:
    return np.tril(np.ones((x.shape[1], x.shape[1]), bool))


# -- causality ------------------------------------------------------------------------------------------------------


def language_model(mask: Callable[[Any], Any]) -> Fake:
    def forward(model: Fake, _: Any, x: Any) -> Any:
        return attended(x, mask(x)) @ HEAD

    return Fake(forward, {"x": TOKENS[:, :-1]}, TOKENS[:, 1:], embeds=True)


@pytest.mark.parametrize(
    ("mask", "leaks"),
    [
        pytest.param(causal, False, id="causal"),
        pytest.param(lambda x: None, True, id="none"),
        pytest.param(lambda x: np.tril(causal(x) | True, 1), True, id="one token too many"),
        pytest.param(lambda x: causal(x).T, True, id="transposed"),
    ],
)
def test_later_tokens(mask: Callable[[Any], Any], leaks: bool) -> None:
    result = facts(language_model(mask))
    assert (result["later_effect"] > result["later_noise"]) is leaks
    assert (result["later_reach"] > 0) is leaks
    assert result["failed_probes"] == 0


def test_a_mask_that_hides_every_other_token() -> None:
    result = facts(language_model(lambda x: np.eye(x.shape[1], dtype=bool)))
    assert result["later_effect"] == result["earlier_effect"] == 0
    assert facts(language_model(causal))["earlier_effect"] > 0.01


@pytest.mark.parametrize("flat", [True, False])
def test_targets_that_were_not_shifted(flat: bool) -> None:
    inputs = TOKENS[:, :-1]
    for mask, repeats in ((causal, True), (lambda x: None, False)):  # an autoencoder sees all tokens
        model = language_model(mask)
        model.targets = inputs.reshape(-1) if flat else inputs
        assert ("repeats_input" in facts(model)) is repeats
    assert "repeats_input" not in facts(language_model(causal))


@pytest.mark.parametrize("repeats", [True, False])
def test_a_decoder_that_is_given_its_targets(repeats: bool) -> None:
    target = TOKENS % 7

    def forward(model: Fake, _: Any, source: Any, decoder: Any) -> Any:
        return (attended(decoder, causal(decoder)) + TABLE[source].mean(1, keepdims=True)) @ HEAD

    given = target if repeats else np.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=9)
    model = Fake(forward, {"source": TOKENS, "decoder": given}, target, embeds=True)
    assert ("repeats_input" in facts(model)) is repeats


@pytest.mark.parametrize(("shift", "extra", "repeats"), [(0, 0.0, True), (1, 0.002, False)])
def test_a_loss_of_the_model_that_is_closer_to_that_of_the_next_tokens(shift: int, extra: float, repeats: bool) -> None:
    def forward(model: Fake, _: Any, x: Any) -> Any:
        logits = 1e-3 * attended(x, causal(x)) @ TABLE.T  # all tokens are about as likely
        chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        own, tokens = chances[:, : x.shape[1] - shift], x[:, shift:]
        model.loss = extra - float(np.log(np.take_along_axis(own, tokens[:, :, None], 2)).mean())
        return logits

    model = Fake(forward, {"x": TOKENS[:, :-1]}, TOKENS[:, :-1], embeds=True)
    assert ("repeats_input" in facts(model)) is repeats


@pytest.mark.parametrize(
    ("start", "leaks"), [pytest.param(9, False, id="prefix"), pytest.param(0, True, id="all positions count")]
)
def test_a_prefix_whose_targets_do_not_count_may_look_ahead(start: int, leaks: bool) -> None:
    def with_prefix(x: Any) -> Any:
        mask = causal(x)
        mask[:, :9] |= np.arange(x.shape[1])[:, None] < 9
        return mask

    model = language_model(with_prefix)
    model.targets = np.where(np.arange(12) < start, -100, TOKENS[:, 1:])
    result = facts(model)
    assert (result["later_effect"] > result["later_noise"]) is leaks


def test_a_tagger_may_look_ahead() -> None:
    model = language_model(lambda x: None)
    model.targets = (TOKENS[:, :-1] % 3).astype(np.int64)
    assert "later_effect" not in facts(model)


@pytest.mark.parametrize(
    "targets",
    [
        pytest.param(TOKENS[:, 1:].reshape(-1), id="flattened"),
        pytest.param(np.eye(VOCABULARY)[TOKENS[:, 1:]], id="one-hot"),
        pytest.param(TOKENS[:, 1:-1], id="without the last position"),
        pytest.param(np.where(RNG.random((16, 12)) < 0.5, -100, TOKENS[:, 1:]), id="some masked"),
    ],
)
def test_forms_of_next_tokens(targets: Any) -> None:
    model = language_model(lambda x: None)
    model.targets = targets
    assert facts(model)["later_effect"] > 0.01


def test_a_loss_inside_the_model_shows_that_it_shifts_its_targets() -> None:
    def forward(model: Fake, _: Any, input_ids: Any, labels: Any) -> Any:
        logits = attended(input_ids) @ RNG_HEAD
        scores, following = (logits[:, :-1], labels[:, 1:]) if model.shifts else (logits, labels)
        log_sums = np.log(np.exp(scores).sum(-1))
        model.loss = float((log_sums - np.take_along_axis(scores, following[..., None], -1)[..., 0]).mean())
        return logits

    for shifts in (True, False):
        model = Fake(forward, {"input_ids": TOKENS, "labels": TOKENS}, TOKENS, embeds=True, shifts=shifts)
        assert ("later_effect" in facts(model)) is shifts


RNG_HEAD = np.random.default_rng(1).normal(size=(6, VOCABULARY))


def test_forecasts_of_vectors() -> None:
    series = np.cumsum(RNG.normal(size=(8, 21, 3)), axis=1).astype(np.float32)

    def forward(model: Fake, _: Any, x: Any) -> Any:
        return x + (x.mean(axis=1, keepdims=True) if model.leaks else np.cumsum(x, axis=1))

    for leaks in (True, False):
        result = facts(Fake(forward, {"x": series[:, :-1]}, series[:, 1:], leaks=leaks))
        assert (result["later_effect"] > result["later_noise"]) is leaks


# -- padding --------------------------------------------------------------------------------------------------------

LENGTHS = RNG.integers(4, 11, 16)
PADDED = np.where(np.arange(13) < LENGTHS[:, None], TOKENS, 0)
MASK = (PADDED > 0).astype(np.int64)
LABELS = RNG.integers(0, 2, 16)


def pooled(model: Fake, _: Any, x: Any, attention_mask: Any = None) -> Any:
    keep = (x > 0) if attention_mask is None else attention_mask > 0
    hidden = attended(x, keep[:, None, :] if model.masks else None)
    weights = keep[:, :, None] if model.masks else 1.0
    return (hidden * weights).sum(1) / np.broadcast_to(weights, hidden.shape).sum(1) @ HEAD


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("fields", [{"x": PADDED}, {"x": PADDED, "attention_mask": MASK}], ids=["alone", "with a mask"])
def test_padding(masks: bool, fields: dict[str, Any]) -> None:
    result = facts(Fake(pooled, fields, LABELS, embeds=True, masks=masks, attention=True))
    assert (result["padding_effect"] > max(result["padding_noise"], 0.01)) is not masks
    assert result["padding_masked"] == ("attention_mask" in fields)


def test_sequences_without_padding_have_none() -> None:
    model = Fake(pooled, {"x": TOKENS}, LABELS, embeds=True, masks=False)
    assert find_padding(model, "x") is None
    assert "padding_effect" not in facts(model)
    inside = PADDED.copy()
    inside[:, 1] = 0  # a token that also stands inside is no padding
    assert find_padding(Fake(pooled, {"x": inside}, LABELS, embeds=True), "x") is None
    assert find_padding(Fake(pooled, {"x": inside}, LABELS, embeds=True, padding=frozenset({0})), "x") is not None


# -- positions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [True, False])
def test_order(places: bool) -> None:
    def forward(model: Fake, _: Any, x: Any) -> Any:
        return attended(x, None, places).mean(1) @ HEAD

    result = facts(Fake(forward, {"x": TOKENS}, LABELS, embeds=True))
    assert (result["order_effect"] > result["order_noise"]) is places


def test_positions_that_start_at_zero_are_positions() -> None:
    def forward(model: Fake, _: Any, x: Any) -> Any:
        return ((TABLE[x] + (model.weight - 1) * PLACES[: x.shape[1]]) ** 2).mean(1) @ HEAD

    result = facts(Fake(forward, {"x": TOKENS}, LABELS, embeds=True))
    assert result["order_effect"] > result["order_noise"]


def test_tokens_that_do_not_mix_have_no_order() -> None:
    model = Fake(lambda model, _, x: TABLE[x] @ HEAD, {"x": TOKENS}, TOKENS % 3, embeds=True)
    assert "order_effect" not in facts(model)


def test_targets_out_of_reach_without_order() -> None:
    assert order_conflicts(np.array([[1, 2, 1, 2]]), np.array([[0, 5, 1, 5]])) == 0.25  # token 1 has targets 0 and 1
    assert order_conflicts(np.array([[1, 2, 1, 2]]), np.array([[0, 5, -100, 5]])) == 0
    assert (
        order_conflicts(np.array([[1, 2, 3], [3, 2, 1], [1, 2, 3]]), np.array([0, 1, 0])) == 0.5
    )  # equal rows count once
    assert order_conflicts(np.array([[1, 2, 3], [1, 2, 3]]), np.array([0, 1])) == 0
    assert np.isnan(order_conflicts(TOKENS, RNG.normal(size=16)))


def test_series_have_an_order_and_sets_have_none() -> None:
    series = np.cumsum(RNG.normal(size=(8, 40, 2)), axis=1)
    assert order_in_inputs(series) < -5
    assert abs(order_in_inputs(RNG.normal(size=(8, 40, 2)))) < 5


# -- rows, noise, fields --------------------------------------------------------------------------------------------


def test_rows_that_mix() -> None:
    def forward(model: Fake, _: Any, x: Any) -> Any:
        return np.exp(x) / np.exp(x).sum(0)

    result = facts(Fake(forward, {"x": ROWS}))
    assert result["row_effect"] > 0.01
    assert result["row_effect_without_norm"] > 0.01
    assert "row_effect" not in facts(Fake(forward, {"x": ROWS}, rows_first=None))  # time may come first


def test_order_of_rows_tells_a_set_from_exchanged_axes() -> None:
    as_set = facts(Fake(lambda model, _, x: x + 0.5 * x.mean(0), {"x": ROWS}))
    assert as_set["row_effect"] > 0.01
    assert as_set["row_order_effect"] == 0
    in_order = facts(Fake(lambda model, _, x: np.cumsum(x, 0), {"x": ROWS}))
    assert in_order["row_order_effect"] > 0.01


def test_rows_that_an_input_relates_mix_by_design() -> None:
    def neighbors(model: Fake, _: Any, x: Any, edges: Any) -> Any:
        result = x.copy()
        np.add.at(result, edges[1] % len(x), x[edges[0] % len(x)])
        return result

    edges = np.stack([np.arange(9), np.arange(1, 10)])
    assert "row_effect" not in facts(Fake(neighbors, {"x": ROWS, "edges": edges}))
    assert "row_effect" in facts(Fake(neighbors, {"x": ROWS, "edges": edges + 100}))


def test_normalization_over_the_batch_is_told_apart() -> None:
    def forward(model: Fake, _: Any, x: Any) -> Any:
        return (x - x.mean(0)) / x.std(0) if model.normalizes else x

    assert facts(Fake(forward, {"x": ROWS}))["row_effect_without_norm"] == 0


def test_scores_of_rows_with_each_other_mix_by_design() -> None:
    assert "row_effect" not in facts(Fake(lambda model, _, x: x @ x.T, {"x": ROWS}))


def test_noise_state_and_samples() -> None:
    noisy = facts(Fake(lambda model, rng, x: x + rng.normal(size=x.shape), {"x": ROWS}, noise="dropout"))
    assert noisy["evaluation_noise"] > 0.5
    assert noisy["noise_source"] == NOISE_SOURCES.index("dropout")
    assert noisy["stable_outputs"] == 0
    sampling = facts(Fake(lambda model, rng, x: (x + rng.normal(size=x.shape), x), {"x": ROWS}))
    assert sampling["stable_outputs"] == 1
    stateful = facts(Fake(lambda model, rng, x: x + model.state, {"x": ROWS}))
    assert stateful["evaluation_state"] > 0.5
    assert "row_effect" not in stateful  # nothing can be compared
    assert facts(Fake(lambda model, rng, x: x, {"x": ROWS}))["evaluation_noise"] == 0


def test_columns_and_fields_that_nothing_depends_on() -> None:
    cut = run_probes(lambda: Fake(lambda model, rng, x: x[:, :5] @ HEAD[:5], {"x": ROWS}))
    assert (cut.facts["ignored_columns"], cut.facts["ignored_column"]) == (2, 5)
    gated = facts(Fake(lambda model, rng, x: x[:, :1] + (model.weight - 1) * x[:, 1:], {"x": ROWS}))
    assert gated["ignored_columns"] == 0  # a weight that starts at zero
    pair = run_probes(lambda: Fake(lambda model, rng, a, b: a * 2, {"a": ROWS, "b": ROWS[::-1].copy()}))
    assert (pair.facts["ignored_fields"], pair.input_fields[int(pair.facts["ignored_field"])]) == (1, "b")
    assert "ignored_columns" not in facts(Fake(lambda model, rng, x: x * 0 + 1, {"x": ROWS}))  # the cause is elsewhere


# -- what can't be probed ------------------------------------------------------------------------------------------


def test_reasons_for_no_probe() -> None:
    def refuse() -> ProbedModel:
        raise NotProbedError("the model can't be copied")

    assert run_probes(refuse).facts == {"not_probed": NOT_PROBED.index("the model can't be copied")}
    assert run_probes(lambda: None).facts == {}
    broken = Fake(lambda model, rng, x: 1 / 0, {"x": ROWS})
    assert facts(broken)["not_probed"] == NOT_PROBED.index("the inputs of its first call can't be repeated")
    nan = Fake(lambda model, rng, x: x * np.nan, {"x": ROWS})
    assert facts(nan)["not_probed"] == NOT_PROBED.index("its outputs are not finite numbers")
    with pytest.raises(NotProbedError, match="memory"):
        check_memory(10, free=19)
    check_memory(10, free=20)


def test_a_probe_that_fails_is_named_and_the_others_run() -> None:
    def forward(model: Fake, rng: Any, x: Any) -> Any:
        assert (x[0] == ROWS[0]).all(), "the first row is needed"
        return x

    result = facts(Fake(forward, {"x": ROWS}))
    assert result["not_probed"] == 0
    assert int(result["failed_probes"]) & 1 << PROBES.index("row_mixing")


def test_the_budget_is_kept() -> None:
    model = Fake(lambda model, rng, x: x, {"x": ROWS})
    left = [30]

    def afford(rows: int) -> bool:
        left[0] -= rows
        return left[0] >= 0

    assert run_probes(lambda: model, afford).facts["not_probed"] == NOT_PROBED.index("the budget is too small")
    assert model.rows <= 30


def test_forms_of_targets() -> None:
    assert class_indices(np.zeros((2, 3, 1)), 3, 2).shape == (2, 3)  # type: ignore[union-attr]
    assert class_indices(RNG.normal(size=(2, 3, 4)), 3, 2) is None
    assert class_indices(np.zeros(2), 3, 2) is None
