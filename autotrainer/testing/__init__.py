"""Helpers for tests: a backend without a framework, and the contract that every backend must pass."""

from __future__ import annotations

from autotrainer.testing.contract import BackendContract
from autotrainer.testing.edits import every_edit
from autotrainer.testing.fake import FakeBackend, FakeModel, FakeTrainer, Outcome
from autotrainer.testing.recorded import RecordedRun

__all__ = ["BackendContract", "FakeBackend", "FakeModel", "FakeTrainer", "Outcome", "RecordedRun", "every_edit"]
