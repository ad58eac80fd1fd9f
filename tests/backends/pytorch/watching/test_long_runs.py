"""A million steps, in simulated time: memory stays the same, and the log grows with the logarithm of the steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import gc, json, sys, tracemalloc
from pathlib import Path
import torch
from torch import nn
import autotrainer
import autotrainer.backends.pytorch.watching.attach  # before its clock is replaced
from autotrainer.monitoring.sampler import Sampler

class Clock:
    now = 1000.0
    def __call__(self):
        self.now += 1e-5
        return self.now

clock, folder, marks = Clock(), Path(sys.argv[1]), json.loads(sys.argv[2])
Sampler.__init__.__defaults__ = (0.01, clock)
for name, module in list(sys.modules.items()):
    for attribute in ("perf_counter", "process_time"):
        if name.startswith("autotrainer.") and hasattr(module, attribute):
            setattr(module, attribute, clock)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer, loss_fn = torch.optim.SGD(model.parameters(), 0.01), nn.CrossEntropyLoss()
x = torch.randn(64, 8)
y = (x[:, 0] > 0).long()
tracemalloc.start()
rows = []
with autotrainer.watch(model, optimizer, loss_fn=loss_fn, log_dir=folder, select=()) as monitor:
    counter = monitor.observer._counter
    for mark in marks:
        while counter.step < mark:
            # A step between samples only counts, so that most of them need not be taken.
            skipped = max(0, min(monitor.sampler.next_step, mark) - counter.step - 20)
            counter.step += skipped
            optimizer.zero_grad()
            batch = torch.randint(0, 64, (16,))  # one of the same rows would be an epoch
            loss_fn(model(x[batch]), y[batch]).backward()
            optimizer.step()
            clock.now += 1e-3 * (1 + skipped)
        gc.collect()
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        rows.append((monitor.history.step, monitor.history.bytes, tracemalloc.get_traced_memory()[0], size))
print(json.dumps(rows))
"""


@pytest.mark.slow
def test_memory_is_bounded_and_the_log_grows_with_the_logarithm_of_the_steps(tmp_path: Path, run_python: Any) -> None:
    done = run_python(PROGRAM, str(tmp_path), json.dumps([10**4, 10**5, 10**6]))
    assert done.returncode == 0, done.stderr
    steps, tables, memory, logs = zip(*json.loads(done.stdout), strict=True)
    assert steps[-1] > 990_000
    assert max(tables) < 2**21
    assert max(memory) < 1.02 * memory[0]
    assert logs[2] - logs[1] < 1.3 * (logs[1] - logs[0])
