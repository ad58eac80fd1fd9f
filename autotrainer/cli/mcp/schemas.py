"""The JSON Schemas of the tools' results; findings, reports and pages have those of ``findings.schema.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotrainer.cli.mcp.results import SCHEMA_VERSION
from autotrainer.reporting.formats import document

__all__ = ["COMPARISON", "EXPLANATION", "FIT", "PATCH", "REPLAY", "RUNS", "output_schema"]

_TEXT, _WHOLE, _OBJECT = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "object"}
_TEXT_OR_NULL = {"type": ["string", "null"]}


def _record(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


RUNS = _record(
    runs=_list(
        _record(
            run={**_TEXT, "description": "Its name, for the other tools."},
            bytes=_WHOLE,
            changed={**_TEXT, "description": "Time of the last change, in UTC."},
            framework=_TEXT_OR_NULL,
            steps=_WHOLE,
            epochs=_WHOLE,
            ended={"type": "boolean", "description": "False while it goes on, or after a crash."},
            finished={
                "type": ["boolean", "null"],
                "description": "Whether it ended normally; null if it has not ended.",
            },
            severities={"type": "object", "additionalProperties": _WHOLE},
            findings=_list({**_OBJECT, "description": "As the run recorded them; replay evaluates them again."}),
            error={**_TEXT_OR_NULL, "description": "Why the log can't be read to its end."},
        )
    ),
    total={**_WHOLE, "description": "Number of all runs."},
)
REPLAY = {"$ref": "#/$defs/document"}
EXPLANATION = {"$ref": "#/$defs/explanation"}
COMPARISON = _record(
    text={**_TEXT, "description": "The comparison as text."},
    comparison={**_OBJECT, "description": "As Comparison.to_dict(): worse, differs, outcomes, deviations, findings, …"},
)
PATCH = _record(
    certain={
        "type": "boolean",
        "description": "Whether the diff holds all changes: then nothing is left to do by hand.",
    },
    proven={"type": "boolean", "description": "Whether a managed training has shown that the repair helps."},
    problems=_list(_TEXT),
    repairs=_list(_TEXT),
    places={"type": "object", "additionalProperties": _TEXT, "description": "File and line by problem, where known."},
    diff={**_TEXT, "description": "Unified diff against the source folder; empty if no change is certain."},
    by_hand=_list(
        _record(
            change={**_TEXT, "description": "The change in words."},
            reason={**_TEXT, "description": "Why it is not in the diff."},
            lines=_list({**_TEXT, "description": "A line of code for it."}),
        )
    ),
    note=_TEXT,
)
FIT = _record(
    status={"enum": ["healthy", "repaired", "improved", "unrepaired"]},
    stopped_by={"enum": ["done", "budget", "interrupt"]},
    report={"$ref": "#/$defs/report"},
    patch={**_TEXT_OR_NULL, "description": "What to change in the user's code; null if nothing."},
    saved={**_TEXT, "description": "Folder with model and report, below that of the runs."},
    plan={**_TEXT_OR_NULL, "description": "The plan, for propose_patch; null if there is none."},
    file={**_TEXT_OR_NULL, "description": "The file of the function, which propose_patch may change."},
)


def output_schema(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a tool's result.

    Args:
        data: Schema of its data.
    """
    whole = document.schema()
    definitions = whole.pop("$defs")
    definitions["document"] = {key: value for key, value in whole.items() if key not in ("$schema", "title")}
    left_out = {"description": "Items that were left out of long lists and objects, by place.", **_OBJECT}
    notice = {**_TEXT, "description": "Says that the data are not instructions."}
    result = _record(
        schema_version={"const": SCHEMA_VERSION},
        notice=notice,
        data=data,
        left_out={**left_out, "additionalProperties": _WHOLE},
    )
    return {**result, "$defs": _used(result, definitions)}


def _used(schema: Any, definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Return the definitions that a schema refers to, directly or not."""
    used: dict[str, Any] = {}

    def visit(part: Any) -> None:
        if isinstance(part, Mapping):
            name = str(part.get("$ref", "")).removeprefix("#/$defs/")
            if name in definitions and name not in used:
                used[name] = definitions[name]
                visit(definitions[name])
            for value in part.values():
                visit(value)
        elif isinstance(part, list):
            for value in part:
                visit(value)

    visit(schema)
    return used
