"""Frames that only pass a call on are taken out of tracebacks; the exceptions themselves stay as they are."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest

from autotrainer.monitoring.tracebacks import hide_frames, passes_on


@dataclass(frozen=True)
class FrozenError(Exception):
    """An exception that refuses assignments."""

    reason: str


class SlottedError(Exception):
    """An exception that refuses unknown attributes."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise RuntimeError("read-only")


@passes_on
def _pass_on(function: Callable[[], Any]) -> Any:
    return function()


@pytest.mark.parametrize("error", [FrozenError("bad"), SlottedError("bad"), KeyboardInterrupt(), ValueError("bad")])
def test_marked_frames_are_taken_out(error: BaseException, record_property: Any) -> None:
    record_property("attacks", 1)

    def fail() -> NoReturn:
        raise error

    def call() -> None:
        try:
            _pass_on(lambda: _pass_on(fail))
        except BaseException as raised:
            hide_frames(raised)
            raise

    with pytest.raises(type(error)) as caught:
        call()
    assert caught.value is error
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert "_pass_on" not in names
    assert names[-1] == "fail"
