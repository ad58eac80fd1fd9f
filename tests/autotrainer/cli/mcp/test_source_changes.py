"""Plans as diffs of the user's source: applied by `patch` they do what they say, and nothing is guessed."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from autotrainer import edits as e
from autotrainer.cli.mcp.source_changes import change_sources
from autotrainer.cli.mcp.source_code import Source, UnclearError, read_source
from autotrainer.records.task import OptimizerInfo, TaskContext
from autotrainer.reporting.plan import RepairPlan

TORCH = """\
import torch
from torch import nn

EPOCHS = 5
model = nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = torch.utils.data.DataLoader(data, batch_size=32)
for epoch in range(EPOCHS):
    for x, y in loader:
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()  # ü
"""
KERAS = """\
import keras

model.compile(optimizer=keras.optimizers.SGD(learning_rate=0.1), loss="mse")
model.fit(x, y, batch_size=32, epochs=5, shuffle=False)
"""
CLIP = "        torch.nn.utils.clip_grad_norm_(model.parameters(), 1)"
SGD = "torch.optim.SGD(model.parameters(), lr=0.1"
RATE = e.SetLearningRate(0.01)
TORCH_RUN = TaskContext("pytorch", optimizer=OptimizerInfo("sgd", 0.1), planned_epochs=5, batch_size=32)
KERAS_RUN = replace(TORCH_RUN, framework="keras3")

CERTAIN: dict[str, tuple[str, e.Edit, str, str]] = {
    "rate": (TORCH, RATE, "lr=0.1)", "lr=0.01)"),
    "rate by position": (TORCH.replace("lr=0.1", "0.1"), RATE, ", 0.1)", ", 0.01)"),
    "rate in a constant": ("RATE = 0.1\n" + TORCH.replace("lr=0.1", "lr=RATE"), RATE, "RATE = 0.1", "RATE = 0.01"),
    "rate in a factory": (TORCH.replace("model.parameters(), lr", "p, lr"), RATE, "lr=0.1)", "lr=0.01)"),
    "momentum": (TORCH, e.SetMomentum(0.9, nesterov=True), SGD, f"{SGD}, momentum=0.9, nesterov=True"),
    "momentum changed": (TORCH.replace("0.1)", "0.1, momentum=0.5)"), e.SetMomentum(0.9), "0.5", "0.9"),
    "optimizer": (TORCH, e.SwapOptimizer("adam", 0.001), SGD, "torch.optim.Adam(model.parameters(), lr=0.001"),
    "clipping": (TORCH, e.ClipGradients("norm", 1.0), "        optimizer.step()", f"{CLIP}\n        optimizer.step()"),
    "zero_grad": (TORCH, e.RestoreZeroGrad(), "        loss.b", "        optimizer.zero_grad()\n        loss.b"),
    "batches": (TORCH, e.SetBatchSize(128), "batch_size=32", "batch_size=128"),
    "order": (TORCH, e.ShuffleData(), "batch_size=32", "batch_size=32, shuffle=True"),
    "length": (TORCH, e.ExtendTraining(20), "EPOCHS = 5", "EPOCHS = 20"),
    "last line without end": (TORCH.rstrip() + "\nlr = 0", RATE, "lr=0.1)", "lr=0.01)"),
    "Keras rate": (KERAS, RATE, "learning_rate=0.1", "learning_rate=0.01"),
    "Keras clipping": (KERAS, e.ClipGradients("norm", 1.0), "=0.1)", "=0.1, global_clipnorm=1)"),
    "Keras optimizer": (KERAS, e.SwapOptimizer("nadam", 0.01), "SGD(learning_rate=0.1)", "Nadam(learning_rate=0.01)"),
    "Keras batches": (KERAS, e.SetBatchSize(8), "batch_size=32", "batch_size=8"),
    "Keras order": (KERAS, e.ShuffleData(), "shuffle=False", "shuffle=True"),
    "Keras length": (KERAS, e.ExtendTraining(9), "epochs=5", "epochs=9"),
}
UNCLEAR: dict[str, tuple[str, e.Edit, str]] = {
    "two optimizers": (TORCH + "other = torch.optim.Adam(net.parameters(), lr=0.1)\n", RATE, "2 calls of an optimizer"),
    "no optimizer": ("import torch\n", RATE, "0 calls"),
    "another rate": (TORCH.replace("lr=0.1", "lr=0.2"), RATE, "the source says 0.2, but the run had"),
    "another optimizer": (TORCH.replace("SGD", "Adam"), RATE, "creates Adam, but the run had sgd"),
    "default rate": (TORCH.replace(", lr=0.1", ""), RATE, "the default"),
    "computed rate": (TORCH.replace("lr=0.1", "lr=0.05 * 2"), RATE, "computes"),
    "shared constant": ("R = 0.1\nprint(R)\n" + TORCH.replace("lr=0.1", "lr=R"), RATE, "several places"),
    "constant changed later": ("R = 0.1\nR = 0.1\n" + TORCH.replace("lr=0.1", "lr=R"), RATE, "several places"),
    "schedule": (TORCH + "torch.optim.lr_scheduler.StepLR(optimizer, 1)\n", RATE, "a schedule"),
    "rate set in the loop": (TORCH + "optimizer.param_groups[0]['lr'] = 1\n", RATE, "a schedule"),
    "groups": (TORCH.replace("model.parameters()", "[{'params': p, 'lr': 1}]"), RATE, "groups of parameters"),
    "arguments in a dict": (TORCH.replace("lr=0.1", "**options"), RATE, "not written out"),
    "clipped already": (TORCH + "nn.utils.clip_grad_norm_(p, 1)\n", e.ClipGradients("norm", 1.0), "already"),
    "step with a closure": (TORCH.replace("step()", "step(f)"), e.ClipGradients("norm", 1.0), "with arguments"),
    "two steps": (TORCH + "optimizer.step()\n", e.ClipGradients("norm", 1.0), "2 calls of step"),
    "step in a condition": (
        TORCH.replace("optimizer.s", "if y: optimizer.s"),
        e.ClipGradients("norm", 1.0),
        "more than",
    ),
    "two statements": (TORCH.replace("backward()", "backward(); f()"), e.RestoreZeroGrad(), "more than one thing"),
    "zero_grad exists": (TORCH + "model.zero_grad()\n", e.RestoreZeroGrad(), "calls zero_grad"),
    "momentum of Adam": (TORCH.replace("SGD", "Adam"), e.SetMomentum(0.9), "creates Adam"),
    "imported optimizer": (TORCH.replace("torch.optim.SGD", "SGD"), e.SwapOptimizer("adam", 0.1), "imported"),
    "sampler": (TORCH.replace("batch_size=32", "sampler=s"), e.ShuffleData(), "sampler"),
    "other batches": (TORCH.replace("32", "64"), e.SetBatchSize(8), "batches of 32"),
    "structure": (TORCH, e.InsertNormalization(("0",)), "depends on how the program is built"),
}


def _context(source: str) -> TaskContext:
    return KERAS_RUN if "keras" in source else TORCH_RUN


def _changes(text: str, *changes: e.Edit, start: int = 0) -> tuple[str, dict[e.Edit, str]]:
    context = _context(text)
    plan = RepairPlan(("any",), changes, framework=context.framework, start=start)
    result = change_sources(plan, [Source("train.py", text)], context)
    assert {*result.certain, *result.reasons} == set(changes)
    return result.diff, dict(result.reasons)


def _patched(text: str, diff: str, folder: Path) -> str:
    """Return the text to which ``git apply`` changes a file."""
    (folder / "train.py").write_text(text, "utf-8")
    subprocess.run(["git", "apply", "-"], cwd=folder, input=diff.encode(), check=True)
    return (folder / "train.py").read_text("utf-8")


@pytest.mark.parametrize(("text", "edit", "old", "new"), CERTAIN.values(), ids=CERTAIN)
def test_certain_changes_are_a_diff_that_applies(text: str, edit: e.Edit, old: str, new: str, tmp_path: Path) -> None:
    assert text.count(old) == 1
    diff, reasons = _changes(text, edit)
    assert not reasons
    assert _patched(text, diff, tmp_path) == text.replace(old, new)


@pytest.mark.parametrize(("text", "edit", "reason"), UNCLEAR.values(), ids=UNCLEAR)
def test_unclear_changes_are_left_out_with_the_reason(text: str, edit: e.Edit, reason: str) -> None:
    diff, reasons = _changes(text, edit)
    assert diff == ""
    assert reason in reasons[edit]


def test_changes_of_one_plan_are_in_one_diff(tmp_path: Path) -> None:
    changes = (RATE, e.SetMomentum(0.9), e.ClipGradients("norm", 1.0), e.AddDropout(("0",), 0.5))
    diff, reasons = _changes(TORCH, *changes)
    assert list(reasons) == [changes[-1]]
    expected = TORCH.replace("lr=0.1)", "lr=0.01, momentum=0.9)").replace("        opt", f"{CLIP}\n        opt")
    assert _patched(TORCH, diff, tmp_path) == expected


def test_changes_of_the_same_code_exclude_each_other() -> None:
    swap = e.SwapOptimizer("adam", 0.01)
    _, reasons = _changes(TORCH, RATE, swap)
    assert "another change" in reasons[swap]


def test_a_plan_from_a_later_epoch_on_is_left_to_the_user() -> None:
    diff, reasons = _changes(TORCH, RATE, start=3)
    assert diff == ""
    assert "from epoch 3 on" in reasons[RATE]


def test_without_a_file_there_is_no_diff() -> None:
    plan = RepairPlan(("any",), (RATE,))
    assert "not known" in change_sources(plan, [], None).reasons[RATE]


def test_without_a_run_the_value_in_the_source_is_taken() -> None:
    plan = RepairPlan(("any",), (RATE,))
    assert "+optimizer = torch.optim.SGD(model.parameters(), lr=0.01)" in (
        change_sources(plan, [Source("train.py", TORCH)], None).diff
    )


@pytest.mark.parametrize("content", [b"a = 1\r\n", b"a = '\x1b[31m'\n", b"\xff", b"def f(:\n", b"a = '\xe2\x80\xae'\n"])
def test_sources_that_are_not_what_they_look_like_are_not_changed(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_bytes(content)
    with pytest.raises(UnclearError, match=r"train\.py"):
        read_source(tmp_path / "train.py", "train.py")


def test_a_file_whose_name_could_forge_a_diff_is_not_changed(tmp_path: Path) -> None:
    name = "train.py\n+++ b.py"
    (tmp_path / name).write_text("a = 1\n")
    with pytest.raises(UnclearError, match="control characters"):
        read_source(tmp_path / name, name)
