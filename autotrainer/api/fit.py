"""`fit`: managed training and repair, for both frameworks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from autotrainer import plugins, registry
from autotrainer.adapter.backend import Backend
from autotrainer.adapter.spec import FitRequest
from autotrainer.api.fit_data import class_index_error, ignored_class, prepare_data, validates_on_training_rows
from autotrainer.api.options import check_keep, check_loss, names
from autotrainer.config import log_folder, switched_off
from autotrainer.edits.base import Count, Whole, checked, shorten
from autotrainer.errors import ConfigError
from autotrainer.reporting.result import Result
from autotrainer.scoring.metric_selection import MetricSelection
from autotrainer.scoring.scorer import Scorer
from autotrainer.search.experience import Experience
from autotrainer.search.planner import Planner, unprepared
from autotrainer.search.preflight import preflight, untrained
from autotrainer.search.repair_loop import Until
from autotrainer.search.session import Session
from autotrainer.training.budget import Budget
from autotrainer.training.progress import Progress, ProgressFunction
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
    until: Literal["healthy", "budget"] = "healthy",
    budget: float | timedelta | None = None,
    test_data: Any = None,
    select: str | Iterable[str] | None = None,
    ignore: str | Iterable[str] = (),
    thresholds: Mapping[str, float] | None = None,
    seed: int = 0,
    workers: int | Literal["ray"] = 1,
    log_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool | ProgressFunction = True,
) -> Result:
    """Train a model, repair the training if it fails, and verify on validation data that the repair helped.

    The original training runs first, as the *baseline*. If its monitor reports an error, or its outcome is no better
    than a constant prediction or clearly worse than a simple model, repairs are tried within the budget, and the best
    training by validation score is returned. The objects passed in are not changed, nor are the caller's random states.
    Equal calls give equal results, bitwise on a CPU, unless the budget is a wall time.

    Once an error with high confidence names a cause that a repair answers, usually after 2 to 4% of the work, the
    baseline is paused and the repaired training runs first. Then the baseline is trained again from its start, until
    its end or until it is expected to stay behind: because the repaired training has no error left and no training can
    be better by more than noise (its accuracy could not, or its R² is 0.99 or more); because after a fiftieth, a
    sixteenth, an eighth, a quarter or half of the epochs the repaired training was better at equal work (99.9%
    one-sided, on paired validation rows), and its final score is out of reach; or because it is stuck. The final score
    is out of reach if the baseline was still at the level of a constant prediction, and the repaired training clearly
    above it; or if as much gain from each further sample, plus noise, as since the point before would not suffice. So
    the result is never worse than the baseline at its end by more than noise, unless the baseline learns faster later
    than before and then overtakes a training in which the cause is repaired. The baseline is never paused with
    ``repair=False``, with Keras callbacks that are objects, with a wall time as the budget, if the budget does not
    allow both trainings, or without a budget if one takes more than half an hour. Later attempts are ended early if
    they are expected to stay behind the best one.

    Args:
        model: ``torch.nn.Module``, ``keras.Model``, or a callable without arguments that builds one.
        train_data: ``(x, y)`` or ``(x, y, sample_weight)`` of arrays or tensors, where x may also be a tuple or dict of
            them; or a loader or data set of the framework.
        validation_data: The same. None holds back 20% of ``(x, y)``, drawn with the seed and stratified by class. If
            these are too few to show anything (below five, that is with fewer than 25 rows, or because classes have a
            single row), or ``x`` is a truth table, the training is judged on the training rows: `Result.judged_on`.
            Required for loaders, data sets and time-ordered data.
        loss: PyTorch: loss module or callable. Keras: loss or name; None for a compiled model.
        optimizer: PyTorch: optimizer over ``model.parameters()``, or callable(params). Keras: optimizer or name; None
            for a compiled model.
        epochs: Number of epochs, >= 1.
        batch_size: Samples per batch for arrays, >= 1; a loader keeps its own.
        metric: ``auto`` (accuracy for classes, R² for numbers), ``accuracy``, ``balanced_accuracy`` (all classes count
            alike), ``r2``, ``auc``, ``mse``, ``mae``, ``loss``, or a callable(y_true, y_pred) on NumPy arrays, where
            y_pred are raw outputs. ``loss`` is the original loss, whatever a repair trains on; if that has no meaning
            on these targets, such as a cross-entropy of targets above 1, ``auto`` takes its place, with a warning.
        mode: Whether higher (``max``) or lower (``min``) values of a callable metric are better; None for ``max``.
        step: PyTorch: callable(model, batch) that returns loss or (loss, outputs, targets).
        scheduler: PyTorch: callable(optimizer) that returns a learning-rate scheduler.
        fit_args: Keras: further arguments of ``Model.fit``.
        repair: False only trains and reports, without stopping early or trying repairs.
        strategy: Order in which repairs are tried: ``balance``, ``structure`` or ``efficiency``.
        max_change: How much repairs may change: 0 training settings only, 1 also weights and activations, 2 also
            inserted layers, 3 anything.
        extra_memory: Whether repairs may use more memory.
        keep: Layer-name patterns (``fnmatch``) of layers that repairs must not change.
        forbid: Names of repairs that must not be used.
        until: When to end: ``healthy`` with the first repaired training, and at once if there is no error; ``budget``
            goes on for as long as there is something to gain, also after a training without an error. It refines what
            helped (learning rate, epochs, width, batch size, …), combines edits, leaves out single ones, and searches
            settings. The result is the best score; the smallest plan, if several are equal within noise.
        budget: Total work as a multiple of the original training, which is included (> 0, reproducible); or a wall
            time. None allows three trainings or one minute, whichever is more, but at most 30 minutes beyond the
            baseline.
        test_data: Data that are used for no decision; the result then has test scores.
        select: Names, codes, code prefixes (``"AT4"``) or aliases of the problems to detect; None for all.
        ignore: The same, for problems to skip.
        thresholds: Values by ``problem.name`` (``{"vanishing_gradient.ratio": 1e-4}``), or by the names in the
            AUTOTRAINER papers (``beta_1``).
        seed: Seed of the hold-out, shuffling, dropout and initial weights, >= 0.
        workers: Number of processes for independent trainings, such as those of one rung of successive halving; the
            result is the same as with 1. Each process has its own copy of data and model, also on a GPU. If the best
            training ran in another process, it is run again at the end to obtain its model, outside the budget.
            More than 1 needs the extra ``parallel``, and model, loss and functions that can be pickled. ``ray`` uses
            all CPU cores of a running Ray cluster on which autotrainer is installed (extra ``ray``).
        log_dir: Folder for run logs and the journal that ``resume`` reads; None writes no file.
        resume: Whether to continue the last journal of the same request in ``log_dir`` after a crash. Recorded
            trainings are not run again, except the best one to obtain its model, outside the budget. The result is
            that of a run without the crash; recorded seconds count as well. Without a journal a new one begins. Loaders
            and data sets are compared by their public attributes only.
        progress: Whether to show the progress on a terminal; or a function that is called at the end of each epoch with
            the title of the training, its complete epochs, its planned epochs, and its validation score.

    Returns:
        The result: status, model, scores, findings, plan, attempts.

    Raises:
        DataError: If the data are invalid or do not fit the model.
        BudgetError: If the budget allows no work.
        ConfigError: If an option is invalid, ``log_dir`` has journals of other requests only, or an object can't be
            sent to another process.
        LogError: If the journal to continue is damaged.
        InputError: If model, loss and optimizer do not belong together.
        Exception: Any exception of the user's code in the original training.
    """
    rules = registry.make_rules(select, ignore, thresholds)
    log_dir = log_folder(log_dir)
    seed = checked("seed", seed, Whole)
    choice = MetricSelection(metric, mode, seed)
    repair, extra_memory = checked("repair", repair, bool), checked("extra_memory", extra_memory, bool)
    resume = checked("resume", resume, bool)
    progress = progress if callable(progress) else checked("progress", progress, bool)
    if resume and log_dir is None:
        raise ConfigError("resume=True needs log_dir: the folder with the journal to continue")
    workers = checked("workers", workers, Count | Literal["ray"])
    until = checked("until", until, Until)
    epochs, batch_size = checked("epochs", epochs, Count), checked("batch_size", batch_size, Count)
    check_loss("loss", loss)
    work_budget = Budget(budget)
    kept, forbidden = names("keep", keep), names("forbid", forbid)
    planner = Planner(
        registry.repairs(), unprepared, strategy, max_change, extra_memory, forbidden, Experience.installed()
    )
    actual_loss = getattr(model, "loss", None) if loss is None else loss
    train, validation, test, judged_on = prepare_data(train_data, validation_data, test_data, seed, actual_loss)
    with ExitStack() as stack:
        backend = _backend(model, stack)
        request = FitRequest(
            model, train, validation, loss, optimizer, epochs, batch_size, step, scheduler,
            dict(_mapping("fit_args", fit_args)), kept, seed, test, judged_on,
        )  # fmt: skip
        trainer = backend.trainer(request)
        planner.supports, planner.supports_together = trainer.supports, trainer.supports_together
        planner.fixed_outputs = callable(metric)
        off = switched_off()
        if not off and validates_on_training_rows(request, trainer):
            request = replace(request, judged_on="training")
        if workers != 1 and repair and not off:
            check_sendable(workers, request, metric)
        check_keep(kept, [layer.name for layer in trainer.context.layers])
        masked = ignored_class(request)
        label_error, fix = class_index_error(request, trainer.context, masked), None
        if (label_error is not None or trainer.context.loss_refusal) and repair and not off:
            fix = preflight(backend, trainer, request, rules, planner, label_error)
        if repair and not off and (label_error is None or fix is not None):
            other = untrained(trainer, rules, planner)
            fix = other if fix is None else fix.with_other(other)
        if label_error is not None and fix is None:
            raise label_error
        journal = None
        if log_dir is not None and not off:
            request_identity = identity(
                **trainer.identity(), train_data=train, validation_data=validation, test_data=test, epochs=epochs,
                batch_size=batch_size, metric=metric, mode=mode, step=step, scheduler=scheduler,
                fit_args=request.fit_args, repair=repair, strategy=strategy, max_change=max_change,
                extra_memory=extra_memory, keep=kept, forbid=forbidden, until=until, budget=str(budget),
                choice_of_rules=[(type(rule), vars(rule)) for rule in rules], seed=seed,
            )  # fmt: skip
            request_identity |= versions(backend.package, trainer.context.engine)
            journal = stack.enter_context(closing(Journal(log_dir, request_identity, resume=resume)))
        progress_display = stack.enter_context(Progress(progress))
        session = Session(
            trainer=trainer, request=request, rules=() if off else tuple(rules), budget=work_budget,
            scorer=Scorer(choice, trainer.context, train, masked, exact=request.judged_on == "training"),
            planner=planner if repair and not off else None,
            backend=backend, test=test, log_dir=None if off else log_dir, progress=progress_display,
            preflight_fix=fix, journal=journal, workers=workers, until=until,
        )  # fmt: skip
        return session.run()


def _mapping(name: str, values: Any) -> Mapping[str, Any]:
    if values is None:
        return {}
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{name} must be a dict of arguments by name, not {shorten(values)}")
    return values


def _backend(model: Any, stack: ExitStack) -> Backend:
    """Return the backend of a model or of a callable that builds one, and preserve random states from here on."""
    backend = registry.find_backend(model)
    if backend is not None:
        stack.enter_context(backend.preserve_random_state())
        return backend
    if not callable(model):
        return registry.backend_of(model)
    for backend in registry.backends():
        if backend.package in sys.modules:
            stack.enter_context(plugins.isolated(type(backend), backend.preserve_random_state))
    try:
        built = model()
    except TypeError as error:
        raise ConfigError(
            f"model must be a model or a callable without arguments that builds one; calling {shorten(model)} raised: "
            f"{error}"
        ) from error
    return registry.backend_of(built)
