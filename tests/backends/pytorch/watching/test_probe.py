"""Observing a model before training leaves no trace, and agrees with training."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import autotrainer
from autotrainer.backends.pytorch.watching.probe import probe
from autotrainer.errors import DataError, InputError
from autotrainer.records.signals import LAYER_COLUMNS

torch.set_num_threads(1)


class Counting(nn.Module):
    """Has everything that a pass could change."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 3)
        )
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1  # type: ignore[operator, has-type]
        self.mean = x.mean(0)
        return self.layers(x)


def model() -> Counting:
    torch.manual_seed(0)
    return Counting()


X = np.random.default_rng(0).normal(3, 2, (600, 4))
Y = np.random.default_rng(1).integers(0, 3, 600)
TENSORS = torch.from_numpy(X).float(), torch.from_numpy(Y)


class Again:
    """Can be iterated again and again."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for part in range(6):
            yield TENSORS[0][part * 100 : part * 100 + 100], TENSORS[1][part * 100 : part * 100 + 100]


SOURCES: dict[str, Callable[[], Any]] = {
    "arrays": lambda: (X, Y),
    "tensors": lambda: TENSORS,
    "lists": lambda: (X.tolist(), Y.tolist()),
    "loader": lambda: DataLoader(TensorDataset(*TENSORS), 100, shuffle=True, generator=torch.Generator()),
    "iterable": Again,
    "batches": lambda: list(Again()),
}


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_changes(source: str) -> None:
    given, data = model(), SOURCES[source]()
    given.layers[1].eval()
    state = copy.deepcopy(given.state_dict())
    buffers = {name: id(buffer) for name, buffer in given.named_buffers()}
    modes = [m.training for m in given.modules()]
    generator = getattr(data, "generator", None)
    drawn = None if generator is None else generator.get_state()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    context, seen = probe(given, data, nn.CrossEntropyLoss(), None, 4)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]
    assert drawn is None or torch.equal(drawn, generator.get_state())  # type: ignore[union-attr]
    assert all(torch.equal(value, given.state_dict()[name]) for name, value in state.items())
    assert buffers == {name: id(buffer) for name, buffer in given.named_buffers()}
    assert modes == [m.training for m in given.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in given.modules())
    assert all(p.grad is None for p in given.parameters())
    assert len(seen) in (3, 4)
    assert [observation.step for observation in seen] == list(range(len(seen)))
    assert all(0.5 < observation.loss < 2 for observation in seen)
    assert context.output_units == 3
    assert context.output_activation == "linear"
    assert context.train_rows in (600, None)


def test_probe_observations() -> None:
    given = model()
    context, seen = probe(given, (X, Y), nn.CrossEntropyLoss(), torch.optim.SGD(given.parameters(), 0.3), 2)
    assert [info.name for info in context.layers] == ["layers.0", "layers.1", "layers.2", "layers.4"]
    assert context.optimizer.learning_rate == seen[0].learning_rate == 0.3
    assert context.train_rows == 600
    assert [observation.batch_size for observation in seen] == [256, 256]
    table = dict(zip(LAYER_COLUMNS, seen[0].layers[1].tolist(), strict=True))
    assert table["activation_std"] == pytest.approx(1, abs=0.01)  # by the batch's own statistics, as in training
    assert np.isnan(table["grad_norm"])
    np.testing.assert_allclose(seen[0].inputs, X[:256], rtol=1e-6)  # type: ignore[arg-type]
    np.testing.assert_array_equal(seen[1].targets, Y[256:512])


def test_failing_loss_is_nan() -> None:
    for loss in (nn.CrossEntropyLoss(), lambda outputs, targets: None, lambda outputs: outputs):
        _, seen = probe(model(), (X, np.zeros((600, 2))), loss, None, 1)
        assert np.isnan(seen[0].loss)


def test_failing_model_raises_an_error_with_shapes() -> None:
    given = model()
    modes = [m.training for m in given.modules()]
    with pytest.raises(DataError, match=r"inputs of shape \(256, 7\) \(float32\)"):
        probe(given, (np.zeros((600, 7)), Y), None, None, 1)
    assert modes == [m.training for m in given.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in given.modules())


@pytest.mark.parametrize("data", [[], X, (X,), iter([(X, Y)]), (X, Y[:5]), [(1,), (2,), (3,), (4,)]])
def test_bad_data(data: Any) -> None:
    with pytest.raises(DataError):
        probe(model(), data, None, None, 1)


def test_bad_loss_and_optimizer() -> None:
    with pytest.raises(InputError, match="loss must be"):
        probe(model(), (X, Y), "mse", None, 1)
    with pytest.raises(InputError, match="optimizer must be"):
        probe(model(), (X, Y), None, "adam", 1)
    with pytest.raises(InputError, match="owns none of the parameters"):
        probe(model(), (X, Y), None, torch.optim.SGD(model().parameters(), lr=0.1), 1)


def test_lazy_layers_stay_lazy() -> None:
    given = nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.LazyLinear(1))
    _, seen = probe(given, (X, Y), None, None, 1)
    assert np.isfinite(seen[0].layers[0, LAYER_COLUMNS.index("activation_std")])
    assert isinstance(given[0], nn.LazyLinear)


def test_integer_inputs_and_targets() -> None:
    table = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 2))
    context, seen = probe(table, (np.ones((20, 3), np.int64), Y[:20]), nn.CrossEntropyLoss(), None, 1)
    assert context.input_kind == "index"
    assert seen[0].inputs is None
    dense = nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    context, seen = probe(dense, (np.full((20, 3, 3), 255, np.uint8), Y[:20]), nn.CrossEntropyLoss(), None, 1)
    assert context.input_kind == "values"
    assert seen[0].inputs is not None
    assert seen[0].inputs.max() == 255


def test_named_inputs() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, *, left: Tensor, right: Tensor) -> dict[str, Tensor]:
            return {"hidden": left, "logits": self.layer(left + right)}

    context, seen = probe(Named(), ({"left": X, "right": X}, Y), nn.CrossEntropyLoss(), None, 1)
    assert context.output_units == 2
    assert np.isnan(seen[0].loss)


def test_one_dict() -> None:
    class Batchwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.layer(batch["left"] + batch["right"])

    context, seen = probe(Batchwise(), ({"left": X, "right": X}, Y), nn.CrossEntropyLoss(), None, 1)
    assert context.output_units == 3
    assert np.isfinite(seen[0].loss)
    assert seen[0].inputs is not None
    assert isinstance(autotrainer.check(Batchwise(), ({"left": X, "right": X}, Y), loss=nn.CrossEntropyLoss()), list)


def test_check_runs_on_it() -> None:
    assert isinstance(autotrainer.check(model(), (X, Y), loss=nn.CrossEntropyLoss()), list)


@pytest.mark.parametrize("kind", ["int16", "int32", "int64", "uint8"])
@pytest.mark.parametrize("form", ["tensors", "loader", "arrays"])
def test_integer_targets_that_the_loss_refuses(form: str, kind: str) -> None:
    """Tensors go to the loss as they are; arrays have to be made tensors first, by `fit` or by the user."""
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    y = (x[:, 0] > 0).astype(kind)
    model, loss = nn.Linear(4, 2), nn.CrossEntropyLoss()
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    try:
        loss(model(tensors[0]), tensors[1])
        refused = False
    except RuntimeError:
        refused = True
    assert refused == (kind in ("int16", "int32"))
    data: Any = {"tensors": tensors, "loader": DataLoader(TensorDataset(*tensors), 16), "arrays": (x, y)}[form]
    found = autotrainer.check(model, data, loss=loss, select="target_mismatch")
    assert [f.severity for f in found] == ["error"] * (refused and form != "arrays")
    assert all(".long()" in f.message for f in found)
