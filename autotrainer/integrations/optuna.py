"""Optuna: a callback and a pruner that end trials whose root cause is proven."""

from __future__ import annotations

from typing import Any

from autotrainer.integrations._callback import require
from autotrainer.integrations._proof import CAUSE, MESSAGE, CauseProof

require("optuna", "optuna")

import optuna  # noqa: E402 - after a line that names the extra if it is missing

__all__ = ["CAUSE", "MESSAGE", "AutoTrainerPruner", "AutoTrainerPruningCallback"]


class AutoTrainerPruningCallback:
    """Prunes a trial once the cause for which it can't become good is proven.

    ```python
    def objective(trial):
        model, optimizer, loss_fn = build(trial)
        with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=10) as monitor:
            prune_if_sick = AutoTrainerPruningCallback(trial, monitor)
            for epoch in range(10):
                train_epoch(model, optimizer, loss_fn)
                score = evaluate(model)
                monitor.end_epoch(val_accuracy=score)
                trial.report(score, epoch)
                prune_if_sick()
        return score
    ```

    Called after each epoch, it raises `optuna.TrialPruned` for a training that is NaN, worse than untrained, or no
    better than a constant prediction; one that learns, however slowly, goes on. In Keras, give it to
    ``keras.callbacks.LambdaCallback(on_epoch_end=…)``. The trial's user attributes ``autotrainer_cause`` and
    ``autotrainer_message`` hold the root cause. Tell `autotrainer.watch` the planned ``epochs`` or ``steps``: without
    them, only NaN, a model that stays a constant, and gradients of zero are proof.

    Args:
        trial: The trial.
        monitor: What `autotrainer.watch` returns; or a callback of `autotrainer.integrations`, whose ``monitor`` is it.

    Raises:
        InputError: If ``monitor`` is neither.
    """

    def __init__(self, trial: optuna.trial.Trial, monitor: Any) -> None:
        self._trial, self._proof = trial, CauseProof(monitor)

    def update(self) -> bool:
        """Set the user attributes if the cause is proven; return whether it is. An `AutoTrainerPruner` then prunes."""
        cause = self._proof.check()
        if cause is None:
            return False
        self._trial.set_user_attr(CAUSE, cause.problem)
        self._trial.set_user_attr(MESSAGE, str(cause))
        return True

    def __call__(self, *_args: object, **_options: object) -> None:
        """Prune the trial if the cause is proven; arguments are ignored.

        Raises:
            TrialPruned: If it is.
        """
        if self.update():
            raise optuna.TrialPruned(self._trial.user_attrs[MESSAGE])


class AutoTrainerPruner(optuna.pruners.BasePruner):
    """Prunes trials that `AutoTrainerPruningCallback.update` has marked, and others as another pruner decides.

    ```python
    study = optuna.create_study(pruner=AutoTrainerPruner(optuna.pruners.HyperbandPruner()))
    ```

    Args:
        wrapped_pruner: Decides on the other trials; None lets them go on.
    """

    def __init__(self, wrapped_pruner: optuna.pruners.BasePruner | None = None) -> None:
        self._wrapped_pruner = wrapped_pruner

    def prune(self, study: optuna.study.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Return whether to prune a trial."""
        if CAUSE in trial.user_attrs:
            return True
        return self._wrapped_pruner is not None and self._wrapped_pruner.prune(study, trial)
