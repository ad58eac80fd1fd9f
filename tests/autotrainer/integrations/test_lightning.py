"""Lightning: the callback sees what a plain loop under `watch` shows, and changes nothing."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import autotrainer
from autotrainer.errors import ConfigError, InputError
from tests.autotrainer.integrations.faults import (
    FAULTS,
    HEALTHY,
    Training,
    make_training,
    plain_monitor,
    plain_problems,
    problems,
)

L = pytest.importorskip("lightning.pytorch")

from autotrainer.integrations.lightning import AutoTrainer  # noqa: E402

pytestmark = [
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.rank_zero.LightningDeprecationWarning"),
    # advice on the size of the test's data, and what Lightning itself uses of PyTorch
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:.*isinstance.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*resuming from a checkpoint that ended"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
]


class Lit(L.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self, training: Training) -> None:
        super().__init__()
        self.model, self.loss = training.model, training.loss
        self.training_ = training

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return self.loss(self.model(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", self.loss(self.model(x), y))

    def configure_optimizers(self) -> Any:
        return self.training_.optimizer


class Functional(Lit):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return {"loss": F.cross_entropy(self.model(x), y), "more": 1}


def _trainer(callback: Any, folder: Any = None, **options: Any) -> Any:
    shown = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    callbacks = [callback] if callback is not None else []
    return L.Trainer(
        **{
            "accelerator": "cpu",
            "callbacks": callbacks,
            "logger": False,
            "default_root_dir": folder,
            **shown,
            **options,
        }
    )


def _fit(training: Training, lit: Any = None, callback: Any = None, **options: Any) -> AutoTrainer:
    callback = callback or AutoTrainer(overhead=1.0)
    path = options.pop("ckpt_path", None)
    lit = Lit(training) if lit is None else lit
    _trainer(callback, max_epochs=options.pop("max_epochs", training.epochs), **options).fit(
        lit, training.loader(), training.validation_loader(), ckpt_path=path
    )
    return callback


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "no_zero_grad"])
def test_same_problems_as_in_a_plain_loop(fault: str) -> None:
    assert problems(_fit(make_training(fault)).monitor) == plain_problems(fault) != {}


def test_a_healthy_training_is_silent_and_measured_as_in_a_plain_loop() -> None:
    monitor, plain = _fit(make_training(HEALTHY)).monitor, plain_monitor(HEALTHY)
    assert monitor is not None
    assert problems(monitor) == {}
    assert monitor.closed
    assert not monitor.interrupted
    assert monitor.history.epoch_ends.tolist() == plain.history.epoch_ends.tolist()
    assert monitor.history.steps.tolist() == plain.history.steps.tolist()
    assert monitor.history.losses[1].tolist() == plain.history.losses[1].tolist()
    assert monitor.history.layers == plain.history.layers
    for column in ("grad_norm", "weight_norm", "update_ratio", "activation_std"):
        torch.testing.assert_close(
            torch.tensor(monitor.history.layer(column)), torch.tensor(plain.history.layer(column)), equal_nan=True
        )
    assert monitor.context.loss == plain.context.loss
    assert monitor.context.planned_epochs == 20


def test_missing_zero_grad_is_seen_in_manual_optimization() -> None:
    class Manual(Lit):
        def __init__(self, training: Training) -> None:
            super().__init__(training)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            loss = super().training_step(batch, batch_idx)
            self.manual_backward(loss)
            self.optimizers().step()

    training = make_training("no_zero_grad")
    assert "missing_zero_grad" in problems(_fit(training, Manual(training)).monitor)


def _weights(training: Training) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in training.model.parameters()]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1},
        {"precision": "bf16-mixed"},
        {"val_check_interval": 0.25},
    ],
    ids=["plain", "accumulation and clipping", "bf16", "validation within the epoch"],
)
def test_watching_changes_no_bit(options: Any) -> None:
    weights = []
    for callback in (None, AutoTrainer(overhead=1.0)):
        training = make_training(HEALTHY)
        training.model.insert(1, nn.Dropout(0.2))  # type: ignore[operator]
        training.optimizer = torch.optim.Adam(training.model.parameters())
        lit = Lit(training)
        trainer = _trainer(callback, max_epochs=3, **options)
        torch.manual_seed(3)
        trainer.fit(lit, training.loader(), training.validation_loader())
        weights.append([*_weights(training), torch.rand(1)])
        if callback is not None:
            assert callback.monitor is not None
            assert callback.monitor.history.epoch == 3
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_accumulated_and_clipped_steps_show_the_loss_of_the_batch_and_the_gradient_before_clipping() -> None:
    first = {}
    for name, kind, options in (
        ("plain", Lit, {}),
        ("clipped", Lit, {"gradient_clip_val": 1e-3}),
        ("function", Functional, {"accumulate_grad_batches": 3}),
        ("module", Lit, {"accumulate_grad_batches": 3}),
    ):
        training = make_training(HEALTHY)
        monitor = _fit(training, kind(training), max_epochs=1, **options).monitor
        assert monitor is not None
        assert monitor.history.step + 1 == (16 if "accumulate_grad_batches" not in options else 6)
        first[name] = monitor
    norms = {name: monitor.history.scalar("grad_norm")[0] for name, monitor in first.items()}
    assert norms["clipped"] == norms["plain"] > 1e-2
    assert norms["function"] == pytest.approx(norms["module"])
    losses = {name: monitor.history.losses[1] for name, monitor in first.items()}
    assert losses["function"].tolist() == pytest.approx(losses["module"].tolist(), rel=1e-6)
    assert 0.9 < losses["function"][0] < 1.3
    assert first["module"].history.scalar("loss_factor")[0] == pytest.approx(1 / 3)


@pytest.mark.parametrize("compiled", ["LightningModule", "network", "network in place"])
def test_compiled_modules_show_the_losses_and_gradients_of_plain_ones(compiled: str) -> None:
    monitors = []
    for compiles in (False, True):
        training = make_training(HEALTHY)
        lit: Any = Lit(training)
        if compiles and compiled == "network":
            lit.model = torch.compile(lit.model, backend="eager")
        elif compiles and compiled == "network in place":
            lit.model.compile(backend="eager")
        elif compiles:
            lit = torch.compile(lit, backend="eager")
        monitors.append(_fit(training, lit, max_epochs=2).monitor)
        torch.compiler.reset()
    plain, monitor = monitors
    assert plain is not None
    assert monitor is not None
    for column in ("grad_norm", "accuracy"):
        assert monitor.history.scalar(column).tolist() == pytest.approx(plain.history.scalar(column).tolist(), rel=1e-4)
    assert monitor.history.losses[1].tolist() == pytest.approx(plain.history.losses[1].tolist(), rel=1e-4)


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_half_precision_weights_show_the_problems_of_single_precision(precision: Any) -> None:
    for fault in (HEALTHY, "rate_too_high"):
        monitor = _fit(make_training(fault), precision=precision).monitor
        assert monitor is not None
        assert len(monitor.history.losses[1]) == len(plain_monitor(fault).history.losses[1])
        found, expected = problems(monitor), plain_problems(fault)
        assert found.keys() >= expected.keys()
        assert bool(found) == bool(expected)


def test_a_loss_that_is_a_function_is_seen_as_in_a_plain_loop() -> None:
    plain = make_training("rate_too_high")
    with autotrainer.watch(plain.model, plain.optimizer, epochs=plain.epochs, overhead=1.0) as expected:
        for _ in range(plain.epochs):
            for x, y in plain.loader():
                plain.optimizer.zero_grad()
                loss = F.cross_entropy(plain.model(x), y)
                loss.backward()
                expected.log(loss=loss)
                plain.optimizer.step()
            expected.end_epoch()
    training = make_training("rate_too_high")
    monitor = _fit(training, Functional(training), limit_val_batches=0).monitor
    assert monitor is not None
    assert problems(monitor) == problems(expected) != {}
    assert monitor.history.scalar("accuracy").tolist() == expected.history.scalar("accuracy").tolist()


def test_the_search_for_the_loss_ends_where_no_backward_pass_is_announced() -> None:
    class Raw(Lit):
        def __init__(self, training: Training) -> None:
            super().__init__(training)
            self.automatic_optimization, self.hooked = False, False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.hooked = self.loss._compiled_call_impl is not None
            optimizer = self.training_.optimizer
            optimizer.zero_grad()
            super().training_step(batch, batch_idx).backward()
            optimizer.step()

    lits = [Raw(make_training(HEALTHY)) for _ in range(2)]
    _fit(lits[0].training_, lits[0], max_epochs=1, limit_train_batches=1)
    _fit(lits[1].training_, lits[1], max_epochs=1, limit_train_batches=5)
    assert (lits[0].hooked, lits[1].hooked) == (True, False)


def test_the_search_for_a_rate_is_no_schedule(tmp_path: Path) -> None:
    training = make_training(HEALTHY)
    module, callback = Lit(training), AutoTrainer(overhead=1.0)
    module.lr = 0.1
    finder = L.callbacks.LearningRateFinder(num_training_steps=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _fit(training, module, callback, callbacks=[finder, callback], default_root_dir=tmp_path, max_epochs=2)
    assert callback.monitor is not None
    assert not callback.monitor.context.optimizer.scheduled


def test_several_optimizers() -> None:
    class Two(Lit):
        def __init__(self, training: Training) -> None:
            super().__init__(training)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            loss = super().training_step(batch, batch_idx)
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()

        def configure_optimizers(self) -> Any:
            layers = list(self.model.children())
            return [torch.optim.SGD(layers[n].parameters(), lr=0.1, momentum=0.9) for n in (0, 2)]

    training = make_training(HEALTHY)
    monitor = _fit(training, Two(training)).monitor
    assert monitor is not None
    assert monitor.context.optimizer.several
    assert monitor.history.step + 1 == 16 * 20
    assert (monitor.history.layer("update_ratio")[1:, [0, 2]] > 0).all()
    assert problems(monitor) == {}


def test_validation_within_the_epoch_ends_none_and_the_sanity_check_is_not_counted() -> None:
    training = make_training(HEALTHY)
    monitor = _fit(training, max_epochs=3, val_check_interval=5, num_sanity_val_steps=2).monitor
    assert monitor is not None
    assert monitor.history.epoch_ends.tolist() == [15, 31, 47]
    assert monitor.history.epochs("val_loss")[1].shape == (3,)
    every_second = _fit(make_training(HEALTHY), max_epochs=4, check_val_every_n_epoch=2).monitor
    assert every_second is not None
    assert every_second.history.epochs("val_loss")[0].tolist() == [1, 3]


def test_max_steps_is_the_planned_length() -> None:
    training = make_training(HEALTHY)
    monitor = _fit(training, max_epochs=-1, max_steps=30).monitor
    assert monitor is not None
    assert monitor.context.planned_steps == 30
    assert monitor.history.step + 1 == 30


@pytest.mark.parametrize(("stop_on", "fault", "stops"), [("error", "rate_too_high", True), ("error", HEALTHY, False)])
def test_stops_on_an_error(stop_on: Any, fault: str, stops: bool) -> None:
    callback = _fit(make_training(fault), callback=AutoTrainer(overhead=1.0, stop_on=stop_on))
    assert callback.monitor is not None
    assert (callback.monitor.history.epoch < make_training(fault).epochs) == stops
    assert not callback.monitor.interrupted


def test_an_exception_closes_the_monitor() -> None:
    class Broken(Lit):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.global_step == 5:
                raise RuntimeError("broken batch")
            return super().training_step(batch, batch_idx)

    training, callback = make_training(HEALTHY), AutoTrainer()
    with pytest.raises(RuntimeError, match="broken batch"):
        _fit(training, Broken(training), callback=callback)
    assert callback.monitor is not None
    assert callback.monitor.closed
    assert callback.monitor.interrupted
    assert callback.monitor.history.step == 4


@pytest.mark.parametrize("at_validation", [False, True])
def test_a_resumed_run_goes_on_in_one_history(tmp_path: Path, at_validation: bool) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    def saves() -> Any:
        return ModelCheckpoint(tmp_path, save_last=True, every_n_epochs=1, save_on_train_epoch_end=not at_validation)

    whole = _fit(make_training(HEALTHY), max_epochs=4).monitor
    training = make_training(HEALTHY)
    first = AutoTrainer(overhead=1.0)
    _fit(training, callback=first, max_epochs=2, callbacks=[first, saves()], enable_checkpointing=True)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["AutoTrainer"]
    assert state["monitor"]["history"]["step"] == 31
    training, second = make_training(HEALTHY), AutoTrainer(overhead=1.0)
    options = {"callbacks": [second, saves()], "enable_checkpointing": True, "ckpt_path": tmp_path / "last.ckpt"}
    _fit(training, callback=second, max_epochs=4, **options)
    assert whole is not None
    assert second.monitor is not None
    history = second.monitor.history
    assert (history.step, history.epoch) == (63, 4)
    assert history.epoch_ends.tolist() == whole.history.epoch_ends.tolist()
    assert history.losses[0].tolist() == whole.history.losses[0].tolist()
    assert history.losses[1].tolist() == whole.history.losses[1].tolist()
    assert history.epochs("val_loss")[1].tolist() == whole.history.epochs("val_loss")[1].tolist()
    assert second.monitor.context.planned_epochs == 4


@pytest.mark.filterwarnings("ignore:Be aware that when using")  # its checkpoint callback is left out
def test_a_checkpoint_of_the_last_batch_of_an_epoch_goes_on_in_the_next_epoch(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    first, saves = AutoTrainer(overhead=1.0), ModelCheckpoint(tmp_path, every_n_train_steps=16, save_top_k=-1)
    _fit(make_training(HEALTHY), callback=first, max_epochs=2, callbacks=[first, saves], enable_checkpointing=True)
    path = min(tmp_path.glob("*.ckpt"), key=lambda each: each.stat().st_mtime_ns)
    second = AutoTrainer(overhead=1.0)
    _fit(make_training(HEALTHY), callback=second, max_epochs=3, ckpt_path=path)
    assert second.monitor is not None
    assert second.monitor.history.epoch_ends.tolist() == [15, 31, 47]


def test_a_loss_function_with_accumulated_batches_is_read_as_a_whole() -> None:
    class Function(Lit):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self.model(batch[0]), batch[1])

    training = make_training(HEALTHY)
    # 16 batches in steps of 3: the last step of an epoch has a single backward pass
    monitor = _fit(training, Function(training), accumulate_grad_batches=3).monitor
    assert monitor is not None
    assert "improper_output_activation" not in problems(monitor)
    assert monitor.history.step + 1 == 6 * training.epochs


def test_the_loggers_get_scalars_and_findings(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    class Recorder(CSVLogger):  # type: ignore[misc]
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            rows.append((step, dict(metrics)))
            super().log_metrics(metrics, step)

    rows: list[tuple[int | None, dict[str, float]]] = []
    callback = _fit(make_training("rate_too_high"), logger=Recorder(tmp_path))
    steps = [step for step, values in rows if "autotrainer/0/grad_norm" in values]
    assert callback.monitor is not None
    assert steps == callback.monitor.history.steps.tolist()
    found = {name.rpartition("/")[2] for _, values in rows for name in values if "/findings/" in name}
    assert found >= set(problems(callback.monitor))

    rows.clear()
    _fit(make_training(HEALTHY), callback=AutoTrainer(log=False), max_epochs=1, logger=Recorder(tmp_path))
    assert not any(name.startswith("autotrainer") for _, values in rows for name in values)


def test_a_logger_that_fails_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from lightning.pytorch.loggers import CSVLogger

    class Broken(CSVLogger):  # type: ignore[misc]
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            raise ConnectionError("no network")

    training = make_training(HEALTHY)
    lit = Lit(training)
    lit.log = lambda *_, **__: None
    _fit(training, lit, max_epochs=1, logger=Broken(tmp_path))
    assert caplog.text.count("no network") <= 1


def test_a_second_fit_is_another_run_or_goes_on() -> None:
    callback, training = AutoTrainer(overhead=1.0), make_training(HEALTHY)
    lit = Lit(training)
    trainer = _trainer(callback, max_epochs=1)
    trainer.fit(lit, training.loader(), training.validation_loader())
    trainer.fit_loop.max_epochs = 2
    trainer.fit(lit, training.loader(), training.validation_loader())
    assert callback.monitor is not None
    assert callback.monitor.history.step + 1 == 32
    _trainer(callback, max_epochs=1).fit(lit, training.loader(), training.validation_loader())
    assert callback.monitor.history.step + 1 == 16


class Alternating(Lit):
    """Two optimizers, which take turns in each batch."""

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        layers = list(self.model.children())
        return [torch.optim.SGD(layers[n].parameters(), lr=0.05) for n in (0, 2)]


def test_a_second_fit_with_several_optimizers_goes_on() -> None:
    callback, training = AutoTrainer(overhead=1.0), make_training(HEALTHY)
    lit = Alternating(training)
    trainer = _trainer(callback, max_epochs=2)
    trainer.fit(lit, training.loader(), training.validation_loader())
    assert callback.monitor is not None
    steps = callback.monitor.history.step + 1
    trainer.fit_loop.max_epochs = 4
    trainer.fit(lit, training.loader(), training.validation_loader())
    assert callback.monitor.history.epoch == 4
    assert callback.monitor.history.step + 1 == 2 * steps
    assert callback.monitor.context.planned_epochs == 4


def test_a_copy_has_the_settings_and_watches_a_training_of_its_own(tmp_path: Path) -> None:
    training = make_training(HEALTHY)
    callback = _fit(training, callback=AutoTrainer(overhead=1.0, stop_on="error", loss_fn=training.loss), max_epochs=1)
    for copied in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert copied.monitor is None
        _fit(make_training("rate_too_high"), callback=copied)
        assert copied.monitor.history.epoch < make_training("rate_too_high").epochs
    assert callback.monitor is not None
    assert callback.monitor.history.step + 1 == 16


def test_a_callback_can_be_copied_while_it_watches() -> None:
    class Copies(L.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_end(self, *_: Any) -> None:
            pickle.dumps(copy.deepcopy(callback))

    callback = AutoTrainer(overhead=1.0)
    training = make_training(HEALTHY)
    _trainer(callback, max_epochs=1, callbacks=[callback, Copies()]).fit(
        Lit(training), training.loader(), training.validation_loader()
    )
    assert callback.monitor is not None
    assert callback.monitor.history.step + 1 == 16


def test_layers_of_the_module_itself() -> None:
    class Flat(L.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            return F.cross_entropy(self.last(self.first(x).relu()), y)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    training = make_training(HEALTHY)
    callback = AutoTrainer(overhead=1.0)
    loader: Any = DataLoader(TensorDataset(training.inputs, training.targets), batch_size=16)
    _trainer(callback, max_epochs=1).fit(Flat(), loader)
    assert callback.monitor is not None
    assert [layer.name for layer in callback.monitor.history.layers] == ["first", "last"]
    assert callback.monitor.history.step + 1 == 16


def test_the_other_namespace() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl = pytest.importorskip("pytorch_lightning")

    class Other(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, training: Training) -> None:
            super().__init__()
            self.model, self.loss, self.optimizer = training.model, training.loss, training.optimizer

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return self.optimizer

    training, callback = make_training("rate_too_high"), AutoTrainer(overhead=1.0)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    pl.Trainer(max_epochs=12, callbacks=[callback], accelerator="cpu", logger=False, **quiet).fit(
        Other(training), training.loader()
    )
    assert "learning_rate_too_high" in problems(callback.monitor)


def test_misuse_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match="stop_on"):
        AutoTrainer(stop_on="never")  # type: ignore[arg-type]

    class NoOptimizer(Lit):
        def configure_optimizers(self) -> Any:
            return None

    training = make_training(HEALTHY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InputError, match="needs an optimizer"):
            _fit(training, NoOptimizer(training), max_epochs=1)
