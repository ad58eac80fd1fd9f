"""The callback for the Trainer of Hugging Face: findings, resume, stop, exceptions, bit identity."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import autotrainer
from autotrainer.errors import ConfigError, StateError
from tests.autotrainer.integrations.faults import FAULTS, HEALTHY, Training, make_training, plain_problems, problems

transformers = pytest.importorskip("transformers")

from autotrainer.integrations.huggingface import AutoTrainerCallback  # noqa: E402

pytestmark = [
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore"),  # transformers and accelerate warn about their own future
]


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Rows as dictionaries, as the Trainer takes them."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"x": self.inputs[row], "labels": self.targets[row]}


class WithLoss(nn.Module):
    """A network that returns its loss and its outputs."""

    def __init__(self, network: nn.Module, loss: nn.Module, *, returns: str = "dict") -> None:
        super().__init__()
        self.network, self.loss, self.returns = network, loss, returns

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.network(x)
        if labels is None:
            return {"logits": logits}
        loss = self.loss(logits, labels)
        return (loss, logits) if self.returns == "tuple" else {"loss": loss, "logits": logits}


class InOrder(transformers.Trainer):  # type: ignore[misc,name-defined]
    """A Trainer that does not shuffle."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def settings(folder: Path, **options: Any) -> Any:
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 64,
        "num_train_epochs": 2,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "label_names": ["labels"],
    }
    return transformers.TrainingArguments(**{**defaults, **options})


def trainer(training: Training, folder: Path, callback: Any, model: nn.Module | None = None, **options: Any) -> Any:
    return InOrder(
        WithLoss(training.model, training.loss) if model is None else model,
        settings(folder, **{"num_train_epochs": training.epochs, **options}),
        train_dataset=Rows(training.inputs, training.targets),
        eval_dataset=Rows(*training.validation),
        optimizers=(training.optimizer, None),
        callbacks=[callback] if callback is not None else [],
    )


def tiny_gpt() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=16, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def test_a_copy_has_the_settings_and_watches_a_training_of_its_own(tmp_path: Path) -> None:
    callback = AutoTrainerCallback(overhead=1.0, stop_on="error", loss_fn=nn.CrossEntropyLoss())
    trainer(make_training(HEALTHY), tmp_path, callback, num_train_epochs=1).train()
    for copied in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert copied.monitor is None
        trainer(make_training("rate_too_high"), tmp_path, copied).train()
        assert copied.monitor.history.epoch < make_training("rate_too_high").epochs


def test_a_checkpoint_of_the_last_step_of_an_epoch_goes_on_in_the_next_epoch(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 16, "num_train_epochs": 3}
    trainer(make_training(HEALTHY), tmp_path, AutoTrainerCallback(overhead=1.0), **options).train()
    for number, ends in ((16, [15, 31, 47]), (48, [15, 31, 47])):  # the second one has nothing left to train
        callback = AutoTrainerCallback(overhead=1.0)
        resumed = trainer(make_training(HEALTHY), tmp_path, callback, **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{number}"))
        assert callback.monitor is not None
        assert callback.monitor.history.epoch_ends.tolist() == ends
        assert problems(callback.monitor) == {}


class Tokens(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Sequences that count upwards."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        tokens = (torch.arange(12) + row) % 16
        return {"input_ids": tokens, "labels": tokens}


def train_gpt(folder: Path, callback: Any, model: Any = None, **options: Any) -> tuple[Any, Any]:
    model = tiny_gpt() if model is None else model
    arguments = settings(folder, **{"learning_rate": 3e-3, "max_grad_norm": 1.0, "eval_strategy": "no", **options})
    run = transformers.Trainer(model, arguments, train_dataset=Tokens(), eval_dataset=Tokens(), callbacks=callback)
    resume = options.get("resume_from_checkpoint")
    run.train(resume_from_checkpoint=resume)
    return model, run


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "no_zero_grad"])
def test_a_fault_is_the_same_problem_as_in_a_plain_loop(fault: str, tmp_path: Path) -> None:
    callback = AutoTrainerCallback(overhead=1.0)
    trainer(make_training(fault), tmp_path, callback).train()
    assert problems(callback.monitor) == plain_problems(fault)


def test_a_healthy_training_is_silent_and_fully_observed(tmp_path: Path) -> None:
    callback = AutoTrainerCallback(overhead=1.0)
    training = make_training(HEALTHY)
    trainer(training, tmp_path, callback).train()
    monitor = callback.monitor
    assert monitor is not None
    assert monitor.closed
    assert problems(monitor) == plain_problems(HEALTHY) == {}
    assert (monitor.history.step + 1, monitor.history.epoch) == (16 * training.epochs, training.epochs)
    assert monitor.context.planned_epochs == training.epochs
    assert monitor.context.planned_steps == 16 * training.epochs
    assert monitor.history.losses[0][:256].tolist() == list(range(256))  # of later steps, some
    assert monitor.context.loss.name == "cross_entropy"
    assert monitor.context.loss.plain
    epochs, values = monitor.history.epochs("val_loss")
    assert len(epochs) == training.epochs
    assert values[-1] < values[0]
    assert "unmeasured" not in str(monitor.report())


@pytest.mark.parametrize("returns", ["dict", "tuple"])
def test_a_model_that_returns_its_loss_needs_no_callback(returns: str) -> None:
    training = make_training(HEALTHY)
    model = WithLoss(training.model, training.loss, returns=returns)
    expected = []
    with autotrainer.watch(model, training.optimizer, overhead=1.0) as monitor:
        for x, y in training.batches:
            training.optimizer.zero_grad()
            output = model(x, labels=y)
            loss = output[0] if returns == "tuple" else output["loss"]
            (loss / 2).backward()
            expected.append(loss.item())
            training.optimizer.step()
    assert np.allclose(monitor.history.losses[1], expected)
    assert monitor.history.targets.count == len(training.targets)


@pytest.mark.parametrize("kind", ["compiled", "bfloat16 weights"])
def test_compiled_and_half_precision_models_are_measured(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitors = []
    for plain in (True, False):
        training, callback = make_training(HEALTHY), AutoTrainerCallback(overhead=1.0)
        options: dict[str, Any] = {"num_train_epochs": 2}
        if not plain and kind == "compiled":
            options |= {"torch_compile": True, "torch_compile_backend": "eager"}
        elif not plain:
            training.model.to(torch.bfloat16)
            training.inputs, training.validation = (
                training.inputs.bfloat16(),
                (
                    training.validation[0].bfloat16(),
                    training.validation[1],
                ),
            )
        trainer(training, tmp_path, callback, **options).train()
        monitors.append(callback.monitor)
        torch.compiler.reset()
    expected, monitor = monitors
    assert expected is not None
    assert monitor is not None
    assert monitor.history.epoch_ends.tolist() == expected.history.epoch_ends.tolist()
    assert monitor.history.losses[0].tolist() == expected.history.losses[0].tolist()
    tolerance = 1e-4 if kind == "compiled" else 0.05
    for column in ("grad_norm", "accuracy"):
        assert np.allclose(
            monitor.history.scalar(column), expected.history.scalar(column), rtol=tolerance, atol=tolerance
        )
    assert np.isfinite(monitor.history.layer("activation_std")).any() == (kind != "compiled")
    assert ("activations are not measured" in caplog.text) == (kind == "compiled")
    assert ("activations of compiled layers" in monitor.report().run["unmeasured"]) == (kind == "compiled")


def test_accumulated_batches_of_a_language_model_are_one_step(tmp_path: Path) -> None:
    callback = AutoTrainerCallback(overhead=1.0)
    options = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "bf16": True}
    _, run = train_gpt(tmp_path, [callback], num_train_epochs=6, logging_strategy="steps", logging_steps=1, **options)
    monitor = callback.monitor
    assert monitor is not None
    assert monitor.history.step + 1 == run.state.global_step == 12
    steps, losses = monitor.history.losses
    logged = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert steps.tolist() == list(range(12))
    assert np.allclose(losses, logged, rtol=1e-2)
    assert np.nanmax(monitor.history.scalar("backward_passes")) == 4
    assert "wrong_accumulation" not in problems(monitor)
    norms = [entry["grad_norm"] for entry in run.state.log_history if "grad_norm" in entry]
    assert max(norms) > 1.0  # before they are clipped
    assert np.allclose(monitor.history.scalar("grad_norm"), norms, rtol=1e-2)


def test_a_loss_beside_the_model_is_observed(tmp_path: Path) -> None:
    callback, losses = AutoTrainerCallback(overhead=1.0), []

    def loss_function(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        logits = outputs.logits[:, :-1].reshape(-1, 16)
        loss = nn.functional.cross_entropy(logits, labels[:, 1:].reshape(-1), reduction="sum") / num_items_in_batch
        losses.append(loss.item())
        return loss

    run = transformers.Trainer(
        tiny_gpt(),
        settings(tmp_path, eval_strategy="no", per_device_train_batch_size=16, gradient_accumulation_steps=2),
        train_dataset=Tokens(),
        compute_loss_func=loss_function,
        callbacks=[callback],
    )
    run.train()
    monitor = callback.monitor
    assert monitor is not None
    assert np.allclose(monitor.history.losses[1], np.reshape(losses, (-1, 2)).sum(axis=1), rtol=1e-3)


def test_watching_changes_no_bit(tmp_path: Path) -> None:
    options: dict[str, Any] = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8, "weight_decay": 0.1}
    watched, _ = train_gpt(tmp_path / "a", [AutoTrainerCallback(overhead=1.0)], **options)
    plain, _ = train_gpt(tmp_path / "b", [], **options)
    state = plain.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in watched.state_dict().items())
    assert not watched._forward_hooks
    assert torch.nn.utils.clip_grad_norm_ is torch.nn.utils.clip_grad.clip_grad_norm_


@pytest.mark.parametrize("restores", [False, True])
def test_a_resumed_run_goes_on_in_one_history(restores: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_train_epochs": 4, "save_strategy": "epoch", "eval_strategy": "epoch"}
    whole = AutoTrainerCallback(overhead=1.0)
    train_gpt(tmp_path, [whole], **options)
    resumed = AutoTrainerCallback(overhead=1.0)
    options["resume_from_checkpoint"] = str(tmp_path / "checkpoint-8")
    _, run = train_gpt(tmp_path, [resumed], restore_callback_states_from_checkpoint=restores, **options)
    callback = next(each for each in run.callback_handler.callbacks if isinstance(each, AutoTrainerCallback))
    assert whole.monitor is not None
    assert callback.monitor is not None
    one, other = whole.monitor.history, callback.monitor.history
    assert (one.step, one.epoch) == (other.step, other.epoch) == (15, 4)
    assert one.losses[0].tolist() == other.losses[0].tolist()
    assert np.allclose(one.losses[1], other.losses[1])
    assert np.allclose(one.epochs("val_loss")[1], other.epochs("val_loss")[1])


def test_a_checkpoint_of_a_run_without_the_callback_is_resumed(tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_train_epochs": 3, "save_strategy": "epoch"}
    train_gpt(tmp_path, [], **options)
    callback = AutoTrainerCallback()
    train_gpt(tmp_path, [callback], resume_from_checkpoint=str(tmp_path / "checkpoint-4"), **options)
    assert callback.monitor is not None
    assert callback.monitor.history.step + 1 == 8


def test_an_error_stops_the_training(tmp_path: Path) -> None:
    callback = AutoTrainerCallback(overhead=1.0, stop_on="error")
    run = trainer(make_training("rate_too_high"), tmp_path, callback, num_train_epochs=50)
    run.train()
    assert 0 < run.state.global_step < 600
    assert callback.monitor is not None
    assert callback.monitor.closed
    assert any(finding.severity == "error" for finding in callback.monitor.findings)


class Breaks(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
    """Raises after some steps, in the first training."""

    broken = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5 and not self.broken:
            self.broken = True
            raise RuntimeError("interrupted")


def test_an_exception_closes_the_context_or_the_next_training(tmp_path: Path) -> None:
    callback = AutoTrainerCallback()
    run = trainer(make_training(HEALTHY), tmp_path, callback, num_train_epochs=1)
    run.add_callback(Breaks())
    with pytest.raises(RuntimeError, match="interrupted"), callback:
        run.train()
    assert callback.monitor is not None
    assert callback.monitor.closed
    assert callback.monitor.interrupted
    run.add_callback(Breaks())
    with pytest.raises(RuntimeError, match="interrupted"):
        run.train()
    open_monitor = callback.monitor
    assert not open_monitor.closed
    assert open_monitor.history.step >= 0
    run.train()
    assert open_monitor.closed
    assert open_monitor.interrupted
    assert callback.monitor is not open_monitor
    assert not callback.monitor.interrupted
    gc.collect()
    assert torch.nn.utils.clip_grad_norm_ is torch.nn.utils.clip_grad.clip_grad_norm_


def test_loggers_of_the_trainer_get_measurements_and_findings(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    callback = AutoTrainerCallback(overhead=1.0)
    run = trainer(make_training("rate_too_high"), tmp_path, callback, num_train_epochs=4, report_to=["tensorboard"])
    run.train()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    names: set[str] = set()
    for file in tmp_path.rglob("events.out.tfevents*"):
        events = EventAccumulator(str(file)).Reload()
        names |= {*events.Tags()["scalars"], *events.Tags()["tensors"]}
    assert any(name.startswith("train/autotrainer/network.0/") for name in names)
    assert callback.monitor is not None
    for problem in problems(callback.monitor):
        assert f"train/autotrainer/findings/{problem}" in names


def test_misuse_is_one_clear_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    training = make_training(HEALTHY)
    run = trainer(training, tmp_path, AutoTrainerCallback(), num_train_epochs=1)
    run.add_callback(AutoTrainerCallback())
    with pytest.raises(StateError, match="use one"):
        run.train()
    with pytest.raises(ConfigError, match="no option 'overheads'"):
        AutoTrainerCallback(overheads=0.5)
    with pytest.raises(autotrainer.errors.InputError, match="AutoTrainerCallback"):
        autotrainer.watch(run)
    with caplog.at_level(logging.WARNING, "autotrainer"):
        other = torch.optim.SGD(training.model.parameters(), lr=0.1)
        with autotrainer.watch(training.model, other, loss_fn=training.loss) as monitor:
            trainer(training, tmp_path, None, model=WithLoss(training.model, training.loss), num_train_epochs=1).train()
    assert "another optimizer of the same parameters has stepped" in caplog.text
    assert "another optimizer" in str(monitor.report())
