from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from autotrainer import edits as e
from autotrainer.adapter.spec import SupportLevel, TrainingSpec
from autotrainer.backends.pytorch.model.describe import plain_name
from autotrainer.backends.pytorch.surgery.surgery import apply_edits


class Functional(nn.Module):
    """Activations called as functions, but for one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        self.act = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.softmax(self.c(self.act(self.b(F.relu(self.a(x))))), -1)


class Shared(nn.Module):
    """One activation module used twice, defined before the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Sigmoid()
        self.a, self.b, self.c = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.c(self.act(self.b(self.act(self.a(x)))))
        return out


class Nested(nn.Module):
    """An encoder in a container, and a head with an output activation."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 16), nn.Sigmoid(), nn.Sequential(nn.Linear(16, 16), nn.Sigmoid()))
        self.head = nn.Linear(16, 2)
        self.out = nn.Softmax(-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.head(self.encoder(x)))
        return out


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 8, 2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)
    )


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 16, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (1, 4)), layer, nn.Flatten(), nn.Linear(4, 2))


def named(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(plain_name(path), module) for path, module in model.named_modules()]


def kinds(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules() if not list(module.children())]


# -- activations and weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "layers", "replaced", "applied"),
    [
        (lambda m: m.mlp(), ("0",), ["1"], ("0", "1")),
        (lambda m: m.mlp(), ("1",), ["1"], ("0", "1")),
        (lambda m: m.mlp(), ("0", "1", "2", "3"), ["1", "3"], ("0", "1", "2", "3")),
        (lambda m: Nested(), ("encoder.0", "encoder.2.1"), ["encoder.1", "encoder.2.1"], None),
        (lambda m: Shared(), ("a",), ["act"], ("a", "b", "act")),
        (lambda m: Functional(), ("a", "b"), ["act", "activations.0"], ("a", "b", "act")),
        (lambda m: conv(), ("1",), ["2"], ("1", "2")),
    ],
)
def test_swap_activation(managed: Any, build: Any, layers: Any, replaced: list[str], applied: Any) -> None:
    model = build(managed)
    trained, _ = managed.train(model, e.SwapActivation(layers, "selu"))
    for name in replaced:
        assert isinstance(dict(named(trained.model))[name], nn.SELU)
    assert kinds(trained.model).count("SELU") == len(replaced)
    if applied is not None:
        assert set(trained.edits[0].layers) == set(applied)


@pytest.mark.parametrize(
    ("to", "kind"),
    [
        ("relu", nn.ReLU),
        ("elu", nn.ELU),
        ("leaky_relu", nn.LeakyReLU),
        ("thresholded_relu", nn.Threshold),
        ("gelu", nn.GELU),
        ("tanh", nn.Tanh),
        ("sigmoid", nn.Sigmoid),
        ("linear", nn.Identity),
    ],
)
def test_activations(managed: Any, to: Any, kind: type[nn.Module]) -> None:
    trained, _ = managed.train(managed.mlp(), e.SwapActivation(("0",), to), epochs=1)
    assert isinstance(trained.model[1], kind)


def untrained(managed: Any, model: nn.Module, *edits: e.Edit, **changes: Any) -> nn.Module:
    run = managed.Run(0)
    found: nn.Module = managed.trainer(model, **changes).train(TrainingSpec(1, 0, edits), run).model
    return found


def test_swap_draws_the_feeding_layers_anew_and_only_those(managed: Any) -> None:
    model = managed.mlp()
    new = untrained(managed, model, e.SwapActivation(("0",), "selu"))
    assert not torch.equal(new[0].weight, model[0].weight)
    assert not new[0].bias.any()
    assert torch.equal(new[2].weight, model[2].weight)
    kept = untrained(managed, model, e.SwapActivation(("0",), "selu", reinitialize=False))
    assert torch.equal(kept[0].weight, model[0].weight)


@pytest.mark.parametrize(
    ("scheme", "std"),
    [
        ("he_uniform", (2 / 64) ** 0.5),
        ("he_normal", (2 / 64) ** 0.5),
        ("lecun_normal", (1 / 64) ** 0.5),
        ("glorot_uniform", (2 / 320) ** 0.5),
        ("glorot_normal", (2 / 320) ** 0.5),
        ("orthogonal", (1 / 256) ** 0.5),
    ],
)
def test_reinitialize(managed: Any, scheme: Any, std: float) -> None:
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 2))
    nn.init.constant_(model[2].weight, 3.0)
    new = untrained(managed, model, e.Reinitialize(("2",), scheme))
    assert float(new[2].weight.detach().std()) == pytest.approx(std, rel=0.1)
    assert not new[2].bias.any()
    assert torch.equal(new[0].weight, model[0].weight)


def test_reinitialize_other_kinds_of_layers(managed: Any) -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.ConvTranspose1d(1, 8, 3)
            self.norm = nn.BatchNorm1d(8)
            self.rnn = nn.LSTM(8, 6, batch_first=True)
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
            self.plain = nn.utils.parametrizations.weight_norm(nn.Linear(6, 2))
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.fill_(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.norm(self.conv(x[:, None])).transpose(1, 2)
            h, _ = self.rnn(h)
            h, _ = self.attention(h, h, h)
            out: torch.Tensor = self.plain(h[:, -1])
            return out

    names = ("conv", "norm", "rnn", "attention", "plain")
    new = untrained(managed, Many(), e.Reinitialize(names, "glorot_uniform"))
    assert new.norm.weight.eq(1).all()
    for weight in (new.conv.weight, new.rnn.weight_hh_l0, new.attention.in_proj_weight, new.plain.weight):
        assert float(weight.detach().std()) > 0.05
    assert not new.rnn.bias_hh_l0.any()


def test_transformer_feed_forward_activation(managed: Any) -> None:
    trainer = managed.trainer(transformer())
    edit = e.SwapActivation(("1.linear1",), "gelu")
    assert trainer.supports(edit)
    trained = trainer.train(TrainingSpec(1, 0, (edit,)), managed.Run())
    assert trained.model[1].activation is F.gelu
    assert trained.model[1].activation_relu_or_gelu == 2
    for refused in (e.InsertNormalization(("1.linear1",)), e.AddDropout(("1.linear1",), 0.1)):
        assert "does not call it" in trainer.supports(refused).reason


# -- layers put in ----------------------------------------------------------------------------------------------------


def test_insert_normalization_before_the_activation(managed: Any) -> None:
    trained, run = managed.train(managed.mlp(), e.InsertNormalization(("0", "3")))
    assert kinds(trained.model) == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "Tanh", "Linear"]
    assert trained.edits[0].layers == ("0", "2")
    assert {"0", "2", "4"} <= {info.name for info in run.context.layers}
    inserted = trained.model[0].then
    held = [p for group in trained.optimizer.param_groups for p in group["params"]]
    assert any(p is inserted.weight for p in held)
    assert not inserted.weight.eq(1).all()


@pytest.mark.parametrize(("kind", "module"), [("batch", "BatchNorm2d"), ("layer", "GroupNorm"), ("group", "GroupNorm")])
def test_insert_normalization_in_a_convolution(managed: Any, kind: Any, module: str) -> None:
    trained, _ = managed.train(conv(), e.InsertNormalization(("1",), kind))
    assert kinds(trained.model)[1:4] == ["Conv2d", module, "ReLU"]


def test_insert_normalization_in_sequences_is_by_layer(managed: Any) -> None:
    model = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Unflatten(1, (2, 4)), nn.Linear(4, 8), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)
    )
    trained, _ = managed.train(model, e.InsertNormalization(("0", "3")))
    assert trained.edits == (e.InsertNormalization(("0",)), e.InsertNormalization(("3",), "layer"))
    assert "LayerNorm" in kinds(trained.model)


def test_insert_normalization_behind_functional_activations_layers(managed: Any) -> None:
    trained, _ = managed.train(Functional(), e.InsertNormalization(("a", "b", "c")))
    assert trained.edits[0].layers == ("a", "b")


def test_layers_that_are_normalized_already(managed: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    assert "already" in managed.trainer(model).supports(e.InsertNormalization(("0",))).reason


@pytest.mark.parametrize(
    ("build", "layers", "expected"),
    [
        (lambda m: m.mlp(), ("0", "2"), ["Linear", "ReLU", "Dropout", "Linear", "Tanh", "Dropout", "Linear"]),
        (lambda m: Functional(), ("a",), ["Linear", "Dropout", "Linear", "Linear", "Sigmoid"]),
    ],
)
def test_add_dropout(managed: Any, build: Any, layers: Any, expected: list[str]) -> None:
    trained, _ = managed.train(build(managed), e.AddDropout(layers, 0.25))
    assert kinds(trained.model) == expected
    x = torch.ones(3, 4)
    assert torch.equal(trained.model(x), trained.model(x))


def test_input_noise_only_while_training(managed: Any) -> None:
    model = untrained(managed, managed.mlp(), e.AddInputNoise(0.5))
    x = torch.randn(4000, 4) * torch.tensor([1.0, 10.0, 0.0, 1.0])
    assert torch.equal(model.change(x), x)
    model.train()
    noise = model.change(x) - x
    torch.testing.assert_close(noise.std(0), torch.tensor([0.5, 5.0, 0.0, 0.5]), rtol=0.1, atol=1e-6)


def test_scale_inputs_per_feature(managed: Any) -> None:
    x = managed.x * np.array([1.0, 100.0, 0.0, 1e-3]) + np.array([0.0, 1e4, 5.0, 0.0])
    x[3, 0] = np.nan
    trained, run = managed.train(
        managed.mlp(), e.ScaleInputs(), train=(x[:200], managed.y[:200]), validation=(x[200:], managed.y[200:])
    )
    edit = trained.edits[0]
    np.testing.assert_allclose(edit.mean, np.nanmean(x[:200], axis=0), rtol=1e-6)
    np.testing.assert_allclose(edit.std[:2], np.nanstd(x[:200, :2], axis=0), rtol=1e-6)
    assert edit.std[2] == 1
    scaled = trained.model.change(torch.tensor(x[:200], dtype=torch.float32))
    torch.testing.assert_close(scaled[:, 1].std(correction=0), torch.tensor(1.0), rtol=1e-2, atol=0)
    assert trained.model.model is trained.model.module
    assert [info.name for info in run.context.layers] == ["0", "1", "2", "3", "4"]


def test_scale_inputs_of_higher_rank_and_from_a_loader(managed: Any) -> None:
    x = torch.tensor(managed.x, dtype=torch.float32).reshape(-1, 2, 2) * 50 + 7
    loader = DataLoader(TensorDataset(x, torch.tensor(managed.y)), batch_size=33)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    trained, _ = managed.train(model, e.ScaleInputs(), train=loader, validation=loader)
    assert trained.edits[0].mean == pytest.approx([float(x.mean())], rel=1e-4)
    assert trained.edits[0].std == pytest.approx([float(x.std())], rel=1e-2)


def test_scale_inputs_needs_numbers(managed: Any) -> None:
    model = nn.Sequential(nn.Embedding(10, 8), nn.Flatten(), nn.Linear(24, 2))
    x = np.zeros((20, 3), int)
    trainer = managed.trainer(model, train=(x, managed.y[:20]), validation=(x, managed.y[:20]))
    assert "floating-point" in trainer.supports(e.ScaleInputs()).reason


# -- output and loss --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "to", "expected"),
    [
        (lambda m: Nested(), "linear", "Identity"),
        (lambda m: Nested(), "sigmoid", "Sigmoid"),
        (lambda m: m.mlp(), "softmax", "Softmax"),
        (lambda m: Shared(), "sigmoid", "Sigmoid"),
        (lambda m: Functional(), "linear", "Identity"),
        (lambda m: Functional(), "sigmoid", "Sigmoid"),
    ],
)
def test_output_activation(managed: Any, build: Any, to: Any, expected: str) -> None:
    trained, run = managed.train(build(managed), e.SetOutputActivation(to))
    assert kinds(trained.model)[-1] == expected
    assert run.context.output_activation == to


def test_output_activation_that_stands_in_several_places(managed: Any) -> None:
    act = nn.Sigmoid()
    model = nn.Sequential(nn.Linear(4, 8), act, nn.Linear(8, 2), act)
    new = untrained(managed, model, e.SetOutputActivation("linear"))
    assert kinds(new) == ["Linear", "Sigmoid", "Linear", "Identity"]


def test_losses(managed: Any) -> None:
    trained, run = managed.train(
        managed.mlp(), e.SetLoss("squared_error", "values"), train=(managed.x[:200], np.eye(2)[managed.y[:200]]),
        validation=(managed.x[200:], np.eye(2)[managed.y[200:]]),
    )  # fmt: skip
    assert run.context.loss.family == "squared_error"
    given = F.cross_entropy(torch.tensor(run.evaluation.outputs), torch.tensor(run.evaluation.targets))
    assert run.evaluation.loss == pytest.approx(float(given), rel=1e-4)
    assert run.ends[-1][1]["loss"] == pytest.approx(0.25, abs=0.2)
    assert trained.evaluate is not None


def test_loss_with_sample_weights(managed: Any) -> None:
    data = (managed.x[:200], managed.y[:200], np.ones(200))
    _, run = managed.train(managed.mlp(), e.SetLoss("cross_entropy", "logits"), train=data)
    _, same = managed.train(managed.mlp(), e.SetLoss("cross_entropy", "logits"))
    np.testing.assert_allclose(run.evaluation.outputs, same.evaluation.outputs, rtol=1e-4)


def test_given_loss_judges_what_it_would_refuse(managed: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())
    y = managed.y[:, None].astype(np.float32)
    data = {"train": (managed.x[:200], y[:200]), "validation": (managed.x[200:], y[200:])}
    edits = (e.SetOutputActivation("linear"), e.SetLoss("binary_cross_entropy", "logits"))
    _, run = managed.train(model, *edits, loss=nn.BCELoss(), **data)
    logits = torch.tensor(run.evaluation.outputs)
    expected = F.binary_cross_entropy_with_logits(logits, torch.tensor(y[200:]).double())
    assert run.evaluation.loss == pytest.approx(float(expected), rel=1e-4)


def test_an_attempt_is_told_in_the_loss_that_it_trains_on(managed: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    targets = managed.x @ np.array([1.0, -2.0, 0.5, 1.0])  # against (rows, 1) outputs, the loss as given is no error
    data = {"train": (managed.x[:200], targets[:200]), "validation": (managed.x[200:], targets[200:])}

    class Crossed(nn.Module):
        def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return (outputs - targets).square().mean()

    edits = (e.SetLoss("squared_error", "values"), e.StopEarly(3))
    trained, run = managed.train(model, *edits, loss=Crossed(), epochs=30, **data)
    outputs, wanted = run.evaluation.outputs, run.evaluation.targets
    assert run.ends[-1][1]["val_loss"] == pytest.approx(np.mean((outputs[:, 0] - wanted) ** 2), rel=1e-4)
    assert run.evaluation.training_loss == run.ends[-1][1]["val_loss"]
    assert run.evaluation.loss == pytest.approx(np.mean((outputs - wanted) ** 2), rel=1e-4)
    losses = [values["val_loss"] for _, values, _ in run.ends]
    assert len(losses) == min(30, int(np.argmin(losses)) + 4), "early stopping goes by it too"
    assert min(losses) < 0.2 * losses[0]
    best = trained.evaluate(managed.request(model, **data).validation)
    assert best.training_loss == pytest.approx(min(losses), rel=1e-6)
    _, run = managed.train(managed.mlp())
    assert run.evaluation.training_loss == run.evaluation.loss


# -- functional activations -------------------------------------------------------------------------------------------


class Loops(nn.Module):
    """The same function called for several layers, and calls inside PyTorch's own modules in between."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.inner = nn.GELU()
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.sigmoid(self.inner(layer(x)) if layer is self.layers[1] else layer(x))
        out: torch.Tensor = self.head(x).sigmoid().squeeze(-1)
        return out


def test_functional_edits_are_reproducible_and_can_be_saved(managed: Any, weights_of: Any) -> None:
    edits = (e.SwapActivation(("a", "b"), "selu"), e.SetOutputActivation("linear"), e.AddDropout(("a",), 0.2))
    trainer = managed.trainer(Functional())
    runs = [managed.Run(watched=watched) for watched in (True, False)]
    first, second = (trainer.train(TrainingSpec(2, 0, edits), run) for run in runs)
    assert torch.equal(weights_of(first.model), weights_of(second.model))
    buffer = io.BytesIO()
    torch.save(first.model, buffer)
    buffer.seek(0)
    x = torch.randn(5, 4)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), first.model(x))
    assert runs[0].context.output_activation == "linear"


def test_functional_activations_are_replaced_one_by_one(managed: Any) -> None:
    model = Loops()
    trainer = managed.trainer(
        model,
        loss=nn.BCELoss(),
        train=(managed.x[:200], managed.y[:200]),
        validation=(managed.x[200:], managed.y[200:]),
    )
    edits: tuple[e.Edit, ...] = (
        e.SwapActivation(("layers.0", "layers.2"), "linear"),
        e.SetOutputActivation("linear"),
        e.SetLoss("binary_cross_entropy", "logits"),
    )
    new = trainer.train(TrainingSpec(1, 0, edits), managed.Run(0)).model
    x = torch.randn(3, 4)
    inner = new.model
    h = inner.layers[0](x)
    h = torch.sigmoid(F.gelu(inner.layers[1](h)))
    h = inner.head(inner.layers[2](h)).squeeze(-1)
    torch.testing.assert_close(new(x), h)
    assert not torch.equal(inner.layers[0].weight, model.layers[0].weight)
    assert torch.equal(inner.layers[1].weight, model.layers[1].weight)


class DependsOnData(nn.Module):
    """Can't be traced; one activation is called as a function, the other one is a module."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out, self.act = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2), nn.Tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.a(x))
        out: torch.Tensor = self.out(self.act(self.b(h if h.sum() >= 0 else -h)))
        return out


@pytest.mark.parametrize("layers", [("a", "b", "act"), ("a",)])
def test_plan_on_a_fresh_model_that_can_not_be_traced(managed: Any, layers: Any) -> None:
    trained, _ = managed.train(DependsOnData(), e.SwapActivation(layers, "selu"), e.ResizeLayers(("a",), (16,)))
    assert trained.edits[0].calls == (0,)
    model, _ = apply_edits(trained.edits, DependsOnData(), None)
    model.load_state_dict(trained.model.state_dict())
    x = torch.randn(5, 4)
    torch.testing.assert_close(model.eval()(x), trained.model.eval()(x))
    assert isinstance(model.module.act, nn.SELU if "act" in layers else nn.Tanh)


# -- settings ---------------------------------------------------------------------------------------------------------


def test_learning_rate_keeps_ratios_and_schedule(managed: Any) -> None:
    model = managed.mlp()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.2}]
    trained, _ = managed.train(
        model,
        e.SetLearningRate(0.01),
        optimizer=torch.optim.SGD(groups, lr=0.1),
        scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5),
        epochs=2,
    )
    rates = [group["lr"] for group in trained.optimizer.param_groups]
    assert rates in ([0.005, 0.01], [0.0025, 0.005])
    assert trained.optimizer.param_groups[0]["initial_lr"] == 0.01


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "nadam", "adamax", "rmsprop"])
def test_swap_optimizer(managed: Any, name: Any) -> None:
    momentum = 0.9 if name == "sgd" else 0.0
    edit = e.SwapOptimizer(name, 0.005, momentum=momentum, weight_decay=0.01)
    trained, run = managed.train(managed.mlp(), edit)
    assert type(trained.optimizer).__name__.lower() == name
    assert (run.context.optimizer.name, run.context.optimizer.learning_rate) == (name, 0.005)
    decays = {p.ndim: g["weight_decay"] for g in trained.optimizer.param_groups for p in g["params"]}
    assert decays == {2: 0.01, 1: 0.0}


def test_momentum_and_decay(managed: Any) -> None:
    edits = (e.SetMomentum(0.8, nesterov=True), e.SetWeightDecay(0.1), e.InsertNormalization(("0",)))
    trained, _ = managed.train(managed.mlp(), *edits, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    assert all(g["momentum"] == 0.8 and g["nesterov"] for g in trained.optimizer.param_groups)
    decayed = [p for g in trained.optimizer.param_groups if g["weight_decay"] for p in g["params"]]
    assert [p.ndim for p in decayed] == [2, 2, 2]


def test_decay_is_decoupled_in_adam(managed: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    x = np.zeros((20, 4))
    data = {"train": (x, managed.y[:20]), "validation": (x, managed.y[:20])}
    trained, _ = managed.train(model, e.SetWeightDecay(0.5), **data, epochs=1, batch_size=20)
    assert trained.model[0].weight.detach().numpy() == pytest.approx(1 - 0.01 * 0.5)


@pytest.mark.parametrize("kind", ["norm", "value"])
def test_clip_gradients(managed: Any, kind: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    optimizer = {"optimizer": lambda p: torch.optim.SGD(p, lr=1.0)}
    new, _ = managed.train(model, e.ClipGradients(kind, 1e-3), epochs=1, batch_size=200, **optimizer)
    change = torch.cat(
        [(a - b).detach().flatten() for a, b in zip(new.model.parameters(), model.parameters(), strict=True)]
    )
    size = change.norm() if kind == "norm" else change.abs().max()
    assert float(size) == pytest.approx(1e-3, rel=1e-2)


def test_reduce_on_plateau(managed: Any) -> None:
    data = {"validation": (managed.x[200:], 1 - managed.y[200:])}
    edit = e.ReduceOnPlateau(factor=0.1, patience=0, floor=0.05)
    trained, _ = managed.train(managed.mlp(), edit, epochs=12, **data)
    assert trained.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.05)


def test_batch_size(managed: Any) -> None:
    _, run = managed.train(managed.mlp(), e.SetBatchSize(100))
    assert (run.context.batch_size, run.context.planned_steps) == (100, 4)


def test_stop_early_restores_the_best_weights(managed: Any) -> None:
    data = {"validation": (managed.x[200:], 1 - managed.y[200:])}
    trained, run = managed.train(managed.mlp(), e.StopEarly(3), epochs=40, **data)
    losses = [values["val_loss"] for _, values, _ in run.ends]
    assert len(losses) == int(np.argmin(losses)) + 4 < 40
    best = trained.evaluate(managed.request(managed.mlp(), **data).validation)
    assert best.loss == pytest.approx(min(losses), rel=1e-6)


# -- consent, and what can't be done ----------------------------------------------------------------------------------


def test_frozen_and_kept_layers_are_left_alone(managed: Any) -> None:
    model = nn.Sequential(
        nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 2)
    )
    model[0].requires_grad_(False)
    trainer = managed.trainer(model, keep=("2",))
    every = ("0", "2", "4")
    edits = (
        e.SwapActivation(every, "relu"),
        e.Reinitialize(every, "he_normal"),
        e.InsertNormalization(every),
    )
    run = managed.Run(0)
    trained = trainer.train(TrainingSpec(1, 0, edits), run)
    assert [edit.layers for edit in trained.edits] == [("4", "5"), ("4",), ("4",)]
    for i in (0, 2):
        assert torch.equal(trained.model[i].weight, model[i].weight)
    for edit in (e.SwapActivation(("0", "2"), "relu"), e.Reinitialize(("0", "2"), "he_normal")):
        found = trainer.supports(edit)
        assert found.level is SupportLevel.NONE
        assert "frozen" in found.reason
        assert "keep='2'" in found.reason


def test_keep_names_containers(managed: Any) -> None:
    trainer = managed.trainer(Nested(), keep=("encoder", "out"))
    assert not trainer.supports(e.SwapActivation(("encoder.2.0",), "relu"))
    assert not trainer.supports(e.SetOutputActivation("linear"))
    assert trainer.supports(e.Reinitialize(("head",), "he_normal"))


@pytest.mark.parametrize(
    ("build", "edit", "reason"),
    [
        (Functional, e.SwapActivation(("c",), "relu"), "F.softmax is called inside forward"),
        (Shared, e.SetOutputActivation("linear"), "no activation"),
        (Nested, e.SetOutputActivation("softmax"), "already"),
        (Nested, e.SwapActivation(("head",), "relu"), "SetOutputActivation"),
        (Nested, e.SwapActivation(("nothing",), "relu"), "no layer 'nothing'"),
        (Nested, e.Reinitialize(("out",), "he_normal"), "no weights"),
        (Nested, e.InsertNormalization(("head",)), "makes the output"),
        (Nested, e.AddDropout(("head", "out"), 0.5), "makes the output"),
        (Nested, e.SetMomentum(0.9), "no momentum"),
        (Nested, e.SetLoss("squared_error", "values"), "can't be computed"),
        (lambda: nn.LSTM(4, 2), e.SwapActivation(("lstm",), "relu"), "gates"),
        (lambda: nn.Linear(4, 1), e.SetOutputActivation("softmax"), "one unit"),
    ],
)
def test_says_why_not(managed: Any, build: Any, edit: e.Edit, reason: str) -> None:
    model = build()
    changes: dict[str, Any] = {}
    if isinstance(model, nn.LSTM):
        changes = {"loss": lambda out, y: out[0].mean()}
    if isinstance(model, nn.Linear):
        changes = {"loss": lambda out, y: out.mean()}
    trainer = managed.trainer(model, **changes)
    found = trainer.supports(edit)
    assert found.level is SupportLevel.NONE
    assert re.search(reason, found.reason), found.reason


def test_loaders_that_make_their_own_batches(managed: Any) -> None:
    x, y = torch.zeros(20, 4), torch.zeros(20, dtype=torch.long)
    ready = DataLoader([(x, y)], batch_size=None)
    trainer = managed.trainer(managed.mlp(), train=ready, validation=ready)
    assert not trainer.supports(e.SetBatchSize(4))
    plain = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
    assert managed.trainer(managed.mlp(), train=plain, validation=ready).supports(e.SetBatchSize(4))


def test_own_step_decides_on_the_loss(managed: Any) -> None:
    def step(model: nn.Module, batch: Any) -> Any:
        return F.cross_entropy(model(batch[0]), batch[1])

    trainer = managed.trainer(managed.mlp(), loss=None, step=step)
    assert "own step" in trainer.supports(e.SetLoss("cross_entropy", "logits")).reason
    assert trainer.supports(e.SwapActivation(("0",), "selu"))


def test_own_scheduler_excludes_another(managed: Any) -> None:
    scheduler = lambda o: torch.optim.lr_scheduler.StepLR(o, 1)  # noqa: E731
    assert "scheduler" in managed.trainer(managed.mlp(), scheduler=scheduler).supports(e.ReduceOnPlateau()).reason


# -- everything together ----------------------------------------------------------------------------------------------

MANY = (
    e.SwapActivation(("0", "2"), "selu"),
    e.InsertNormalization(("0", "2")),
    e.AddDropout(("0",), 0.2),
    e.ScaleInputs(),
    e.AddInputNoise(0.1),
    e.SetOutputActivation("softmax"),
    e.Reinitialize(("4",), "glorot_uniform"),
    e.SwapOptimizer("sgd", 0.05, momentum=0.9),
    e.SetLoss("cross_entropy", "probabilities"),
    e.SetBatchSize(64),
)


def test_all_edits_together_are_reproducible_and_can_be_saved(managed: Any, weights_of: Any) -> None:
    trainer = managed.trainer(managed.mlp())
    runs = [managed.Run(watched=watched) for watched in (True, False)]
    first, second = (trainer.train(TrainingSpec(2, 0, MANY), run) for run in runs)
    assert torch.equal(weights_of(first.model), weights_of(second.model))
    buffer = io.BytesIO()
    torch.save(first.model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    x = torch.randn(5, 4)
    assert torch.equal(loaded(x), first.model(x))


def test_a_later_edit_of_the_same_layers_wins(managed: Any) -> None:
    edits = (
        e.SwapActivation(("0",), "selu"),
        e.AddDropout(("0",), 0.2),
        e.InsertNormalization(("0",)),
        e.SwapActivation(("0",), "tanh"),
        e.Reinitialize(("0",), "orthogonal"),
    )
    trained, _ = managed.train(managed.mlp(), *edits)
    assert kinds(trained.model)[:4] == ["Linear", "BatchNorm1d", "Tanh", "AlphaDropout"]


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_plan_on_a_fresh_model_gives_the_same_structure(managed: Any, with_optimizer: bool) -> None:
    trained, _ = managed.train(managed.mlp(), *MANY)
    fresh = managed.mlp()
    optimizer = torch.optim.Adam(fresh.parameters()) if with_optimizer else None
    model, changed = apply_edits(trained.edits, fresh, optimizer)
    assert str(model) == str(trained.model.train())
    model.load_state_dict(trained.model.state_dict())
    model.eval()
    trained.model.eval()
    x = torch.randn(5, 4)
    assert torch.equal(model(x), trained.model(x))
    if with_optimizer:
        assert isinstance(changed, torch.optim.SGD)
        held = {id(p) for group in changed.param_groups for p in group["params"]}
        assert held == {id(p) for p in model.parameters()}
    else:
        assert changed is None


@pytest.mark.parametrize(
    ("build", "edits"),
    [
        (Nested, (e.SwapActivation(("encoder.0",), "relu"), e.SetOutputActivation("linear"))),
        (Shared, (e.SwapActivation(("a", "b"), "relu"), e.SetOutputActivation("sigmoid"))),
        (Functional, (e.SwapActivation(("b",), "relu"), e.InsertNormalization(("a",)), e.AddDropout(("b",), 0.1))),
        (Functional, (e.SwapActivation(("a", "b"), "elu"), e.SetOutputActivation("linear"), e.AddInputNoise(0.1))),
        (conv, (e.InsertNormalization(("1",)), e.AddDropout(("1",), 0.1), e.SetOutputActivation("softmax"))),
    ],
)
def test_plan_on_other_models(managed: Any, build: Any, edits: Any) -> None:
    trained, _ = managed.train(build(), *edits, epochs=1)
    model, _ = apply_edits(trained.edits, build(), None)
    assert str(model) == str(trained.model)
