"""Fine-tunes transformers in PyTorch, or trains them from scratch, in a loop as people write it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.cases.case import Program
from benchmarks.cases.scoring import score
from benchmarks.data.datasets import Arrays
from benchmarks.data.tokens import IGNORED
from benchmarks.programs.pytorch_transformer import Transformer, set_weights, weights_of
from benchmarks.programs.transformer_training import beginnings, last_scores, rate_factor, training_targets
from benchmarks.programs.transformer_weights import edited, is_part, matching, pretrained

__all__ = ["build", "train_transformer"]

Make = Callable[[Program, Any], torch.optim.Optimizer]


def build(program: Program, seed: int) -> Transformer:
    """Return the network of a program with the weights that its training starts from."""
    spec = program.layers[0]
    model = Transformer(spec)
    weights = weights_of(model)
    if spec.get("pretrained") and not spec.get("wrong", {}).get("not_loaded"):
        weights |= matching(pretrained(str(spec["pretrained"])), {name: w.shape for name, w in weights.items()})
    set_weights(model, edited(weights, spec.get("edits", ()), seed))
    for name, parameter in model.named_parameters():
        if any(is_part(name, frozen) for frozen in spec.get("frozen", ())):
            parameter.requires_grad_(False)
    return model


def predict(model: nn.Module, x: Tensor, *, decodes: bool) -> NDArray[Any]:
    """Return scores in evaluation mode; those of a decoder from the tokens before each, as when it writes."""
    model.eval()
    with torch.no_grad():
        outputs: NDArray[Any] = model(torch.from_numpy(beginnings(x.numpy())) if decodes else x).numpy()
    return last_scores(outputs, len(x)) if decodes else outputs


def train_transformer(program: Program, data: Arrays, make: Make, watch: Callable[..., Any]) -> tuple[float, Any]:
    """Train a program whose only layer is a ``transformer``; return the test score and the monitor.

    Each batch may be split in as many parts as ``accumulate`` says, whose gradients are added up.
    """
    spec, loop = program.layers[0], program.loop
    wrong, decodes = spec.get("wrong", {}), spec["form"] == "decoder"
    model = build(program, int(torch.initial_seed()))
    optimizer = make(program, list(_groups(program, model)))
    x_train, y_train = (torch.from_numpy(a) for a in (data.x_train, training_targets(program, data)))
    x_test, y_test = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    parts = int(spec.get("accumulate", 1))
    rows = torch.utils.data.TensorDataset(x_train, y_train)
    loader = torch.utils.data.DataLoader(rows, program.batch_size // parts, shuffle=True, drop_last=parts > 1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_factor(step, program.epochs * len(loader) // parts, program.optimizer)
    )
    loss_fn: nn.Module = nn.CrossEntropyLoss(ignore_index=IGNORED)
    functional, reports = "loss_call" in loop, "reporting" not in loop
    options = {"epochs": program.epochs} if reports else {}
    done = 0
    with watch(model, optimizer, loss_fn=None if functional else loss_fn, **options) as monitor:
        for _ in range(program.epochs):
            model.train()
            for x, y in loader:
                outputs, targets = model(x), y.flatten()
                flat = outputs.flatten(0, -2)
                loss = loss_fn.forward(flat, targets) if functional else loss_fn(flat, targets)
                (loss if wrong.get("accumulation") == "summed" else loss / parts).backward()
                done += 1
                if done % parts:
                    continue
                if "clip_norm" in program.optimizer:
                    nn.utils.clip_grad_norm_(model.parameters(), program.optimizer["clip_norm"])
                optimizer.step()
                if functional:
                    monitor.log(loss=loss)
                for _ in range(int(wrong.get("scheduler_steps", 1))):
                    scheduler.step()
                optimizer.zero_grad()
            with torch.no_grad():
                outputs = model.eval()(x_test)
                val_loss = loss_fn.forward(outputs.flatten(0, -2), y_test.flatten())
                counted = y_test != IGNORED
                accuracy = (outputs.argmax(-1) == y_test)[counted].float().mean()
            if reports:
                monitor.end_epoch(val_loss=val_loss.item(), val_accuracy=accuracy.item())
    return score(program, predict(model, x_test, decodes=decodes), data.y_test), monitor


def _groups(program: Program, model: Transformer) -> Iterator[Mapping[str, Any]]:
    """Yield groups of parameters: matrices decay, biases, norms and embeddings do not, unless a fault decays all."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not program.optimizer.get("weight_decay") or program.layers[0].get("wrong", {}).get("decay") == "all":
        yield {"params": parameters}
        return
    embeddings = {id(model.tokens.weight), id(model.positions.weight)}
    decays = [p.ndim > 1 and id(p) not in embeddings for p in parameters]
    yield {"params": [p for p, decay in zip(parameters, decays, strict=True) if decay]}
    yield {"params": [p for p, decay in zip(parameters, decays, strict=True) if not decay], "weight_decay": 0.0}
