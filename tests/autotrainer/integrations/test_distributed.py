"""Two real processes under each library are watched as one: the first one reports, and nothing hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

PROGRAM = Path(__file__).parent / "distributed_program.py"
ROOT = Path(__file__).parents[3]
LIBRARIES = {"lightning": "lightning", "huggingface": "transformers", "accelerate": "accelerate"}


@pytest.mark.slow
@pytest.mark.integrations
@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch is built without torch.distributed")
@pytest.mark.parametrize("library", LIBRARIES)
def test_two_processes(library: str, tmp_path: Path) -> None:
    pytest.importorskip(LIBRARIES[library])
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *(torchrun if library != "lightning" else []), str(PROGRAM), library, str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen: dict[str, list[dict[str, Any]]] = {
        name: [json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]
        for name in ("healthy", "faulty")
    }
    for name, (first, second) in seen.items():
        assert first["closed"]
        assert second["closed"]
        assert (first["facts"]["ranks"], second["facts"]["led_by"]) == (2, 0)  # they have found each other
        assert first["grad_norms"]
        assert not second["grad_norms"]  # what it measures is in the first one's history
        assert not second["findings"]
        assert len(list((tmp_path / f"logs-{name}").glob("run-*.jsonl"))) == 1
    healthy, faulty = seen["healthy"][0], seen["faulty"][0]
    assert (healthy["steps"], healthy["epochs"]) == (16, 4)  # of 128 rows in batches of 2 x 16
    errors = {problem for problem, severity in healthy["findings"].items() if severity == "error"}
    assert errors <= {"too_few_epochs", "slow_convergence"}  # as these few steps are
    worst = faulty["findings"].get("exploding_gradient"), faulty["findings"].get("learning_rate_too_high")
    assert set(worst) & {"error", "warning"}
    stopped = library != "accelerate" and any(
        "error" in each["findings"].values() and each["epochs"] < 4 for each in seen["faulty"]
    )
    assert (faulty["epochs"] < 4) == stopped  # at the end of an epoch, by a finding of any process, and in both
    assert done.stderr.count("learning_rate_too_high [error]") <= 3  # lines and a summary, of the first process alone
    lines = (tmp_path / "autotrainer.jsonl").read_text("ascii").splitlines()
    assert [json.loads(line)["type"] for line in lines].count("run") == 2  # a sink of the first process each
