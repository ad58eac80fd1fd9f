"""Entropy and logits of attention, compared with the weights that PyTorch's layers return."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

import autotrainer
from autotrainer.backends.pytorch.statistics import attention
from autotrainer.backends.pytorch.statistics.attention import functional_attention, module_attention, score_attention
from autotrainer.records import measurement

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded_and_without_gradients() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def entropy_of(weights: Tensor, left_out: Tensor | None = None) -> float:
    """Return the mean of the entropies of rows of weights, each as a share of the largest possible one."""
    allowed = torch.ones_like(weights) if left_out is None else (~left_out).expand_as(weights).float()
    count = allowed.sum(-1)
    shares = -torch.xlogy(weights, weights).sum(-1)[count > 1] / count[count > 1].log()
    return float(shares.mean())


CAUSAL = torch.ones(7, 7, dtype=torch.bool).triu(1)
PADDING = torch.tensor([[False] * 7, [False] * 5 + [True] * 2, [False] * 2 + [True] * 5, [False] + [True] * 6])


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    ("options", "masks", "left_out"),
    [
        ({}, {}, None),
        ({"bias": False, "dropout": 0.5}, {}, None),
        ({"kdim": 6, "vdim": 6}, {}, None),
        ({}, {"attn_mask": CAUSAL}, CAUSAL),
        ({}, {"attn_mask": CAUSAL.repeat(8, 1, 1)}, CAUSAL),
        ({}, {"attn_mask": torch.zeros(7, 7).masked_fill(CAUSAL, -math.inf)}, CAUSAL),
        ({}, {"attn_mask": torch.zeros(7, 7).masked_fill(CAUSAL, -1e9)}, CAUSAL),
        ({}, {"attn_mask": torch.randn(7, 7)}, None),
        ({}, {"key_padding_mask": PADDING}, PADDING[:, None, None]),
        ({}, {"key_padding_mask": PADDING, "attn_mask": CAUSAL}, PADDING[:, None, None] | CAUSAL),
        ({"add_zero_attn": True, "add_bias_kv": True}, {}, None),
        ({"add_zero_attn": True}, {"attn_mask": CAUSAL}, F.pad(CAUSAL, (0, 1))),
    ],
)
def test_entropy_of_attention_layers(
    options: dict[str, Any], masks: dict[str, Any], left_out: Tensor | None, batch_first: bool
) -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=batch_first, **options)
    nn.init.normal_(layer.out_proj.weight)
    shape = (4, 7) if batch_first else (7, 4)
    query, key = 3 * torch.randn(*shape, 8), torch.randn(*shape, options.get("kdim", 8))
    found = module_attention(layer, query, key, key, **masks)
    _, weights = layer.eval()(query, key, key, average_attn_weights=False, **masks)
    left_out = None if left_out is None else left_out.expand_as(weights)
    assert found is not None
    assert float(found[0]) == pytest.approx(entropy_of(weights, left_out), rel=1e-4)


def test_largest_logit_is_that_of_keys_that_count() -> None:
    layer = nn.MultiheadAttention(2, 1, bias=False)
    layer.in_proj_weight.copy_(torch.eye(2).repeat(3, 1))
    x = torch.tensor([[1.0, 0], [0, 2], [0, -30]]).unsqueeze(1)
    found = module_attention(layer, x, x, x)
    assert found is not None
    assert float(found[1]) == pytest.approx(900 / math.sqrt(2))
    masked = module_attention(layer, x, x, x, key_padding_mask=torch.tensor([[False, False, True]]))
    assert masked is not None
    assert float(masked[1]) == pytest.approx(60 / math.sqrt(2))
    alibi = module_attention(layer, x, x, x, attn_mask=torch.full((3, 3), -5000.0))
    assert alibi is not None
    assert float(alibi[1]) == pytest.approx(900 / math.sqrt(2)), "what is added is no logit"


def test_unbatched_layers_and_single_keys() -> None:
    layer = nn.MultiheadAttention(8, 2)
    x = torch.randn(7, 8)
    found = module_attention(layer, x, x, x)
    assert found is not None
    assert float(found[0]) == pytest.approx(entropy_of(layer(x, x, x, average_attn_weights=False)[1]), rel=1e-4)
    one = module_attention(layer, x[:1], x[:1], x[:1])
    assert one is not None
    assert math.isnan(one[0])
    assert float(one[1]) > 0


@pytest.mark.parametrize(
    ("shape", "options", "left_out"),
    [
        ((4, 2, 7, 8), {}, None),
        ((4, 7, 8), {"scale": 0.7}, None),
        ((7, 8), {}, None),
        ((2, 2, 2, 7, 8), {"is_causal": True}, CAUSAL),
        ((4, 2, 7, 8), {"attn_mask": ~CAUSAL}, CAUSAL),
        ((4, 2, 7, 8), {"attn_mask": ~PADDING[:, None, None]}, PADDING[:, None, None]),
        ((4, 7, 8), {"attn_mask": torch.zeros(4, 7, 7).masked_fill(CAUSAL, -1e9)}, CAUSAL),
        ((4, 2, 7, 8), {"attn_mask": torch.randn(1, 2, 7, 7)}, None),
    ],
)
def test_entropy_of_functional_attention(
    shape: tuple[int, ...], options: dict[str, Any], left_out: Tensor | None
) -> None:
    query, key = torch.randn(shape), torch.randn(shape)
    found = functional_attention(query, key, key, **options)
    weights = F.scaled_dot_product_attention(query, key, torch.eye(7).expand(*shape[:-2], 7, 7), **options)
    assert found is not None
    left_out = None if left_out is None else left_out.expand_as(weights)
    assert float(found[0]) == pytest.approx(entropy_of(weights, left_out), rel=1e-4)
    scale = options.get("scale", 1 / math.sqrt(8))
    logits = (query @ key.transpose(-2, -1)).abs() * scale
    logits = logits if left_out is None else logits.masked_fill(left_out, 0)
    assert float(found[1]) == pytest.approx(float(logits.max()), rel=1e-4)


def test_grouped_queries_share_keys() -> None:
    query, key = torch.randn(3, 4, 7, 8), torch.randn(3, 2, 7, 8)
    grouped = functional_attention(query, key, key, enable_gqa=True)
    alone = functional_attention(query, key.repeat_interleave(2, 1), key)
    assert grouped is not None
    assert alone is not None
    torch.testing.assert_close(grouped, alone, equal_nan=True)


def test_long_sequences_are_subsampled(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key = torch.randn(20, 4, 600, 8), torch.randn(20, 4, 600, 8)
    sizes = []
    numbers = attention._entropies

    def counted(logits: Tensor) -> Tensor:
        sizes.append(tuple(logits.shape))
        return numbers(logits)

    monkeypatch.setattr(attention, "_entropies", counted)
    part = functional_attention(query, key, key)
    monkeypatch.setattr(measurement, "ATTENTION_LOGITS", 2**40)
    monkeypatch.setattr(measurement, "ATTENTION_QUERIES", 2**40)
    whole = functional_attention(query, key, key)
    assert sizes[0][0] == 8
    assert math.prod(sizes[0]) <= 2**18
    assert sizes[1] == (8, 4, 600, 600)
    assert part is not None
    assert whole is not None
    assert float(part[0]) == pytest.approx(float(whole[0]), rel=1e-2)


class LargestResult(TorchDispatchMode):
    """Keeps the size of the largest tensor that is made; views make none."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("causal", [True, False])
def test_masks_of_long_sequences_are_not_materialized(causal: bool) -> None:
    query = torch.randn(1, 1, 4096, 4)
    mask = None if causal else torch.ones(1, 1, 1, 4096, dtype=torch.bool).expand(1, 1, 4096, 4096)
    with LargestResult() as seen:
        assert functional_attention(query, query, query, attn_mask=mask, is_causal=causal) is not None
    assert seen.largest < 4096 * 4096 / 4


def test_custom_attention_layers_are_not_measured() -> None:
    class Own(nn.MultiheadAttention):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    x = torch.randn(3, 7, 8)
    assert module_attention(Own(8, 2, batch_first=True), x, x, x) is None
    with torch.enable_grad():
        normed = parametrizations.spectral_norm(nn.MultiheadAttention(8, 2, batch_first=True), "in_proj_weight")
    assert isinstance(normed, nn.MultiheadAttention)
    before = [value.clone() for value in normed.state_dict().values()]
    assert module_attention(normed, x, x, x) is None
    assert all(torch.equal(old, new) for old, new in zip(before, normed.state_dict().values(), strict=True))
    assert functional_attention(torch.randn(7, 8), x, x) is None


def test_measurements_do_not_use_autocast() -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(3, 7, 8)
    plain = module_attention(layer, x, x, x), functional_attention(x, x, x)
    with torch.autocast("cpu", torch.bfloat16):
        under = module_attention(layer, x, x, x), functional_attention(x, x, x)
    for one, other in zip(plain, under, strict=True):
        assert one is not None
        assert other is not None
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


# -- seen while a model trains ----------------------------------------------------------------------------------------


class Attending(nn.Module):
    """Attention out of single layers and a function."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 2)
        self.fused = fused

    def parts(self, x: Tensor) -> list[Tensor]:
        parts = self.qkv(x).split(8, -1) if self.fused else (self.q(x), self.k(x), self.v(x))
        return [part.view(*part.shape[:2], 2, 4).transpose(1, 2) for part in parts]

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.parts(x)
        x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return self.head(x.mean(1))


def trained(model: nn.Module, x: Tensor, **options: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Train for three steps, and return entropies and largest logits by layer."""
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), 0.0), nn.MSELoss()
    options = {"select": (), **options}
    with torch.enable_grad(), autotrainer.watch(model, optimizer, loss_fn=loss_fn, **options) as monitor:
        for _ in range(3):
            output = model(x)
            loss_fn(output, torch.zeros_like(output)).backward()
            optimizer.step()
        assert not monitor._failed
    names = [info.name for info in monitor.history.layers]
    found = (monitor.history.layer(name)[-1] for name in ("attention_entropy", "attention_max_logit"))
    entropy, logits = ({n: v for n, v in zip(names, c.tolist(), strict=True) if not np.isnan(v)} for c in found)
    return entropy, logits


@pytest.mark.parametrize(("fused", "row"), [(False, "q"), (True, "qkv")])
def test_functional_attention_belongs_to_the_layer_of_the_queries(fused: bool, row: str) -> None:
    model = Attending(fused)
    x = torch.randn(6, 7, 8)
    entropy, logits = trained(model, x)
    q, k, v = model.parts(x)
    expected = functional_attention(q, k, v, is_causal=True)
    assert expected is not None
    assert entropy == {row: pytest.approx(float(expected[0]), rel=1e-4)}
    assert logits == {row: pytest.approx(float(expected[1]), rel=1e-4)}


@pytest.mark.parametrize("make", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer])
def test_transformer_layers(make: Callable[..., nn.Module]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = make(8, 2, 16, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            given = (x,) if isinstance(self.layer, nn.TransformerEncoderLayer) else (x, x)
            return self.head(self.layer(*given).mean(1))

    model = Net()
    layer: Any = model.layer
    x = torch.randn(6, 7, 8)
    entropy, logits = trained(model, x)
    wanted = ["layer.self_attn", "layer.multihead_attn"][: len(entropy)]
    assert list(entropy) == list(logits) == wanted
    assert len(wanted) == (1 if make is nn.TransformerEncoderLayer else 2)
    weights = layer.self_attn.eval()(x, x, x, average_attn_weights=False)[1]
    assert entropy["layer.self_attn"] == pytest.approx(entropy_of(weights), rel=1e-4)


def test_logits_that_are_not_finite_are_infinite() -> None:
    x = torch.randn(6, 7, 8)
    x[0, 0, 0] = float("nan")
    entropy, logits = trained(Attending(False), x)
    assert entropy == logits == {"q": math.inf}


def test_attention_is_not_measured_if_no_rule_needs_it() -> None:
    assert trained(Attending(False), torch.randn(6, 7, 8), select=["vanishing_gradient"]) == ({}, {})


def test_collapsed_attention_shows() -> None:
    model = Attending(False)
    x = torch.randn(6, 7, 8)
    healthy, _ = trained(model, x)
    for layer in (model.q, model.k):
        layer.weight.mul_(30)
    collapsed, logits = trained(model, x)
    assert healthy["q"] > 0.8
    assert collapsed["q"] < 0.1
    assert logits["q"] > 100


@pytest.mark.parametrize("mixed", [False, True])
def test_watching_attention_changes_nothing(mixed: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
            self.own = Attending(True)

        def forward(self, x: Tensor) -> Tensor:
            return self.own(self.layer(x, src_key_padding_mask=PADDING))

    def weights(watched: bool) -> list[Tensor]:
        torch.manual_seed(3)
        model, loss_fn = Net(), nn.MSELoss()
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        monitor = autotrainer.watch(model, optimizer, loss_fn=loss_fn, select=()) if watched else None
        with torch.enable_grad():
            for _ in range(12):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                    output = model(torch.randn(4, 7, 8))
                loss_fn(output.float(), torch.zeros(4, 2)).backward()
                optimizer.step()
        if monitor is not None:
            assert np.isfinite(monitor.history.layer("attention_entropy")).any(0).sum() == 2
            monitor.close()
        return [*model.state_dict().values(), torch.get_rng_state()]

    assert all(torch.equal(one, other) for one, other in zip(weights(False), weights(True), strict=True))


@pytest.mark.parametrize(
    ("options", "share"),
    [
        pytest.param({}, 3 / 24, id="no mask"),
        pytest.param({"is_causal": True}, 0.0, id="causal"),
        pytest.param({"attn_mask": torch.ones(8, 8, dtype=torch.bool).tril()}, 0.0, id="a causal mask"),
        pytest.param({"attn_mask": torch.ones(8, 8, dtype=torch.bool).triu(1)}, 1.0, id="the later keys alone"),
    ],
)
def test_attention_to_later_keys(options: dict[str, Any], share: float) -> None:
    query = torch.zeros(2, 3, 8, 4)  # equal weights; of the last three queries, two have later keys
    stats = functional_attention(query, query, query, **options)
    assert stats is not None
    ahead = float(stats[measurement.ATTENTION_COLUMNS.index("attention_ahead")])
    assert ahead == pytest.approx(share)


def padded(length: int = 6) -> Tensor:
    """Return tokens of four sequences of different lengths, with zeros after them."""
    tokens = torch.arange(4 * length).reshape(4, length) % 7 + 1
    return tokens.where(torch.arange(length) < torch.tensor([[3], [4], [5], [2]]), 0)


@pytest.mark.parametrize(
    ("left_out", "shown"),
    [
        pytest.param(lambda tokens: tokens != 0, 1.0, id="the wrong way round"),
        pytest.param(lambda tokens: tokens == 0, 0.0, id="padding"),
        pytest.param(lambda tokens: torch.arange(6) > 0 * tokens, 0.0, id="all but the first token"),
        pytest.param(lambda tokens: tokens == tokens, 0.0, id="everything"),
        pytest.param(None, math.nan, id="no mask"),
    ],
)
def test_masks_that_show_padding(left_out: Callable[[Tensor], Tensor] | None, shown: float) -> None:
    tokens, index = padded(), measurement.ATTENTION_COLUMNS.index("padding_shown")
    hidden = None if left_out is None else left_out(tokens)
    positions = torch.arange(6).expand(4, -1)
    layer, values = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(4, 6, 8)
    query = torch.randn(4, 2, 6, 4)
    mask = None if hidden is None else ~hidden[:, None, None]
    scores = torch.zeros(4, 2, 6, 6) if hidden is None else torch.zeros(4, 2, 6, 6).masked_fill(~mask, -1e9)
    measured = [
        module_attention(layer, values, values, values, hidden, tokens=[positions, tokens]),
        functional_attention(query, query, query, mask, tokens=[positions, tokens]),
        score_attention(scores, [positions, tokens]),
    ]
    turned = nn.MultiheadAttention(8, 2)
    values = values.transpose(0, 1)
    measured.append(module_attention(turned, values, values, values, hidden, tokens=[tokens.T]))
    for number, stats in enumerate(measured):
        assert stats is not None
        expected = 0.0 if number == 2 and hidden is None else shown  # scores alone don't tell whether there is a mask
        assert float(stats[index]) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("inverted", [True, False])
def test_a_mask_the_wrong_way_round_is_named(inverted: bool) -> None:
    torch.manual_seed(0)
    embedding, layer = nn.Embedding(8, 16), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    head = nn.Linear(16, 2)
    model = nn.ModuleList([embedding, layer, head])
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    watched = autotrainer.watch(model, optimizer, loss_fn=nn.CrossEntropyLoss(), progress=False)
    with watched as monitor, torch.enable_grad():
        for _ in range(12):
            tokens = padded()
            hidden = tokens != 0 if inverted else tokens == 0
            optimizer.zero_grad()
            outputs = head(layer(embedding(tokens), src_key_padding_mask=hidden).mean(1))
            nn.functional.cross_entropy(outputs, tokens[:, 0] % 2).backward()
            optimizer.step()
    errors = [each.problem for each in monitor.findings if each.severity == "error"]
    assert ("broken_attention_mask" in errors) == inverted


class Predictor(nn.Module):
    """Predicts the next token."""

    def __init__(self, mask: Tensor | None) -> None:
        super().__init__()
        self.embedding, self.head, self.mask = nn.Embedding(12, 16), nn.Linear(16, 12), mask
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        return self.head(h + self.attention(h, h, h, attn_mask=self.mask)[0])  # type: ignore[no-any-return]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("flat", [True, False])
def test_a_missing_causal_mask_is_found_without_a_probe(masked: bool, flat: bool) -> None:
    tokens = torch.randint(0, 12, (32, 9))
    model = Predictor(CAUSAL.new_ones(8, 8).triu(1) if masked else None)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    options = {"select": ["broken_attention_mask"], "overhead": 1}
    with torch.enable_grad(), autotrainer.watch(model, optimizer, **options) as monitor:
        for _ in range(8):
            optimizer.zero_grad()
            x, y = tokens[:, :-1], tokens[:, 1:]
            out = model(x)
            loss = F.cross_entropy(out.flatten(0, 1), y.flatten()) if flat else F.cross_entropy(out.mT, y)
            loss.backward()
            optimizer.step()
            monitor.log(loss=loss)
    assert bool(monitor.findings) is not masked
