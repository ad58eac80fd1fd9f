from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from autotrainer.testing import RecordedRun


@pytest.fixture
def make_run() -> Iterator[Callable[..., RecordedRun]]:
    """Makes runs, by default not watched; ends them with the test, as what is watched stays patched until then."""
    runs: list[RecordedRun] = []

    def make(*args: Any, **options: Any) -> RecordedRun:
        runs.append(RecordedRun(*args, **{"watched": False, **options}))
        return runs[-1]

    yield make
    for run in runs:
        run.monitor.close()
