"""Runs the scenarios of `programs.py` in several processes of one training."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[4]
PROGRAMS = Path(__file__).with_name("programs.py")
_SECONDS = 280

Ranks = list[list[dict[str, Any]]]
"""What each rank has shown, by rank."""


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def run_ranks(tmp_path: Path) -> Callable[..., Ranks]:
    """Runs a scenario: ``run_ranks(ranks, scenario, *arguments, ends=0)``."""

    def run(ranks: int, scenario: str, *arguments: str, ends: tuple[int, ...] = (0,)) -> Ranks:
        port, processes = str(_port()), []
        for rank in range(ranks):
            environment = {
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "PYTHONPATH": str(ROOT),
                "FOLDER": str(tmp_path),
            }
            command = [sys.executable, str(PROGRAMS), scenario, *arguments]
            pipe = subprocess.PIPE
            processes.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
        shown: Ranks = []
        try:
            for rank, process in enumerate(processes):
                output, errors = process.communicate(timeout=_SECONDS)
                assert process.returncode in ends, f"rank {rank}: {errors[-3000:]}"
                lines = [line[7:] for line in output.splitlines() if line.startswith("RESULT ")]
                shown.append([json.loads(line) for line in lines])
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        return shown

    return run
