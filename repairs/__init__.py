"""The repairs: one repair, one file. Propose edits; see no framework and no model."""

from __future__ import annotations

from autotrainer.repair import Repair

__all__ = ["BUILTIN"]

BUILTIN: tuple[type[Repair], ...] = ()
"""All built-in repairs."""
