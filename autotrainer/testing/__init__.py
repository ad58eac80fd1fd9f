"""Help for tests: a backend without a framework, and the contract tests that every backend passes."""

from __future__ import annotations

from autotrainer.testing.fake import FakeBackend, FakeModel, FakeTrainer, Outcome

__all__ = ["FakeBackend", "FakeModel", "FakeTrainer", "Outcome"]
