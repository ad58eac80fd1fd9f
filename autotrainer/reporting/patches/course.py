"""Edits of the learning rate's course, of length, of Adam and of what an optimizer owns, in words and lines."""

from __future__ import annotations

from collections.abc import Sequence

from autotrainer import edits as e
from autotrainer.edits import Edit
from autotrainer.reporting.patches.base import keras_lines, names, pytorch_lines, words


def schedule_lines(edit: Edit, framework: str, beside: Sequence[Edit]) -> list[str]:
    """Return the lines of a warm-up or decay beside the other one, which make one schedule; of other edits none.

    Args:
        edit: The edit.
        framework: ``pytorch`` or ``keras3``.
        beside: All edits of its plan.
    """
    rising = next((other.steps for other in beside if isinstance(other, e.WarmUpRate)), 0)
    if isinstance(edit, e.WarmUpRate) and any(isinstance(other, e.DecayRate) for other in beside):
        return ["# one schedule with the decay: see there"]
    if not isinstance(edit, e.DecayRate) or not rising:
        return []
    return (_pytorch_decay if framework == "pytorch" else _keras_decay)(edit, rising)


def _pytorch_decay(edit: e.DecayRate, rising: int = 0) -> list[str]:
    steps = str(edit.steps) if edit.steps else "epochs * len(train_loader)"
    done, up = "step / steps", ""
    if rising:
        done, up = f"(step - {rising}) / max(1, steps - {rising})", f"(step + 1) / {rising} if step < {rising} else "
    return [
        f"steps = {steps}",
        f"decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: {up}(",
        f"    {edit.floor:g} + {1 - edit.floor:g} * (1 + math.cos(math.pi * min(1.0, {done}))) / 2))",
        "# after each optimizer.step():  decay.step()",
    ]


def _keras_decay(edit: e.DecayRate, rising: int = 0) -> list[str]:
    steps = f"steps = {edit.steps}" if edit.steps else "steps = epochs * steps_per_epoch"
    first = ["# the rate to start with, in place of the schedule given:"] if edit.instead else []
    rate = "rate = model.optimizer.learning_rate" if edit.instead else "rate = float(model.optimizer.learning_rate)"
    made = [f"schedule = keras.optimizers.schedules.CosineDecay(float(rate), steps, alpha={edit.floor:g})"]
    if rising:
        made = [
            "schedule = keras.optimizers.schedules.CosineDecay(",
            f"    float(rate) / {rising}, max(1, steps - {rising}), alpha={edit.floor:g}, warmup_target=float(rate), "
            f"warmup_steps={rising})",
        ]
    return [*first, rate, steps, *made, _SCHEDULED]


_SCHEDULED = "model.optimizer.learning_rate = schedule"


@words.register
def _(edit: e.WarmUpRate) -> str:
    return f"learning rate raised evenly from next to nothing over the first {edit.steps} steps"


@words.register
def _(edit: e.DecayRate) -> str:
    end = f"{edit.floor:g} of itself" if edit.floor else "0"
    instead = ", in place of the schedule given" if edit.instead else ""
    return f"learning rate lowered along a cosine to {end} at the last step{instead}"


@words.register
def _(edit: e.ExtendTraining) -> str:
    return f"{edit.epochs} epochs"


@words.register
def _(edit: e.TuneAdam) -> str:
    settings = [
        *([] if edit.beta_2 is None else [f"β2 = {edit.beta_2:g}"]),
        *([] if edit.epsilon is None else [f"ε = {edit.epsilon:g}"]),
        *(["updates divided by how far gradients exceed the second moment"] if edit.clip_updates else []),
    ]
    return f"Adam: {', '.join(settings) or 'as it is'}"


@words.register
def _(edit: e.CompleteOptimizer) -> str:
    what = f"the parameters of {names(edit.layers)}" if edit.layers else "all trainable parameters"
    return f"the optimizer gets {what} that it lacks"


@pytorch_lines.register
def _(edit: e.WarmUpRate) -> list[str]:
    return [
        "warm_up = torch.optim.lr_scheduler.LinearLR(",
        f"    optimizer, start_factor=1 / {edit.steps}, total_iters={edit.steps - 1})",
        "# after each optimizer.step():  warm_up.step()",
    ]


@pytorch_lines.register
def _(edit: e.DecayRate) -> list[str]:
    return _pytorch_decay(edit)


@pytorch_lines.register
def _(edit: e.ExtendTraining) -> list[str]:
    return [f"epochs = {edit.epochs}"]


@pytorch_lines.register
def _(edit: e.TuneAdam) -> list[str]:
    text = []
    if edit.beta_2 is not None:
        text.append(f"for group in optimizer.param_groups: group['betas'] = (group['betas'][0], {edit.beta_2!r})")
    if edit.epsilon is not None:
        text.append(f"for group in optimizer.param_groups: group['eps'] = {edit.epsilon!r}")
    if edit.clip_updates:
        text += [
            "from autotrainer.backends.pytorch.layers.update_clipping import clip_updates",
            "clip_updates(optimizer)  # divides updates by the root mean square of gradient ÷ root of second moment",
        ]
    return text or ["# as it is"]


@pytorch_lines.register
def _(edit: e.CompleteOptimizer) -> list[str]:
    prefixes = tuple(f"{name}." for name in edit.layers) or ("",)
    return [
        "owned = {id(p) for group in optimizer.param_groups for p in group['params']}",
        "missing = [p for name, p in model.named_parameters()",
        f"           if p.requires_grad and id(p) not in owned and name.startswith({prefixes!r})]",
        "options = {k: v for k, v in optimizer.param_groups[0].items() if k != 'params'}",
        "if missing: optimizer.add_param_group({**options, 'params': missing})",
    ]


@keras_lines.register
def _(edit: e.WarmUpRate) -> list[str]:
    return [
        "rate = float(model.optimizer.learning_rate)",
        "schedule = keras.optimizers.schedules.CosineDecay(  # alpha 1: the rate stays where the warm-up ends",
        f"    rate / {edit.steps}, 1, alpha=1.0, warmup_target=rate, warmup_steps={edit.steps})",
        _SCHEDULED,
    ]


@keras_lines.register
def _(edit: e.DecayRate) -> list[str]:
    return _keras_decay(edit)


@keras_lines.register
def _(edit: e.ExtendTraining) -> list[str]:
    return [f"epochs = {edit.epochs}  # model.fit(..., epochs=epochs)"]


@keras_lines.register
def _(edit: e.TuneAdam) -> list[str]:
    settings = {"beta_2": edit.beta_2, "epsilon": edit.epsilon}
    text = [f"model.optimizer.{name} = {value!r}" for name, value in settings.items() if value is not None]
    if edit.clip_updates:
        text += [
            "from autotrainer.backends.keras3.layers.update_clipping import clip_updates",
            "clip_updates(model.optimizer)  # divides updates by the root mean square of gradient ÷ root of second "
            "moment",
        ]
    return text or ["# as it is"]


@keras_lines.register
def _(edit: e.CompleteOptimizer) -> list[str]:
    return ["# Keras gives the optimizer all trainable variables: in a train_step of your own, apply all gradients"]
