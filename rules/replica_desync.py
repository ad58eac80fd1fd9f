"""AT901: processes that should train one model together, but train separate ones."""

from __future__ import annotations

import math

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds

__all__ = ["ReplicaDesync"]

_MIN_STEPS = 3
"""Fewest steps that all processes have measured."""


class ReplicaDesync(Rule):
    """Processes that train one model have different weights, or get the same samples.

    What it does
        Compares the run logs that the processes of a data-parallel training have written: each one watches with a
        ``log_dir``, and ``autotrainer replay LOG --replica LOG`` (``replay(log, replicas=[…])``) compares them.

    Why it hurts
        Replicas whose gradients are not averaged are several models, each trained on part of the data, of which one is
        kept. Replicas that get the same samples do the same work several times.

    Evidence used
        Norms of all layers' weights at the last step that all processes have measured: equal where weights are equal.
        Range and spread of inputs and targets at all such steps, with at least eight different batches: bitwise equal
        where batches are. The processes exchange nothing while they train.

    Thresholds
        ``gap``: relative difference of a norm from which weights differ. It is an error where half of the layers
        differ, else a warning.

    When it is wrong
        Parameters that belong to one process by design: sharded models (FSDP, tensor and pipeline parallelism), and the
        experts of a mixture; trainings that average weights now and then. Each process chooses which steps it measures,
        always including the first ten, so that what begins later may be detected late. Buffers are not compared.

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
        facts = {name: value for name, value in context.asked.items() if name.startswith("replica")}
        count, steps = facts.get("replicas", 0.0), facts.get("replica_steps", 0.0)
        if count < 2 or steps < _MIN_STEPS:
            return None
        gap, worst = facts.get("replica_gap", math.nan), facts.get("replica_worst_gap", math.nan)
        row = int(facts.get("replica_layer", 0.0))
        layers = (history.layers[row].name,) if 0 <= row < len(history.layers) else ()
        if gap >= self.threshold("gap") or worst >= self.threshold("gap"):
            most = f", most in layer {layers[0]} (by {worst:.2g} of its norm)" if layers else ""
            if gap >= self.threshold("gap"):
                message = f"The weights of the {count:.0f} processes differ{most}: each trains a separate model."
                return self.finding(Severity.ERROR, 0.9, message, facts, layers=layers)
            message = f"Some weights of the {count:.0f} processes differ{most}: they are not kept in sync."
            return self.finding(Severity.WARNING, 0.7, message, facts, layers=layers)
        twins = facts.get("replica_twins", 0.0)
        if twins > 0:
            message = (
                f"Processes repeat each other's work: {twins * (count - 1):.0f} of {count - 1:.0f} other processes had "
                f"the same batches as this one in each of {steps:.0f} steps."
            )
            return self.finding(Severity.WARNING, 0.8, message, facts)
        return None
