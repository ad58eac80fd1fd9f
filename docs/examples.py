"""The examples of the documents: a block of Python, and the output that stands below it.

    python docs/examples.py             # runs all examples and puts in their present outputs
    python docs/examples.py README.md   # those of one document

An example is a ``python`` block (``py`` is one that can't stand alone), or a ``sh`` block that begins with
``autotrainer``; its output is the ``text`` block that follows it at once. Numbers in outputs may differ between
machines, words may not: that is what the tests compare.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    *sorted(f"docs/guides/{path.name}" for path in (ROOT / "docs" / "guides").glob("*.md")),
)
INTEGRATIONS = tuple(sorted(f"docs/integrations/{path.name}" for path in (ROOT / "docs" / "integrations").glob("*.md")))
"""Pages whose examples need libraries that are installed by ``pip install '.[integrations]'``."""

_EXAMPLE = re.compile(
    r"^```(?P<language>python|sh)\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?",
    flags=re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Example:
    """One example.

    Attributes:
        name: Document and number.
        language: ``python`` or ``sh``.
        code: What is to be run.
        output: What it prints; None where the document shows no output.
        span: Where the output stands in the document.
    """

    name: str
    language: str
    code: str
    output: str | None
    span: tuple[int, int]


def examples(document: str) -> Iterator[Example]:
    """Yield the examples of a document, by its path from the root: all of Python, commands that show an output."""
    for number, match in enumerate(_EXAMPLE.finditer((ROOT / document).read_text("utf-8"))):
        language, code, output = match.group("language", "code", "output")
        if language == "python" or (output is not None and code.startswith("autotrainer ")):
            yield Example(f"{document}:{number}", language, code, output, match.span("output"))


def run(example: Example) -> str:
    """Run an example in a folder of its own and return what it prints.

    Raises:
        subprocess.CalledProcessError: If Python code fails; commands may report errors by their status.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "COLUMNS": "100"}
    with tempfile.TemporaryDirectory() as folder:
        if example.language == "python":
            (Path(folder) / "train.py").write_text(example.code, "utf-8")
            command = [sys.executable, "train.py"]
        else:
            shell = f'autotrainer() {{ "{sys.executable}" -m autotrainer "$@"; }}\n{example.code}'
            command = ["bash", "-c", shell]
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            check=example.language == "python",
            stdout=subprocess.PIPE,
            stderr=None if example.language == "python" else subprocess.STDOUT,
            text=True,
            timeout=600,
        )
    return done.stdout


def words(output: str) -> str:
    """Return an output without its numbers and line breaks."""
    number = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
    return re.sub(rf"{number}(?:, {number})*", "#", " ".join(output.split()))


def check(example: Example, run: Callable[[Example], str] = run) -> None:
    """Run an example, and compare what it prints with what its document shows: root errors, and most of the words.

    Args:
        example: The example.
        run: Runs it and returns what it prints.

    Raises:
        AssertionError: If they differ.
        subprocess.CalledProcessError: If Python code fails.
    """
    printed = run(example)
    if example.output is None:
        return
    shown, actual = words(example.output), words(printed)
    roots = [re.findall(r"ERROR AT# \w+", text) for text in (shown, actual)]
    vocabulary = set(shown.split())
    # which steps are measured depends on the time, so that a consequence more or less is no reason to fail
    missing = vocabulary - set(actual.split())
    if roots[0] != roots[1] or len(missing) > 0.25 * len(vocabulary):
        document = example.name.partition(":")[0]
        raise AssertionError(f"{roots[1]} for {roots[0]}; python docs/examples.py {document} puts in:\n{printed}")


def refresh(document: str) -> bool:
    """Put in what the examples of a document print now; return whether that changed it."""
    text = old = (ROOT / document).read_text("utf-8")
    for example in reversed(list(examples(document))):
        if example.output is not None:
            start, end = example.span
            text = text[:start] + "".join(line.rstrip() + "\n" for line in run(example).splitlines()) + text[end:]
    (ROOT / document).write_text(text, "utf-8")
    return text != old


if __name__ == "__main__":
    for path in sys.argv[1:] or DOCUMENTS:
        print(f"{path}: {'changed' if refresh(path) else 'as it was'}")
