"""A training of the copy of a request that another process gets equals one of the original, to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import numpy as np
import pytest
from numpy.typing import NDArray

from autotrainer import registry
from autotrainer.adapter.spec import FitRequest, TrainingSpec
from autotrainer.api.fit_data import prepare_data
from autotrainer.edits import Edit, ScaleInputs, SetLearningRate
from autotrainer.scoring.metric_selection import MetricSelection
from autotrainer.scoring.scorer import Scorer
from autotrainer.training.budget import Budget
from autotrainer.training.trial import Trial, TrialRunner
from autotrainer.workers.trial_codec import to_record, to_text

Array = NDArray[Any]


def _layouts(x: Array) -> Iterator[tuple[str, Array]]:
    """Return equal arrays that lie differently in memory."""
    rows, columns = x.shape
    for offset in (0, 4, 8, 12):
        content = np.empty(x.nbytes + 16, np.uint8)
        start = -content.ctypes.data % 16 + offset
        view = content[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
        view[...] = x
        yield f"offset {offset}", view
    yield "Fortran order", np.asfortranarray(x)
    yield "reversed", x[::-1].copy()[::-1]
    wide, long = np.zeros((rows, columns + 3), x.dtype), np.zeros((2 * rows + 7, columns), x.dtype)
    wide[:, 2:-1] = long[::2][:rows] = x
    yield "columns", wide[:, 2:-1]
    yield "every second row", long[::2][:rows]
    tail = np.zeros((rows + 7, columns), x.dtype)
    tail[7:] = x
    yield "tail", tail[7:]


def _differences(
    make: Callable[[int], tuple[Any, Any, Any]],
    sizes: list[tuple[int, int, int]],
    edits: tuple[Edit, ...],
    *,
    together: bool = False,
) -> Iterator[bool]:
    """Train with equal data in many layouts, from the original request and from its copy; say whether they differ.

    Either the training or the validation inputs have each layout, or both together.
    """
    random = np.random.default_rng(0)
    for columns, rows, batch_size in sizes:
        x = random.normal(size=(rows, columns)).astype(np.float32)
        y = (x @ random.normal(size=(columns, 1)) + 1).astype(np.float32)
        reference = None
        for name, array in _layouts(x):
            data, same = (array, y), (x, y)
            for parts in [(data, data)] if together else [(same, data), (data, same)]:
                model, loss, optimizer = make(columns)
                train, validation, _, _ = prepare_data(*parts, None, 0)
                request = FitRequest(
                    model, train, validation, loss, optimizer, 2, batch_size, None, None, {}, (), 0
                )  # fmt: skip
                backend = registry.backend_of(model)
                runner = _runner(backend, request, None)
                original = _train(runner, edits)
                copy, scorer = cloudpickle.loads(cloudpickle.dumps((request, runner.scorer)))
                copied = _train(_runner(backend, copy, scorer), edits)
                reference = reference or original
                assert '"judged":null' not in original, name
                yield original != copied or original != reference


def _runner(backend: Any, request: FitRequest, scorer: Scorer | None) -> TrialRunner:
    trainer = backend.trainer(request)
    scorer = scorer or Scorer(MetricSelection("auto"), trainer.context, request.train, None)
    return TrialRunner(trainer, request, registry.make_rules(None, (), None), scorer, None)


def _train(runner: TrialRunner, edits: tuple[Edit, ...]) -> str:
    runner.trainer.first = False
    trial = runner.run(TrainingSpec(2, 0, edits), Budget(math.inf))
    assert isinstance(trial, Trial), trial
    return to_text(to_record(trial))


_RATE = (SetLearningRate(0.003),)


def _linear(columns: int) -> tuple[Any, Any, Any]:
    import torch
    from torch import nn

    torch.manual_seed(1)
    return nn.Linear(columns, 1), nn.MSELoss(), lambda parameters: torch.optim.SGD(parameters, 0.01)


@pytest.mark.parametrize("edits", [_RATE, (ScaleInputs(),)], ids=["rate", "scaling"])
def test_layout_of_the_data_does_not_matter(edits: tuple[Edit, ...], record_property: Any) -> None:
    """A slice of an array may begin at any multiple of its item size: sums over it then differ in the last digits."""
    outcomes = list(_differences(_linear, [(5, 61, 8)], edits))
    record_property("attacks", len(outcomes))
    assert outcomes.count(True) == 0


def _torch_models() -> Iterator[Callable[[int], tuple[Any, Any, Any]]]:
    import torch
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self, columns: int) -> None:
            super().__init__()
            self.recurrent, self.output = nn.LSTM(columns, 8, batch_first=True), nn.Linear(8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.output(self.recurrent(x.unsqueeze(1).expand(-1, 3, -1))[0][:, -1])
            return result

    def norm(columns: int) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(columns), nn.Linear(columns, 8), nn.ReLU(), nn.Linear(8, 1))

    def convolution(columns: int) -> nn.Module:
        parts = nn.Unflatten(1, (1, columns)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten()
        return nn.Sequential(*parts, nn.Linear(4 * (columns - 2), 1))

    def attention(columns: int) -> nn.Module:
        encoder = nn.TransformerEncoderLayer(4, 2, 8, 0.1, batch_first=True)
        return nn.Sequential(
            nn.Linear(columns, 16), nn.Unflatten(1, (4, 4)), encoder, nn.Flatten(), nn.Linear(16, 1)
        )  # fmt: skip

    for build in (lambda columns: nn.Linear(columns, 1), norm, convolution, Recurrent, attention):

        def make(columns: int, build: Callable[[int], nn.Module] = build) -> tuple[Any, Any, Any]:
            torch.manual_seed(1)
            return build(columns), nn.MSELoss(), lambda parameters: torch.optim.SGD(parameters, 0.01)

        yield make


@pytest.mark.slow
def test_layout_of_the_data_does_not_matter_to_any_layer(record_property: Any) -> None:
    outcomes = [
        different
        for make in _torch_models()
        for different in _differences(make, [(5, 40, 7), (13, 61, 8)], (*_RATE, ScaleInputs()), together=True)
    ]
    record_property("attacks", len(outcomes))
    assert outcomes.count(True) == 0


@pytest.mark.slow
def test_layout_of_the_data_does_not_matter_in_keras(record_property: Any) -> None:
    import keras

    def make(columns: int) -> tuple[Any, Any, Any]:
        keras.utils.clear_session()
        keras.utils.set_random_seed(1)
        layers = [keras.layers.Dense(8, "tanh"), keras.layers.Dropout(0.1), keras.layers.Dense(1)]
        return keras.Sequential([keras.layers.Input((columns,)), *layers]), "mse", keras.optimizers.SGD(0.01)

    outcomes = list(_differences(make, [(5, 40, 8)], _RATE, together=True))
    record_property("attacks", len(outcomes))
    assert outcomes.count(True) == 0


def test_settings_of_the_process_are_adopted() -> None:
    import torch

    from autotrainer.backends.pytorch.runtime.process_settings import adopt_settings, process_settings

    before = process_settings()
    changes = {"flush_denormal": True, "cudnn": {**before["cudnn"], "deterministic": True, "benchmark": True}}
    changes |= {"dtype": torch.float64, "precision": "high", "warn_only": True, "deterministic": True}
    try:
        adopt_settings({**before, **changes})
        assert process_settings() == {**before, **changes}
        assert float(torch.tensor(1e-310, dtype=torch.float64) * 1) == 0
    finally:
        adopt_settings(before)
    assert process_settings() == before
