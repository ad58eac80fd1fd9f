"""Ray Tune: a stopper that ends trials whose root cause is proven."""

from __future__ import annotations

from typing import Any

from autotrainer.integrations._callback import require
from autotrainer.integrations._proof import CAUSE, MESSAGE, CauseProof

require("ray.tune", "ray")

from ray.tune import Stopper  # noqa: E402 - after a line that names the extra if it is missing

__all__ = ["CAUSE", "MESSAGE", "AutoTrainerStopper", "TrialFindings"]


class TrialFindings:
    """What a trainable reports of its monitor, for `AutoTrainerStopper`.

    ```python
    def train(config):
        model, optimizer, loss_fn = build(config)
        with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=10) as monitor:
            findings = TrialFindings(monitor)
            for epoch in range(10):
                train_epoch(model, optimizer, loss_fn)
                score = evaluate(model)
                monitor.end_epoch(val_accuracy=score)
                tune.report({"score": score, **findings.result()})
    ```

    Args:
        monitor: What `autotrainer.watch` returns; or a callback of `autotrainer.integrations`, whose ``monitor`` is it.

    Raises:
        InputError: If ``monitor`` is neither.
    """

    def __init__(self, monitor: Any) -> None:
        self._proof = CauseProof(monitor)

    def result(self) -> dict[str, str]:
        """Return the root cause and its finding by the keys of results, once the cause is proven; else empty texts."""
        cause = self._proof.check()
        return {CAUSE: "" if cause is None else cause.problem, MESSAGE: "" if cause is None else str(cause)}


class AutoTrainerStopper(Stopper):
    """Stops a trial once the cause for which it can't become good is proven.

    ```python
    tuner = tune.Tuner(train, run_config=tune.RunConfig(stop=AutoTrainerStopper()))
    ```

    It stops a training that is NaN, worse than untrained, or no better than a constant prediction; one that learns,
    however slowly, goes on. The trainable reports `TrialFindings.result` with its metrics; the cause stays among
    these. Combine it with others by `ray.tune.stopper.CombinedStopper`, and with any scheduler.

    Attributes:
        causes: Root causes of the stopped trials, by the trial's id.
    """

    def __init__(self) -> None:
        self.causes: dict[str, str] = {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether to stop a trial after this result."""
        cause = result.get(CAUSE)
        if cause:
            self.causes[trial_id] = str(cause)
        return bool(cause)

    def stop_all(self) -> bool:
        """Return False: the experiment goes on."""
        return False
