"""The timed ``fit`` of a library, plain or with a callback: one long call in a thread, which waits between blocks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from benchmarks.overhead.models import keras_model, pytorch_model
from benchmarks.overhead.settings import Block

__all__ = ["FitTraining"]

_STEPS = 10**7
"""Planned steps: many, since most steps of a training are far from its end."""


class FitTraining:
    """One model, trained on one batch repeatedly by the ``fit`` of Keras or Lightning.

    A monitor that was attached anew in each block would sample the start of each: so a block is a part of one epoch.

    Args:
        framework: ``pytorch`` (Lightning) or ``keras3``.
        model: A name in `MODELS`.
        x: Inputs of the batch.
        y: Classes of the batch.
        setting: A name in `CALLBACKS`, or the control.
        folder: Where the setting may write.
    """

    def __init__(
        self, framework: str, model: str, x: NDArray[Any], y: NDArray[Any], setting: str, folder: Path
    ) -> None:
        build = _lightning_fit if framework == "pytorch" else _keras_fit
        self._gate = Gate()
        self.network, fit = build(model, x, y, setting, folder, self._gate)
        self.parameters = sum(int(p.nbytes) for p in self.network.parameters()) if framework == "pytorch" else 0
        self._thread = threading.Thread(target=self._run, args=(fit,), daemon=True)
        self._error: BaseException | None = None

    def attach(self) -> None:
        """Do nothing: the setting is part of the ``fit``."""

    def block(self, steps: int) -> Block:
        """Train that many steps.

        Raises:
            RuntimeError: If the ``fit`` has failed.
        """
        begun = time.process_time()
        seconds = self._gate.open(steps, self._thread)
        if self._error is not None or not seconds:
            raise RuntimeError("fit has ended early") from self._error
        return seconds, time.process_time() - begun

    def close(self) -> None:
        """End the ``fit``."""
        if self._thread.is_alive():
            self._gate.stop()
            self._thread.join()

    def _run(self, fit: Callable[[], object]) -> None:
        try:
            fit()
        except BaseException as error:  # noqa: BLE001 - raised by `block`
            self._error = error
        finally:
            self._gate.leave()


class Gate:
    """Lets a ``fit`` in a thread take a number of steps, and notes how long each takes."""

    def __init__(self) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._left, self._last = 0, 0.0
        self._seconds: list[float] = []
        self.stopped = False
        """Whether the ``fit`` is to end."""

    def open(self, steps: int, thread: threading.Thread) -> list[float]:
        """Wait for that many steps; return the seconds of each but the first, which may follow a pause."""
        self._seconds, self._left = [], steps
        if thread.ident is None:
            thread.start()
        else:
            self._go.release()
        self._done.acquire()
        return self._seconds

    def pass_through(self) -> None:
        """Note the end of a step, and wait for the next block after the last one."""
        now = time.perf_counter()
        if self._last:
            self._seconds.append(now - self._last)
        self._last, self._left = now, self._left - 1
        if not self._left:
            self._last = 0.0
            self._done.release()
            self._go.acquire()

    def stop(self) -> None:
        """Have the ``fit`` end after the next step."""
        self.stopped, self._left = True, -1
        self._go.release()

    def leave(self) -> None:
        """Note the end of the ``fit``."""
        self._done.release()


def _keras_fit(model: str, x: NDArray[Any], y: NDArray[Any], setting: str, folder: Path, gate: Gate) -> Any:
    import keras

    from autotrainer.integrations.keras import AutoTrainer
    from benchmarks.overhead.keras3 import NormModel

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            gate.pass_through()
            if gate.stopped:
                self.model.stop_training = True

    keras.utils.set_random_seed(0)
    network = keras_model(model)
    if setting == "keras_norm_loop":
        network = NormModel(network.inputs, network.outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer=keras.optimizers.Adam(1e-4), loss=loss)
    callbacks = [*([AutoTrainer()] if setting == "keras_callback" else []), Clock()]
    batches = (batch for batch in repeat((x, y)))  # Keras takes generators, not all iterators
    return network, lambda: network.fit(batches, steps_per_epoch=_STEPS, verbose=0, callbacks=callbacks)


def _lightning_fit(model: str, x: NDArray[Any], y: NDArray[Any], setting: str, folder: Path, gate: Gate) -> Any:
    import logging

    import lightning
    import torch
    from lightning.pytorch.loggers import CSVLogger
    from lightning.pytorch.utilities import grad_norm

    from autotrainer.integrations.lightning import AutoTrainer

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network, self.loss = pytorch_model(model), torch.nn.CrossEntropyLoss()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.network.parameters(), 1e-4)

    class LoggingModule(Module):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.log_dict(grad_norm(self.network, norm_type=2))

    class Clock(lightning.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            gate.pass_through()
            trainer.should_stop = gate.stopped

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    module = LoggingModule() if setting == "lightning_grad_norm" else Module()
    callbacks = [*([AutoTrainer()] if setting == "lightning_callback" else []), Clock()]
    batch = torch.from_numpy(x), torch.from_numpy(y)

    def fit() -> None:
        torch.set_num_threads(1)  # of this thread
        trainer = lightning.Trainer(
            max_steps=_STEPS,
            accelerator="cpu",
            callbacks=callbacks,
            logger=CSVLogger(folder) if setting == "lightning_grad_norm" else False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, repeat(batch, _STEPS))

    return module.network, fit
