"""Looks at a model before training: forward passes on a few batches that leave no trace."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedParameter

from autotrainer.backends.pytorch.data.batches import ArrayBatches, LoaderBatches
from autotrainer.backends.pytorch.data.workers import worker_facts
from autotrainer.backends.pytorch.model.describe import layers, optimizer_info
from autotrainer.backends.pytorch.model.functional import first_tensor
from autotrainer.backends.pytorch.model.loss_kinds import is_plain, loss_info
from autotrainer.backends.pytorch.model.model_calls import call_model
from autotrainer.backends.pytorch.runtime.hooks import is_compiled
from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state
from autotrainer.backends.pytorch.statistics.layer_table import LayerTable
from autotrainer.backends.pytorch.statistics.stats import row_count, rows_of, to_host
from autotrainer.backends.pytorch.statistics.tracing import ForwardTracer
from autotrainer.errors import DataError, InputError
from autotrainer.records.data import ArrayData, StreamData, normalize
from autotrainer.records.signals import Observation
from autotrainer.records.task import TaskContext

__all__ = ["probe"]

_BATCH = 256
"""Rows of a batch of array data."""


def probe(
    model: nn.Module, data: Any, loss: Any, optimizer: Any, batches: int
) -> tuple[TaskContext, list[Observation]]:
    """Look at a model before training.

    Dropout is off and no random number is drawn for good; batch normalization goes by the statistics of the batch,
    as it does in training. Model, modes, buffers and random states are as before afterwards.

    Args:
        model: The model.
        data: ``(x, y)`` arrays or tensors, a `DataLoader`, or anything that can be iterated again and again and
            yields ``(x, y)``.
        loss: Loss, or None. Its value is unknown where it can't be called on outputs and targets as they are.
        optimizer: Optimizer, or None.
        batches: How many batches to read at most.

    Returns:
        The context and one observation a batch, without gradients.

    Raises:
        InputError: If the loss can't be called, or the optimizer is none or another model's.
        DataError: If the data are no (x, y), there are none, or the model can't take them.
    """
    if loss is not None and not callable(loss):
        raise InputError(f"loss must be a loss module or a callable, not {type(loss).__name__}")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"optimizer must be a torch.optim.Optimizer, not {type(optimizer).__name__}")
    if optimizer is not None:
        own = {id(p) for p in model.parameters()}
        if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            raise InputError(
                f"{type(optimizer).__name__} owns none of the parameters of {type(model).__name__}: "
                "build it from model.parameters() of the very model that is checked"
            )
    if any(isinstance(p, UninitializedParameter) for p in model.parameters()):
        model = copy.deepcopy(model)  # a first pass would fix the shapes of lazy layers
    context = TaskContext(
        framework="pytorch",
        engine="pytorch",
        loss=loss_info(loss),
        optimizer=optimizer_info(optimizer),
        layers=layers(model),
    )
    with preserve_random_state(), _untouched(model), torch.no_grad():
        return _Probe(model, loss, context).run(data, batches)


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Put a model's modes and buffers back at the end; inside, only batch normalization is in training mode."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(m, name, b, b.clone()) for m in model.modules() for name, b in m.named_buffers(recurse=False)]
    try:
        for module, _ in modes:
            module.training = isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
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
    """One look at a model."""

    def __init__(self, model: nn.Module, loss: Any, context: TaskContext) -> None:
        self._model = model
        self._loss = loss
        self._context = context
        self._errors: list[Exception] = []
        self._refusal = ""
        self._tracer = ForwardTracer(model, self._errors.append, always=True)
        self._table = LayerTable(self._tracer)
        self._compiled = is_compiled(model)
        parameters = [p for p in model.parameters() if p.is_floating_point()]
        self._device = parameters[0].device if parameters else torch.device("cpu")
        self._dtype = parameters[0].dtype if parameters else torch.float32

    def run(self, data: Any, batches: int) -> tuple[TaskContext, list[Observation]]:
        """Read the batches and look at each."""
        seen: list[Observation] = []
        rows, pairs = self._pairs(data)
        for inputs, targets in pairs:
            seen.append(self._look(len(seen), inputs, targets))
            if len(seen) == batches:
                break
        if not seen:
            raise DataError("train_data holds no batch")
        if self._errors:
            raise self._errors[0]
        asked = worker_facts(data)
        return replace(self._context, train_rows=rows, loss_refusal=self._refusal, asked=asked), seen

    def _pairs(self, data: Any) -> tuple[int | None, Iterator[tuple[Any, Any]]]:
        """Return the number of rows, if known, and an iterator over (x, y)."""
        if isinstance(data, list) and data and all(isinstance(item, tuple) for item in data):
            data = StreamData(data)
        known = normalize(data, "train_data")
        if isinstance(known, ArrayData):
            embeds = any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in self._model.modules())
            floating = frozenset[str]() if embeds else frozenset({"inputs"})
            arrays = ArrayBatches(known, _BATCH, self._device, self._dtype, floating)
            kind = _whole_kind(data)
            self._context = replace(self._context, arrays=True)
            return known.rows, ((b.inputs, b.targets if kind is None else b.targets.to(kind)) for b in arrays.read())
        loader = LoaderBatches(known.source, self._device, pairs=False)
        return loader.rows, self._read(loader)

    def _read(self, loader: LoaderBatches) -> Iterator[tuple[Any, Any]]:
        try:
            for number, batch in enumerate(loader.read()):
                yield _pair(batch.raw, number)
        finally:
            loader.rewind()

    def _look(self, step: int, inputs: Any, targets: Any) -> Observation:
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
        if not step:
            context = self._table.begin(self._context, outputs, None)
            as_given = isinstance(result, Tensor) and is_plain(self._loss)
            self._context = replace(context, output_rank=result.ndim if as_given else None)
        rows = row_count(outputs, targets)
        observation = Observation(
            step=step,
            layers=self._table.fill([], [])[0],
            loss=loss,
            learning_rate=self._context.optimizer.learning_rate,
            batch_size=float(self._tracer.batch_size or rows),
            inputs=to_host(self._tracer.inputs),
            outputs=to_host(rows_of(outputs, rows)),
            targets=to_host(rows_of(targets, rows)),
        )
        self._tracer.forget()
        return observation

    def _loss_of(self, result: Any, given: Any) -> float:
        """Return the loss, or NaN where it can't be called like this: that is for the rules to explain."""
        targets = first_tensor(given)
        if self._loss is None or targets is None:
            return float("nan")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about shapes: for the rules to explain
                loss = first_tensor(self._loss(result, targets), floating=True)
        except Exception as error:  # noqa: BLE001 - whatever the user's loss raises
            if isinstance(result, Tensor) and given is targets and not self._refusal:
                first = (str(error).splitlines() or [""])[0]
                self._refusal = f"outputs {_shapes(result)} and targets {_shapes(targets)} ({first[:200]})"
            return float("nan")
        if loss is None or not loss.numel():
            return float("nan")
        value = float(loss.float().mean())
        return value if torch.isfinite(torch.tensor(value)) else float("inf")


def _whole_kind(data: Any) -> torch.dtype | None:
    """Return the type of targets that are a tensor of whole numbers: the user's own loop gives them to the loss so.

    An array has to be made a tensor first, and so gets the type that the loss takes.
    """
    targets = data[1] if isinstance(data, tuple | list) else None
    whole = isinstance(targets, Tensor) and not targets.is_floating_point() and not targets.is_complex()
    return targets.dtype if whole and isinstance(targets, Tensor) else None


def _pair(raw: Any, number: int) -> tuple[Any, Any]:
    """Split a batch into inputs and targets.

    Raises:
        DataError: If that can't be done.
    """
    if isinstance(raw, Mapping) and "labels" in raw:
        return raw, raw["labels"]
    if isinstance(raw, tuple | list) and len(raw) >= 2:
        return raw[0], raw[1]
    raise DataError(f"batch {number} of train_data is a {type(raw).__name__}, not (x, y)")


def _shapes(inputs: Any) -> str:
    """Say the shapes of inputs."""
    if isinstance(inputs, Tensor):
        return f"{tuple(inputs.shape)} ({str(inputs.dtype).removeprefix('torch.')})"
    if isinstance(inputs, Mapping):
        return ", ".join(f"{name}: {_shapes(value)}" for name, value in inputs.items())
    if isinstance(inputs, tuple | list):
        return ", ".join(_shapes(value) for value in inputs)
    return type(inputs).__name__
