"""PyTorch Ignite: a handler that watches what an engine trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotrainer.errors import InputError, StateError
from autotrainer.integrations._callback import StopOn, WatchSession, held_out_values, numbers, require
from autotrainer.monitoring.monitor import Monitor
from autotrainer.output import logger

__all__ = ["AutoTrainer"]

Events: Any = require("ignite.engine", "ignite", distribution="pytorch-ignite", minimum="0.4.8").Events


class AutoTrainer:
    """Watches the training of an Ignite engine.

    ```python
    from autotrainer.integrations.ignite import AutoTrainer

    handler = AutoTrainer()
    handler.attach(trainer, model=model, optimizer=optimizer, loss_fn=loss_fn, evaluator=evaluator)
    trainer.run(loader, max_epochs=10)
    print(handler.monitor.report())
    ```

    The training stays what it is to the bit. Epochs and the planned length (``max_epochs`` or ``max_iters``) come from
    the engine, validation metrics from the evaluator. ``sinks=`` passes measurements and findings on to a tracker. In
    ``Checkpoint(to_save={"autotrainer": handler, …})`` the history is part of checkpoints: a resumed run goes on in it.

    Args:
        stop_on: Terminate the engine at the first finding of this severity: ``"error"``, ``"warning"`` (errors, too),
            or None.
        **options: Options of `autotrainer.watch`; ``epochs`` and ``steps`` take precedence over the engine's. Where
            several iterations make one step of the optimizer and the engine runs for ``max_iters``, pass ``steps``.

    Raises:
        ConfigError: If an option is unknown or invalid.
    """

    def __init__(self, *, stop_on: StopOn | None = None, **options: Any) -> None:
        self._session = WatchSession("AutoTrainer", stop_on=stop_on, **options)
        self._trainer: Any = None
        self._objects: dict[str, Any] = {}
        self._pending = False  # whether an epoch has ended, whose evaluation may still come
        self._values: dict[str, Any] = {}  # of the latest evaluation in this epoch

    @property
    def monitor(self) -> Monitor | None:
        """The monitor of the present or latest training; None before the first."""
        return self._session.monitor

    def attach(self, engine: Any, model: Any, optimizer: Any, *, loss_fn: Any = None, evaluator: Any = None) -> None:
        """Watch each run of an engine.

        Args:
            engine: The engine that trains.
            model: The model; it may be wrapped for distributed training.
            optimizer: The optimizer, or a sequence of optimizers.
            loss_fn: The loss, as in `autotrainer.watch`.
            evaluator: The engine that evaluates the model on validation data, if there is one: its metrics are those of
                the epoch in which it runs.

        Raises:
            InputError: If an engine is none, or model and optimizer don't belong together, when the engine runs.
            StateError: If this handler is attached to an engine already.
        """
        for name, each in (("engine", engine), ("evaluator", evaluator)):
            if not hasattr(each, "add_event_handler") and (name == "engine" or each is not None):
                raise InputError(f"{name} must be an ignite.engine.Engine, not {type(each).__name__}")
        if self._trainer is not None:
            raise StateError("this AutoTrainer is attached to an engine already: make one for each engine that trains")
        self._trainer = engine
        self._objects = {"model": model, "optimizer": optimizer, "loss_fn": loss_fn}
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._end_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._await_evaluation)
        for event in (Events.TERMINATE, Events.COMPLETED):
            engine.add_event_handler(event, self._complete)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)
        if evaluator is not None:
            evaluator.add_event_handler(Events.COMPLETED, self._take_metrics)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_trainer": None, "_objects": {}, "_pending": False, "_values": {}}

    def state_dict(self) -> dict[str, Any]:
        """Return the history for a checkpoint, as plain values."""
        with self._session.guard():
            return {**self._session.state_dict(), "pending": self._pending, "values": numbers(self._values)}
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on in the history of a checkpoint."""
        with self._session.guard():
            self._session.load_state_dict(state_dict)
            values = state_dict.get("values")
            self._pending = bool(state_dict.get("pending"))
            self._values = dict(values) if isinstance(values, Mapping) else {}

    # -- events -----------------------------------------------------------------------------------------------------

    def _start(self, engine: Any) -> None:
        if self._trainer is None:
            logger.warning("a copy of an AutoTrainer watches no engine until it is attached to one")
            return
        state = engine.state
        optimizer, iterations = self._objects["optimizer"], getattr(state, "max_iters", None)
        self._session.start(
            self._objects["model"],
            [] if optimizer is None else optimizer,
            loss_fn=self._objects["loss_fn"],
            epochs=state.max_epochs if iterations is None else None,
            steps=iterations,
            epochs_done=state.epoch,
            steps_done=state.iteration,
            position=state.iteration,
        )
        with self._session.guard():
            if self._session.observer is not None:
                self._session.observer.expect_epochs()

    def _await_evaluation(self, engine: Any) -> None:
        self._pending = True  # handlers of the same event may evaluate the model after this one

    def _end_epoch(self, engine: Any) -> None:
        if self._pending:
            values, self._values, self._pending = self._values, {}, False
            self._session.end_epoch(values)

    def _take_metrics(self, evaluator: Any) -> None:
        if self._session.running:
            with self._session.guard():
                metrics = dict(evaluator.state.metrics)
                others = {f"val_{name}": value for name, value in metrics.items() if not held_out_values({name: 0})}
                self._values = {**held_out_values(metrics), **held_out_values(others)}

    def _end_step(self, engine: Any) -> None:
        if self._session.should_stop:
            engine.terminate()

    def _complete(self, engine: Any) -> None:
        self._end_epoch(engine)
        self._session.close(position=engine.state.iteration)

    def _fail(self, engine: Any, error: BaseException) -> None:
        self._end_epoch(engine)
        self._session.close(error, position=engine.state.iteration)
        handlers = getattr(engine, "_event_handlers", {}).get(Events.EXCEPTION_RAISED, ())
        others = [each for each in handlers if not isinstance(getattr(each[0], "__self__", None), AutoTrainer)]
        if not others:  # an engine with a handler of this event leaves it to that one to raise
            raise error
