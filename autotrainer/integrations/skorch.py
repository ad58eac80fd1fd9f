"""A callback for skorch: watches what ``fit`` and ``partial_fit`` of a net train."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import ref

from autotrainer.integrations._callback import StopOn, WatchSession, held_out_values, require
from autotrainer.monitoring.monitor import Monitor
from autotrainer.records.findings import Finding

callbacks: Any = require("skorch.callbacks", "skorch", minimum="1.0")

__all__ = ["AutoTrainer"]

_STATE = "autotrainer"
"""Name of the state in a net's history: with the last batch of an epoch, as loggers show the columns of epochs."""


class AutoTrainer(callbacks.Callback):
    """Watches the trainings of a net.

    ```python
    from autotrainer.integrations.skorch import AutoTrainer

    watcher = AutoTrainer(stop_on="error")
    net = NeuralNetClassifier(Net, criterion=nn.CrossEntropyLoss, max_epochs=20, callbacks=[watcher])
    net.fit(x, y)
    print(watcher.monitor.report())
    ```

    Modules, optimizers, criterion and length are taken from the net, and the values of epochs from its history: put the
    callback behind those that score, and before those that clip gradients or save checkpoints. Each ``fit`` that
    initializes the net begins a new history; ``partial_fit`` goes on in it, and so does a net that was pickled, or that
    `skorch.callbacks.LoadInitState` resumes. An exception that ends a training leaves the monitor open until the next
    one, as skorch tells callbacks nothing of it.

    Like all parameters of callbacks, those below can be searched (``callbacks__AutoTrainer__overhead``); they are
    checked when the net is initialized. A copy made by a search has a monitor of its own: it is that of
    ``dict(net.callbacks_)["AutoTrainer"]``.

    Args:
        stop_on: ``"error"`` or ``"warning"``: findings that end the training as `skorch.callbacks.EarlyStopping` does,
            after the batch in which they are found; None for none.
        overhead: See `autotrainer.watch`, also for the following ones.
        select: Problems to detect.
        ignore: Problems to skip.
        thresholds: Thresholds by name.
        log_dir: Folder for the run log.
        on_finding: Called with each new finding.
        baseline: Earlier runs to compare with.
        probe: Whether to probe a copy of the model.
        sinks: Where measurements and findings go.
    """

    def __init__(
        self,
        stop_on: StopOn | None = None,
        overhead: float = 0.01,
        select: str | Iterable[str] | None = None,
        ignore: str | Iterable[str] = (),
        thresholds: Mapping[str, float] | None = None,
        log_dir: str | Path | None = None,
        on_finding: Callable[[Finding], None] | None = None,
        baseline: Any = None,
        probe: bool = False,
        sinks: Any = (),
    ) -> None:
        self.stop_on = stop_on
        self.overhead = overhead
        self.select = select
        self.ignore = ignore
        self.thresholds = thresholds
        self.log_dir = log_dir
        self.on_finding = on_finding
        self.baseline = baseline
        self.probe = probe
        self.sinks = sinks

    @property
    def monitor(self) -> Monitor | None:
        """The monitor of the present or latest training; None before the first."""
        session: WatchSession | None = vars(self).get("session_")
        return None if session is None else session.monitor

    @property
    def stopped_by(self) -> Finding | None:
        """The finding that has ended the training; None if none has."""
        session: WatchSession | None = vars(self).get("session_")
        return None if session is None else session.stopped_by

    # -- called by skorch -------------------------------------------------------------------------------------------

    def initialize(self) -> AutoTrainer:
        """Check the parameters, and begin a new history.

        Raises:
            ConfigError: If one is invalid.
        """
        self._close(_INTERRUPTED)
        self.session_ = WatchSession("AutoTrainer", **self.get_params())
        self.trained_: Callable[[], Any] | None = None  # the module that was trained last
        self.container_: Any = None  # of the modules of a net that has several
        self.ended_ = 0  # rows of the net's history whose epochs have been reported
        return self

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Close the monitor of a training that an exception has ended."""
        self._close(_INTERRUPTED)

    def on_epoch_begin(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Attach before the first epoch, once all callbacks have prepared or loaded the net.

        Raises:
            StateError: If two such callbacks watch the same net.
            InputError: If modules and optimizers do not belong together.
        """
        session = self.session_
        if session.running:
            self._end_epochs(net)
            return
        module, names = self._module(net), getattr(net, "_optimizers", ["optimizer"])
        criteria = getattr(net, "_criteria", ["criterion"])
        loss = getattr(net, f"{criteria[0]}_", None) if len(criteria) == 1 and not net.compile else None
        rows = _complete(net.history)
        state = next((batch[_STATE] for batch in map(_last_batch, reversed(net.history)) if _STATE in batch), None)
        if session.monitor is None and state is not None and not session.state_dict():
            session.load_state_dict(state)
        previous = session.monitor
        same = previous is not None and self.trained_ is not None and self.trained_() is net.module_
        monitor = session.start(
            module,
            [getattr(net, f"{name}_") for name in names],
            loss_fn=loss,
            epochs=rows + net.max_epochs,
            epochs_done=rows,
            position=same,
        )
        self.trained_, self.ended_ = ref(net.module_), len(net.history) - 1
        observer = self.session_.observer
        with session.guard():
            if observer is not None:
                observer.expect_epochs()
                if module is not net.module_:
                    observer.trace_parts()
        self.single_ = len(names) == 1
        if monitor.closed:  # switched off
            self.ended_ = len(net.history)

    def on_grad_computed(self, net: Any, named_parameters: Any, **kwargs: Any) -> None:
        """Have the gradients read before the next callbacks clip them."""
        observer = self.session_.observer
        if observer is not None and self.single_:
            with self.session_.guard():
                observer.read_gradients(net.optimizer_)

    def on_batch_end(self, net: Any, batch: Any = None, training: Any = None, **kwargs: Any) -> None:
        """End the training if a finding asks for it.

        Raises:
            KeyboardInterrupt: To end the training.
        """
        if training and self.stop_on is not None:
            self._stop(net)

    def on_epoch_end(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Report the values of the epoch, and end the training if a finding asks for it.

        Raises:
            KeyboardInterrupt: To end the training.
        """
        self._end_epochs(net)
        if any(isinstance(each, _SAVING) for _, each in net.callbacks_):
            self._keep_state(net)
        if self.stop_on is not None:
            self._stop(net)

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Detach from the net: the verdict is final."""
        self._end_epochs(net)
        self._close(None)

    # -- copies -----------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if not name.endswith("_")}
        return state | ({"state_": self.session_.state_dict()} if "session_" in vars(self) else {})

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update({name: value for name, value in state.items() if name != "state_"})
        if "state_" in state:
            self.initialize()
            self.session_.load_state_dict(state["state_"])

    # -- internal ---------------------------------------------------------------------------------------------------

    def _end_epochs(self, net: Any) -> None:
        """End the epochs that are complete, also one whose end another callback has prevented by an interrupt."""
        rows = net.history[self.ended_ :] if self.session_.running else ()
        for row in rows:
            if _is_complete(row):
                self.ended_ += 1
                values = {name: value for name, value in row.items() if not name.endswith(_NO_METRICS)}
                self.session_.end_epoch(held_out_values(values))

    def _stop(self, net: Any) -> None:
        if self.session_.running and self.session_.should_stop:
            if net.verbose:
                print(f"Stopping since autotrainer reports {self.session_.stopped_by}")
            raise KeyboardInterrupt

    def _keep_state(self, net: Any) -> None:
        monitor = self.session_.monitor
        if monitor is None or not self.session_.running:
            return
        with self.session_.guard(), monitor.sampler.stopwatch, monitor.sampler.evaluations:
            for row in net.history[-2:]:
                _last_batch(row).pop(_STATE, None)
            net.history.record_batch(_STATE, self.session_.state_dict())

    def _close(self, exception: BaseException | None) -> None:
        session: WatchSession | None = vars(self).get("session_")
        if session is not None:
            session.close(exception, position=True)  # whether the next training goes on shows in the net

    def _module(self, net: Any) -> Any:
        """Return the module of a net, or a container of several: the same one for the same modules."""
        names: Sequence[str] = getattr(net, "_modules", ["module"])
        modules = {name: getattr(net, f"{name}_") for name in names}
        if len(modules) == 1:
            return modules[names[0]]
        if self.container_ is None or any(self.container_[name] is not each for name, each in modules.items()):
            self.container_ = require("torch", "torch").nn.ModuleDict(modules)
        return self.container_


_INTERRUPTED = InterruptedError("the training has not come to its end")
_NO_METRICS = ("_batch_count", "_best")
_SAVING = (callbacks.Checkpoint, callbacks.TrainEndCheckpoint)


def _is_complete(row: Mapping[str, Any]) -> bool:
    """Return whether the training of an epoch has come to its end."""
    return "train_batch_count" in row


def _last_batch(row: Mapping[str, Any]) -> dict[str, Any]:
    batches: list[dict[str, Any]] = row.get("batches") or [{}]
    return batches[-1]


def _complete(history: Iterable[Mapping[str, Any]]) -> int:
    """Return how many epochs of a net's history are complete."""
    return sum(map(_is_complete, history))
