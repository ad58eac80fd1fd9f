"""What the tests of following runs share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.autotrainer.view.recording import Recording


@pytest.fixture(autouse=True)
def _close_logs() -> Iterator[None]:
    yield
    while Recording.all:
        Recording.all.pop().writer.close()


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path / "runs")
