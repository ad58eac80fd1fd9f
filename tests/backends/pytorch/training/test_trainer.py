from __future__ import annotations

import copy
import io
import math
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from autotrainer.adapter.spec import TrainingSpec
from autotrainer.backends.pytorch.model.model_calls import call_model
from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state
from autotrainer.backends.pytorch.training.trainer import save_model
from autotrainer.edits import CompleteOptimizer, ScaleInputs, SetBatchSize
from autotrainer.errors import ConfigError, DataError, InputError
from autotrainer.records.data import normalize


def dropout_model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(2, 8), nn.Linear(2, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(F.relu(self.left(a) + self.right(b)))
        return out


class DictOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"hidden": x, "logits": self.net(x)}


class Cached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 2)
        self.cache: Any = self.net(torch.ones(1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x)
        return out


# -- what comes out ---------------------------------------------------------------------------------------------------


def test_learns_and_evaluates(managed: Any) -> None:
    trained, run = managed.train(managed.mlp(), epochs=30)
    assert [epoch for epoch, _, _ in run.ends] == list(range(30))
    assert run.ends[-1][1]["loss"] < run.ends[0][1]["loss"] / 2
    assert run.evaluation.outputs.dtype == np.float64
    assert run.evaluation.outputs.shape == (60, 2)
    assert run.evaluation.targets.tolist() == managed.y[200:].tolist()
    assert (run.evaluation.outputs.argmax(1) == managed.y[200:]).mean() > 0.85
    assert not trained.model.training
    np.testing.assert_array_equal(trained.predict(managed.x[200:]), run.evaluation.outputs)
    again = trained.evaluate(normalize((managed.x[200:], managed.y[200:]), "data"))
    assert again.loss == run.evaluation.loss
    expected = F.cross_entropy(torch.tensor(run.evaluation.outputs), torch.tensor(managed.y[200:]))
    assert run.evaluation.loss == pytest.approx(float(expected), rel=1e-5)


def test_counts_the_work_of_every_sample(managed: Any) -> None:
    _, run = managed.train(managed.mlp(), epochs=3)
    assert run.spent == 3 * (200 * 3 + 60)
    assert run.operations == 4 * 16 + 16 * 16 + 16 * 2


def test_loss_is_refused_by_rows_beyond_the_first_ones(managed: Any) -> None:
    x, y = np.zeros((20, 4), np.float32), np.ones((20, 2), np.float32)
    y[10, 1] = 3.0
    model = nn.Sequential(nn.Linear(4, 2), nn.Sigmoid())
    assert managed.trainer(model, train=(x, y), loss=nn.BCELoss()).context.loss_refusal
    y[10, 1] = math.nan  # of which nothing is known
    assert not managed.trainer(model, train=(x, y), loss=nn.BCELoss()).context.loss_refusal


def test_context_of_the_training(managed: Any) -> None:
    context = managed.trainer(managed.mlp()).context
    assert (context.output_units, context.output_activation, context.input_kind) == (2, "linear", "values")
    assert (context.train_rows, context.batch_size, context.planned_steps) == (200, 32, 14)
    assert context.managed
    assert [info.activation for info in context.layers if info.kind == "dense"] == ["relu", "tanh", "linear"]


def test_trainings_are_bit_identical_watched_or_not(managed: Any, weights_of: Any) -> None:
    trainer = managed.trainer(dropout_model())
    found = []
    for watched in (True, False, True):
        run = managed.Run(watched=watched)
        found.append(weights_of(trainer.train(TrainingSpec(3, 5), run).model))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    other = trainer.train(TrainingSpec(3, 6), managed.Run())
    assert not torch.equal(found[0], weights_of(other.model))


def test_matches_a_plain_loop_in_the_same_order(managed: Any) -> None:
    model = managed.mlp()
    plain, optimizer = copy.deepcopy(model), None
    trainer = managed.trainer(model)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-2)
    for batch in trainer._training_data.train().read(0, seed=0):
        optimizer.zero_grad()
        F.cross_entropy(plain(batch.inputs), batch.targets).backward()
        optimizer.step()
    trained = trainer.train(TrainingSpec(1, 0), managed.Run())
    for ours, theirs in zip(trained.model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_user_objects_are_not_changed(managed: Any, weights_of: Any) -> None:
    model, loss = dropout_model(), nn.CrossEntropyLoss()
    model[0].eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before, state = weights_of(model), copy.deepcopy(optimizer.state_dict())
    torch.manual_seed(9)
    random.seed(9)
    numbers = torch.get_rng_state()
    with preserve_random_state():
        managed.train(model, optimizer=optimizer, loss=loss)
    assert torch.equal(weights_of(model), before)
    assert optimizer.state_dict() == state
    assert [m.training for m in model] == [False, True, True, True, True]
    assert all(p.grad is None for p in model.parameters())
    assert not model._forward_hooks
    assert not loss._forward_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert torch.equal(torch.get_rng_state(), numbers)


def test_budget_ends_an_epoch_and_still_evaluates(managed: Any) -> None:
    run = managed.Run(1000, reserve=60)
    managed.trainer(managed.mlp()).train(TrainingSpec(9, 0), run)
    assert [epoch for epoch, _, _ in run.ends] == [0, 1]
    assert run.evaluation.outputs.shape == (60, 2)
    none = managed.Run(60)
    managed.trainer(managed.mlp()).train(TrainingSpec(9, 0), none)
    assert np.isnan(none.ends[0][1]["loss"])
    assert none.evaluation.outputs.shape == (60, 2)


def test_training_continues_with_nonfinite_values(managed: Any) -> None:
    _, run = managed.train(managed.mlp(), optimizer=lambda p: torch.optim.SGD(p, lr=1e38), epochs=3)
    assert len(run.ends) == 3
    assert not np.isfinite(run.evaluation.loss)


def test_loss_that_refuses_nonfinite_values_does_not_end_the_training(managed: Any) -> None:
    y = managed.y[:, None].astype(np.float32)
    data = {"train": (1e3 * managed.x[:200], y[:200]), "validation": (managed.x[200:], y[200:])}
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1), nn.Sigmoid())
    _, run = managed.train(model, loss=nn.BCELoss(), optimizer=lambda p: torch.optim.SGD(p, lr=1e36), epochs=3, **data)
    assert len(run.ends) == 3
    assert np.isnan(run.evaluation.loss)
    assert not np.isfinite(run.monitor.history.losses[1]).all()


def test_interrupt_propagates_and_keeps_the_partial_training(managed: Any) -> None:
    class Interrupted(managed.Run):  # type: ignore[misc]
        def end_epoch(self, *args: Any) -> bool:
            super().end_epoch(*args)
            raise KeyboardInterrupt

    run = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        managed.trainer(managed.mlp()).train(TrainingSpec(3, 0), run)
    assert not run.kept.model.training
    assert run.kept.predict(managed.x[:3]).shape == (3, 2)


def test_trained_model_and_optimizer_can_be_saved(managed: Any, tmp_path: Path) -> None:
    trained, _ = managed.train(managed.mlp(), optimizer=torch.optim.Adam)
    buffer = io.BytesIO()
    torch.save((trained.model, trained.optimizer), buffer)
    buffer.seek(0)
    model, _ = torch.load(buffer, weights_only=False)
    assert torch.equal(model(torch.ones(2, 4)), trained.model(torch.ones(2, 4)))
    path = save_model(trained.model, tmp_path)
    assert torch.load(path, weights_only=False)["model"](torch.ones(1, 4)).shape == (1, 2)


def test_unpicklable_model_is_saved_as_weights(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.extra = lambda x: x
    saved = torch.load(save_model(model, tmp_path))
    assert set(saved) == {"state_dict"}


# -- kinds of data ----------------------------------------------------------------------------------------------------


def test_loader_keeps_its_batch_size_and_is_restored(managed: Any, weights_of: Any) -> None:
    x, y = torch.tensor(managed.x, dtype=torch.float32), torch.tensor(managed.y)
    generator = torch.Generator().manual_seed(4)
    state = generator.get_state()
    train = DataLoader(TensorDataset(x[:200], y[:200]), batch_size=50, shuffle=True, generator=generator)
    validation = DataLoader(TensorDataset(x[200:], y[200:]), batch_size=16)
    trainer = managed.trainer(dropout_model(), train=train, validation=validation)
    assert (trainer.context.planned_steps, trainer.context.train_rows, trainer.context.batch_size) == (8, 200, 50)
    first, second = (trainer.train(TrainingSpec(2, 0), managed.Run()).model for _ in range(2))
    assert torch.equal(weights_of(first), weights_of(second))
    assert torch.equal(generator.get_state(), state)
    run = managed.Run()
    trainer.train(TrainingSpec(1, 0, (SetBatchSize(100),)), run)
    assert run.context.planned_steps == 2
    assert run.evaluation.targets.tolist() == managed.y[200:].tolist()


def test_shuffled_validation_comes_in_the_same_order_each_time(managed: Any) -> None:
    x, y = torch.tensor(managed.x, dtype=torch.float32), torch.tensor(managed.y)
    for generator in (None, torch.Generator().manual_seed(4)):
        loader = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True, generator=generator)
        trainer = managed.trainer(dropout_model(), train=loader, validation=loader)
        runs = [managed.Run() for _ in range(2)]
        for number, run in enumerate(runs):
            trainer.train(TrainingSpec(2, number), run)
        targets = [evaluation.targets.tolist() for run in runs for _, _, evaluation in run.ends]
        assert targets[0] != y.tolist()
        assert all(found == targets[0] for found in targets)


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_several_inputs(managed: Any, form: str) -> None:
    def parts(x: np.ndarray) -> Any:
        return (x[:, :2], x[:, 2:]) if form == "tuple" else {"b": x[:, 2:], "a": x[:, :2]}

    data = {"train": (parts(managed.x[:200]), managed.y[:200]), "validation": (parts(managed.x[200:]), managed.y[200:])}
    trained, run = managed.train(TwoInputs(), **data)
    assert run.evaluation.outputs.shape == (60, 2)
    assert trained.predict(parts(managed.x[:7])).shape == (7, 2)


class TakesDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.layer(torch.cat([batch["a"], batch["b"]], 1))


def test_model_that_takes_one_dict(managed: Any) -> None:
    def parts(x: np.ndarray) -> Any:
        return {"a": x[:, :2], "b": x[:, 2:]}

    data = {"train": (parts(managed.x[:200]), managed.y[:200]), "validation": (parts(managed.x[200:]), managed.y[200:])}
    for edits in ((), (ScaleInputs(),)):
        trained, run = managed.train(TakesDict(), *edits, **data)
        assert run.evaluation.outputs.shape == (60, 2)
        assert trained.predict(parts(managed.x[:7])).shape == (7, 2)
    x = {name: torch.tensor(part, dtype=torch.float32) for name, part in parts(managed.x[:40]).items()}
    rows = [({name: part[i] for name, part in x.items()}, int(managed.y[i])) for i in range(40)]
    loader = DataLoader(rows, batch_size=8)
    _, run = managed.train(TakesDict(), train=loader, validation=loader)
    assert run.evaluation.outputs.shape == (40, 2)
    compiled = torch.compile(TakesDict(), backend="eager")
    assert call_model(compiled, x).shape == (40, 2)
    extra = {**parts(managed.x[:200]), "c": managed.x[:200]}
    with pytest.raises(DataError, match="unexpected keyword argument 'c'"):
        managed.trainer(TwoInputs(), train=(extra, managed.y[:200]))


def test_loader_of_several_inputs(managed: Any) -> None:
    x = torch.tensor(managed.x, dtype=torch.float32)
    rows = [((x[i, :2], x[i, 2:]), int(managed.y[i])) for i in range(40)]
    _, run = managed.train(TwoInputs(), train=DataLoader(rows, batch_size=8), validation=DataLoader(rows, batch_size=8))
    assert run.evaluation.outputs.shape == (40, 2)


def test_output_in_a_dict(managed: Any) -> None:
    trained, run = managed.train(DictOutput())
    assert run.evaluation.outputs.shape == (60, 2)
    assert run.context.output_units == 2
    assert trained.predict(managed.x[:2]).shape == (2, 2)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.float64, np.float16, bool])
def test_types_of_inputs_and_targets_fit_the_model(managed: Any, kind: Any) -> None:
    x = (np.abs(managed.x) * 3).astype(kind)
    data = {"train": (x[:200], managed.y[:200].astype(np.int32)), "validation": (x[200:], managed.y[200:])}
    _, run = managed.train(managed.mlp().double(), **data)
    assert np.isfinite(run.evaluation.loss)


def test_integer_targets_become_floating_if_the_loss_needs_it(managed: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 1))
    y = managed.y[:, None]
    data = {"train": (managed.x[:200], y[:200]), "validation": (managed.x[200:], y[200:])}
    for loss in (nn.MSELoss(), nn.BCEWithLogitsLoss()):
        _, run = managed.train(model, loss=loss, **data)
        assert np.isfinite(run.evaluation.loss)


def test_indices_stay_indices(managed: Any) -> None:
    model = nn.Sequential(nn.Embedding(10, 8), nn.Flatten(), nn.Linear(24, 2))
    x = np.random.default_rng(0).integers(0, 10, size=(260, 3))
    _, run = managed.train(model, train=(x[:200], managed.y[:200]), validation=(x[200:], managed.y[200:]))
    assert run.context.input_kind == "index"


def test_last_batch_of_one_row_does_not_break_batch_normalization(managed: Any) -> None:
    _, run = managed.train(dropout_model(), train=(managed.x[:193], managed.y[:193]))
    assert run.context.planned_steps == 12
    assert run.spent == 2 * (193 * 3 + 60)


def test_sample_weights(managed: Any) -> None:
    keep = managed.x[:200, 2] > 0
    weights = np.where(keep, 1.0, 0.0)
    _, run = managed.train(managed.mlp(), train=(managed.x[:200], managed.y[:200], weights), batch_size=200, epochs=1)
    _, same = managed.train(
        managed.mlp(), train=(managed.x[:200][keep], managed.y[:200][keep]), batch_size=200, epochs=1
    )
    np.testing.assert_allclose(run.evaluation.outputs, same.evaluation.outputs, atol=1e-5)


def test_sequences_of_different_lengths_are_padded(managed: Any) -> None:
    def batch(time: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(4, time, 4), torch.ones(4, time, dtype=torch.long)

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.net(x).movedim(-1, 1)
            return out

    data = DataLoader([batch(5), batch(3)], batch_size=None)
    _, run = managed.train(Tagger(), train=data, validation=data)
    assert run.evaluation.outputs.shape == (8, 3, 5)
    assert (run.evaluation.targets[4:, 3:] == -100).all()


# -- kinds of models and optimizers -----------------------------------------------------------------------------------


def test_builder_starts_from_the_same_weights_each_time(managed: Any, weights_of: Any) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 2))

    trainer = managed.trainer(build)
    starts = []
    for seed in (0, 1):
        run = managed.Run(0)
        starts.append(weights_of(trainer.train(TrainingSpec(1, seed), run).model))
    assert torch.equal(*starts)


def test_builder_that_returns_one_model(managed: Any, weights_of: Any) -> None:
    model = managed.mlp()
    before = weights_of(model)
    managed.train(lambda: model)
    assert torch.equal(weights_of(model), before)


def test_builder_whose_models_share_a_backbone(managed: Any, weights_of: Any) -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    before = weights_of(backbone)
    trainer = managed.trainer(lambda: nn.Sequential(backbone, nn.Linear(8, 2)))
    first, second = (trainer.train(TrainingSpec(1, 0), managed.Run()).model for _ in range(2))
    assert torch.equal(weights_of(backbone), before)
    assert torch.equal(weights_of(first), weights_of(second)), "each starts from the same weights"
    assert not torch.equal(weights_of(first[0]), before)


def test_builder_of_uncopyable_models(managed: Any) -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)
            self.cached = self.layer.weight * 2

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    _, run = managed.train(Caching)
    assert run.evaluation.outputs.shape == (60, 2)


def test_lazy_layers(managed: Any) -> None:
    trainer = managed.trainer(lambda: nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(2)))
    assert trainer.train(TrainingSpec(1, 0), managed.Run()).predict(managed.x[:3]).shape == (3, 2)
    given = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(2))
    managed.train(given)
    assert isinstance(given[0].weight, nn.parameter.UninitializedParameter)


def test_parameter_groups_and_state_are_copied(managed: Any) -> None:
    model = managed.mlp()
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[4].parameters(), "lr": 0.1}]
    trained, _ = managed.train(model, optimizer=torch.optim.SGD(groups, lr=1.0))
    changed = [not torch.equal(trained.model[i].weight, model[i].weight) for i in (0, 2, 4)]
    assert changed == [False, False, True]
    assert [group["lr"] for group in trained.optimizer.param_groups] == [0.0, 0.1]


@pytest.mark.parametrize("built", [False, True], ids=["callable", "object"])
def test_lbfgs(managed: Any, built: bool) -> None:
    model = managed.mlp()

    def make(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(parameters, lr=0.1, max_iter=3)

    _, run = managed.train(model, optimizer=make(model.parameters()) if built else make)
    assert run.ends[-1][1]["loss"] < run.ends[0][1]["loss"]


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=1, gamma=0.5),
        lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=1e9),
    ],
)
def test_scheduler_is_stepped_each_epoch(managed: Any, scheduler: Any) -> None:
    trained, _ = managed.train(managed.mlp(), scheduler=scheduler, epochs=4)
    assert trained.optimizer.param_groups[0]["lr"] < 0.01 * 0.3


@pytest.mark.parametrize("shows", ["loss", "all"])
def test_custom_step(managed: Any, shows: str) -> None:
    def step(model: nn.Module, batch: Any) -> Any:
        x, y = batch
        outputs = model(x)
        loss = F.cross_entropy(outputs, y)
        return (loss, outputs, y) if shows == "all" else loss

    _, run = managed.train(managed.mlp(), loss=None, step=step, epochs=20)
    assert run.ends[-1][1]["loss"] < run.ends[0][1]["loss"]
    assert run.evaluation.outputs.shape == (60, 2)
    assert len(run.monitor.history.losses[0])


def test_custom_step_with_custom_batches(managed: Any) -> None:
    x, y = torch.tensor(managed.x, dtype=torch.float32), torch.tensor(managed.y)
    items = [{"x": x[i : i + 20], "label": y[i : i + 20], "id": "a"} for i in range(0, 200, 20)]
    batches = DataLoader(items, batch_size=None)

    def step(model: nn.Module, batch: Any) -> Any:
        return F.cross_entropy(model(batch["x"]), batch["label"])

    _, run = managed.train(managed.mlp(), loss=None, step=step, train=batches, validation=batches)
    assert run.evaluation.outputs.shape == (0,)
    assert np.isfinite(run.evaluation.loss)
    assert run.spent == 2 * 200 * 4


def test_step_takes_derivatives_by_inputs(managed: Any) -> None:
    def step(model: nn.Module, batch: Any) -> Any:
        x = batch[0].clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return ((slope - 1) ** 2).mean()

    _, run = managed.train(managed.mlp(), loss=None, step=step, epochs=5)
    assert run.ends[-1][1]["loss"] < run.ends[0][1]["loss"]
    assert np.isfinite(run.evaluation.loss)


def test_model_differentiates_in_its_forward_pass(managed: Any) -> None:
    class Forces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))

        def forward(self, x: Any) -> Any:
            x = x.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
            return slope[:, :2]

    _, run = managed.train(Forces(), epochs=2)
    assert run.evaluation.outputs.shape == (60, 2)
    assert np.isfinite(run.evaluation.loss)


def test_loss_function_is_observed(managed: Any) -> None:
    _, run = managed.train(managed.mlp(), loss=F.cross_entropy)
    assert run.context.loss.family == "cross_entropy"
    assert run.monitor.history.targets.classes == 2


def test_boolean_targets_become_class_indices_if_the_loss_takes_those(managed: Any) -> None:
    flags = managed.y == 1
    data = {"train": (managed.x[:200], flags[:200]), "validation": (managed.x[200:], flags[200:])}
    for loss in (nn.CrossEntropyLoss(), F.cross_entropy):
        _, run = managed.train(managed.mlp(), loss=loss, **data)
        _, same = managed.train(managed.mlp(), loss=loss)
        np.testing.assert_array_equal(run.evaluation.outputs, same.evaluation.outputs)
    hot = np.eye(2, dtype=bool)[managed.y]
    data = {"train": (managed.x[:200], hot[:200]), "validation": (managed.x[200:], hot[200:])}
    assert managed.train(managed.mlp(), **data)[1].evaluation.targets.shape == (60, 2)


def test_summed_loss_is_reported_as_a_mean(managed: Any) -> None:
    _, run = managed.train(managed.mlp(), loss=nn.CrossEntropyLoss(reduction="sum"))
    outputs = torch.tensor(run.evaluation.outputs)
    assert run.evaluation.loss == pytest.approx(
        float(F.cross_entropy(outputs, torch.tensor(managed.y[200:]))), rel=1e-4
    )


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"fit_args": {"callbacks": []}}, ConfigError, "Keras"),
        ({"optimizer": None}, ConfigError, "optimizer"),
        ({"optimizer": "adam"}, ConfigError, "optimizer"),
        ({"loss": None}, ConfigError, "loss"),
        ({"loss": "mse"}, ConfigError, "loss"),
        ({"scheduler": 3}, ConfigError, "scheduler"),
        ({"optimizer": lambda params: None}, InputError, "must return"),
        ({"loss": None, "step": lambda model, batch: None}, InputError, "step must return loss or"),
        ({"train": (np.zeros((20, 3)), np.zeros(20, int))}, DataError, r"\(2, 3\)"),
        ({"validation": (np.zeros((20, 3)), np.zeros(20, int))}, DataError, "validation_data"),
        ({"train": DataLoader(torch.zeros(2, 4))}, DataError, "step="),
        ({"train": DataLoader(TensorDataset(torch.zeros(0, 4)))}, DataError, "no batch"),
    ],
)
def test_errors_name_what_does_not_fit(
    managed: Any, changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        managed.trainer(managed.mlp(), **changes)


def test_optimizer_of_another_model_trains_nothing_unless_it_is_completed(managed: Any) -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(InputError, match="none of the model's"):
        managed.train(managed.mlp(), optimizer=optimizer)
    trained, _ = managed.train(managed.mlp(), CompleteOptimizer(), optimizer=optimizer)
    assert len(trained.optimizer.param_groups) == 2
    assert len(optimizer.param_groups) == 1, "the user's object stays as it is"


def test_errors_name_what_user_callables_must_return(managed: Any) -> None:
    for changes, says in (
        ({"scheduler": lambda optimizer: None}, "learning-rate scheduler"),
        ({"loss": lambda outputs, targets: 1.0}, "the loss must return a tensor"),
    ):
        with pytest.raises(InputError, match=says):
            managed.train(managed.mlp(), **changes)


def test_model_without_trainable_parameters(managed: Any) -> None:
    with pytest.raises(InputError, match="no parameter to train"):
        managed.trainer(nn.Flatten())
    with pytest.raises(InputError, match="no parameter to train"):
        managed.train(managed.mlp().requires_grad_(False))


def test_model_warnings_come_from_the_training_alone(managed: Any) -> None:
    class Warns(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            warnings.warn("slow", stacklevel=1)
            return super().forward(x)

    trainer = managed.trainer(nn.Sequential(Warns(4, 2)))
    with pytest.warns(UserWarning, match="slow"):
        trainer.train(TrainingSpec(1, 0), managed.Run())


def test_sample_weights_need_a_loss_without_reduction(managed: Any) -> None:
    data = (managed.x[:200], managed.y[:200], np.ones(200))
    with pytest.raises(ConfigError, match="sample weights"):
        managed.trainer(managed.mlp(), train=data, loss=lambda p, y: F.cross_entropy(p, y))


def test_uncopyable_model(managed: Any) -> None:
    with pytest.raises(InputError, match="callable that builds the model"):
        managed.trainer(Cached())
    managed.train(Cached)


def test_optimizer_object_with_a_builder(managed: Any) -> None:
    model = managed.mlp()
    with pytest.raises(ConfigError, match="callable"):
        managed.trainer(managed.mlp, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


def test_errors_of_the_loss_propagate_unchanged(managed: Any) -> None:
    data = (managed.x[:200], np.eye(3, dtype=np.float32)[np.zeros(200, int)])
    with pytest.raises(RuntimeError, match=r"Float|size|multi-target"):
        managed.train(managed.mlp(), train=data)


def test_error_for_class_indices_out_of_range_names_the_number_of_outputs(managed: Any) -> None:
    data = (managed.x[:200], np.full(200, 7))
    with pytest.raises(DataError, match="class index 7, but the model has 2 outputs"):
        managed.train(managed.mlp(), train=data)
    masked = np.where(np.arange(200) % 3, managed.y[:200], -100)
    managed.train(managed.mlp(), train=(managed.x[:200], masked))
