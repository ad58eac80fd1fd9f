"""Watched trainings in processes of their own: without a standard error, and with forked children."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import autotrainer
from autotrainer.monitoring.run_log import RUN_LOG
from autotrainer.records.json_lines import read_lines

ROOT = Path(__file__).parents[4]


def _records(path: Any) -> Iterator[dict[str, Any]]:
    return (line.record for line in read_lines(path, RUN_LOG))


TRAINING = """
import os, sys
import torch
from torch import nn
import autotrainer
torch.manual_seed(0)
torch.set_num_threads(1)
x = torch.randn(64, 8)
y = (x[:, 0] > 0).long()
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.SGD(model.parameters(), 1e30)
loss_fn = nn.CrossEntropyLoss()
def watch(**options):
    return autotrainer.watch(model, optimizer, loss_fn=loss_fn, **options)
def train(steps=12):
    for step in range(steps):
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
"""

END = """
class OwnError(Exception):
    pass
try:
    with watch(log_dir=sys.argv[2]) as monitor:
        train()
        if sys.argv[3] == "raises":
            raise OwnError("mine")
except OwnError as error:
    assert error.__context__ is None and error.__cause__ is None
assert any(f.severity == "error" for f in monitor.findings)
open(sys.argv[1], "w").write("saved")
"""
REDIRECTIONS = {
    "full": "2>/dev/full",
    "closed": "2>&-",
    "a broken pipe": "2> >(true)",
    "closed with stdout": ">&- 2>&-",
    "full with stdout": ">/dev/full 2>/dev/full",
}


def run(code: str, folder: Path, mode: str, redirection: str = "") -> tuple[int, str, str]:
    """Run a script, and return its exit status, output and errors."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    env |= {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    (folder / "script.py").write_text(code)
    command = f'"$0" {folder}/script.py {folder}/saved {folder}/log {mode} {redirection}'
    ran = subprocess.run(
        ["bash", "-c", command, sys.executable], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ends", "raises"])
@pytest.mark.parametrize("stderr", REDIRECTIONS)
def test_training_ends_as_if_it_were_not_watched(stderr: str, mode: str, tmp_path: Path, record_property: Any) -> None:
    record_property("attacks", 1)
    assert run(TRAINING + END, tmp_path, mode, REDIRECTIONS[stderr]) == (0, "", "")
    assert (tmp_path / "saved").read_text() == "saved"


FORKS = {
    "both train and leave the block": """
with watch(log_dir=sys.argv[2]) as monitor:
    train(4)
    child = os.fork()
    train(8)
if child == 0:
    assert monitor.closed and monitor.log_path is None
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
""",
    "the child exits within the block": """
with watch(log_dir=sys.argv[2]) as monitor:
    train(4)
    child = os.fork()
    if child == 0:
        train(5)
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    train(8)
""",
    "the child raises within the block": """
with watch(log_dir=sys.argv[2]) as monitor:
    train(4)
    child = os.fork()
    if child == 0:
        sys.stderr = open(os.devnull, "w")
        raise SystemExit(0)
    assert os.waitpid(child, 0)[1] == 0
    train(8)
""",
    "a pool of processes trains": """
import multiprocessing
with watch(log_dir=sys.argv[2]) as monitor:
    train(4)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(train, [5, 6])
    train(8)
""",
    "the child watches the model itself": """
with watch(log_dir=sys.argv[2]) as monitor:
    train(4)
    child = os.fork()
    if child == 0:
        with watch(log_dir=sys.argv[2] + "2") as own:
            train(6)
        assert len(own.history.steps) == 6, own.history.steps
        sys.stderr.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    train(8)
""",
    "workers of a loader": """
data = torch.utils.data.TensorDataset(x, y)
loader = torch.utils.data.DataLoader(data, 16, num_workers=2, multiprocessing_context="fork")
with watch(log_dir=sys.argv[2]) as monitor:
    for epoch in range(3):
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss_fn(model(inputs), targets).backward()
            optimizer.step()
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORKS)
def test_forked_child_leaves_log_and_summary_to_its_parent(name: str, tmp_path: Path, record_property: Any) -> None:
    record_property("attacks", 1)
    status, output, error = run(TRAINING + FORKS[name], tmp_path, "ends")
    assert (status, output) == (0, ""), error
    own = "watches" in name
    assert error.count("in this training run") == 1 + own
    (log,) = (tmp_path / "log").iterdir()
    records = list(_records(log))
    steps = [record["step"] for record in records if record.get("type") == "step"]
    assert steps[:10] == list(range(10))  # which are all sampled
    assert steps == sorted(set(steps))
    assert sum(record.get("type") == "end" for record in records) == 1
    assert "nonfinite" in [f.problem for f in autotrainer.replay(log).findings]
    if own:
        (child_log,) = (tmp_path / "log2").iterdir()
        assert sum(record.get("type") == "step" for record in _records(child_log)) == 6


@pytest.mark.slow
def test_script_that_forks_is_reported_once(tmp_path: Path, record_property: Any) -> None:
    record_property("attacks", 1)
    (tmp_path / "script.py").write_text(
        TRAINING.replace("import autotrainer\n", "")
        + "train(8)\nchild = os.fork()\ntrain(8)\nif child: os.waitpid(child, 0)\nsys.exit(0 if child else 9)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "autotrainer", "run", "--log-dir", tmp_path / "log", tmp_path / "script.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stderr
    assert ran.stderr.count("ERROR  AT801 nonfinite") == 1
    for log in (tmp_path / "log").iterdir():
        assert next(_records(log))["autotrainer_log"]
