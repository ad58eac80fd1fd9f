"""Ignite: the handler sees what a plain loop under `watch` shows, and changes nothing."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from autotrainer.errors import ConfigError, InputError, StateError
from tests.autotrainer.integrations.faults import (
    FAULTS,
    HEALTHY,
    Training,
    make_training,
    plain_monitor,
    plain_problems,
    problems,
)

pytest.importorskip("ignite")

from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import ConfusionMatrix, Loss

from autotrainer.integrations.ignite import AutoTrainer

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("ignore::DeprecationWarning:ignite")]


def _trainer(training: Training, **options: Any) -> Any:
    if training.zeroes_gradients:
        return create_supervised_trainer(training.model, training.optimizer, training.loss, **options)

    def step(engine: Any, batch: Any) -> float:
        training.model.train()
        loss = training.loss(training.model(batch[0]), batch[1])
        loss.backward()
        training.optimizer.step()
        return float(loss.detach())

    return Engine(step)


def _evaluate_epochs(training: Training, trainer: Any) -> Any:
    evaluator = create_supervised_evaluator(training.model, metrics={"loss": Loss(training.loss)})
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(training.validation_loader()))
    return evaluator


def _attach(training: Training, trainer: Any, handler: AutoTrainer | None = None) -> AutoTrainer:
    handler = handler or AutoTrainer(overhead=1.0)
    evaluator = _evaluate_epochs(training, trainer)
    handler.attach(
        trainer, model=training.model, optimizer=training.optimizer, loss_fn=training.loss, evaluator=evaluator
    )
    return handler


def _run(name: str, handler: AutoTrainer | None = None, epochs: int | None = None, **options: Any) -> AutoTrainer:
    training = make_training(name)
    trainer = _trainer(training, **options)
    handler = _attach(training, trainer, handler)
    trainer.run(training.loader(), max_epochs=epochs or training.epochs)
    return handler


@pytest.mark.parametrize("fault", FAULTS)
def test_same_problems_as_in_a_plain_loop(fault: str) -> None:
    assert problems(_run(fault).monitor) == plain_problems(fault) != {}


def test_a_healthy_training_is_silent_and_measured_as_in_a_plain_loop() -> None:
    monitor, plain = _run(HEALTHY).monitor, plain_monitor(HEALTHY)
    assert monitor is not None
    assert problems(monitor) == {}
    assert monitor.closed
    assert not monitor.interrupted
    assert monitor.history.epoch_ends.tolist() == plain.history.epoch_ends.tolist()
    assert monitor.history.losses[1].tolist() == plain.history.losses[1].tolist()
    assert monitor.history.epochs("val_loss")[1].tolist() == pytest.approx(plain.history.epochs("val_loss")[1].tolist())
    assert monitor.context.planned_epochs == 20


def test_watching_changes_no_bit() -> None:
    weights = []
    for watched in (False, True):
        training = make_training(HEALTHY)
        training.model.insert(1, nn.Dropout(0.2))  # type: ignore[operator]
        trainer = _trainer(training, gradient_accumulation_steps=2)
        torch.manual_seed(3)
        if watched:
            _attach(training, trainer)
        else:
            _evaluate_epochs(training, trainer)
        trainer.run(training.loader(), max_epochs=3)
        weights.append([*(p.detach() for p in training.model.parameters()), torch.rand(1)])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_accumulated_batches_are_one_step_with_the_loss_of_a_batch() -> None:
    monitor = _run(HEALTHY, epochs=2, gradient_accumulation_steps=4).monitor
    assert monitor is not None
    assert monitor.history.step + 1 == 8
    assert monitor.history.epoch_ends.tolist() == [3, 7]
    assert 0.9 < monitor.history.losses[1][0] < 1.3


def test_bf16() -> None:
    training = make_training(HEALTHY)

    def step(engine: Any, batch: Any) -> None:
        training.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = training.loss(training.model(batch[0]), batch[1])
        loss.backward()
        training.optimizer.step()

    trainer, handler = Engine(step), AutoTrainer(overhead=1.0)
    handler.attach(trainer, training.model, training.optimizer, loss_fn=training.loss)
    trainer.run(training.loader(), max_epochs=20)
    assert handler.monitor is not None
    assert handler.monitor.history.step + 1 == 320
    assert problems(handler.monitor) == {}


def test_several_optimizers() -> None:
    training = make_training(HEALTHY)
    layers = list(training.model.children())
    optimizers = [torch.optim.SGD(layers[n].parameters(), lr=0.1) for n in (0, 2)]

    def step(engine: Any, batch: Any) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        training.loss(training.model(batch[0]), batch[1]).backward()
        for optimizer in optimizers:
            optimizer.step()

    trainer, handler = Engine(step), AutoTrainer(overhead=1.0)
    handler.attach(trainer, training.model, optimizers, loss_fn=training.loss)
    trainer.run(training.loader(), max_epochs=2)
    assert handler.monitor is not None
    assert handler.monitor.history.step + 1 == 32
    assert (handler.monitor.history.layer("update_ratio")[1:, [0, 2]] > 0).all()


@pytest.mark.parametrize(("fault", "stops"), [("rate_too_high", True), (HEALTHY, False)])
def test_stops_on_an_error(fault: str, stops: bool) -> None:
    monitor = _run(fault, AutoTrainer(overhead=1.0, stop_on="error")).monitor
    assert monitor is not None
    assert monitor.closed
    assert (monitor.history.epoch < make_training(fault).epochs) == stops


@pytest.mark.parametrize("handled", [False, True])
def test_an_exception_closes_the_monitor_and_is_raised_as_without_it(handled: bool) -> None:
    training, raised = make_training(HEALTHY), []

    def step(engine: Any, batch: Any) -> None:
        training.optimizer.zero_grad()
        training.loss(training.model(batch[0]), batch[1]).backward()
        training.optimizer.step()
        if engine.state.iteration == 5:
            raise RuntimeError("broken batch")

    trainer = Engine(step)
    handler = _attach(training, trainer)
    if handled:
        trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda error: raised.append(error))
        trainer.run(training.loader(), max_epochs=1)
        assert raised
    else:
        with pytest.raises(RuntimeError, match="broken batch"):
            trainer.run(training.loader(), max_epochs=1)
    assert handler.monitor is not None
    assert handler.monitor.closed
    assert handler.monitor.interrupted


def test_a_resumed_run_goes_on_in_one_history() -> None:
    whole = _run(HEALTHY, epochs=4).monitor
    training = make_training(HEALTHY)
    trainer = _trainer(training)
    first = _attach(training, trainer)
    states: list[Any] = []
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED(once=2), lambda: states.extend([first.state_dict(), trainer.state_dict()])
    )
    trainer.run(training.loader(), max_epochs=2)

    trainer = _trainer(training)  # of the same objects, as a checkpoint restores them
    second = _attach(training, trainer)
    second.load_state_dict(states[0])
    trainer.load_state_dict({**states[1], "max_epochs": 4})
    trainer.run(training.loader(), max_epochs=4)
    assert whole is not None
    assert second.monitor is not None
    history = second.monitor.history
    assert (history.step, history.epoch) == (63, 4)
    assert history.epoch_ends.tolist() == whole.history.epoch_ends.tolist()
    assert history.losses[1].tolist() == whole.history.losses[1].tolist()
    assert history.epochs("val_loss")[1].tolist() == whole.history.epochs("val_loss")[1].tolist()


def test_metrics_that_are_no_numbers_are_left_out_of_the_state() -> None:
    training, states = make_training(HEALTHY), []
    trainer, handler = _trainer(training), AutoTrainer(overhead=1.0)
    metrics = {"loss": Loss(training.loss), "matrix": ConfusionMatrix(3)}
    evaluator = create_supervised_evaluator(training.model, metrics=metrics)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(training.validation_loader()))
    handler.attach(trainer, training.model, training.optimizer, loss_fn=training.loss, evaluator=evaluator)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: states.append(handler.state_dict()))
    trainer.run(training.loader(), max_epochs=1)
    assert "monitor" in states[0]
    assert set(states[0]["values"]) == {"val_loss"}


def test_an_evaluation_that_fails_leaves_no_epoch_for_another_run() -> None:
    training = make_training(HEALTHY)
    trainer = _trainer(training)
    handler = AutoTrainer(overhead=1.0)
    handler.attach(trainer, training.model, training.optimizer, loss_fn=training.loss)

    @trainer.on(Events.EPOCH_COMPLETED)  # type: ignore[untyped-decorator]
    def fail() -> None:
        raise RuntimeError("no evaluation")

    with pytest.raises(RuntimeError, match="no evaluation"):
        trainer.run(training.loader(), max_epochs=2)
    assert handler.monitor is not None
    assert handler.monitor.history.epoch == 1
    assert not handler.state_dict()["pending"]


def test_evaluations_within_the_epoch_end_none() -> None:
    training = make_training(HEALTHY)
    trainer = _trainer(training)
    handler = AutoTrainer(overhead=1.0)
    evaluator = create_supervised_evaluator(training.model, metrics={"loss": Loss(training.loss)})
    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=5), lambda: evaluator.run(training.validation_loader()))
    handler.attach(trainer, training.model, training.optimizer, loss_fn=training.loss, evaluator=evaluator)
    trainer.run(training.loader(), max_epochs=3)
    assert handler.monitor is not None
    assert handler.monitor.history.epoch_ends.tolist() == [15, 31, 47]


def test_max_iters_is_the_planned_length() -> None:
    training = make_training(HEALTHY)
    trainer = _trainer(training)
    handler = _attach(training, trainer)
    trainer.run(list(training.batches), max_iters=20)
    assert handler.monitor is not None
    assert handler.monitor.context.planned_steps == 20
    assert handler.monitor.context.planned_epochs is None
    assert handler.monitor.history.step + 1 == 20
    trainer.run(list(training.batches), max_iters=30)
    assert handler.monitor.context.planned_steps == 30
    assert handler.monitor.history.step + 1 == 30


def test_a_copy_has_the_settings_and_is_attached_to_no_engine(caplog: pytest.LogCaptureFixture) -> None:
    handler = _run("rate_too_high", AutoTrainer(overhead=1.0, stop_on="error"))
    for copied in (copy.deepcopy(handler), pickle.loads(pickle.dumps(handler))):
        assert copied.monitor is None
        assert _run("rate_too_high", copied).monitor.history.epoch < make_training("rate_too_high").epochs
    training = make_training(HEALTHY)
    trainer = _trainer(training)
    _attach(training, trainer)
    copy.deepcopy(trainer).run(list(training.batches), max_epochs=1)
    assert "attached to" in caplog.text


def test_misuse_is_one_clear_line() -> None:
    training = make_training(HEALTHY)
    trainer, handler = _trainer(training), AutoTrainer()
    with pytest.raises(InputError, match=r"engine must be an ignite\.engine\.Engine"):
        handler.attach(training.model, training.model, training.optimizer)
    handler.attach(trainer, training.model, training.optimizer)
    with pytest.raises(StateError, match="attached to an engine already"):
        handler.attach(trainer, training.model, training.optimizer)
    AutoTrainer().attach(trainer, training.model, training.optimizer)
    with pytest.raises(StateError, match="use one"):
        trainer.run(training.loader(), max_epochs=1)
    none = _trainer(training)
    AutoTrainer().attach(none, training.model, None)
    with pytest.raises(InputError, match="needs an optimizer"):
        none.run(training.loader(), max_epochs=1)
    with pytest.raises(ConfigError, match="did you mean"):
        AutoTrainer(stop="error")
