"""Watched trainings in processes of their own: without a standard error, and with forked children."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import autotrainer
from autotrainer.monitoring.logs.run_log import RUN_LOG
from autotrainer.records.json_lines import read_lines


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
    "full": "os.dup2(os.open('/dev/full', os.O_WRONLY), 2)",
    "closed": "os.close(2); sys.stderr = None",
    "a broken pipe": "reader, writer = os.pipe(); os.dup2(writer, 2); os.close(reader); os.close(writer)",
    "closed with stdout": "os.close(1); os.close(2); sys.stdout = sys.stderr = None",
    "full with stdout": "os.dup2(os.open('/dev/full', os.O_WRONLY), 1); os.dup2(1, 2)",
}
"""What makes a process as if it had been started with such a standard error; those of Keras are started with it."""


@pytest.mark.slow
def test_training_ends_as_if_it_were_not_watched(tmp_path: Path, run_forked: Any, record_property: Any) -> None:
    cases = [(stderr, mode) for stderr in REDIRECTIONS for mode in ("ends", "raises")]
    folders = [tmp_path / f"{stderr} {mode}" for stderr, mode in cases]
    scripts = []
    for (stderr, mode), folder in zip(cases, folders, strict=True):
        folder.mkdir()
        script = f"import os, sys\n{REDIRECTIONS[stderr]}\n" + TRAINING + END
        scripts.append((script, [str(folder / "saved"), str(folder / "log"), mode], {}))
    for case, folder, ran in zip(cases, folders, run_forked(*scripts), strict=True):
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", ""), case
        assert (folder / "saved").read_text() == "saved", case
    record_property("attacks", len(cases))


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
def test_forked_child_leaves_log_and_summary_to_its_parent(
    tmp_path: Path, run_forked: Any, record_property: Any
) -> None:
    logs = [tmp_path / str(number) for number in range(len(FORKS))]
    runs = run_forked(*((TRAINING + FORKS[name], ["", str(log)], {}) for name, log in zip(FORKS, logs, strict=True)))
    for name, logs_of_one, ran in zip(FORKS, logs, runs, strict=True):
        assert (ran.returncode, ran.stdout) == (0, ""), (name, ran.stderr)
        own = "watches" in name
        assert ran.stderr.count("in this training run") == 1 + own, name
        (log,) = logs_of_one.iterdir()
        records = list(_records(log))
        steps = [record["step"] for record in records if record.get("type") == "step"]
        assert steps[:10] == list(range(10)), name  # which are all sampled
        assert steps == sorted(set(steps)), name
        assert sum(record.get("type") == "end" for record in records) == 1, name
        assert "nonfinite" in [f.problem for f in autotrainer.replay(log).findings], name
        if own:
            (child_log,) = Path(f"{logs_of_one}2").iterdir()
            assert sum(record.get("type") == "step" for record in _records(child_log)) == 6
    record_property("attacks", len(FORKS))


@pytest.mark.slow
def test_script_that_forks_is_reported_once(tmp_path: Path, run_forked: Any, record_property: Any) -> None:
    record_property("attacks", 1)
    (tmp_path / "script.py").write_text(
        TRAINING.replace("import autotrainer\n", "")
        + "train(8)\nchild = os.fork()\ntrain(8)\nif child: os.waitpid(child, 0)\nsys.exit(0 if child else 9)\n"
    )
    arguments = ["run", "--log-dir", str(tmp_path / "log"), str(tmp_path / "script.py")]
    (ran,) = run_forked(("import sys\nfrom autotrainer.cli import main\nsys.exit(main(sys.argv[1:]))", arguments, {}))
    assert ran.returncode == 1, ran.stderr
    assert ran.stderr.count("ERROR  AT801 nonfinite") == 1
    for log in (tmp_path / "log").iterdir():
        assert next(_records(log))["autotrainer_log"]
