"""A copy of a PyTorch model that probes call."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.overrides import TorchFunctionMode
from torch.utils.data import default_collate

from autotrainer.adapter.probed_model import PROBE_ROWS, TARGET_NAMES, NotProbedError, ProbedModel, check_memory
from autotrainer.backends.pytorch.model.describe import watched_modules
from autotrainer.backends.pytorch.model.model_calls import call_arguments
from autotrainer.backends.pytorch.model.tensor_origins import DROPOUTS
from autotrainer.backends.pytorch.runtime.devices import device_of
from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state, seed_all
from autotrainer.backends.pytorch.runtime.tensors import first_tensor, map_tensors
from autotrainer.backends.pytorch.runtime.torch_private import BatchNorm
from autotrainer.records.facts import NOISE_SOURCES

__all__ = ["TorchProbedModel", "has_rows_first", "probed_call", "probed_inputs", "reads_rows_first"]

_RANDOM = (
    "rand",
    "rand_like",
    "randn",
    "randn_like",
    "randint",
    "bernoulli",
    "bernoulli_",
    "normal",
    "normal_",
    "uniform_",
)
_SCALE = 0.5
"""Size of the random numbers that move a weight, ÷ its root mean square."""
_LEAST = 0.1
"""Size of those that move biases and scales of zero."""


def probed_inputs(model: nn.Module, inputs: Any, targets: Any, *, rows_first: bool | None) -> TorchProbedModel:
    """Return a copy of a model with the inputs of a batch, called as `call_model` does.

    Raises:
        NotProbedError: If it can't be copied.
    """
    args, kwargs = call_arguments(model, inputs)
    return probed_call(model, args, kwargs, targets, rows_first=rows_first)


def probed_call(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], targets: Any, *, rows_first: bool | None
) -> TorchProbedModel:
    """Return a copy of a model with the arguments of a call.

    Raises:
        NotProbedError: If it can't be copied.
    """
    return TorchProbedModel(_copy_of(model), args, dict(kwargs), targets, rows_first)


def has_rows_first(source: Any, inputs: Any) -> bool | None:
    """Return whether the first axis of inputs is known to be that of the rows; None if it is not known.

    Args:
        source: Where they come from: a pair of arrays, or a loader, which may know the size of its batches.
        inputs: The inputs of a batch.
    """
    first = first_tensor(inputs)
    if isinstance(source, tuple | list) and not all(isinstance(item, tuple) for item in source):
        return True
    usual = getattr(source, "collate_fn", None) is default_collate
    size = getattr(source, "batch_size", None)
    return True if usual or (first is not None and first.ndim and size == len(first)) else None


def reads_rows_first(batch_size: int | None, inputs: Tensor | None) -> bool:
    """Return whether inputs that the user's code may have transposed have a loader's batch size as their first axis."""
    if inputs is None or not inputs.ndim:
        return False
    return batch_size == len(inputs) and len(inputs) not in inputs.shape[1:2]


def _copy_of(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode, in single precision at least.

    Raises:
        NotProbedError: If there is no memory for it, or it can't be copied.
    """
    inner: Any = model
    while isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = inner.module
    inner = getattr(inner, "_orig_mod", inner)
    tensors = {id(t): t for t in (*inner.parameters(), *inner.buffers())}.values()
    if any(isinstance(tensor, UninitializedParameter) for tensor in tensors):
        raise NotProbedError("the model can't be copied")
    device = device_of(inner)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    check_memory(sum(tensor.numel() * max(4, tensor.element_size()) for tensor in tensors), free)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copied: nn.Module = copy.deepcopy(inner)
    except Exception as error:
        raise NotProbedError("the model can't be copied") from error
    copied.eval()
    halves = (torch.float16, torch.bfloat16)
    return copied.float() if any(tensor.dtype in halves for tensor in tensors) else copied


class TorchProbedModel(ProbedModel):
    """A copy of a PyTorch model; made by `probed_call`."""

    def __init__(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], targets: Any, rows_first: bool | None
    ) -> None:
        self._model, self._call = model, (args, kwargs)
        self._device = device_of(model)
        self._buffers = [
            (module, name, buffer.clone())
            for module in model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        names = _names(model, args, kwargs)
        tensors = _tensors((args, kwargs))
        rows = next((len(t) for t in tensors if t.ndim), 0)
        kept = _rows_within_limit(tensors, rows)
        self.fields = {name: _to_host(_first_rows(t, rows, kept)) for name, t in zip(names, tensors, strict=True)}
        self._dtypes = {n: _full_precision(t.dtype) for n, t in zip(names, tensors, strict=True)}
        target = first_tensor(targets)
        if target is None:
            target = next((t for n, t in zip(names, tensors, strict=True) if n in TARGET_NAMES), None)
        if target is not None and target.ndim == 1 and len(target) != rows and rows and not len(target) % rows:
            target = target.reshape(rows, -1)
        fits = target is not None and target.ndim and len(target) == rows
        self.targets = _to_host(target[:kept]) if fits and target is not None else None
        if rows_first is None and target is not None and target.ndim == 1 and len(target) == rows:
            rows_first = True
        self.rows_first = rows_first
        self.depth = len(watched_modules(model))
        self.epsilon = _epsilon(model, self._device)
        embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
        self.embeds = bool(embeddings)
        self.padding = frozenset(int(m.padding_idx) for m in embeddings if m.padding_idx is not None)
        self._attends = any(isinstance(m, nn.MultiheadAttention) for m in model.modules())
        self.attention = self._attends

    def outputs(
        self, fields: Mapping[str, NDArray[Any]], *, seed: int = 0, keep_state: bool = False
    ) -> list[NDArray[np.float64]]:
        """Call the model."""
        if not keep_state:
            self._restore_buffers()
        values = iter([self._tensor(fields[name], name) for name in self.fields])
        args, kwargs = map_tensors(lambda _: next(values), self._call)
        calls = _CallRecorder(max((array.shape[1] for array in fields.values() if array.ndim > 1), default=0))
        stance = getattr(torch.compiler, "set_stance", None)
        with (
            preserve_random_state(),
            torch.no_grad(),
            torch.autocast(self._device.type, enabled=False),
            nullcontext() if stance is None else stance("force_eager"),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            seed_all(seed)
            with calls:
                result = self._model(*args, **kwargs)
        self.attention = self._attends or self.attention or calls.attention
        self.noise = NOISE_SOURCES[calls.noise]
        loss = result.get("loss") if isinstance(result, Mapping) else getattr(result, "loss", None)
        self.loss = float(loss) if isinstance(loss, Tensor) and loss.numel() == 1 else math.nan
        return [_to_host(tensor).astype(np.float64) for tensor in _outputs(result)]

    @contextmanager
    def perturbed(self) -> Iterator[bool]:
        """Move the trainable weights."""
        trainable = [p for p in self._model.parameters() if p.requires_grad and p.is_floating_point()]
        if not trainable or any(p.is_sparse or p.is_quantized for p in trainable):
            yield False
            return
        saved = [parameter.detach().clone() for parameter in trainable]
        generator = torch.Generator().manual_seed(0)
        padding = {id(m.weight): m.padding_idx for m in self._model.modules() if isinstance(m, nn.Embedding)}
        try:
            with torch.no_grad():
                for parameter in trainable:
                    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                    if padding.get(id(parameter)) is not None:
                        noise[padding[id(parameter)]] = 0
                    parameter.add_((noise * _size(parameter)).to(parameter))
            yield True
        finally:
            with torch.no_grad():
                for parameter, values in zip(trainable, saved, strict=True):
                    parameter.copy_(values)

    @contextmanager
    def without_normalization(self) -> Iterator[None]:
        """Let batch normalization return its inputs."""
        with ExitStack() as stack:
            for module in self._model.modules():
                if isinstance(module, BatchNorm):
                    handle = module.register_forward_hook(lambda module, args, output: args[0])
                    stack.callback(handle.remove)
            yield

    def _restore_buffers(self) -> None:
        for module, name, values in self._buffers:
            module._buffers[name] = values.clone()

    def _tensor(self, array: NDArray[Any], name: str) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self._device, self._dtypes[name])


class _CallRecorder(TorchFunctionMode):
    """Notes calls of attention and of random functions."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self._positions = positions
        self.attention = False
        self.noise = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("scaled_dot_product_attention", "multi_head_attention_forward"):
            self.attention = True
            drops = kwargs.get("dropout_p", args[4] if name.startswith("scaled") and len(args) > 4 else 0)
            if name.startswith("scaled") and drops:
                self.noise = 3
        elif name == "softmax" and args and isinstance(args[0], Tensor):
            shape = args[0].shape
            self.attention |= len(shape) > 2 and shape[-1] == shape[-2] and shape[-1] > 1
        elif name in DROPOUTS and self._drops(args, kwargs):
            self.noise = max(self.noise, 2)
        elif name in _RANDOM:
            self.noise = max(self.noise, 1)
        return func(*args, **kwargs)

    @staticmethod
    def _drops(args: Any, kwargs: Any) -> bool:
        training = kwargs.get("training", args[2] if len(args) > 2 else True)
        rate = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
        return bool(training) and bool(rate)


def _names(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """Return the names of the tensors in the arguments of a call, in the order of `_tensors`."""
    try:
        parameters = list(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        parameters = []
    positional = [parameters[i] if i < len(parameters) else f"input {i + 1}" for i in range(len(args))]
    names: list[str] = []

    def visit(value: Any, name: str) -> None:
        if isinstance(value, Tensor):
            names.append(name if name not in names else f"{name} ({len(names) + 1})")
        elif isinstance(value, Mapping):
            for key, item in value.items():
                visit(item, str(key))
        elif isinstance(value, tuple | list):
            for number, item in enumerate(value):
                visit(item, f"{name}[{number}]")

    for name, value in zip(positional, args, strict=True):
        visit(value, name)
    visit(kwargs, "")
    return names


def _tensors(value: Any) -> list[Tensor]:
    tensors: list[Tensor] = []
    map_tensors(tensors.append, value)
    return tensors


def _outputs(result: Any) -> list[Tensor]:
    """Return the floating-point tensors that a model returns, the predictions first, without a loss."""
    primary = first_tensor(result, floating=True)
    if primary is not None and not primary.ndim and not isinstance(result, Tensor):
        primary = next((t for t in _tensors(result) if t.ndim and t.is_floating_point()), None)
    if primary is None:
        return []
    parts = result.values() if isinstance(result, Mapping) else result if isinstance(result, tuple | list) else ()
    others = [t for t in parts if isinstance(t, Tensor) and t is not primary and t.is_floating_point() and t.ndim]
    return [primary, *others]


def _first_rows(tensor: Tensor, rows: int, kept: int) -> Tensor:
    return tensor[:kept] if tensor.ndim and len(tensor) == rows else tensor


_MOST_VALUES = 1 << 22
"""Values of the inputs that are kept at most."""


def _rows_within_limit(tensors: list[Tensor], rows: int) -> int:
    values = sum(t.numel() // max(rows, 1) for t in tensors if t.ndim and len(t) == rows)
    return max(min(rows, 3), min(rows, PROBE_ROWS, _MOST_VALUES // max(values, 1)))


def _to_host(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach()
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    return tensor.cpu().numpy().copy()


def _full_precision(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _epsilon(model: nn.Module, device: torch.device) -> float:
    types = [p.dtype for p in model.parameters() if p.is_floating_point()]
    epsilon = max((torch.finfo(dtype).eps for dtype in types), default=torch.finfo(torch.float32).eps)
    reduced = device.type == "cuda" and (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)
    return max(epsilon, 2.0**-11) if reduced else float(epsilon)


def _size(parameter: Tensor) -> float:
    """Return the size of the random numbers that move a weight: that of its values, or of usual initial ones."""
    scale = _SCALE * float(parameter.float().square().mean().sqrt()) if parameter.numel() else 0.0
    usual = _LEAST if parameter.ndim < 2 else _SCALE / math.sqrt(max(1, parameter[0].numel()))
    return max(scale, usual) if math.isfinite(scale) else usual
