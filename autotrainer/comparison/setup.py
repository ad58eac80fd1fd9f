"""What differs between two runs apart from their measurements: model, loss, optimizer, data and length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from autotrainer.comparison.compared_run import ComparedRun
from autotrainer.comparison.layer_matching import same_shape
from autotrainer.records.signals import LayerInfo
from autotrainer.reporting.text import count, number

__all__ = ["setup_differences"]

_ROUNDING = 1e-6
_MAX_LAYERS = 5


def setup_differences(baseline: ComparedRun, run: ComparedRun, matches: Mapping[int, int]) -> tuple[str, ...]:
    """Return the differences in words, from the baseline's value to the run's.

    Args:
        baseline: A run of the baseline.
        run: The run.
        matches: Index of the baseline's layer by index of the run's.
    """
    old, new = (dict(_facts(side)) for side in (baseline, run))
    lines = [
        f"{name}: {_text(old[name])} → {_text(value)}"
        for name, value in new.items()
        if name in old and _differ(old[name], value)
    ]
    return (*lines, *_layer_lines(baseline.context.layers, run.context.layers, matches))


def _facts(run: ComparedRun) -> Iterator[tuple[str, Any]]:
    context, history = run.context, run.history
    yield "framework", context.framework
    if context.framework != context.engine:
        yield "engine", context.engine
    for name in ("name", "learning_rate", "momentum", "weight_decay", "scheduled"):
        yield f"optimizer {name.replace('_', ' ')}".removesuffix(" name"), getattr(context.optimizer, name)
    for name in ("name", "reduction", "weighted", "smoothed"):
        yield f"loss {name}".removesuffix(" name"), getattr(context.loss, name)
    sizes = history.scalar("batch_size")
    yield "batch size", float(sizes[0]) if len(sizes) else context.batch_size
    yield "training rows", context.train_rows
    yield "planned epochs", context.planned_epochs
    yield "largest dropout rate", context.dropout
    yield "output activation", context.output_activation
    yield "steps", history.step + 1
    yield "parameters", sum(layer.parameters for layer in context.layers)


def _layer_lines(old: tuple[LayerInfo, ...], new: tuple[LayerInfo, ...], matches: Mapping[int, int]) -> Iterator[str]:
    added = [layer.name for i, layer in enumerate(new) if i not in matches]
    removed = [layer.name for i, layer in enumerate(old) if i not in set(matches.values())]
    for verb, names in (("added", added), ("removed", removed)):
        if names:
            yield f"{count(len(names), 'layer')} {verb}: {_listed(names)}"
    for i, j in matches.items():
        before, after = old[j], new[i]
        if before.frozen != after.frozen:
            yield f"layer {after.name}: {'frozen' if after.frozen else 'no longer frozen'}"
        elif not same_shape(before, after):
            yield f"layer {after.name}: {before.parameters:,} → {count(after.parameters, 'parameter')}"
        if before.activation != after.activation and None not in (before.activation, after.activation):
            yield f"layer {after.name}: activation {before.activation} → {after.activation}"
        if before.start != after.start:
            yield f"layer {after.name}: initial weights {before.start or 'usual'} → {after.start or 'usual'}"
        if before.unowned != after.unowned:
            yield f"layer {after.name}: parameters without an optimizer: {before.unowned:,} → {after.unowned:,}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_LAYERS} more" if len(names) > _MAX_LAYERS else ""
    return ", ".join(names[:_MAX_LAYERS]) + more


def _differ(old: Any, new: Any) -> bool:
    if isinstance(old, float) and isinstance(new, float):
        return not (math.isclose(old, new, rel_tol=_ROUNDING) or (math.isnan(old) and math.isnan(new)))
    return bool(old != new)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "unknown"
    return number(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
