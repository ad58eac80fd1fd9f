"""The timed trainings of libraries: each trains plainly, with autotrainer's callback and with the library's logging."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.overhead.run import build_training
from benchmarks.overhead.settings import CALLBACKS, CONTROL, missing_module


@pytest.mark.slow
@pytest.mark.integrations
@pytest.mark.filterwarnings("ignore")  # of the libraries, about their own future and the test's data
@pytest.mark.parametrize(
    ("framework", "setting"), [(framework, setting) for framework in CALLBACKS for setting in CALLBACKS[framework]]
)
def test_each_library_trains_in_blocks(framework: str, setting: str, tmp_path: Path) -> None:
    if (missing := missing_module(framework, setting)) is not None:
        pytest.skip(f"{missing} is not installed")
    task = {"framework": framework, "model": "mlp", "setting": setting}
    for each in (CONTROL, setting):
        training = build_training(task, each, str(tmp_path))
        training.attach()
        try:
            for steps in (5, 3):
                seconds, processor = training.block(steps)
                assert len(seconds) == steps - 1
                assert np.isfinite(processor)
        finally:
            training.close()
