"""Observes a model before training: forward passes on a few batches that leave no trace."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from autotrainer.backends.pytorch.data.batches import ArrayBatches, LoaderBatches
from autotrainer.backends.pytorch.data.loader_workers import worker_facts
from autotrainer.backends.pytorch.losses.loss_graph import masked
from autotrainer.backends.pytorch.model.describe import layers, names_checkpoint, optimizer_info
from autotrainer.backends.pytorch.model.dropout import largest_dropout_rate
from autotrainer.backends.pytorch.model.loss_kinds import class_weights, fitted_loss_info, is_plain, loss_info
from autotrainer.backends.pytorch.model.model_calls import call_model
from autotrainer.backends.pytorch.optim.optimizers import owns
from autotrainer.backends.pytorch.probing.probed_model import TorchProbedModel, has_rows_first, probed_inputs
from autotrainer.backends.pytorch.runtime.hooks import is_compiled
from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state
from autotrainer.backends.pytorch.runtime.tensors import first_tensor
from autotrainer.backends.pytorch.runtime.torch_private import BatchNorm
from autotrainer.backends.pytorch.statistics.forward_tracer import ForwardTracer
from autotrainer.backends.pytorch.statistics.layer_table import LayerTable
from autotrainer.backends.pytorch.statistics.stats import row_count, to_host
from autotrainer.backends.pytorch.watching.losses.loss_call import LossCall
from autotrainer.backends.pytorch.watching.losses.loss_targets import row_weights, sequences
from autotrainer.errors import DataError, InputError
from autotrainer.monitoring.guard import StatisticGuard, leave_out
from autotrainer.records.data import ArrayData, StreamData, normalize
from autotrainer.records.signals import Observation
from autotrainer.records.task import MASKED, TaskContext

__all__ = ["probe", "probed_data"]

_BATCH = 256
"""Rows in a batch of array data."""


def probe(
    model: nn.Module, data: Any, loss: Any, optimizer: Any, batches: int
) -> tuple[TaskContext, list[Observation]]:
    """Observe a model before training.

    Dropout is off; batch normalization uses the statistics of the batch, as in training. The model, its modes and
    buffers, and the random states are restored afterwards.

    Args:
        model: The model.
        data: ``(x, y)`` arrays or tensors, a `DataLoader`, or another iterable that can be read repeatedly and yields
            ``(x, y)``.
        loss: Loss, or None. Its value is NaN if it can't be called on outputs and targets as they are.
        optimizer: Optimizer, or None.
        batches: How many batches to read, at most.

    Returns:
        The context, and one observation for each batch, without gradients.

    Raises:
        InputError: If the loss is not callable, or the optimizer is not an optimizer of the model.
        DataError: If the data are not (x, y), are empty, or the model can't run on them.
    """
    if loss is not None and not callable(loss):
        raise InputError(f"loss must be a loss module or a callable, not {type(loss).__name__}")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"optimizer must be a torch.optim.Optimizer, not {type(optimizer).__name__}")
    if optimizer is not None and not owns(optimizer, model):
        raise InputError(
            f"{type(optimizer).__name__} owns none of the parameters of {type(model).__name__}: "
            "build it from model.parameters() of the model that is checked"
        )
    if any(isinstance(p, UninitializedParameter) for p in model.parameters()):
        model = copy.deepcopy(model)  # a first pass would initialize lazy layers
    context = TaskContext(
        framework="pytorch",
        checkpoint=names_checkpoint(model),
        engine="pytorch",
        loss=loss_info(loss),
        optimizer=optimizer_info(optimizer),
        layers=layers(model),
        dropout=largest_dropout_rate(model),
    )
    with preserve_random_state(), _untouched(model), torch.no_grad():
        return _Probe(model, loss, context).run(data, batches)


def probed_data(model: nn.Module, data: Any) -> TorchProbedModel | None:
    """Return a copy of a model with the first rows of data in a form that `probe` takes; None if there are none.

    Raises:
        NotProbedError: If the model can't be copied.
    """
    with preserve_random_state():
        _, pairs = _Probe(model, None, TaskContext())._pairs(data)
        with closing(pairs):
            pair = next(pairs, None)
    return None if pair is None else probed_inputs(model, *pair, rows_first=has_rows_first(data, pair[0]))


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Restore a model's modes and buffers at the end; meanwhile only batch normalization is in training mode."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(m, name, b, b.clone()) for m in model.modules() for name, b in m.named_buffers(recurse=False)]
    try:
        for module, _ in modes:
            module.training = isinstance(module, BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for module, name, buffer, values in buffers:
                if getattr(module, name) is not buffer:
                    setattr(module, name, buffer)
                if not torch.equal(buffer, values):
                    buffer.copy_(values)


class _Probe:
    def __init__(self, model: nn.Module, loss: Any, context: TaskContext) -> None:
        self._model = model
        self._loss = loss
        self._context = context
        self._errors: list[Exception] = []
        self._loss_refusal = ""
        self._tracer = ForwardTracer(model, self._errors.append, StatisticGuard(leave_out), without_gradients=True)
        self._table = LayerTable(self._tracer)
        self._compiled = is_compiled(model)
        parameters = [p for p in model.parameters() if p.is_floating_point()]
        self._device = parameters[0].device if parameters else torch.device("cpu")
        self._dtype = parameters[0].dtype if parameters else torch.float32

    def run(self, data: Any, batches: int) -> tuple[TaskContext, list[Observation]]:
        """Read the batches, and observe the model on each."""
        observations: list[Observation] = []
        rows, pairs = self._pairs(data)
        for inputs, targets in pairs:
            observations.append(self._observe_batch(len(observations), inputs, targets))
            if len(observations) == batches:
                break
        if not observations:
            raise DataError("train_data holds no batch")
        if self._errors:
            raise self._errors[0]
        facts = worker_facts(data)
        return replace(self._context, train_rows=rows, loss_refusal=self._loss_refusal, asked=facts), observations

    def _pairs(self, data: Any) -> tuple[int | None, Generator[tuple[Any, Any]]]:
        """Return the number of rows, if known, and an iterator over (x, y)."""
        if isinstance(data, list) and data and all(isinstance(item, tuple) for item in data):
            data = StreamData(data, "train_data")
        normalized = normalize(data, "train_data")
        if isinstance(normalized, ArrayData):
            embeds = any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in self._model.modules())
            floating = frozenset[str]() if embeds else frozenset({"inputs"})
            arrays = ArrayBatches(normalized, _BATCH, self._device, self._dtype, floating)
            integer_dtype = _integer_dtype(data)
            self._context = replace(self._context, arrays=True)
            batches = ((b.inputs, b.targets) for b in arrays.read())
            if integer_dtype is not None:
                batches = ((inputs, targets.to(integer_dtype)) for inputs, targets in batches)
            return normalized.rows, batches
        loader = LoaderBatches(normalized.source, self._device, pairs=False, name=normalized.name)
        return loader.rows, self._read(loader)

    def _read(self, loader: LoaderBatches) -> Generator[tuple[Any, Any]]:
        try:
            for number, batch in enumerate(loader.read()):
                yield _pair(batch.raw, number)
        finally:
            loader.rewind()

    def _observe_batch(self, step: int, inputs: Any, targets: Any) -> Observation:
        if not self._compiled:
            self._tracer.arm()
        try:
            result = call_model(self._model, inputs)
        except Exception as error:
            raise DataError(
                f"the model can't take batch {step} of train_data with inputs of shape {_shapes(inputs)}: {error}"
            ) from error
        finally:
            self._tracer.disarm()
        outputs = first_tensor(result, floating=True)
        loss = self._loss_of(result, targets)
        targets = first_tensor(targets)
        if targets is not None:
            targets = masked(targets, getattr(self._loss, "ignore_index", MASKED))
        if not step:
            fitted = replace(self._context, loss=fitted_loss_info(self._loss, outputs, targets))
            context = self._table.begin(fitted, outputs, None)
            unchanged = isinstance(result, Tensor) and is_plain(self._loss)
            self._context = replace(context, output_rank=result.ndim if unchanged else None)
        call = LossCall(outputs=outputs, targets=targets, weights=class_weights(self._loss)).copied()
        observation = Observation(
            step=step,
            layers=self._table.fill().complete(),
            loss=loss,
            learning_rate=self._context.optimizer.learning_rate,
            batch_size=float(self._tracer.batch_size or row_count(outputs, targets)),
            inputs=to_host(self._tracer.inputs),
            outputs=to_host(call.outputs),
            targets=to_host(call.targets),
            labels=sequences(call, self._tracer.batch_size),
            tokens=to_host(self._tracer.tokens),
        )
        observation.weights = row_weights(call, observation.targets)
        self._tracer.clear()
        return observation

    def _loss_of(self, result: Any, target: Any) -> float:
        """Return the loss, or NaN if it can't be called like this: the rules explain why."""
        targets = first_tensor(target)
        if self._loss is None or targets is None:
            return float("nan")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about shapes, which the rules explain
                loss = first_tensor(self._loss(result, targets), floating=True)
        except Exception as error:  # noqa: BLE001 - whatever the user's loss raises
            if isinstance(result, Tensor) and target is targets and not self._loss_refusal:
                first_line = (str(error).splitlines() or [""])[0]
                self._loss_refusal = f"outputs {_shapes(result)} and targets {_shapes(targets)} ({first_line[:200]})"
            return float("nan")
        if loss is None or not loss.numel():
            return float("nan")
        value = float(loss.float().mean())
        return value if torch.isfinite(torch.tensor(value)) else float("inf")


def _integer_dtype(data: Any) -> torch.dtype | None:
    """Return the type of targets that are a tensor of integers: the user's loop passes them to the loss unchanged.

    An array has to be converted to a tensor first, and then gets the type that the loss takes.
    """
    targets = data[1] if isinstance(data, tuple | list) else None
    integers = isinstance(targets, Tensor) and not targets.is_floating_point() and not targets.is_complex()
    return targets.dtype if integers and isinstance(targets, Tensor) else None


def _pair(raw: Any, number: int) -> tuple[Any, Any]:
    """Split a batch into inputs and targets.

    Raises:
        DataError: If that can't be done.
    """
    if isinstance(raw, Mapping) and "labels" in raw:
        return raw, raw["labels"]
    if isinstance(raw, tuple | list) and len(raw) >= 2:
        if isinstance(raw[1], Tensor) and not (raw[1].ndim and len(raw[1])):
            wrong = "has no rows" if raw[1].ndim else "is a single sample, not a batch: give a DataLoader"
            raise DataError(f"batch {number} of train_data {wrong}")
        return raw[0], raw[1]
    raise DataError(
        f"batch {number} of train_data is a {type(raw).__name__}, not (x, y): give a loader whose batches are, or are "
        "dicts with 'labels' that the model takes; x and y may be dicts"
    )


def _shapes(inputs: Any) -> str:
    """Describe the shapes of inputs for a message."""
    if isinstance(inputs, Tensor):
        return f"{tuple(inputs.shape)} ({str(inputs.dtype).removeprefix('torch.')})"
    if isinstance(inputs, Mapping):
        return ", ".join(f"{name}: {_shapes(value)}" for name, value in inputs.items())
    if isinstance(inputs, tuple | list):
        return ", ".join(_shapes(value) for value in inputs)
    return type(inputs).__name__
