"""AT901: processes that should train one model together, but train separate ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds

__all__ = ["ReplicaDesync"]

_MIN_STEPS = 3
"""Fewest steps that all processes have measured."""


class ReplicaDesync(Rule):
    """Processes that train one model have different weights, or get the same samples.

    What it does
        Compares the processes of a training while they train, if all of them are watched (PyTorch). Of processes that
        were watched one by one, it compares the run logs: each one watches with a ``log_dir``, and
        ``autotrainer replay LOG --replica LOG`` (``replay(log, replicas=[…])``) reads them.

    Why it hurts
        Replicas whose gradients are not averaged are several models, each trained on part of the data, of which one is
        kept. Replicas that get the same samples do the same work several times.

    Evidence used
        Norms of all layers' weights at the last step that all processes have measured: equal where weights are equal.
        Range and spread of inputs and targets at all such steps, with at least eight different batches, or, while they
        train, a checksum of some rows: bitwise equal where batches are. While they train, also the norm of the
        gradients of each process; its loss, and the root mean square of its inputs, in each of eight consecutive
        sampled steps. With three processes or more, the one that differs from all others is named by its rank.

    Thresholds
        ``gap``: relative difference of a norm from which weights differ. It is an error where half of the layers
        differ, else a warning. Inputs or losses of a process differ from twice the largest of the others on, or from
        half of the smallest down.

    When it is wrong
        Parameters that belong to one process by design: sharded models (FSDP, tensor and pipeline parallelism), and the
        experts of a mixture: distributed tensors are recognized, others only if their shapes differ. Trainings that
        average weights now and then. Data that is split by source or difficulty may differ between processes by design.
        Processes that are watched one by one choose their steps themselves, so that what begins later may be detected
        late. Buffers are not compared.

    Repairs
        Advice only: wrap the model in DistributedDataParallel before the first step, and call the wrapper, not the
        model inside; step only outside of ``no_sync``; give the loader a DistributedSampler, and call its
        ``set_epoch``.

    References
        Jiang et al., Training with Confidence: Catching Silent Errors in Deep Learning Training with Automated
        Proactive Checks (TrainCheck), OSDI 2025; PyTorch documentation, DistributedDataParallel.
    """

    problem = "replica_desync"
    code = "AT901"
    aliases = ("desync", "ddp", "distributed", "ddp_desync", "distributed_sampler", "unsynchronized_gradients")
    phrases = (
        "gradients not synchronized",
        "weights differ between gpus",
        "each gpu trains its own model",
        "all gpus get the same data",
        "ddp ranks out of sync",
    )
    needs = frozenset(
        {
            "replicas",
            "replica_steps",
            "replica_gap",
            "replica_worst_gap",
            "replica_layer",
            "replica_twins",
            "replica_rank",
            "replica_ratio",
            "replica_gradient_rank",
            "replica_gradient_ratio",
            "twin_pairs",
            "twin_rank",
            "twin_of",
            "odd_input_scale_rank",
            "odd_input_scale_ratio",
            "odd_loss_rank",
            "odd_loss_ratio",
            "weight_norm",
            "input_max_abs",
            "target_min",
            "target_max",
            "target_spread",
            "class_entropy",
        }
    )
    place = "step"
    THRESHOLDS = thresholds(
        gap=Threshold(1e-5, "relative difference of weight norms", "100 times the rounding of float32")
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        facts = {name: value for name, value in context.asked.items() if name.startswith(("replica", "twin", "odd"))}
        count, steps = facts.get("replicas", 0.0), facts.get("replica_steps", 0.0)
        if count < 2 or steps < _MIN_STEPS:
            return None
        gap, worst = facts.get("replica_gap", math.nan), facts.get("replica_worst_gap", math.nan)
        row = int(facts.get("replica_layer", 0.0))
        layers = (history.layers[row].name,) if 0 <= row < len(history.layers) else ()
        if gap >= self.threshold("gap") or worst >= self.threshold("gap"):
            most = f", most in layer {layers[0]} (by {worst:.2g} of its norm)" if layers else ""
            most += _odd_rank(facts)
            if gap >= self.threshold("gap"):
                message = f"The weights of the {count:.0f} processes differ{most}: each trains a separate model."
                return self.finding(Severity.ERROR, 0.9, message, facts, layers=layers)
            message = f"Some weights of the {count:.0f} processes differ{most}: they are not kept in sync."
            return self.finding(Severity.WARNING, 0.7, message, facts, layers=layers)
        pairs, twins = facts.get("twin_pairs", 0.0), facts.get("replica_twins", 0.0)
        if pairs > 0:
            more = f", as did {pairs - 1:.0f} more pairs of {count:.0f} ranks" if pairs > 1 else ""
            message = (
                f"Processes repeat each other's work: ranks {facts['twin_rank']:.0f} and {facts['twin_of']:.0f} had "
                f"the same batches in each of {steps:.0f} sampled steps{more}."
            )
            return self.finding(Severity.WARNING, 0.8, message, facts)
        if twins > 0:
            message = (
                f"Processes repeat each other's work: {twins * (count - 1):.0f} of {count - 1:.0f} other processes had "
                f"the same batches as this one in each of {steps:.0f} steps."
            )
            return self.finding(Severity.WARNING, 0.8, message, facts)
        for name, what in (("odd_input_scale", "the root mean square of its inputs"), ("odd_loss", "its loss")):
            if f"{name}_rank" in facts:
                message = (
                    f"Rank {facts[f'{name}_rank']:.0f} trains on other data: {what} is "
                    f"{facts[f'{name}_ratio']:.3g} times that of the other ranks, in each of the latest sampled steps."
                )
                return self.finding(Severity.WARNING, 0.6, message, facts)
        return None


def _odd_rank(facts: Mapping[str, float]) -> str:
    """Return which rank differs from all others, if it is one, in words."""
    if "replica_rank" in facts:
        gradient = facts.get("replica_gradient_ratio")
        same = facts.get("replica_gradient_rank") == facts["replica_rank"]
        norm = f", whose gradients have {gradient:.3g} times their norm" if gradient is not None and same else ""
        return f"; it is rank {facts['replica_rank']:.0f} that differs from all others{norm}"
    if "replica_gradient_rank" in facts:
        ratio = facts["replica_gradient_ratio"]
        rank = facts["replica_gradient_rank"]
        return f"; the gradients of rank {rank:.0f} have {ratio:.3g} times the norm of the others"
    return ""
