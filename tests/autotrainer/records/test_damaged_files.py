"""Damaged and forged run logs and journals: a `LogError`, or nothing has changed; never another exception."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import autotrainer
from autotrainer.cli import main
from autotrainer.errors import AutotrainerError, ConfigError, LogError
from autotrainer.records.json_lines import encode_line

SAVED = Path(__file__).parents[1] / "api" / "saved" / "run.jsonl"

RAW = {  # what no JSON library writes, in place of a value
    "@huge": "1e999", "@nan": "NaN", "@infinity": "-Infinity", "@digits": "9" * 5000, "@deep": "[" * 2000 + "]" * 2000,
    "@objects": '{"a":' * 900 + "1" + "}" * 900, "@open": "[" * 100_000, "@twice": '{"step":1,"step":2}',
    "@fraction": "1." + "0" * 5000, "@float": "-0.0", "@exponent": "1e-9999",
}  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, -5, 3.5, -1e300, 1e300, 5e-324, 2**31, 2**53 + 1, 2**63, -(2**63), 2**64, 10**39,
    "", "x", "inf", "-inf", "nan", "NaN", "12", "\x00\x1b[31m", "\udcff", "é" * 300, [], [[]], [None], {}, {"a": 1},
    [1, 2], [[1.0, 2.0]], {"float": "nan"}, {"array": "", "dtype": "|O", "shape": [1]}, {"array": "eJw="},
    *RAW,
]  # fmt: skip


def seal(lines: list[str]) -> bytes:
    """Return a file of these records, with right checksums."""
    sealed, checksum = [], 0
    for line in lines:
        content, checksum = encode_line(line, checksum)
        sealed.append(content)
    return b"".join(sealed)


def unseal(content: bytes) -> list[str]:
    """Return the records of a file as JSON, without their checksums."""
    return [line[: line.rindex(',"crc"')] + "}" for line in content.decode().splitlines()]


def damage(content: bytes, rng: random.Random) -> bytes:
    """Return a file with one damage of its bytes or lines."""
    at, lines = rng.randrange(len(content)), content.splitlines(keepends=True)
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    swapped = list(lines)
    swapped[one], swapped[other] = lines[other], lines[one]
    middle = at + rng.randrange(1, 40)
    options: list[Callable[[], bytes]] = [
        lambda: content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :],
        lambda: content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :],
        lambda: content[:at] + bytes([rng.choice(b'0123456789"{}[],:.-e')]) + content[at + 1 :],
        lambda: content[:at] + content[at + 1 :],
        lambda: content[:at] + content[at : at + 1] + content[at:],
        lambda: content[:at] + rng.randbytes(3) + content[at:],
        lambda: content[:at] + bytes(middle - at) + content[middle:],
        lambda: content[:at] + content[middle:],
        lambda: content[:at],
        lambda: content[:at] + b"\n",
        lambda: b"".join(lines[:one] + lines[one + 1 :]),
        lambda: b"".join(lines[:one] + lines[one : one + 1] + lines[one:]),
        lambda: b"".join(swapped),
        lambda: b"".join(lines[:one] + lines[other : other + 1] + lines[one:]),
        lambda: b"".join([*lines[: one + 1], lines[one].rstrip(b"\n")[:-30], b"\n", *lines[one + 1 :]]),
        lambda: content.replace(b"\n", b"\r\n") if rng.random() < 0.3 else content[:at] + b"\r\n" + content[at:],
        lambda: rng.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b" ", b"\n", b"#"]) + content,
        lambda: (
            content + rng.choice([content, lines[one], b"{}\n", b"\n", b"\x00" * 50, b"null\n", b'{"type":"end"}\n'])
        ),
        lambda: content.decode().encode(rng.choice(["utf-16", "utf-32", "utf-16-be"])),
    ]
    return rng.choice(options)()


def forge(lines: list[str], rng: random.Random, number: int | None = None) -> list[str]:
    """Return records of which some were changed by somebody who knows JSON."""
    records = [json.loads(line) for line in lines]
    for _ in range(rng.choice([1, 1, 1, 2])):
        record = records[rng.randrange(len(records)) if number is None else number]
        places = list(_places(record))
        holder, key = rng.choice(places)
        value = holder[key]
        kind = rng.randrange(8)
        if kind <= 3:
            holder[key] = rng.choice(VALUES)
        elif kind == 4 and isinstance(holder, dict):
            del holder[key]
        elif kind == 5 and isinstance(holder, dict):
            holder[rng.choice(["x", "type", "step", "crc", key.upper(), key[::-1]])] = holder.pop(key)
        elif kind == 6 and isinstance(value, list):
            changed = list(value)
            rng.choice([changed.reverse, changed.clear, changed.pop if changed else changed.clear])()
            holder[key] = rng.choice([changed, value + value, value * 50, [value], value[1:]])
        elif isinstance(value, int | float) and not isinstance(value, bool):
            holder[key] = rng.choice([-value, value + 1, value * 1000, value - 1, value / 3, 1e30 * value])
        else:
            other = rng.choice(list(_places(rng.choice(records))))
            holder[key] = json.loads(json.dumps(other[0][other[1]]))
    if rng.random() < 0.1:
        records.insert(rng.randrange(len(records)), json.loads(json.dumps(rng.choice(records))))
    texts = [json.dumps(record, separators=(",", ":")) for record in records]
    for name, raw in RAW.items():
        texts = [text.replace(f'"{name}"', raw) for text in texts]
    return texts


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in list(entries)[:60]:
        yield value, key
        yield from _places(entry)


def _prefix(content: bytes, original: bytes) -> bytes | None:
    """Return the complete lines of a file if they are those with which the original begins, else None."""
    lines = [line.removesuffix(b"\r") for line in content.split(b"\n")[:-1]]
    text = b"".join(line + b"\n" for line in lines)
    return text if original.startswith(text) else None


# -- run logs ---------------------------------------------------------------------------------------------------------


def _log() -> bytes:
    lines = SAVED.read_text("utf-8").splitlines()
    return seal([lines[0].replace('"autotrainer_log":1', '"autotrainer_log":2'), *lines[1:]])


def _replay(path: Path, content: bytes, **options: Any) -> str | None:
    """Return the report as JSON; None for a `LogError`."""
    path.write_bytes(content)
    try:
        report = autotrainer.replay(path, **options)
    except LogError as error:
        message = str(error)
    else:
        assert str(report)
        assert report.to_html()
        return report.to_json()
    assert str(path) in message
    assert len(message) < 1500
    return None


@pytest.mark.parametrize("seeds", [range(30), pytest.param(range(30, 600), marks=pytest.mark.slow)], ids=len)
def test_damaged_run_log_is_an_error_or_has_no_effect(seeds: range, tmp_path: Path, record_property: Any) -> None:
    content, path, reports = _log(), tmp_path / "run.jsonl", {}
    errors = 0
    for seed in seeds:
        damaged = damage(content, random.Random(seed))
        report = _replay(path, damaged, select=("AT1", "AT2"))
        prefix = _prefix(damaged, content)
        if prefix is None:
            assert report is None, f"damage {seed} was not noticed"
        else:
            if prefix not in reports:
                reports[prefix] = _replay(path, prefix, select=("AT1", "AT2"))
            assert report == reports[prefix], f"damage {seed} changed the report"
        errors += report is None
    assert len(seeds) / 2 < errors < len(seeds)
    record_property("attacks", len(seeds))


@pytest.mark.parametrize("seeds", [range(20), pytest.param(range(20, 500), marks=pytest.mark.slow)], ids=len)
@pytest.mark.parametrize("version", [1, 2])
def test_forged_run_log_is_an_error_or_a_report(
    version: int, seeds: range, tmp_path: Path, record_property: Any
) -> None:
    lines, path, errors = unseal(_log()), tmp_path / "run.jsonl", 0
    for seed in seeds:
        rng = random.Random(seed)
        forged = forge(lines, rng, rng.choice([0, None, None, None]))
        content = seal(forged)
        if version == 1:
            text = "".join(line + "\n" for line in forged)
            content = text.replace('"autotrainer_log":2', '"autotrainer_log":1', 1).encode()
        errors += _replay(path, content, replicas=[SAVED] if seed % 4 == 0 else ()) is None
    assert len(seeds) / 4 < errors < len(seeds)
    record_property("attacks", len(seeds))


@pytest.mark.parametrize("command", [["replay"], ["replay", "--json"], ["report", "-o", "report.html"]])
def test_command_says_in_one_line_what_is_damaged(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, record_property: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    content = _log().replace(b'"epoch":1', b'"epoch":2', 1)
    Path("run.jsonl").write_bytes(content)
    assert main([command[0], "run.jsonl", *command[1:]]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("autotrainer: run.jsonl: line ")
    assert err.count("\n") == 1
    assert not Path("report.html").exists()
    record_property("attacks", 1)


def test_late_epoch_costs_nothing(tmp_path: Path, record_property: Any) -> None:
    lines = [line.replace('"epoch":2', '"epoch":999999999') for line in unseal(_log())]
    assert _replay(tmp_path / "run.jsonl", seal(lines)) is not None
    record_property("attacks", 1)


# -- journals ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["auto", "auc"])
def journal(request: Any, story: Any, tmp_path: Path) -> tuple[Path, bytes, Any, Callable[[], Any]]:
    """A journal: its path and content, the result of its `fit`, and a function that resumes it."""
    options = {"budget": 3.0, "metric": request.param, "log_dir": tmp_path / "log"}
    whole = story.fit(**options)
    for log in options["log_dir"].glob("run-*"):
        log.unlink()
    (path,) = options["log_dir"].glob("fit-*.jsonl")

    def resume() -> Any:
        try:
            return story.fit(resume=True, **options)
        finally:
            for log in options["log_dir"].glob("run-*"):
                log.unlink()

    return path, path.read_bytes(), whole, resume


@pytest.mark.parametrize("seeds", [range(10), pytest.param(range(10, 130), marks=pytest.mark.slow)], ids=len)
def test_damaged_journal_is_an_error_or_has_no_effect(seeds: range, journal: Any, record_property: Any) -> None:
    path, content, whole, resume = journal
    for seed in seeds:
        damaged = damage(content, random.Random(seed))
        path.write_bytes(damaged)
        try:
            result = resume()
        except (LogError, ConfigError):
            assert path.read_bytes() == damaged, "nothing is changed"
            assert _prefix(damaged, content) is None
        else:
            assert result == whole, f"damage {seed} changed the result"
            assert _prefix(damaged, content) is not None
        for other in path.parent.glob("fit-*"):
            other.unlink()
    record_property("attacks", len(seeds))


@pytest.mark.parametrize("seeds", [range(10), pytest.param(range(10, 130), marks=pytest.mark.slow)], ids=len)
def test_forged_journal_is_an_error_or_a_result(seeds: range, journal: Any, record_property: Any) -> None:
    path, content, _, resume = journal
    lines, errors = unseal(content), 0
    for seed in seeds:
        rng = random.Random(seed)
        path.write_bytes(seal(forge(lines, rng)))
        message = ""
        try:
            resume()
        except AutotrainerError as error:
            message = str(error)
        errors += bool(message)
        assert len(message) < 1500
        for other in path.parent.glob("fit-*"):
            other.unlink()
    assert len(seeds) / 4 < errors
    record_property("attacks", len(seeds))


# -- memory -----------------------------------------------------------------------------------------------------------

BOMBS = """
import base64, io, json, resource, sys, zlib
from pathlib import Path
import autotrainer
from autotrainer.cli import main
from autotrainer.errors import LogError
from autotrainer.monitoring.logs.run_log import RUN_LOG
from autotrainer.records.json_lines import LineWriter
from autotrainer.workers.journal_reader import JOURNAL, read_journal

folder = Path(sys.argv[1])
deflater = zlib.compressobj(1)
content = b"".join([*(deflater.compress(bytes(2**20)) for _ in range(600)), deflater.flush()])
bomb = base64.b64encode(content).decode()
assert len(bomb) < 2**22
score = {"value": 0.5, "nonfinite": 0.0, "weights": None, "outputs": None, "loss": None}
trial = {
    "key": "k", "unit": 1, "seconds": 1.0, "judged": score, "findings": [], "context": {}, "history": {}, "work": 1,
    "cut_short": False, "above_trivial": True, "edits": [], "granted": 1, "peak": 1, "total": 1, "stuck": False,
    "goes_on": False,
}

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

def journal(shape, content=bomb, dtype="<f8"):
    score["rows"] = {"array": content, "dtype": dtype, "shape": shape}
    write(JOURNAL, [{"autotrainer_fit": 3, "request": {}}, trial])
    try:
        read_journal(folder / "file")
    except LogError:
        return
    raise AssertionError(f"{shape} is accepted")

def write(form, records):
    with (folder / "file").open("w") as file:
        writer = LineWriter(file, form)
        for record in records:
            writer.write(record if isinstance(record, str) else json.dumps(record))

def log(*records, accepted=False):
    header = {"autotrainer_log": 2, "version": "0", "step_columns": [], "layer_columns": []}
    write(RUN_LOG, [header, *records])
    try:
        autotrainer.replay(folder / "file", select="AT101")
    except LogError:
        assert not accepted
    else:
        assert accepted

before = peak()
for shape in ([1], [0], [2**20], [2**26 + 1], [2**29], [2**29, 2**29], [1] * 40, [-1], [1.0], [True], 5, None):
    journal(shape)
for dtype in ("|O", "<U9", "|V8", "<M8[s]", "float64", "f8,f8", "(9,)f8", ",", ""):
    journal([1], dtype=dtype)
small = base64.b64encode(zlib.compress(bytes(8), 1)).decode()
for content in (small[:-4], small + small, small + "====", "é", "!" * 99, "", base64.b64encode(b"x").decode()):
    journal([1], content)
journal([2**26], small)
print("arrays", peak() - before, flush=True)
context = {"type": "context", "context": {"layers": [{"name": "a"}] * 99_000}}
log({"type": "context", "context": {"layers": [{"name": "a"}] * 120_000}})
log(context, accepted=True)
step = {"type": "step", "step": 0, "epoch": 0, "scalars": [], "layers": [[]] * 99_000, "losses": [], "targets": {}}
log(context, step, accepted=True)
log({"type": "epoch", "epoch": 0, "step": 0, "values": {str(n): 0.5 for n in range(1000)}}, accepted=True)
log({"type": "epoch", "epoch": 0, "step": 0, "values": {str(n): 0.5 for n in range(200_000)}})
log({"type": "losses", "losses": [[n, 0.5] for n in range(300_000)]}, accepted=True)
for empty in ([[]], [[], []], [[1]]):
    log({"type": "losses", "losses": empty})
end = '{"type":"end","step":0,"x":'
for begin, part, parts, rest in (
    ("", "[]," * 64, 2**16, ""),
    ("", "[" * 64, 2**16, ""),
    ("", '{"a":' * 64, 2**15, ""),
    ("", "x" * 2**20, 200, ""),
    ("", '"' * 64, 2**16, ""),
    ("", "9" * 64, 2**18, ""),
    (end + '"', "x" * 2**20, 32, '"}'),
    (end + '["', "\\\\u00e9" * 64, 2**16, '"]}'),
    (end + "[", '1.5,"\\\\ud83d\\\\ude00",' * 64, 2**14, "1]}"),
    (end + "[", '{"abc":0.1},' * 64, 2**14, "1]}"),
):
    with (folder / "file").open("w") as file:
        file.write('{"autotrainer_log":1,"version":"0","step_columns":[],"layer_columns":[]}\\n' + begin)
        for _ in range(parts):
            file.write(part)
        file.write(rest + "\\n")
    try:
        autotrainer.replay(folder / "file", select="AT101")
    except LogError:
        continue
    assert begin, "a bomb is accepted"
print("lines", peak() - before)
"""


@pytest.mark.slow
def test_memory_is_bounded(run_python: Any, tmp_path: Path, record_property: Any) -> None:
    done = run_python(BOMBS, str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    megabytes = {name: int(value) for name, value in map(str.split, done.stdout.splitlines())}
    assert megabytes["arrays"] < 100, "600 MB would be unpacked"
    assert megabytes["lines"] < 400
    record_property("attacks", 44)
