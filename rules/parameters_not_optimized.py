"""AT403: parameters with gradients that no optimizer changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotrainer.records.signals import LayerInfo
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import names
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.trends import last_median, recent

__all__ = ["ParametersNotOptimized"]

_MIN_SAMPLES = 5
"""Fewest sampled steps over which weights must not have changed."""

_RANDOM = frozenset({"dense", "conv", "recurrent", "embedding"})
"""Kinds of layers whose weights show whether they were ever trained."""

_MIN_PARAMETERS = 512
"""Fewest parameters of a layer that show it."""

_MANY_ZEROS = 0.5
"""Share of zeros in a gradient from which the sampled weights may have had no reason to change."""


_HOW_TO_OWN = {
    "pytorch": "Keep layers in nn.ModuleList or nn.ModuleDict, not in a plain list or dict, make them in __init__, and "
    "give the optimizer the parameters of all models.",
    "keras3": "Make weights with add_weight or keras.Variable (Keras trains no tf.Variable), make layers in __init__, "
    "not in call, and give the optimizer the variables of all models.",
}
"""What to do about parameters that the model does not have, by framework."""

_HOW_TO_UNFREEZE = {
    "pytorch": "Unfreeze what is to learn (requires_grad_(True)).",
    "keras3": "Set trainable to True before the model's first step. Keras 3 reads it then, not in compile(): the "
    "discriminator of a GAN that is frozen for the combined model is frozen in its own training, too.",
}
"""What to do about a model without trainable parameters, by framework."""

_MANY_LOSSES = 100
"""Losses without any step that are more than parts of one large batch."""


class ParametersNotOptimized(Rule):
    """Some trainable parameters have gradients, but no optimizer changes them.

    What it does
        Names the layers with parameters that are not in any parameter group of an optimizer, those that an optimizer
        owns but that do not change, those that a custom training step of Keras gives to no optimizer although they run
        in it, and frozen ones that have never been trained, above all an output layer of zeros. A model without any
        trainable parameter is reported at once.
        Also finds parameters that the outputs depend on but that the model does not have, such as those of layers in a
        plain list (PyTorch), a `tf.Variable` of a layer (Keras on TensorFlow), and layers that are made in each call.

    Why it hurts
        These layers keep their initial weights for the whole training. The rest of the model must work with their
        random outputs.

    Evidence used
        The parameter groups of the optimizers, gradient norms, and weight norms that are identical to the last bit over
        half the run while those of other layers change, or receive no gradient because of what is left out; parameters
        that another, unwatched optimizer trains do change. Then which layers these are, whether their weights still
        look like random initial values, and the outcome. Of an optimizer that has never stepped, the losses computed
        meanwhile, unless the weights have changed in another way.

    Thresholds
        ``good_score`` from which layers that may have been left out on purpose are only a fact; ``harmless`` from which
        even a forgotten layer is only a warning; ``minor``, the share of all parameters up to which they are too few to
        matter much; ``step``, the relative change that a step should make; ``schedule``, the share of the planned
        training from which the outcome of layers left out on purpose counts.

    When it is wrong
        Training a new head on a fixed pretrained network (linear probing) leaves layers out on purpose: if these are
        the first ones, whole parts or most of the model without the output layer, and were trained before, it is a fact
        as long as the rest learns. ``requires_grad_(False)`` says so explicitly and saves computing their gradients; so
        does a parameter group with a learning rate of 0. A `tf.Variable` with random values that is kept fixed on
        purpose, as for random features, is a fact as long as the model learns; ``trainable=False`` says so explicitly.

    Repairs
        The missing parameters are added to the optimizer. By hand: give the optimizer ``model.parameters()``, or add
        them with ``add_param_group``; create the optimizer after the last layer has been added to the model. A
        ``train_step`` of a Keras model that leaves weights out gives way to that of Keras.

    References
        PyTorch documentation, torch.optim; Humbatova et al., ICSE 2020; Alain and Bengio, arXiv 1610.01644 (probes).
    """

    problem = "parameters_not_optimized"
    code = "AT403"
    aliases = ("unowned_parameters", "forgotten_parameters", "optimizer_parameters", "missing_parameters")
    phrases = (
        "parameters not in optimizer",
        "optimizer does not update weights",
        "weights are not updated",
        "parameters do not update",
        "layer is not training",
    )
    needs = OUTCOME_NEEDS | frozenset(
        {"activation_std", "grad_zero_fraction", "weight_norm", "update_ratio", "learning_rate", "losses_without_step"}
        | {"outside_parameters", "outside_drawn", "weights_changed", "other_optimizer_steps"}
    )
    repairs = ("complete_optimizer", "thaw_layers", "replace_train_step")
    THRESHOLDS = thresholds(
        good_score=Threshold(0.7, "skill that is good enough", "Theta of AUTOTRAINER", maximum=1.0),
        harmless=Threshold(0.8, "skill from which the harm is small", "little is left to gain", maximum=1.0),
        minor=Threshold(0.02, "share of all trainable parameters, at most", "biases of wide layers", maximum=1.0),
        step=Threshold(
            1e-4, "learning rate × gradient norm ÷ weight norm, at least", "1000 times the precision of float32"
        ),
        schedule=Threshold(0.1, "share of the schedule before the outcome counts", "not_learning", maximum=1.0),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        losses = context.asked.get("losses_without_step", 0.0)
        otherwise = context.asked.get("weights_changed", 0.0) or context.asked.get("other_optimizer_steps", 0.0)
        if losses >= _MANY_LOSSES and history.step < 0 and not otherwise:
            message = (
                f"The optimizer has never taken a step, although the loss was computed at least {losses:.0f} times: "
                "call its step() (PyTorch) or apply_gradients() (Keras) once the gradients are computed."
            )
            return self.finding(Severity.ERROR, 0.95, message, {"losses": losses})
        layers = context.layers if len(context.layers) == len(history.layers) else history.layers
        found = self._nothing(history, context, layers) or self._closed(history, context, layers)
        found = found or self._unowned(history, context, layers)
        return found or self._outside(history, context) or self._frozen(history, context, layers)

    def _nothing(self, history: RunHistory, context: TaskContext, layers: Sequence[LayerInfo]) -> Finding | None:
        """Return a finding if no parameter of the model is trainable."""
        frozen = [row for row, layer in enumerate(layers) if layer.frozen]
        gradients = history.scalar("grad_norm")
        if not frozen or any(layer.parameters or layer.unowned for layer in layers) or (gradients > 0).any():
            return None
        if len(history.steps) < _MIN_SAMPLES or (history.layer("update_ratio") > 0).any():
            return None
        result = outcome(history, context)
        if result.learned(self.threshold("good_score")) or result.trend.falling:
            return None  # something else is trained through it: inputs, prompts, weights that are generated
        message = "No parameter of the model is trainable, so training does not change it"
        message += f"; {result.words}" if result.words else ""
        message += f". {_HOW_TO_UNFREEZE.get(context.framework, _HOW_TO_UNFREEZE['pytorch'])}"
        evidence = {"layers": float(len(frozen)), "skill": result.skill}
        return self.finding(Severity.ERROR, result.certainty, message, evidence, layers=names(history, frozen))

    def _closed(self, history: RunHistory, context: TaskContext, layers: Sequence[LayerInfo]) -> Finding | None:
        """Return a finding if the output layer is frozen with weights of zero: no gradient gets past it."""
        outputs = [row for row, layer in enumerate(layers) if not layer.hidden and layer.kind != "activation"]
        zero = [row for row in outputs if layers[row].frozen and layers[row].start == "zero"]
        norms = history.scalar("grad_norm")
        if not zero or len(zero) < len(outputs) or not len(norms) or not (norms == 0).all():
            return None
        result = outcome(history, context)
        message = (
            f"Output layer {layers[zero[0]].name} is frozen, and all its weights are zero: its outputs are the same "
            "for all inputs, and no other layer receives a gradient"
        )
        message += f"; {result.words}." if result.words else "."
        evidence = {"layers": float(len(zero)), "skill": result.skill}
        return self.finding(Severity.ERROR, result.certainty, message, evidence, layers=names(history, zero))

    def _outside(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Return a finding if the outputs depend on parameters that neither the model nor an optimizer has."""
        counts, drawn = history.scalar("outside_parameters"), history.scalar("outside_drawn")
        known, drawn = counts[np.isfinite(counts)], drawn[np.isfinite(drawn)]
        if len(known) < _MIN_SAMPLES or not known[-1] > 0 or not len(drawn):
            return None
        result = outcome(history, context)
        if drawn[-1] != 1:  # a trained network that is not to be changed
            severity, confidence = self._probing(result)
        elif result.learned(self.threshold("harmless")):  # a `tf.Variable` is trainable unless told otherwise
            severity, confidence = (Severity.INFO if context.framework == "keras3" else Severity.WARNING), 0.8
        elif not result.mature(self.threshold("schedule")):
            severity, confidence = Severity.WARNING, 0.6  # another optimizer may train them later
        else:
            severity, confidence = Severity.ERROR, result.certainty
        message = (
            f"The outputs depend on {known[-1]:.0f} trainable parameters that neither the model nor an optimizer has, "
            "and that never change"
        )
        message += f"; {result.words}" if severity is Severity.ERROR and result.words else ""
        message += f". {_HOW_TO_OWN.get(context.framework, _HOW_TO_OWN['pytorch'])}"
        return self.finding(severity, confidence, message, {"parameters": float(known[-1]), "skill": result.skill})

    def _frozen(self, history: RunHistory, context: TaskContext, layers: Sequence[LayerInfo]) -> Finding | None:
        """Return a finding if hidden layers are frozen although their weights are those of an initializer."""
        rows = [row for row, layer in enumerate(layers) if layer.frozen and layer.hidden and layer.start == "drawn"]
        result = outcome(history, context)
        if not rows or not (result.known or history.finished) or not _gradients_arrive(history):
            return None
        severity, confidence = self._probing(result)
        if severity is Severity.INFO:
            return None
        affected = names(history, rows)
        which = _listed(affected)
        words = f"; {result.words}" if result.words else ""
        message = f"Frozen layers ({which}) still have random initial values, so they are never trained{words}."
        message += " Unfreeze them (requires_grad, trainable) if this is not on purpose."
        evidence = {"layers": float(len(rows)), "skill": result.skill}
        return self.finding(severity, confidence, message, evidence, layers=affected)

    def _unowned(self, history: RunHistory, context: TaskContext, layers: Sequence[LayerInfo]) -> Finding | None:
        window = recent(history.steps, 0.5, _MIN_SAMPLES)
        weights = history.layer("weight_norm")[window]
        if len(weights) < _MIN_SAMPLES:
            return None
        measured = np.isfinite(weights).all(axis=0)
        unchanged = measured & (weights == weights[0]).all(axis=0)
        suspects = [row for row, layer in enumerate(layers) if unchanged[row] or layer.unowned]
        gradients = last_median(history.layer("grad_norm"))
        owned = [row for row, layer in enumerate(layers) if layer.parameters > layer.unowned and not layer.frozen]
        # without a trainable parameter in the optimizer, or behind the layers that are left out, nothing else changes
        cut_off = not owned or bool((gradients[owned] == 0).all())
        if not suspects or not ((measured & ~unchanged).any() or cut_off):
            return None
        # Keras computes the gradients of those variables alone that a step asks for: of layers that run, none is known.
        ran = np.isfinite(history.layer("activation_std")[window]).all(axis=0)
        left_out = context.framework == "keras3" and np.isnan(gradients) & unchanged & ran
        graded = ((gradients > 0) | left_out)[suspects]
        suspects = [row for row, has_gradient in zip(suspects, graded, strict=True) if has_gradient]
        unowned = [row for row in suspects if layers[row].unowned and (unchanged[row] or _partial(layers[row]))]
        idle = [row for row in suspects if not layers[row].unowned and self._idle(history, layers[row], row, window)]
        rows = sorted(unowned + idle)
        if not rows:
            return None
        if not idle and not (gradients[rows] > 0).any():
            return self._left_out(history, layers, rows, outcome(history, context))
        return self._judge(history, context, layers, rows, bool(idle))

    def _left_out(
        self, history: RunHistory, layers: Sequence[LayerInfo], rows: list[int], result: Outcome
    ) -> Finding | None:
        """Return a finding on layers that a custom training step never gives to an optimizer."""
        count = sum(layers[row].unowned for row in rows)
        total = max(1, sum(max(layer.parameters, layer.unowned) for layer in layers))
        severity, confidence = self._probing(result)
        if any(layers[row].origin == "trained" for row in rows):
            severity = Severity.INFO  # a network that is not to be changed, such as a teacher
        affected = names(history, rows)
        message = (
            f"{count} of {total} trainable parameters, in {_listed(affected)}, never change: the training step gives "
            "their gradients to no optimizer"
        )
        message += f"; {result.words}" if severity is Severity.ERROR and result.words else ""
        evidence = {"parameters": float(count), "share": count / total, "layers": float(len(rows))}
        return self.finding(severity, confidence, message + ".", evidence, layers=affected)

    def _idle(self, history: RunHistory, layer: LayerInfo, row: int, window: slice) -> bool:
        """Return whether weights that an optimizer owns should have changed but did not."""
        if not layer.parameters or layer.frozen or layer.kind == "embedding":
            return False
        gradients, weights = history.layer("grad_norm")[:, row], history.layer("weight_norm")[:, row]
        with np.errstate(all="ignore"):
            steps = history.scalar("learning_rate") * gradients / weights
        zeros = last_median(history.layer("grad_zero_fraction")[:, [row]])[0]
        due = last_median(steps[:, None])[0] >= self.threshold("step") and zeros < _MANY_ZEROS
        return bool(due and (history.layer("update_ratio")[window, row] == 0).all())

    def _judge(
        self, history: RunHistory, context: TaskContext, layers: Sequence[LayerInfo], rows: list[int], idle: bool
    ) -> Finding:
        count = sum(layers[row].unowned or layers[row].parameters for row in rows)
        total = max(1, sum(max(layer.parameters, layer.unowned) for layer in layers))
        result = outcome(history, context)
        partial = any(_partial(layers[row]) for row in rows)
        weighted = [
            layers[row] for row in rows if layers[row].kind in _RANDOM and layers[row].unowned >= _MIN_PARAMETERS
        ]
        fresh = bool(weighted) and all(layer.start == "drawn" for layer in weighted)
        minor = count <= self.threshold("minor") * total or all(layers[row].kind == "norm" for row in rows)
        trained = bool(weighted) and not any(layer.start == "drawn" for layer in weighted) and count > total / 2
        on_purpose = all(layers[row].hidden for row in rows) and (trained or _whole_parts(layers, rows))
        if on_purpose and not (idle or partial or fresh):
            severity, confidence = self._probing(result)
        elif minor or result.learned(self.threshold("harmless")):
            severity, confidence = Severity.WARNING, 0.9
        else:
            severity, confidence = Severity.ERROR, result.certainty  # a fact, however long the run
        affected = names(history, rows)
        which = _listed(affected)
        why = "no optimizer changes them" if idle else "they are not in any parameter group of an optimizer"
        why += ", and still have their random initial values" if fresh and not idle else ""
        message = f"{count} of {total} trainable parameters, in {which}, have gradients but never change: {why}"
        if severity is Severity.ERROR and result.words:
            message += f"; {result.words}"
        evidence = {"parameters": float(count), "share": count / total, "layers": float(len(rows))}
        return self.finding(severity, confidence, message + ".", evidence, layers=affected)

    def _probing(self, result: Outcome) -> tuple[Severity, float]:
        """Judge layers that may have been left out on purpose by how well the rest learns."""
        if result.learned(self.threshold("good_score")) or not result.mature(self.threshold("schedule")):
            return Severity.INFO, 0.5
        if not result.known:
            return (Severity.INFO, 0.5) if result.trend.falling else (Severity.WARNING, 0.5)
        if result.moving(0.2):
            return Severity.WARNING, 0.6
        return (result.worst, 0.8) if not result.learned(0.5) else (Severity.WARNING, 0.6)


def _gradients_arrive(history: RunHistory) -> bool:
    """Return whether any gradient was not zero: else unfreezing layers would not help."""
    norms = history.scalar("grad_norm")
    norms = norms[np.isfinite(norms)]
    return not norms.size or bool(norms.any())


def _listed(affected: Sequence[str]) -> str:
    """Return the first three names of layers, and how many more there are."""
    return ", ".join(affected[:3]) + (f" and {len(affected) - 3} more" if len(affected) > 3 else "")


def _partial(layer: LayerInfo) -> bool:
    return 0 < layer.unowned < layer.parameters


def _whole_parts(layers: Sequence[LayerInfo], rows: list[int]) -> bool:
    """Return whether the layers are the first ones, or whole parts of the model."""
    left = set(rows)
    owning = [row for row, layer in enumerate(layers) if layer.parameters or layer.unowned]
    weighted = [row for row in owning if layers[row].kind != "norm"]
    if not any(row in left for row in weighted):
        return False
    count = sum(row in left for row in weighted)
    if all(row in left for row in weighted[:count]):
        return True
    parts: dict[str, list[int]] = {}
    for row in owning:
        parts.setdefault(layers[row].name.split(".")[0], []).append(row)
    inside = [part for part in parts.values() if left & set(part)]
    return all(len(part) > 1 and set(part) <= left for part in inside)
