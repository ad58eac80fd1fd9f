"""Runs the scenarios of `programs.py` in several processes of one training."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = Path(__file__).with_name("programs.py")

Ranks = list[list[dict[str, Any]]]
"""What each rank has shown, by rank."""


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def run_ranks(tmp_path: Path, run_forked: Callable[..., Any]) -> Callable[..., Ranks]:
    """Runs a scenario: ``run_ranks(ranks, scenario, *arguments, ends=0)``."""

    def run(ranks: int, scenario: str, *arguments: str, ends: tuple[int, ...] = (0,)) -> Ranks:
        code = f"import runpy\nrunpy.run_path({str(PROGRAMS)!r}, run_name='__main__')"
        common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_port())}
        environments = [{**common, "RANK": str(rank), "FOLDER": str(tmp_path)} for rank in range(ranks)]
        shown: Ranks = []
        processes = run_forked(*((code, [scenario, *arguments], each) for each in environments), together=True)
        for rank, process in enumerate(processes):
            assert process.returncode in ends, f"rank {rank}: {process.stderr[-3000:]}"
            lines = [line[7:] for line in process.stdout.splitlines() if line.startswith("RESULT ")]
            shown.append([json.loads(line) for line in lines])
        return shown

    return run
