"""Pickles of plain values are read; nothing else is imported, called or constructed, and no length is believed."""

from __future__ import annotations

import json
import os
import pickle
import pickletools
import random
import struct
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrainer.demo.unpickle import load_plain
from autotrainer.errors import ConfigError

CONFIG: dict[str, Any] = {
    "optimizer": "Adam",
    "opt_kwargs": {"lr": 0.001, "nesterov": False, "epsilon": None},
    "batchsize": 128,
    "epoch": 300,
    "dataset": "simplednn_circle",
    "loss": "binary_crossentropy",
}
NUMPY = {**CONFIG, "epoch": np.int64(300), "opt_kwargs": {"lr": np.float32(0.1), "beta": np.float64(0.9)}}


class _RunsCommand:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("false",)


def _pickle(folder: Path, value: Any, protocol: int = 3) -> Path:
    path = folder / "config.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [CONFIG, {"a": [1, (2.5, None), {"b": True}], "c": {}, "d": []}, {}, [()] * 3])
def test_plain_values_are_read(tmp_path: Path, value: Any, protocol: int) -> None:
    assert load_plain(_pickle(tmp_path, value, protocol)) == value


@pytest.mark.parametrize(
    "number", [np.int64(400), np.float32(0.5), np.bool_(True), np.uint8(7), np.dtype(">f8").type(2)]
)
def test_numpy_numbers_become_python_numbers(tmp_path: Path, number: Any) -> None:
    value = load_plain(_pickle(tmp_path, {"epoch": number}))
    assert value == {"epoch": number.item()}
    assert type(value["epoch"]) is type(number.item())


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def _bomb() -> list[Any]:
    value: list[Any] = [0] * 10
    for _ in range(8):
        value = [value] * 10
    return value


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (_RunsCommand(), r"posix\.system|nt\.system"),
        ({"a": _RunsCommand()}, "system"),
        (OrderedDict(a=1), r"collections\.OrderedDict"),
        ({"f": print}, "builtins.print|__builtin__.print"),
        ({"a": np.zeros(3)}, "_reconstruct|_frombuffer"),
        ({"a": {1, 2}}, "set"),
        ({"a": b"bytes"}, "bytes|_codecs"),
        ({"a": 1j}, "complex"),
        (_nested(40), "nested too deeply"),
        (_bomb(), "contains too many values"),
        (CYCLE, "nested too deeply"),
    ],
)
def test_anything_else_is_refused_by_name(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_plain(_pickle(tmp_path, value))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        b"cos\nsystem\n(S'false'\ntR.",
        pickle.dumps(CONFIG)[:-5],
        b"\x80\x03cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.",
        b"\x80\x03cnumpy.core.multiarray\nscalar\nX\x01\x00\x00\x00OX\x01\x00\x00\x00a\x86R.",
        b"\x80\x03cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x01\x00\x00\x00O\x85RC\x08aaaaaaaa\x86R.",
        b"0" * 1_000_001,
    ],
)
def test_damaged_and_malicious_pickles_are_config_errors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.pkl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not a pickle of plain values"):
        load_plain(path)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"(dp0\nS'epoch'\np1\nI400\nsS'lr'\np2\nF0.001\nsS'on'\np3\nI01\ns.", {"epoch": 400, "lr": 0.001, "on": True}),
        (b"S'caf\\xe9 \\q'\n.", "café \\q"),
        (
            b"cnumpy.core.multiarray\nscalar\np0\n(cnumpy\ndtype\np1\n(S'f8'\np2\nI0\nI1\ntp3\nRp4\n"
            b"(I3\nS'<'\np5\nNNNI-1\nI-1\nI0\ntp6\nbS'\\xfc\\xa9\\xf1\\xd2MbP?'\np7\ntp8\nRp9\n.",
            0.001,
        ),
    ],
)
def test_pickles_of_python_2_are_read(tmp_path: Path, content: bytes, value: Any) -> None:
    (tmp_path / "config.pkl").write_bytes(content)
    assert load_plain(tmp_path / "config.pkl") == value


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@given(_PLAIN, st.integers(0, pickle.HIGHEST_PROTOCOL), st.booleans())
def test_every_plain_value_is_read_as_pickle_reads_it(
    tmp_path_factory: pytest.TempPathFactory, value: Any, protocol: int, optimized: bool
) -> None:
    content = pickle.dumps(value, protocol)
    path = tmp_path_factory.getbasetemp() / "plain.pkl"
    path.write_bytes(pickletools.optimize(content) if optimized else content)
    assert repr(load_plain(path)) == repr(value)


# -- attacks ------------------------------------------------------------------------------------------------------


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _stack_global(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + b"\x93"


_HUGE = 2**62
_BOMBS = {
    "memo index": b"Nr\xff\xff\xff\x7f.",
    "memo indices": b"N" + b"".join(b"r" + struct.pack("<I", 2**31 - 1 - i) for i in range(500)) + b".",
    "memo index in text": b"Np%d\n." % _HUGE,
    "memo index of 4,000 digits": b"Np" + b"9" * 4000 + b"\n.",
    "negative memo index": b"Np-1\ng-1\n.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", _HUGE) + b"N.",
    "frames": b"\x80\x04" + (b"\x95" + struct.pack("<Q", _HUGE)) * 1000 + b"N.",
    "bytes8": b"\x8e" + struct.pack("<Q", _HUGE) + b"a.",
    "bytearray8": b"\x96" + struct.pack("<Q", _HUGE) + b"a.",
    "unicode8": b"\x8d" + struct.pack("<Q", _HUGE) + b"a.",
    "unicode of 4 GB": b"X\xff\xff\xff\xffa.",
    "string of 2 GB": b"T\xff\xff\xff\x7fa.",
    "negative string": b"T\xff\xff\xff\xffa.",
    "integer of 900,000 bytes": b"\x8b" + struct.pack("<i", 900_000) + b"\x7f" * 900_000 + b".",
    "integer of -1 bytes": b"\x8b\xff\xff\xff\xff.",
    "integer of 900,000 digits": b"L" + b"1" * 900_000 + b"L\n.",
    "float of 900,000 digits": b"F" + b"1" * 900_000 + b"\n.",
    "nested tuples": b")" + b"\x85" * 200_000 + b".",
    "nested lists": b"]" * 200_000 + b"a" * 199_999 + b".",
    "nested dicts": (b"}" + _text("k")) * 90_000 + b"N" + b"s" * 90_000 + b".",
    "marks": b"(" * 900_000 + b".",
    "hash of doubled tuples": b"})" + b"2\x86" * 100_000 + b"Ns.",
    "colliding keys": b"}("
    + b"".join(b"\x8a\x10" + (i * (2**61 - 1)).to_bytes(16, "little") + b"N" for i in range(40_000))
    + b"u.",
    "doubled lists": b"](K\x01K\x01e" + b"(22t" * 5000 + b".",
    "doubled by memo": b"]q\x00" + b"(" + b"h\x00" * 1000 + b"e" + b".",
    "list in itself": b"]q\x00h\x00a.",
    "dict in itself": b"}q\x00" + _text("k") + b"h\x00s.",
    "repeated text": b"]q\x00(" + _text("x" * 500_000) + b"q\x01" + b"h\x01" * 5000 + b"e.",
    "repeated keys": b"](" + (b"}" + _text("y" * 5000) + b"Ns") * 100 + b"e.",
    "dups": b"N" + b"2" * 900_000 + b".",
    "puts": b"N" + b"\x94" * 900_000 + b".",
    "array of huge shape": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000\ntS'b'\ntR.",
    "bytearray of huge size": b"cbuiltins\nbytearray\n(I10000000000\ntR.",
    "codecs": b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x06\x00\x00\x00latin1tR.",
    "scalar of huge type": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'V1000000000'\ntRS'a'\ntR.",
    "dtype of a huge sub-array": b"cnumpy\ndtype\n(S'(1000000000,1000000000)f8'\ntR.",
    "dtype of many fields": b"cnumpy\ndtype\n(S'" + b"f8," * 200_000 + b"f8'\ntR.",
    "dtype of a list": b"cnumpy\ndtype\n((lp0\nS'a'\natR.",
    "scalar of objects": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\ntRS'aaaaaaaa'\ntR.",
}
"""Pickles that ask for memory or time out of proportion to their length."""

_TARGETS = [
    "os system",
    "posix system",
    "builtins eval",
    "builtins exec",
    "builtins __import__",
    "builtins getattr",
    "builtins open",
    "subprocess Popen",
    "runpy run_path",
    "importlib import_module",
    "_io open",
    "socket socket",
    "builtins bytearray",
    "numpy load",
    "numpy frombuffer",
    "numpy fromfile",
    "numpy.core.multiarray _reconstruct",
    "numpy ndarray",
    "numpy dtype.type",
    "numpy.testing measure",
    "autotrainer.errors nearest",
    "autotrainer.demo.unpickle load_plain",
    "autotrainer.demo.unpickle _FORMATS",
    "copyreg _reconstructor",
    "collections OrderedDict",
    "torch load",
    "keras Model",
    "code InteractiveInterpreter",
    "pickle loads",
    "pty spawn",
    "webbrowser open",
    "ctypes CDLL",
    "shutil rmtree",
    "pathlib Path.unlink",
]


def _malicious() -> dict[str, bytes]:
    attacks = dict(_BOMBS)
    for target in _TARGETS:
        module, name = target.split(" ")
        for kind, push in (("text", f"c{module}\n{name}\n".encode()), ("stack", _stack_global(module, name))):
            attacks[f"{target} {kind} call"] = push + b"(S'canary'\ntR."
            attacks[f"{target} {kind} new"] = push + b"(S'canary'\nt\x81."
            attacks[f"{target} {kind} state"] = push + b"}" + _text("canary") + b"I1\nsb."
            attacks[f"{target} {kind} in a dict"] = b"}" + _text("loss") + push + b"s."
        attacks[f"{target} inst"] = f"(S'canary'\ni{module}\n{name}\n.".encode()
        attacks[f"{target} obj"] = f"(c{module}\n{name}\nS'canary'\no.".encode()
    for name in ("numpy\ndtype", "numpy.core.multiarray\nscalar", "numpy._core.multiarray\nscalar"):
        push = f"c{name}\n".encode()
        for kind, rest in {
            "state": b"}" + _text("canary") + b"I1\nsb.",
            "slots": b"N}" + _text("canary") + b"I1\ns\x86b.",
            "setstate": b"(I1\nS'<'\ntb.",
            "no arguments": b")R.",
            "itself": b"2\x85R.",
            "list": b"]R.",
            "huge": b"(I10000000000\ntR.",
            "new": b")\x81.",
            "new with keywords": b")}\x92.",
            "item": _text("k") + b"Ns.",
            "append": b"Na.",
            "bare": b".",
        }.items():
            attacks[f"{name} {kind}"] = push + rest
    number = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR"
    for order in (b"N", b"]", b"S'?'\n", b"S'<<'\n", b"I1\n", b"\x8b\x00\x00\x00\x00"):
        attacks[f"byte order {order!r}"] = number + b"(I3\n" + order + b"NNNI-1\nI-1\nI0\ntb."
    for data in (b"N", b"S''\n", b"S'aaaaaaa'\n", b"S'aaaaaaaaa'\n", b"V\\u1234aaaaaaa\n", b"]", b"I8\n"):
        attacks[f"data {data!r}"] = b"cnumpy.core.multiarray\nscalar\n(" + number + data + b"tR."
    for code in range(256):
        attacks[f"opcode {code}"] = bytes([code]) + b"."
        attacks[f"opcode {code} with values"] = b"]}(NNN" + bytes([code]) + b"\x01\x00\x00\x00\x00\x00\x00\x00\nx\n."
    return attacks


def _mutated(number: int, seed: int) -> list[bytes]:
    """Pickles of all protocols with bytes changed, removed, repeated, or exchanged with another pickle."""
    rng = random.Random(seed)
    values = [
        CONFIG,
        NUMPY,
        {"loss": _RunsCommand()},
        [OrderedDict(a=1), {"a": (1, [2, (3.5, None)])}],
        {"x": {1, 2}, "y": b"z"},
    ]
    pool = [pickle.dumps(value, protocol) for value in values for protocol in range(6)]
    mutants = []
    for _ in range(number):
        content = bytearray(rng.choice(pool))
        for _ in range(rng.choice((1, 1, 2, 5, 20))):
            start = rng.randrange(len(content))
            match rng.randrange(5):
                case 0:
                    content[start] = rng.randrange(256)
                case 1:
                    content[start] = ord(
                        rng.choice("(.012IJKLMNRSTUVXabcde}gh]oqprst)uGQP\x80\x81\x85\x86\x88\x8a\x8b\x8c\x93\x94\x95")
                    )
                case 2:
                    del content[start : start + rng.randrange(1, 9)]
                case 3:
                    content[start:start] = content[start : start + rng.randrange(1, 30)]
                case _:
                    other = rng.choice(pool)
                    cut = rng.randrange(len(other))
                    content[start:] = other[cut:]
            content = content or bytearray(b".")
        mutants.append(bytes(content))
    return mutants


_CANARY = """
import encodings.raw_unicode_escape, encodings.unicode_escape, json, resource, sys, warnings
from pathlib import Path
from autotrainer.demo import unpickle
from autotrainer.errors import ConfigError
folder = Path(sys.argv[1])
attacks = {path.name: path for path in sorted(folder.iterdir())}
def state():
    return {name: sorted(map(str, getattr(value, "__dict__", ()))) for name, value in vars(unpickle).items()
            if callable(value)}
before = state()
failures = []
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
events = []
def hook(event, arguments):
    if event in ("open", "os.stat") and str(arguments[0]).startswith(str(folder)):
        return
    events.append(f"{event} {arguments!r:.80}")
sys.addaudithook(hook)
warnings.simplefilter("error")

def is_plain(value):
    if isinstance(value, dict):
        return type(value) is dict and all(type(k) is str and is_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return type(value) in (list, tuple) and all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)

for name, path in attacks.items():
    events.clear()
    try:
        value = unpickle.load_plain(path)
        if not is_plain(value):
            failures.append(f"{name}: accepted {value!r:.80}")
    except ConfigError as error:
        if isinstance(error.__cause__, MemoryError):
            failures.append(f"{name}: ran out of memory")
        if not str(error).isprintable() or len(str(error)) > 1000:
            failures.append(f"{name}: message {error!s:.80}")
    except BaseException as error:
        failures.append(f"{name}: {error!r:.80}")
    if events:
        failures.append(f"{name}: audit events {events[:3]}")
events.clear()
if state() != before:
    failures.append("a class or function of the module has changed")
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used
if used > 400_000:
    failures.append(f"took {used} kB")
print(json.dumps(failures))
"""


def _attack(
    folder: Path, attacks: dict[str, bytes], run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> list[str]:
    """Return what the attacks achieved in a process of limited memory, in which every audit event is recorded."""
    for number, (name, content) in enumerate(attacks.items()):
        label = "".join(c if c.isalnum() else "-" for c in name)
        (folder / f"{number:05d}-{label}").write_bytes(content)
    ran = run_python(_CANARY, str(folder))
    assert ran.returncode == 0, ran.stderr
    failures: list[str] = json.loads(ran.stdout)
    return failures


@pytest.mark.slow
def test_malicious_pickles_do_nothing(
    tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]], record_property: Callable[..., None]
) -> None:
    attacks = _malicious()
    record_property("attacks", len(attacks))
    failures = _attack(tmp_path, attacks, run_python)
    assert not failures, failures[:20]


@pytest.mark.parametrize("number", [300, pytest.param(5_000, marks=pytest.mark.slow)])
def test_mutated_pickles_do_nothing(
    number: int,
    tmp_path: Path,
    run_python: Callable[..., subprocess.CompletedProcess[str]],
    record_property: Callable[..., None],
) -> None:
    record_property("attacks", number)
    attacks = {str(index): content for index, content in enumerate(_mutated(number, seed=number))}
    failures = _attack(tmp_path, attacks, run_python)
    assert not failures, failures[:20]
