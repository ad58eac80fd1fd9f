"""A patch for the user's source: a diff as far as that is certain, and lines with reasons for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from autotrainer.cli.mcp.proposals import propose
from autotrainer.cli.mcp.results import Lines
from autotrainer.cli.mcp.source_changes import change_sources
from autotrainer.cli.mcp.source_code import Source, UnclearError, read_source
from autotrainer.errors import ConfigError
from autotrainer.reporting.patch import in_patch_order, patch_lines

__all__ = ["patch_for"]

_UNPROVEN = "Suggested by the findings alone: fit, or a training with the change, shows whether it helps."
_PROVEN = "A managed training has shown on validation data that this repair helps."
_NOTHING = "No repair answers the findings of this run: explain says what to look at."


def patch_for(log_or_plan: Path, problem: str | None, file: str | None, folder: Path) -> dict[str, Any]:
    """Return what to change in the user's source.

    Args:
        log_or_plan: A run log, or the plan of a managed training.
        problem: The problem to repair; None for what the planner would try first.
        file: The file of the training, from the folder; None for those that the run points to.
        folder: Folder with the source, resolved; files outside of it are not read.

    Raises:
        ConfigError: If log, plan, problem or file are invalid.
        LogError: If the log can't be read.
    """
    plan, context = propose(log_or_plan, problem)
    proven = log_or_plan.suffix == ".json"
    if plan is None:
        empty: dict[str, Any] = {key: [] for key in ("problems", "repairs", "by_hand")}
        return {**empty, "certain": False, "proven": False, "places": {}, "diff": "", "note": _NOTHING}
    sources, unread = _sources(plan.places.values() if file is None else [file], folder, named=file is not None)
    changes = change_sources(plan, sources, context)
    by_hand = [
        {
            "change": str(edit),
            "reason": "; ".join([changes.reasons[edit], *unread]),
            "lines": patch_lines(edit, plan.framework, plan.edits),
        }
        for edit in in_patch_order(plan.edits)
        if edit in changes.reasons
    ]
    return {
        "certain": not by_hand,
        "proven": proven,
        "problems": list(plan.problems),
        "repairs": list(plan.repairs),
        "places": dict(plan.places),
        "diff": Lines(changes.diff),
        "by_hand": by_hand,
        "note": _PROVEN if proven else _UNPROVEN,
    }


def _sources(places: Iterable[str], folder: Path, *, named: bool) -> tuple[list[Source], list[str]]:
    """Return the parsed files that places point to, and why others could not be read.

    Args:
        places: Files, of which a line number is left out.
        folder: Folder with the source.
        named: Whether the agent has named the file, which then must exist.

    Raises:
        ConfigError: If a file that the agent has named is outside of the folder, or does not exist.
    """
    sources: dict[Path, Source] = {}
    unread: list[str] = []
    for place in places:
        name = place if named else place.rpartition(":")[0]
        try:
            path = (folder / name).resolve()
            usable = name != "" and path.is_relative_to(folder) and path.is_file()
        except (OSError, ValueError, RuntimeError):  # a name that no file can have; a loop of links
            usable = False
        if not usable:
            if named:
                raise ConfigError(f"there is no file {name!r:.200} in the source folder of this server")
            unread.append(f"{name} is not in the source folder")
        elif path not in sources:
            try:
                sources[path] = read_source(path, path.relative_to(folder).as_posix())
            except UnclearError as error:
                unread.append(str(error))
    return list(sources.values()), list(dict.fromkeys(unread))
