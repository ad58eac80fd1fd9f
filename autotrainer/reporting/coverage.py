"""Says what of a run could not be observed, and the likely reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotrainer.records.facts import NOT_PROBED, PROBES, STATISTICS
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext
from autotrainer.reporting.text import FAILED

__all__ = ["of_ranks", "unmeasured", "unobserved"]

_KERAS = "keras"


def unmeasured(history: RunHistory, context: TaskContext) -> tuple[str, ...]:
    """Return the names of what was never measured in a run, and why if that is known.

    Args:
        history: The measurements.
        context: The training's model, loss and optimizer, and the facts about it.
    """
    if "led_by" in context.asked:  # another process measures for this one
        return ()
    measured = {"loss": history.losses[1], "gradients": history.scalar("grad_norm")}
    names = [name for name, values in measured.items() if np.isnan(values).all()]
    names += ["targets"] if not history.targets.count else []
    names += ["activations of compiled layers"] if context.asked.get("compiled_layers") else []
    failed = _failures(context, "failed_statistics", STATISTICS)
    names = [name for name in names if name not in failed] + [f"{name}{FAILED}" for name in failed]
    return (*names, *_unprobed(context))


def unobserved(history: RunHistory, context: TaskContext) -> tuple[str, ...]:
    """Return a sentence for each of step, loss and gradient that was not observed in a watched run, or not to its end.

    Args:
        history: The measurements.
        context: The training's model, loss and optimizer.
    """
    if context.managed or context.framework == "unknown":
        return ()
    if history.step < 0:
        return (_without_step(context),)
    if not len(history.steps) and context.asked.get("first_sample_waits"):
        return (
            f"No step was measured, only losses: the model has {len(context.layers):,} layers, and measuring all of "
            "them once takes longer than watching may take in a training so short. Train for longer, or allow more: "
            "watch(..., overhead=0.5).",
        )
    if not len(history.steps) or context.framework.startswith(_KERAS):  # which shows all that it trains by
        return ()
    sentences = []
    later = context.asked.get("later_steps", 0.0)
    if later:
        sentences.append(
            f"After step {history.step} of the optimizer that was passed to watch, later ones of the same parameters "
            f"took {later:.0f} step{'s' if later > 1 else ''}, which were not observed: create the optimizer once, or "
            "call watch again with the new one."
        )
    if np.isnan(history.losses[1]).all() and not context.asked.get("inner_stage"):
        sentences.append(_without_loss(context))
    if np.isnan(history.scalar("grad_norm")).all():
        sentences.append(_without_gradient(history))
    return tuple(sentences)


def of_ranks(context: TaskContext) -> tuple[str, ...]:
    """Return sentences on how a training of several processes, its ranks, was watched, where that is not as one."""
    asked = context.asked
    sentences = []
    if "led_by" in asked:
        return (f"This process is watched together with the others: rank {asked['led_by']:.0f} reports for all.",)
    if "late_group" in asked:
        sentences.append(
            f"The {asked['ranks']:.0f} processes of this training connected after watch was called, so that rank "
            f"{asked['rank']:.0f} measures alone, and nothing is known of the others: call watch after "
            "init_process_group."
        )
    if "watched_ranks" in asked:
        first = asked.get("unwatched_rank")
        which = "" if first is None else f"; rank {first:.0f} is not"
        shards = "; of sharded layers, it measures its own shard" if asked.get("sharded") else ""
        sentences.append(
            f"Not all {asked['ranks']:.0f} processes of this training are watched{which}. So rank {asked['rank']:.0f} "
            f"measures alone{shards}, and nothing is known of the others: call watch in every process."
        )
    if "parted_at" in asked:
        sentences.append(
            f"Since step {asked['parted_at']:.0f} the processes were no longer measured together, as one of them had "
            "ended, failed or taken other steps; what follows is measured in one process."
        )
    if asked.get("stages", 0) > 1:
        what = "one that computes no loss" if asked.get("inner_stage") else "the one that computes the loss"
        sentences.append(
            f"The processes train {asked['stages']:.0f} different models, as the stages of a pipeline are; this is "
            f"{what}."
        )
    return tuple(sentences)


def _without_step(context: TaskContext) -> str:
    if context.framework.startswith(_KERAS):
        return "No training step was observed: the model was not trained while it was watched."
    others = context.asked.get("other_optimizer_steps", 0.0)
    begin = "No step of the optimizer was observed"
    if others:
        times = "once" if others == 1 else f"{others:.0f} times"
        return (
            f"{begin}, but another optimizer of the same parameters has stepped {times}: pass the one that is stepped "
            "(in Lightning, the one that configure_optimizers returned last), or use the callback of the library in "
            "autotrainer.integrations."
        )
    if context.asked.get("weights_changed"):
        return (
            f"{begin}, although the weights have changed: the loop changes them itself, or by another optimizer. Call "
            "step() of the optimizer that is passed to watch to have the training watched."
        )
    if context.asked.get("calls_without_step"):
        return (
            f"{begin}, although the model was called with gradients: optimizer.step() is not called, or the optimizer "
            "that is stepped is not the one passed to watch."
        )
    if context.asked.get("transformed_calls"):
        return (
            f"{begin}: the model is called within a transform of torch.func, and its weights are changed in another "
            "way. Assign the gradients to p.grad and call optimizer.step() to have the training watched."
        )
    return (
        f"{begin}, nor a call of the model: what was trained, if anything, is a copy of the model passed to watch, or "
        "was trained in another process."
    )


def _without_gradient(history: RunHistory) -> str:
    if (history.layer("update_ratio") > 0).any():
        return (
            "No gradient was observed: the weights change, but no parameter has its gradient in .grad when the "
            "optimizer steps, as with torch.func. Assign it before optimizer.step() to have gradients watched."
        )
    return (
        "No gradient was observed: at the sampled steps, no parameter had one. backward() is not called before the "
        "optimizer's step, or does not reach the parameters of the optimizer."
    )


def _without_loss(context: TaskContext) -> str:
    if context.asked.get("transformed_calls"):
        return (
            "No loss was observed, as the model is called within a transform of torch.func: call "
            "monitor.log(loss=loss) in each step."
        )
    if not context.loss.own:
        return (
            f"No loss was observed: the loss passed to watch ({context.loss.name}) was not called where watching sees "
            "it. Pass the one that the loop calls, call monitor.log(loss=loss) in each step, or pass none if the model "
            "computes its loss itself."
        )
    if context.optimizer.several:
        return (
            "No loss was taken for that of the training, as the losses of several optimizers may work against each "
            "other: if one measures progress, call monitor.log(loss=loss) in each step."
        )
    return "No loss was observed: pass loss_fn= if the loss is a module, or call monitor.log(loss=loss) in each step."


def _unprobed(context: TaskContext) -> list[str]:
    """Return what probes could not tell, and why."""
    reason = context.asked.get("not_probed", 0.0)
    if reason in range(1, len(NOT_PROBED)):
        return [f"probes ({NOT_PROBED[int(reason)]})"]
    return [f"probe of {name.replace('_', ' ')}" for name in _failures(context, "failed_probes", PROBES)]


def _failures(context: TaskContext, fact: str, names: Sequence[str]) -> list[str]:
    """Return the names whose bits are set in a fact."""
    value = context.asked.get(fact, 0.0)
    bits = int(value) if value in range(1 << len(names)) else 0
    return [name for i, name in enumerate(names) if bits >> i & 1]
