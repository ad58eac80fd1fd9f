"""The process that runs `fit` for an agent: it imports the user's code, so it is started anew for each call.

It reads one request from standard input, and writes JSON lines to what was its standard output: progress, then a result
or an error. What the user's code prints goes to standard error. It ends when its standard input does, which is when
the server has ended or the agent has cancelled the call.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any, TextIO

from autotrainer.api.fit import fit
from autotrainer.cli.entry_point import call_with_entry_point, entry_point_file
from autotrainer.errors import AutotrainerError
from autotrainer.reporting.formats.json_text import json_text
from autotrainer.reporting.result import Result

__all__ = ["main"]


def main() -> None:
    """Run one request."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()

    def progress(title: str, epochs: int, planned: int, score: float) -> None:
        _reply(replies, {"progress": {"title": title, "epochs": epochs, "planned": planned, "score": f"{score:.4g}"}})

    options = {**request["options"], "progress": progress}
    try:
        result: Result = call_with_entry_point(request["target"], fit, options)
        result.save(request["folder"])
    except AutotrainerError as error:
        _reply(replies, {"error": str(error)})
    except KeyboardInterrupt:
        _reply(replies, {"error": "the training was interrupted"})
    else:
        _reply(replies, {"result": {**_as_data(result), "file": entry_point_file(request["target"])}})


def _as_data(result: Result) -> dict[str, Any]:
    return {
        "status": result.status,
        "stopped_by": result.stopped_by,
        "report": result.report().to_dict(),
        "patch": "" if result.plan is None else str(result.plan),
    }


def _reply(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(json.loads(json_text(message))) + "\n")
    replies.flush()


def _end_with_stdin() -> None:
    while sys.stdin.buffer.read(2**16):
        pass
    os._exit(1)
