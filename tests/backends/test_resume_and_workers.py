"""`fit` resumed after a crash of the whole program, and in several processes: bit-identical results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autotrainer

pytestmark = pytest.mark.slow

SCRIPT = """
import dataclasses, hashlib, json, os, sys
import numpy as np
import autotrainer

def parts(framework):
    if framework == "pytorch":
        import torch
        torch.manual_seed(0)
        torch.set_num_threads(1)
        hidden = [part for _ in range(4) for part in (torch.nn.Linear(8, 8), torch.nn.Sigmoid())]
        model = torch.nn.Sequential(*hidden, torch.nn.Dropout(0.1), torch.nn.Linear(8, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.5)
        return model, {"loss": torch.nn.CrossEntropyLoss(), "optimizer": optimizer}
    import keras
    keras.utils.clear_session()  # layers of a process are numbered
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(8, activation="sigmoid") for _ in range(4)]
    model = keras.Sequential([keras.layers.Input((8,)), *hidden, keras.layers.Dropout(0.1), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return model, {"loss": loss, "optimizer": keras.optimizers.SGD(1e-3, momentum=0.5)}

def weights(model):
    return [v.numpy() for v in model.state_dict().values()] if hasattr(model, "state_dict") else model.get_weights()

def main(framework, folder, options):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(120, 8)).astype(np.float32), random.integers(0, 3, 120)
    calls = [0]

    def accuracy(targets, outputs):
        calls[0] += 1
        if calls[0] == int(sys.argv[3]):
            os._exit(9)
        return float((outputs.argmax(axis=1) == targets).mean())

    model, arguments = parts(framework)
    arguments |= {"epochs": 9, "batch_size": 8, "metric": accuracy, "log_dir": folder or None, "progress": False}
    result = autotrainer.fit(model, (x, y), test_data=(x, y), **{**arguments, **options})
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(w).tobytes() for w in weights(result.model))).hexdigest()
    values = {name: getattr(result, name) for name in result.__slots__}
    values["baseline_charts"] = dataclasses.asdict(result.baseline_charts)
    values |= {"model": digest, "optimizer": type(result.optimizer).__name__, "plan": str(result.plan)}
    values |= {"attempts": [a.to_dict() for a in result.attempts], "findings": [f.to_dict() for f in result.findings]}
    print(json.dumps(values))

for _ in range(int(sys.argv[5])):
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[4]))
"""


@pytest.fixture
def run_script(run_python: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Run the script in a separate process and return its results as dictionaries; None if the process died."""

    def run(framework: str, folder: str = "", die_at: int = -1, times: int = 1, **options: Any) -> Any:
        arguments = framework, folder and str(tmp_path / folder), str(die_at), json.dumps(options), str(times)
        done = run_python(SCRIPT, *arguments)
        assert done.returncode == (9 if die_at > 0 else 0), done.stderr[-3000:]
        return [json.loads(line) for line in done.stdout.splitlines()[-times:]] if die_at < 0 else None

    return run


@pytest.mark.parametrize("framework", ["pytorch", "keras"])
def test_killed_program_resumes_to_the_same_result(framework: str, run_script: Any, tmp_path: Path) -> None:
    (whole,) = run_script(framework, budget=3.0)
    run_script(framework, "log", die_at=15, budget=3.0)
    (file,) = (tmp_path / "log").glob("fit-*.jsonl")
    assert 2 <= len(file.read_text().splitlines()) <= 1 + len(whole["attempts"]), "it died before the last attempt"
    resumed, again = run_script(framework, "log", times=2, budget=3.0, resume=True)
    assert resumed == whole
    assert again == whole, "the best training, run again, is the same"


@pytest.mark.parametrize("framework", ["pytorch", "keras"])
def test_several_processes_reach_the_same_result(framework: str, run_script: Any, tmp_path: Path) -> None:
    options = {"budget": 5.2, "batch_size": 4, "metric": "loss", "until": "budget"}
    (alone,) = run_script(framework, **options)
    assert any(attempt["epochs"] for attempt in alone["attempts"]), "the halving search runs short trainings"
    assert run_script(framework, "log", workers=2, **options) == [alone]
    processes = {file.name.split("-")[3] for file in (tmp_path / "log").glob("run-*.jsonl")}
    assert len(processes) in (2, 3), "this process, and one or both of the others"


def test_keras_callback_objects_run_only_in_the_original_training(tmp_path: Path) -> None:
    import keras

    class Count(keras.callbacks.Callback):  # type: ignore[misc]
        epochs = 0

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            Count.epochs += 1

    def fit(**options: Any) -> autotrainer.Result:
        keras.utils.clear_session()  # layer names are numbered within a process
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(8, "sigmoid"), keras.layers.Dense(3)])
        random = np.random.default_rng(0)
        data = random.normal(size=(200, 4)).astype(np.float32), random.integers(0, 3, 200)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return autotrainer.fit(
            model, data, loss=loss, optimizer=keras.optimizers.SGD(1e-4), epochs=3, budget=2.5, progress=False,
            fit_args={"callbacks": [Count()]}, log_dir=tmp_path, **options,
        )  # fmt: skip

    whole = fit()
    assert whole.attempts
    assert Count.epochs == len(whole.history["loss"]) if whole.status == "unrepaired" else 3
    (file,) = tmp_path.glob("fit-*.jsonl")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))  # the original training, and no attempt
    before, Count.epochs = Count.epochs, 0
    again = fit(resume=True)
    assert (again.score, len(again.attempts)) == (whole.score, len(whole.attempts))
    assert Count.epochs == (before if again.status == "unrepaired" else 0)
