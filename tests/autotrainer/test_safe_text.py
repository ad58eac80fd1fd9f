"""No name controls a terminal, forges a line or floods the output, wherever it is printed."""

from __future__ import annotations

import ast
import json
import logging
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import autotrainer
from autotrainer import errors
from autotrainer.cli import main
from autotrainer.edits import AddDropout, ResizeLayers
from autotrainer.records.findings import Finding, Severity
from autotrainer.reporting.outcome import AttemptRow, Outcome
from autotrainer.reporting.plan import RepairPlan
from autotrainer.reporting.report import Report
from autotrainer.reporting.terminal import print_output, print_table
from autotrainer.safe_text import escaped, safe_line, safe_text

ROOT = Path(autotrainer.__file__).parent

HOSTILE = [
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x1b]8;;http://x\x1b\\",
    "\x9b31m",
    "\x07",
    "\b\b\b",
    "\r",
    "\n",
    "a\nautotrainer: healthy",
    "\r\n",
    "\x0b",
    "\x0c",
    "\x1c\x1d\x1e",
    "\x85",
    "\u2028",
    "\u2029",
    "\0",
    "\x7f",
    "\t",
    "\u202e",
    "\u202a\u202c",
    "\u2066\u2069",
    "\u200e",
    "\u200f",
    "\u061c",
    "\u200b",
    "\u200d",
    "\u2060",
    "\ufeff",
    "\u00ad",
    "\u180e",
    "\u034f",
    "\u3164",
    "\u115f",
    "\uffa0",
    "\ufe0f",
    "\U000e0001\U000e0041",
    "\U000e0101",
    "\ud800",
    "\udfff",
    "\ud83d",
    "\udcff",
    "\u00a0",
    "\u3000",
    "\ufff9",
    "\ufffe",
    "\U0010ffff",
    "\ue000",
    "::error::forged",
    "%s %d %(x)s {} {0} {0.__class__}",
    "[bold]x[/bold]",
    "[link=http://x]y[/link]",
    "[/]",
    "<script>alert(1)</script>",
    "\" onload='x",
    "'\"`>",
    "{{ 7*7 }}",
    "{% raw %}",
    "$(id)",
    "`id`",
    "'''",
    '"""',
    "\\",
    "\\n",
    "#",
    "]]>",
    "--",
    "-->",
    "&lt;",
    "a" * 1_000_000,
    "a " * 50_000,
    "\x1b" * 100_000,
    "\u202e" * 100_000,
    "é",
    "名前",
    "ß",
    "😀",
    "x" * 501,
    ("y" * 400 + " ") * 30,
]
"""Names that attack whoever prints them."""
UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
NAMES = st.text(st.characters(codec=None, exclude_categories=()), max_size=40) | st.sampled_from(
    [name for name in HOSTILE if len(name) < 1000]
)

Count = Callable[[str, int], None]


def short(name: str) -> str:
    return ascii(name)[:20]


def check_line(line: str, longest: int = 2_100) -> None:
    for character in line:
        assert unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"), ascii(character)
    assert line.isprintable()
    assert not UNSEEN.search(line), ascii(line)
    assert len(line) <= longest
    line.encode()


def check_text(text: str, lines: int | None = None) -> None:
    parts = text.split("\n")
    assert lines is None or len(parts) == lines
    for part in parts:
        check_line(part)
    assert len(text) < 60_000, "a long name floods the output"


@given(NAMES)
@settings(max_examples=300)
@example("\ud800")
def test_lines_are_safe_whatever_they_hold(name: str) -> None:
    check_line(safe_line(name))
    check_line(safe_line(f"before {name} after"))
    assert safe_line(safe_line(name)) == safe_line(name)
    assert escaped(escaped(name)) == escaped(name)
    for line in safe_text(f"{name}\n{name}").split("\n"):
        check_line(line)


def test_plain_text_stays_as_it_is() -> None:
    for text in (
        "blocks.0.fc",
        "größe",
        "层",
        "a → b · × ÷ – …",
        "β2 = 0.9",
        "[bold] <b> {} %s 'x' \"y\" \\n",
        "x" * 500,
    ):
        assert safe_line(text) == text
    assert safe_line("a\x1b[31mb\nc é →") == "a\\x1b[31mb\\nc é →"
    assert safe_text("a\nb\r\n\u202e") == "a\nb\\r\n\\u202e"
    assert safe_line("x" * 10**6) == "x" * 333 + "…" + "x" * 166
    assert len(safe_line("x " * 10**6)) == 2_000


def finding(name: str) -> Finding:
    return Finding(
        name, name, Severity.ERROR, 0.9, f"Layer {name} receives no gradient.", (name, f"{name}.b", "c"), 3, 1,
        {name: 1.0}, (name,), name, f"{name}.py:12",
    )  # fmt: skip


def report(name: str) -> Report:
    plan = RepairPlan((name,), (AddDropout((name or "a",), 0.5),), (name,), places={name: f"{name}.py:3"})
    attempt = AttemptRow((name, "b"), 0.5, 1.0, f"{name} failed\nbadly", (name,), False)
    rerun = replace(attempt, verdict="holds")
    outcome = Outcome("repaired", "done", name, 0.5, 0.4, 0.5, 0.4, 2.0, str(plan), plan.changes,
                      (attempt, rerun), {name: f"{name} is\nkept"})  # fmt: skip
    other = replace(finding(name), problem="other", caused_by=name)
    more = [replace(other, problem=f"p{i}") for i in range(3)]
    return Report((finding(name), other, *more), {"framework": name, "loss": name, name: name},
                  {name: ((0.0, 1.0), (1.0, 2.0))}, outcome)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=short)
def test_findings_and_reports_are_safe_and_json_is_exact(name: str, record_property: Count) -> None:
    record_property("attacks", 6)
    text = str(finding(name))
    check_text(text, 1)
    assert repr(finding(name[:100])).isprintable()
    plain = str(report("plain"))
    text = str(report(name))
    check_text(text)
    if len(name) < 20:
        assert [line.split()[:1] for line in text.split("\n")] != [], text
        assert text.count("\n\n") == plain.count("\n\n"), "a name begins no block"
    values = json.loads(report(name).to_json())
    assert values["findings"][0]["layers"] == [name, f"{name}.b", "c"]
    assert values["result"]["metric"] == name
    assert report(name).to_json().isascii()
    assert finding(name).layers[0] == name, "the record keeps the name"
    assert Finding.from_dict(finding(name).to_dict()) == finding(name)


class Elements(HTMLParser):
    """Collects the structure of a page, and what it shows."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.text: list[str] = []
        self.script = False  # of the page's own, which is the same whatever the names
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.script = tag == "style" or (tag == "script" and not attrs)
        self.text += [value or "" for _, value in attrs]

    def handle_data(self, data: str) -> None:
        if not self.script:
            self.text.append(data)


@pytest.mark.parametrize("name", HOSTILE, ids=short)
def test_pages_have_the_same_elements_whatever_the_names(name: str, record_property: Count) -> None:
    record_property("attacks", 1)
    page, plain = Elements(report(name).to_html()), Elements(report("plain").to_html())
    assert page.tags == plain.tags
    for text in page.text:
        check_line(text.replace("\n", ""), 100_000)


PLAIN_PLAN = RepairPlan(("x",), (ResizeLayers(("a", "b"), (2, 3)), AddDropout(("a",), 0.5)), ("p",), places={"p": "q"})


@pytest.mark.parametrize("name", [name for name in HOSTILE if name], ids=short)
@pytest.mark.parametrize("framework", ["pytorch", "keras3", "\x1b\n"])
def test_plans_have_as_many_lines_whatever_the_names(name: str, framework: str, record_property: Count) -> None:
    record_property("attacks", 2)
    edits = (ResizeLayers((name, "b"), (2, 3)), AddDropout((name,), 0.5))
    plan = replace(PLAIN_PLAN, framework=framework, edits=edits, problems=(name,), places={name: name})
    check_text(str(plan))
    if len(name) < 400:
        assert str(plan).count("\n") == str(replace(PLAIN_PLAN, framework=framework)).count("\n")
    assert RepairPlan.from_dict(json.loads(plan.to_json())) == plan
    for edit in edits:
        check_text(str(edit), 1)


@pytest.mark.parametrize("name", HOSTILE, ids=short)
def test_log_lines_are_one_line_each(name: str, record_property: Count) -> None:
    record_property("attacks", 3)
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("autotrainer")
    logger.addHandler(handler)
    try:
        logger.warning("%s (epoch %d)", finding(name), 3)
        logger.warning("%s failed: %r", name, ValueError(name))
        logger.warning(name)
        logger.warning("fine: %d", 3)
    finally:
        logger.removeHandler(handler)
    check_text(stream.getvalue(), 5)
    assert stream.getvalue().endswith("fine: 3\n")


def test_harmless_log_records_keep_their_arguments(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "autotrainer"):
        logging.getLogger("autotrainer").warning("%s in %d", "a", 3)
        logging.getLogger("autotrainer").warning("%s", "a\nb")
    assert [record.args for record in caplog.records] == [("a", 3), None]
    assert caplog.messages == ["a in 3", "a\\nb"]


@pytest.mark.parametrize("name", HOSTILE, ids=short)
def test_errors_are_one_line(name: str, record_property: Count) -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    record_property("attacks", len(kinds))
    for kind in kinds:
        check_text(str(kind(f"there is no layer {name}: it has {name}, b")), 1)
        assert kind(name).args == (name,)


COMMANDS = [
    ["{}"],
    ["explain", "{}"],
    ["rules", "{}"],
    ["replay", "{}"],
    ["report", "{}", "-o", "x.html"],
    ["check", "{}"],
    ["check", "{}:f"],
    ["run", "{}"],
    ["run", "-m", "{}"],
    ["run", "-o", "{}", "x.py"],
    ["run", "--epochs", "{}", "x.py"],
    ["run", "--threshold", "{}=1", "x.py"],
    ["run", "--threshold", "{}", "x.py"],
    ["run", "--select", "{}", "x.py"],
    ["run", "--fail-on", "{}", "x.py"],
    ["demo", "--framework", "{}"],
    ["reproduce", "--model", "{}", "--config", "{}"],
    ["reproduce", "--model", "x.h5", "--config", "{}.pkl"],
    ["--{}"],
    ["run", "--{}", "x.py"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_bad_arguments_are_one_line(
    command: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, record_property: Count,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    names = [name for name in HOSTILE if len(name) < 20_000 and not re.search("[\0\ud800-\udc7f\udd00-\udfff]", name)]
    record_property("attacks", len(names))
    for name in names:
        arguments = [part.format(name) if part == "{}" else part.replace("{}", name) for part in command]
        assert main(arguments) in (0, 2), ascii(name)
        printed = capsys.readouterr()
        check_text(printed.err, 2 if printed.err else 1)
        if printed.out:  # the best match for words that are clear enough
            check_text(printed.out)


def test_names_of_scripts_and_reports_are_safe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], record_property: Count
) -> None:
    names = [name for name in HOSTILE if len(name) < 50 and not re.search("[/\0\ud800-\udc7f\udd00-\udfff]", name)]
    record_property("attacks", len(names))
    for name in names:
        script = tmp_path / f"{name}.py"
        script.write_text("pass\n")
        main(["run", "-o", str(tmp_path / f"{name}.html"), str(script)])
        check_text("".join(capsys.readouterr()))


def test_text_that_an_encoding_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("ascii", "latin-1", "cp1252", "utf-8"):
        buffer = BytesIO()
        monkeypatch.setattr(sys, "stdout", TextIOWrapper(buffer, encoding=encoding))
        print_output("0.5 → 0.7 名 \x1b\n└ causes")
        print_table(("a",), [("→\n",)])
        assert main(["explain", "vanishing_gradient"]) == 0
        sys.stdout.flush()
        assert b"\x1b" not in buffer.getvalue()


class Terminal(StringIO):
    """A stream that looks like a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [StringIO, Terminal])
def test_tables_show_markup_and_escapes_as_text(
    terminal: type[StringIO], monkeypatch: pytest.MonkeyPatch, record_property: Count
) -> None:
    record_property("attacks", len(HOSTILE))
    monkeypatch.setenv("COLUMNS", "5000")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    for name in HOSTILE:
        stream = terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        print_table(("name", "x"), [(name, name), ("b", "c")])
        text = stream.getvalue()
        if "[" in name and name.isprintable():
            assert name in text, "markup is shown, not interpreted"
        for line in text.replace("\n", " ").split("\x1b[0m"):
            check_line(re.sub(r"\x1b\[[\d;]*m", "", line), 10**6)


def _prints(file: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield node


def test_commands_print_through_one_function() -> None:
    calls = {file.name for file in (ROOT / "cli").glob("*.py") if list(_prints(file))}
    assert not calls, "print_output and print_error make text safe"
