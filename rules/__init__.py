"""The rules: one problem, one file. Pure functions of a run's history; see no framework and no adapter."""

from __future__ import annotations

from autotrainer.rule import Rule

__all__ = ["BUILTIN"]

BUILTIN: tuple[type[Rule], ...] = ()
"""All built-in rules, by code."""
