"""Starts the process that runs `fit`, passes its progress on, and ends it with everything that it started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from autotrainer.errors import InputError

__all__ = ["run_fit"]

_ROOT = str(Path(__file__).parents[3])
_LONGEST_REPLY = 2**26
_START = (
    "import sys; root = {root!r}; root in sys.path or sys.path.insert(0, root); "
    "from autotrainer.cli.mcp.fit_worker import main; main()"
)

Progress = Callable[[float, float | None, str | None], Awaitable[None]]


async def run_fit(
    target: str, options: Mapping[str, Any], folder: Path, current: Path, progress: Progress
) -> dict[str, Any]:
    """Run `fit` on an entry point in a process of its own.

    If the call is cancelled, the process and what it has started are killed.

    Args:
        target: The entry point, such as ``train:make``.
        options: Further arguments of `fit`.
        folder: Folder for the result.
        current: Folder in which it runs, and from which the module is imported.
        progress: Is called at the end of each epoch with the epochs so far, None, and what is being trained.

    Returns:
        Status, report and patch of the result.

    Raises:
        InputError: If the request or the user's code is at fault.
    """
    start = _START.format(root=_ROOT)
    process = await anyio.open_process(
        [sys.executable, "-P", "-c", start],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None,  # the server's, for what the user's code prints
        cwd=current,
        start_new_session=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        request = {"target": target, "options": dict(options), "folder": str(folder)}
        await process.stdin.send(json.dumps(request).encode() + b"\n")
        replies, epochs = BufferedByteReceiveStream(process.stdout), 0
        while True:
            try:
                reply = json.loads(await replies.receive_until(b"\n", _LONGEST_REPLY))
            except (anyio.EndOfStream, anyio.IncompleteRead) as error:
                raise InputError(
                    f"the process that trains {target} ended with status {await process.wait()}"
                ) from error
            if "progress" in reply:
                epochs += 1
                state = reply["progress"]
                text = f"{state['title']}: epoch {state['epochs']} of {state['planned']}, score {state['score']}"
                await progress(epochs, None, text)
            elif "error" in reply:
                raise InputError(str(reply["error"]))
            else:
                result: dict[str, Any] = reply["result"]
                return result
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _end(process: Process) -> None:
    """Kill a process and, where the system has process groups, all that it has started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        with suppress(ProcessLookupError):
            process.kill()
    await process.aclose()
