"""The profile of a model: what one forward pass on a few samples shows of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from autotrainer.backends.pytorch.data.batches import Batches
from autotrainer.backends.pytorch.data.examples import Examples
from autotrainer.backends.pytorch.model.describe import names_checkpoint, optimizer_info
from autotrainer.backends.pytorch.model.dropout import largest_dropout_rate
from autotrainer.backends.pytorch.model.loss_kinds import fitted_loss_info, is_plain
from autotrainer.backends.pytorch.model.operations import count_operations
from autotrainer.backends.pytorch.runtime.tensors import first_tensor
from autotrainer.backends.pytorch.surgery.activation_graph import ActivationGraph, ActivationTracer
from autotrainer.backends.pytorch.training.loss_direction import is_of_distance
from autotrainer.records.task import TaskContext

__all__ = ["ModelProfile", "profile_model"]


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """What one forward pass of a model on the examples shows.

    Attributes:
        activation_graph: Its activations.
        operations: Operations of one sample.
        output: The primary output, detached; None if the user's ``step`` hides it.
        single_output: Whether that is all that the model returns.
        input_kind: ``values``, or ``index`` without floating-point inputs.
        dropout: Its largest dropout rate.
        checkpoint: Whether its configuration names a checkpoint that it belongs to.
    """

    activation_graph: ActivationGraph
    operations: float
    output: Tensor | None
    single_output: bool
    input_kind: str
    dropout: float
    checkpoint: bool

    def context(
        self, optimizer: Optimizer, loss: nn.Module | None, epochs: int, train: Batches, targets: Any
    ) -> TaskContext:
        """Return the context of a managed training of the model; ``targets`` are those of the examples."""
        info = fitted_loss_info(loss, self.output, targets)
        units = rank = None
        if self.output is not None:
            units = int(self.output.shape[info.class_axis]) if self.output.ndim > 1 else 1
            if info.family == "custom" and units == 1:
                info = replace(info, of_distance=is_of_distance(loss))
            rank = self.output.ndim if self.single_output and is_plain(loss) else None
        return TaskContext(
            framework="pytorch",
            engine="pytorch",
            loss=info,
            optimizer=optimizer_info(optimizer),
            layers=self.activation_graph.layers,
            output_activation=self.activation_graph.output,
            output_units=units,
            output_rank=rank,
            input_kind=self.input_kind,
            dropout=self.dropout,
            checkpoint=self.checkpoint,
            planned_epochs=epochs,
            planned_steps=None if train.steps is None else epochs * train.steps,
            train_rows=train.rows,
            batch_size=train.size,
            managed=True,
        )


def profile_model(model: nn.Module, examples: Examples) -> ModelProfile:
    """Run a model once on the examples, undisturbed."""
    tracer = ActivationTracer(model)
    outputs: list[Any] = []
    graphs: list[ActivationGraph] = []

    def forward() -> None:
        graphs.append(tracer.trace(lambda: outputs.append(examples.forward(model))))

    operations = count_operations(model, forward, examples.batch.rows)
    output = first_tensor(outputs[0], floating=True)
    inputs = examples.batch.raw if examples.batch.inputs is None else examples.batch.inputs
    input_kind = "values" if first_tensor(inputs, floating=True) is not None else "index"
    detached = None if output is None else output.detach()
    return ModelProfile(
        graphs[0],
        operations,
        detached,
        output is outputs[0],
        input_kind,
        largest_dropout_rate(model),
        names_checkpoint(model),
    )
