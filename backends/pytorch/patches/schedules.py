"""Lines of PyTorch code for edits of the learning-rate schedule, of length, of Adam and of what an optimizer owns."""

from __future__ import annotations

from collections.abc import Sequence

from autotrainer import edits as e
from autotrainer.adapter.patch_code import literal, warm_up_steps
from autotrainer.backends.pytorch.patches.base import patch_lines
from autotrainer.edits import Edit


def combined_lines(edit: Edit, edits: Sequence[Edit]) -> list[str]:
    """Return the lines of a warm-up or decay in a plan that has both, which make one schedule; of other edits none."""
    if isinstance(edit, e.WarmUpRate) and any(isinstance(other, e.DecayRate) for other in edits):
        return ["# combined with the decay into one schedule: see below"]
    steps = warm_up_steps(edits)
    return _decay(edit, steps) if isinstance(edit, e.DecayRate) and steps else []


def _decay(edit: e.DecayRate, warm_up: int = 0) -> list[str]:
    steps = str(edit.steps) if edit.steps else "epochs * len(train_loader)"
    done, up = "step / steps", ""
    if warm_up:
        done, up = (
            f"(step - {warm_up}) / max(1, steps - {warm_up})",
            f"(step + 1) / {warm_up} if step < {warm_up} else ",
        )
    return [
        f"steps = {steps}",
        f"decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: {up}(",
        f"    {edit.floor:g} + {1 - edit.floor:g} * (1 + math.cos(math.pi * min(1.0, {done}))) / 2))",
        "# after each optimizer.step():  decay.step()",
    ]


@patch_lines.register
def _(edit: e.WarmUpRate) -> list[str]:
    return [
        "warm_up = torch.optim.lr_scheduler.LinearLR(",
        f"    optimizer, start_factor=1 / {edit.steps}, total_iters={edit.steps - 1})",
        "# after each optimizer.step():  warm_up.step()",
    ]


@patch_lines.register
def _(edit: e.DecayRate) -> list[str]:
    return _decay(edit)


@patch_lines.register
def _(edit: e.ExtendTraining) -> list[str]:
    return [f"epochs = {edit.epochs}"]


@patch_lines.register
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
    return text or ["# no change"]


@patch_lines.register
def _(edit: e.CompleteOptimizer) -> list[str]:
    prefixes = tuple(f"{name}." for name in edit.layers) or ("",)
    return [
        "owned = {id(p) for group in optimizer.param_groups for p in group['params']}",
        "missing = [p for name, p in model.named_parameters()",
        f"           if p.requires_grad and id(p) not in owned and name.startswith({literal(prefixes)})]",
        "options = {k: v for k, v in optimizer.param_groups[0].items() if k != 'params'}",
        "if missing: optimizer.add_param_group({**options, 'params': missing})",
    ]
