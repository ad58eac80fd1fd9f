"""`fit`: managed training and repair, the same call for both frameworks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from autotrainer import registry
from autotrainer.adapter.backend import Backend, Trainer
from autotrainer.adapter.spec import FitRequest
from autotrainer.api.options import check_bool, names, whole
from autotrainer.config import switched_off
from autotrainer.errors import ConfigError, DataError, nearest
from autotrainer.records.data import ArrayData, Data, normalize
from autotrainer.records.task import TaskContext
from autotrainer.reporting.result import Result
from autotrainer.scoring.metric_selection import MetricSelection
from autotrainer.scoring.scorer import Scorer
from autotrainer.search.planner import Planner
from autotrainer.search.preflight import preflight
from autotrainer.search.session import Session
from autotrainer.training.budget import Budget
from autotrainer.training.holdout import hold_out
from autotrainer.training.progress import Progress
from autotrainer.workers.journal import Journal, identity, versions
from autotrainer.workers.worker_pool import check_sendable

__all__ = ["fit"]


def fit(
    model: Any,
    train_data: Any,
    validation_data: Any = None,
    *,
    loss: Any = None,
    optimizer: Any = None,
    epochs: int,
    batch_size: int = 32,
    metric: str | Callable[[Any, Any], float] = "auto",
    mode: Literal["max", "min"] | None = None,
    step: Callable[..., Any] | None = None,
    scheduler: Callable[..., Any] | None = None,
    fit_args: Mapping[str, Any] | None = None,
    repair: bool = True,
    strategy: Literal["balance", "structure", "efficiency"] = "balance",
    max_change: int = 3,
    extra_memory: bool = True,
    keep: str | Iterable[str] = (),
    forbid: str | Iterable[str] = (),
    budget: float | timedelta | None = None,
    test_data: Any = None,
    select: str | Iterable[str] | None = None,
    ignore: str | Iterable[str] = (),
    thresholds: Mapping[str, float] | None = None,
    seed: int = 0,
    workers: int | Literal["ray"] = 1,
    log_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Result:
    """Train a model, repair the training if it fails, and prove on validation data that the repair helped.

    The objects given are not changed, nor is any random state of the caller's. Equal calls give equal results,
    to the bit on a CPU, unless the budget is wall time.

    Args:
        model: ``torch.nn.Module``, ``keras.Model``, or zero-argument callable that builds one.
        train_data: ``(x, y)`` or ``(x, y, sample_weight)`` of arrays or tensors, x also a tuple or dict of them; or
            a loader or data set of the framework.
        validation_data: The same. None holds back 20 % of ``(x, y)``, drawn with the seed, for classes from each
            class alike; loaders, data sets and data in an order of time need it.
        loss: PyTorch: loss module or callable. Keras: loss or name, None for a compiled model.
        optimizer: PyTorch: optimizer over ``model.parameters()`` or callable(params). Keras: optimizer or name, None
            for a compiled model.
        epochs: Epochs of the training, >= 1.
        batch_size: Samples a batch, for arrays; >= 1.
        metric: ``auto`` (accuracy for classes, R² for numbers), ``accuracy``, ``r2``, ``auc``, ``mse``, ``mae``,
            ``loss``, or a callable(y_true, y_pred) on NumPy arrays, the predictions being raw outputs.
        mode: Whether a higher (``max``) or lower (``min``) value of a callable metric is better; None for ``max``.
        step: PyTorch: callable(model, batch) -> loss or (loss, outputs, targets).
        scheduler: PyTorch: callable(optimizer) -> learning-rate scheduler.
        fit_args: Keras: further arguments of ``Model.fit``.
        repair: False only trains, to the end, and reports.
        strategy: Order in which repairs are tried: ``balance``, ``structure`` or ``efficiency``.
        max_change: How far the model may be changed: 0 training settings only, 1 and weights and activations,
            2 and inserted layers, 3 anything.
        extra_memory: Whether repairs may take more memory.
        keep: Layer-name patterns (``fnmatch``) that nothing may touch.
        forbid: Names of repairs never to use.
        budget: Number of trainings of the given model, this one included (> 0, reproducible); or wall time; None for
            three trainings or one minute, whichever is more, but at most 30 minutes beyond the training as given.
        test_data: Data that take no part in any decision; the result then has test scores.
        select: Problems to look for (names, codes, code prefixes); None for all.
        ignore: Problems to leave out.
        thresholds: Values by ``problem.name`` or by the papers' names.
        seed: Seed of the hold-out, shuffling, dropout and drawn weights, >= 0.
        workers: Number of processes in which trainings run that do not depend on each other (those of one rung of the
            search without evidence); the result is that of 1. Each holds data and a model of its own, on a GPU too.
            The best training is run again at the end where it was run there, for its model; that is not charged.
            More than 1 needs the extra ``parallel``, and model, loss and functions that can be pickled. ``ray`` runs
            them on all CPU cores of the Ray cluster that is there, where autotrainer is installed (extra ``ray``).
        log_dir: Folder for run logs and the record that ``resume`` reads; None writes no file.
        resume: Whether to go on with the last record of the same request in ``log_dir``, after a crash: recorded
            trainings are not run again but for the best one, for its model, which is not charged. The result is that
            of a run without the crash; recorded seconds count too. Without a record it begins. Of loaders and data
            sets only public attributes tell whether they are the same.
        progress: Whether to show the progress on a terminal.

    Returns:
        The result: status, model, scores, findings, plan, attempts.

    Raises:
        DataError: If data can't be used or do not fit the model.
        BudgetError: If the budget allows nothing.
        ConfigError: If an option is unknown or does not fit, ``log_dir`` has no record of this request but of others,
            or something can't be sent to another process.
        LogError: If the record to go on with is damaged.
        InputError: If model, loss and optimizer do not belong together.
        Exception: Whatever the user's own code raises in the training as given.
    """
    rules = registry.make_rules(select, ignore, thresholds)
    if log_dir is not None and not isinstance(log_dir, str | Path):
        raise ConfigError(f"log_dir must be a folder or None, not {log_dir!r}")
    choice = MetricSelection(metric, mode, whole("seed", seed, 0))
    check_bool(repair=repair, extra_memory=extra_memory, resume=resume, progress=progress)
    if resume and log_dir is None:
        raise ConfigError("resume=True needs log_dir: the folder where the fit to go on with was recorded")
    if workers != "ray":
        workers = whole("workers", workers, 1)
    epochs, batch_size = whole("epochs", epochs, 1), whole("batch_size", batch_size, 1)
    if isinstance(loss, type):
        raise ConfigError(f"loss is the class {loss.__name__}: give an object of it, {loss.__name__}()")
    limit = Budget(budget)
    kept, forbidden = names("keep", keep), names("forbid", forbid)
    train, validation, test = _data(train_data, validation_data, test_data, seed)
    with ExitStack() as stack:
        backend = _backend(model, stack)
        request = FitRequest(
            model, train, validation, loss, optimizer, epochs, batch_size, step, scheduler,
            dict(_mapping("fit_args", fit_args)), kept, seed,
        )  # fmt: skip
        trainer = backend.trainer(request)
        off = switched_off()
        if workers != 1 and repair and not off:
            check_sendable(workers, request, metric)
        _check_keep(request.keep, trainer)
        masked = _masked(request)
        planner = Planner(registry.repairs(), trainer.supports, strategy, max_change, extra_memory, forbidden)
        wrong, fix = _label_error(request, trainer.context, masked), None
        if (wrong is not None or trainer.context.loss_refusal) and repair and not off:
            fix = preflight(backend, trainer, request, rules, planner, wrong)
        if wrong is not None and fix is None:
            raise wrong
        journal = None
        if log_dir is not None and not off:
            told = identity(
                **trainer.identity(), train_data=train, validation_data=validation, test_data=test, epochs=epochs,
                batch_size=batch_size, metric=metric, mode=mode, step=step, scheduler=scheduler,
                fit_args=request.fit_args, repair=repair, strategy=strategy, max_change=max_change,
                extra_memory=extra_memory, keep=kept, forbid=forbidden, budget=str(budget),
                choice_of_rules=[(type(rule), vars(rule)) for rule in rules], seed=seed,
            )  # fmt: skip
            told |= versions(backend.package, trainer.context.engine)
            journal = stack.enter_context(closing(Journal(log_dir, told, resume=resume)))
        shown = stack.enter_context(Progress(progress))
        session = Session(
            trainer=trainer, request=request, rules=() if off else tuple(rules), budget=limit,
            scorer=Scorer(choice, trainer.context, train, masked), planner=planner if repair and not off else None,
            backend=backend, test=test, log_dir=None if off else log_dir, progress=shown, preflight_fix=fix,
            journal=journal, workers=workers,
        )  # fmt: skip
        return session.run()


# -- options ------------------------------------------------------------------------------------------------------


def _mapping(name: str, values: Any) -> Mapping[str, Any]:
    if values is not None and not isinstance(values, Mapping):
        raise ConfigError(f"{name} must be a dict of arguments by name, not {type(values).__name__}")
    return values or {}


def _check_keep(patterns: tuple[str, ...], trainer: Trainer) -> None:
    names = [layer.name for layer in trainer.context.layers]
    for pattern in patterns:
        if names and not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"keep={pattern!r} names no layer: {nearest(pattern, names)}")


def _masked(request: FitRequest) -> int | None:
    """Return the class index that the loss leaves out, or None: PyTorch's ``ignore_index``, Keras' ``ignore_class``."""
    loss = getattr(request.model, "loss", None) if request.loss is None else request.loss
    found = getattr(loss, "ignore_index", getattr(loss, "ignore_class", None))
    return found if isinstance(found, int) else None


def _label_error(request: FitRequest, context: TaskContext, masked: int | None) -> DataError | None:
    """Return what is wrong with class indices that are no outputs: the framework's own error is hard to read."""
    units = context.output_units
    indexed = context.loss.family == "cross_entropy" and context.loss.targets in ("index", "either")
    if context.framework not in ("pytorch", "keras3") or not indexed or units is None or request.step is not None:
        return None
    for name, data in (("train_data", request.train), ("validation_data", request.validation)):
        if (
            not isinstance(data, ArrayData)
            or data.targets.dtype.kind not in "iu"
            or (data.targets.ndim > 1 and units < 2)
        ):
            continue
        labels = data.targets[data.targets != masked]
        wrong = labels[(labels < 0) | (labels >= units)]
        if wrong.size:
            return DataError(
                f"{name} has class index {int(wrong.max() if wrong.max() >= units else wrong.min())}, but the model "
                f"has {units} outputs, for classes 0 to {units - 1}: number the classes from 0, or widen the output"
            )
    return None


# -- model and data -----------------------------------------------------------------------------------------------


def _backend(model: Any, stack: ExitStack) -> Backend:
    """Return the backend of a model or of what a callable builds; from here on random states are kept."""
    for backend in registry.backends():
        if backend.accepts(model):
            stack.enter_context(backend.preserve_random_state())
            return backend
    if not callable(model):
        return registry.backend_of(model)
    for backend in registry.backends():
        if backend.package in sys.modules:
            stack.enter_context(backend.preserve_random_state())
    try:
        built = model()
    except TypeError as error:
        raise ConfigError(
            f"model must be a model or a callable without arguments that builds one; {model!r} says: {error}"
        ) from error
    return registry.backend_of(built)


def _data(train_data: Any, validation_data: Any, test_data: Any, seed: int) -> tuple[Data, Data, Data | None]:
    train = normalize(train_data, "train_data")
    if validation_data is not None:
        validation = normalize(validation_data, "validation_data")
    elif isinstance(train, ArrayData):
        train, validation = hold_out(train, seed)
    else:
        raise DataError(
            f"train_data is a {type(train.source).__name__}, of which nothing can be held back: give validation_data"
        )
    test = None if test_data is None else normalize(test_data, "test_data")
    for name, other in (("validation_data", validation), ("test_data", test)):
        if isinstance(train, ArrayData) and isinstance(other, ArrayData):
            _check_alike(train, other, name)
    return train, validation, test


def _check_alike(train: ArrayData, other: ArrayData, name: str) -> None:
    """Check that other data have the form of the training data; lengths of sequences may differ."""
    forms = [_form(data.inputs) for data in (train, other)]
    if forms[0] != forms[1]:
        raise DataError(f"{name} has inputs of {forms[1]}, train_data of {forms[0]}: give both in one form")
    if train.targets.ndim != other.targets.ndim:
        raise DataError(
            f"{name} has targets of shape {other.targets.shape}, train_data of shape {train.targets.shape}: "
            "give both in one form"
        )


def _form(inputs: Any) -> str:
    if isinstance(inputs, Mapping):
        return "{" + ", ".join(f"{name!r}: {_shape(array)}" for name, array in sorted(inputs.items())) + "}"
    if isinstance(inputs, tuple):
        return "(" + ", ".join(map(_shape, inputs)) + ")"
    return f"shape {_shape(inputs)}"


def _shape(array: NDArray[Any]) -> str:
    """Return a shape with the axes open that may differ: rows, time, and the sides of images."""
    last = array.ndim - 1 if array.ndim == 3 or (array.ndim == 2 and array.dtype.kind == "f") else None
    return "(" + ", ".join(str(size) if axis == last else "*" for axis, size in enumerate(array.shape)) + ")"
