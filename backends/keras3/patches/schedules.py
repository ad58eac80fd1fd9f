"""Lines of Keras code for edits of the learning-rate schedule, of length, of Adam and of what an optimizer owns."""

from __future__ import annotations

from collections.abc import Sequence

from autotrainer import edits as e
from autotrainer.adapter.patch_code import warm_up_steps
from autotrainer.backends.keras3.patches.base import patch_lines
from autotrainer.edits import Edit


def combined_lines(edit: Edit, edits: Sequence[Edit]) -> list[str]:
    """Return the lines of a warm-up or decay in a plan that has both, which make one schedule; of other edits none."""
    if isinstance(edit, e.WarmUpRate) and any(isinstance(other, e.DecayRate) for other in edits):
        return ["# combined with the decay into one schedule: see below"]
    steps = warm_up_steps(edits)
    return _decay(edit, steps) if isinstance(edit, e.DecayRate) and steps else []


def _decay(edit: e.DecayRate, warm_up: int = 0) -> list[str]:
    steps = f"steps = {edit.steps}" if edit.steps else "steps = epochs * steps_per_epoch"
    first = ["# the initial rate; the new schedule replaces the original one:"] if edit.instead else []
    rate = "rate = model.optimizer.learning_rate" if edit.instead else "rate = float(model.optimizer.learning_rate)"
    made = [f"schedule = keras.optimizers.schedules.CosineDecay(float(rate), steps, alpha={edit.floor:g})"]
    if warm_up:
        made = [
            "schedule = keras.optimizers.schedules.CosineDecay(",
            f"    float(rate) / {warm_up}, max(1, steps - {warm_up}), alpha={edit.floor:g}, warmup_target=float(rate), "
            f"warmup_steps={warm_up})",
        ]
    return [*first, rate, steps, *made, _SCHEDULED]


_SCHEDULED = "model.optimizer.learning_rate = schedule"


@patch_lines.register
def _(edit: e.WarmUpRate) -> list[str]:
    return [
        "rate = float(model.optimizer.learning_rate)",
        "schedule = keras.optimizers.schedules.CosineDecay(  # alpha 1: the rate stays where the warm-up ends",
        f"    rate / {edit.steps}, 1, alpha=1.0, warmup_target=rate, warmup_steps={edit.steps})",
        _SCHEDULED,
    ]


@patch_lines.register
def _(edit: e.DecayRate) -> list[str]:
    return _decay(edit)


@patch_lines.register
def _(edit: e.ExtendTraining) -> list[str]:
    return [f"epochs = {edit.epochs}  # model.fit(..., epochs=epochs)"]


@patch_lines.register
def _(edit: e.TuneAdam) -> list[str]:
    settings = {"beta_2": edit.beta_2, "epsilon": edit.epsilon}
    text = [f"model.optimizer.{name} = {value!r}" for name, value in settings.items() if value is not None]
    if edit.clip_updates:
        text += [
            "from autotrainer.backends.keras3.layers.update_clipping import clip_updates",
            "clip_updates(model.optimizer)  # divides updates by the root mean square of gradient ÷ root of second "
            "moment",
        ]
    return text or ["# no change"]


@patch_lines.register
def _(edit: e.CompleteOptimizer) -> list[str]:
    return ["# Keras gives the optimizer all trainable variables: in a custom train_step, apply all gradients"]
