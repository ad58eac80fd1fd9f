from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from autotrainer.testing import RecordedRun


@pytest.fixture
def make_run() -> Callable[..., RecordedRun]:
    return partial(RecordedRun, watched=False)
