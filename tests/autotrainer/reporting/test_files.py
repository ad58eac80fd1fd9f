"""Files are written whole or not at all, wherever they go and whoever shares the folder."""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrainer.errors import InputError
from autotrainer.reporting import files
from autotrainer.reporting.files import replace_files, write_atomic, write_file, writing
from autotrainer.reporting.report import Report

OLD, NEW = "old" * 1000, "new" * 2000


def content_of(folder: Path) -> dict[str, Any]:
    """Return everything below a folder: text of files, targets of links, kinds of all else."""

    def describe(path: Path) -> Any:
        if path.is_symlink():
            return ("link", os.readlink(path))
        if path.is_file():
            return path.read_text("utf-8")
        return stat.S_IFMT(path.lstat().st_mode)

    return {str(path.relative_to(folder)): describe(path) for path in folder.rglob("*")}


def reject(save: Callable[[], object], match: str = "") -> str:
    """Return the message of the one sentence with which a path is rejected."""
    with pytest.raises(InputError, match=match) as caught:
        save()
    message = str(caught.value)
    assert message.isprintable()
    assert ".autotrainer-" not in message, "a temporary name means nothing to the reader"
    return message


# -- names ------------------------------------------------------------------------------------------------------------


class BytesPath:
    def __fspath__(self) -> bytes:
        return b"report.html"


class BrokenPath:
    def __fspath__(self) -> str:
        raise KeyError("of the user")


INVALID_PATHS: list[Any] = [
    None, 3, 1.5, True, b"report.html", bytearray(b"report.html"), ["report.html"], ("a", "b"), {"a": 1}, object(),
    BytesPath(), open, str, "", "a\0.html", "\0", "report.html\0.txt", "\ud800.html", "a\udfff\ud800.html",
    "x/\0/r.html",
]  # fmt: skip
UNWRITABLE_PATHS = [
    "file/report.html", "file/new/report.html", "folder.html", "folder.html/", "folder.html/.", "r" * 251 + ".html",
    "ä" * 126 + ".html", "n" * 256 + "/report.html", "/".join(["p" * 200] * 25) + "/report.html",
    "loop.html/report.html", "/proc/report.html", "/proc/self/new/report.html", "/sys/report.html",
    "/dev/null/report.html", "socket/report.html",
]  # fmt: skip
NAMES = [
    "r" * 245, "r" * 250, "ä" * 125, "é", "e\u0301", "名前", "\N{PILE OF POO}", " ", " leading", "trailing ", "-rf",
    "--help", "$(touch x)", "`touch x`", "a;b", "a|b", "*", "[a-z]", "?", "~", "a\nb", "a\tb", "\x1b[31m",
    "\u202etxt.lmth", "'", '"', "\\", "con", "..", "...", ".hidden", "%s", "{0}", "\udcff", "a\udc80b", "report.html",
    "REPORT", "Report", "\x7f", "#",
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with one of each kind of thing."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "file").write_text(OLD)
    (place / "folder.html").mkdir()
    (place / "loop.html").symlink_to("loop.html")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place / "socket"))
        yield place


@pytest.mark.parametrize("save", [Report().save, lambda path: write_atomic(path, NEW)], ids=["report", "file"])
def test_invalid_paths_are_rejected(
    save: Callable[[Any], object], place: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    monkeypatch.chdir(place)
    before = content_of(place)
    for path in INVALID_PATHS:
        reject(lambda path=path: save(path), "path")
    for path in UNWRITABLE_PATHS:
        reject(lambda path=path: save(path), "can't write")
    assert content_of(place) == before
    with pytest.raises(KeyError, match="of the user"):
        save(BrokenPath())
    record_property("attacks", len(INVALID_PATHS) + len(UNWRITABLE_PATHS) + 1)


def test_invalid_folders_are_rejected(place: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any) -> None:
    def save(folder: Any) -> None:
        with replace_files(folder) as new:
            write_file(new / "report.html", NEW)

    monkeypatch.chdir(place)
    before = content_of(place)
    for folder in INVALID_PATHS:
        reject(lambda folder=folder: save(folder), "folder")
    unwritable = ["file", "file/new", "socket", "loop.html", "n" * 256, "/proc", "/dev/null", "/sys"]
    for folder in unwritable:
        reject(lambda folder=folder: save(folder), "can't write")
    assert content_of(place) == before
    record_property("attacks", len(INVALID_PATHS) + len(unwritable))


def test_unusual_names_are_written(tmp_path: Path, record_property: Any) -> None:
    for number, name in enumerate(NAMES):
        path = tmp_path / f"{name}.html"
        path.write_text(OLD)
        assert write_atomic(path, f"{NEW}{number}") == path
    assert sorted(os.listdir(tmp_path)) == sorted(f"{name}.html" for name in NAMES)
    for number, name in enumerate(NAMES):
        assert (tmp_path / f"{name}.html").read_text() == f"{NEW}{number}"
    record_property("attacks", len(NAMES))


@pytest.mark.parametrize("kind", [str, Path, PurePosixPath])
def test_every_kind_of_path_is_accepted(kind: Callable[[str], Any], tmp_path: Path) -> None:
    path = kind(str(tmp_path / "new" / "folders" / "report.txt"))
    assert Report().save(path) == Path(path)
    assert Path(path).read_text().startswith("autotrainer:")


def test_relative_path_is_that_of_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with replace_files("out") as new:
        write_file(new / "a.txt", NEW)
        os.chdir(tmp_path / "elsewhere")
    assert content_of(tmp_path)["out/a.txt"] == NEW
    assert not os.listdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rmdir()
    reject(lambda: write_atomic("a.txt", NEW), "No such file")


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_names_that_the_locale_lacks_are_rejected(locale: str, tmp_path: Path, run_python: Any) -> None:
    code = """
from autotrainer.errors import InputError
from autotrainer.reporting.report import Report
try:
    Report().save("\\xe9.html")
except InputError as error:
    print("rejected:", str(error).isprintable())
"""
    done = run_python(code, LC_ALL=locale, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.stdout.strip() == "rejected: True", done.stderr


@pytest.mark.parametrize("content", ["", b"", b"\0\xff", "a\ud800b", "\u202e\x1b", "x" * 3_000_000], ids=len)
def test_every_content_is_written(content: str | bytes, tmp_path: Path) -> None:
    path = write_atomic(tmp_path / "file", content)
    expected = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    assert path.read_bytes() == expected


# -- links and special files ------------------------------------------------------------------------------------------


def test_planted_names_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any) -> None:
    victim, shared = tmp_path / "victim", tmp_path / "shared"
    victim.write_text("precious")
    shared.mkdir()
    path = shared / "report.html"
    patterns = [
        f".report.html.{os.getpid()}.tmp",
        "report.html.tmp",
        ".report.html.tmp",
        ".autotrainer-",
        "report.html~",
    ]
    for name in patterns:
        (shared / name).symlink_to(victim)
    names: list[str] = []
    make = Path.mkdir

    def record(self: Path, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        names.append(self.name)

    monkeypatch.setattr(Path, "mkdir", record)
    for _ in range(40):
        write_atomic(path, NEW)
    assert victim.read_text() == "precious"
    assert sorted(os.listdir(shared)) == sorted([*patterns, "report.html"])
    temporary = [name for name in names if name.startswith(".autotrainer-")]
    assert len(set(temporary)) == len(temporary) >= 40, "no name comes again"
    record_property("attacks", 40 + len(patterns))


def test_temporary_folder_is_closed_to_others(tmp_path: Path, record_property: Any) -> None:
    for umask in (0o000, 0o022, 0o777):
        old = os.umask(umask)
        try:
            with replace_files(tmp_path / str(umask)) as new:
                assert stat.S_IMODE(new.stat().st_mode) == 0o700
                write_file(new / "a", NEW)
        finally:
            os.umask(old)
    record_property("attacks", 3)


@pytest.mark.parametrize("kind", ["file", "missing", "loop", "folder", "long chain"])
def test_planted_link_is_replaced_and_not_followed(kind: str, tmp_path: Path, record_property: Any) -> None:
    victim, path = tmp_path / "victim", tmp_path / "report.txt"
    if kind == "file":
        victim.write_text("precious")
    elif kind == "folder":
        victim.mkdir()
    elif kind == "loop":
        victim.symlink_to("report.txt")
    elif kind == "long chain":
        victim.write_text("precious")
        for number in range(50):
            (tmp_path / f"{number}").symlink_to(victim if number == 0 else str(number - 1))
    path.symlink_to("49" if kind == "long chain" else "victim")
    before = content_of(tmp_path)
    if kind == "folder":
        reject(lambda: write_atomic(path, NEW), "Is a directory")
        before["report.txt"] = ("link", "victim")
    else:
        write_atomic(path, NEW)
        before["report.txt"] = NEW
    assert content_of(tmp_path) == before
    with replace_files(tmp_path) as new:
        write_file(new / "report.txt", OLD)
    assert content_of(tmp_path) == before | {"report.txt": OLD}
    record_property("attacks", 2)


def test_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_atomic(tmp_path / "link" / "a.txt", NEW)
    assert content_of(tmp_path)["real/a.txt"] == NEW


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("device", ["/dev/null", "/dev/full", "/dev/zero"])
def test_device_is_written_to_and_not_replaced(device: str, linked: bool, tmp_path: Path, record_property: Any) -> None:
    path = Path(device)
    if linked:
        path = tmp_path / "report.html"
        path.symlink_to(device)
    before = (os.lstat(path), os.stat(device).st_rdev)
    if device == "/dev/full":
        reject(lambda: Report().save(path), "No space left on device; free some space")
    else:
        assert Report().save(path) == path
    after = (os.lstat(path), os.stat(device).st_rdev)
    assert (before[0].st_ino, before[0].st_mode, before[1]) == (after[0].st_ino, after[0].st_mode, after[1])
    record_property("attacks", 1)


def test_pipe_is_written_to(tmp_path: Path, record_property: Any) -> None:
    path = tmp_path / "pipe.json"
    os.mkfifo(path)
    reject(lambda: Report().save(path), "No such device")
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        os.set_blocking(reader.fileno(), True)
        writer = os.open(path, os.O_WRONLY)  # reading does not end before there is a writer
        written: list[bytes] = []
        thread = threading.Thread(target=lambda: written.append(reader.read()))
        large = "x" * 1_000_000  # more than a pipe holds
        thread.start()
        write_atomic(path, large)
        os.close(writer)
        thread.join()
    assert written == [large.encode()]
    assert stat.S_ISFIFO(path.lstat().st_mode)
    with pytest.raises(InputError, match="this is not a file"), replace_files(tmp_path) as new:
        write_file(new / "pipe.json", NEW)
    assert os.listdir(tmp_path) == ["pipe.json"]
    record_property("attacks", 3)


def test_socket_is_left_alone(place: Path, record_property: Any) -> None:
    before = content_of(place)
    reject(lambda: write_atomic(place / "socket", NEW), "this is not a file")
    assert content_of(place) == before
    record_property("attacks", 1)


def test_standard_output_is_written_to(tmp_path: Path, run_python: Any, record_property: Any) -> None:
    code = """
import os, sys
from autotrainer.reporting.report import Report

os.chdir(sys.argv[1])
os.symlink("/dev/stdout", "link.txt")

def attack(target, open_output):
    with open("out", "w") as file:
        file.write("before ")
    descriptor, reader = open_output()
    child = os.fork()
    if child == 0:
        os.dup2(descriptor, 1)
        os.write(1, b"first ")
        Report().save(target)
        os.write(1, b"last ")
        os._exit(0)
    os.close(descriptor)
    assert os.waitpid(child, 0)[1] == 0
    written = os.read(reader, 1000) if reader is not None else open("out", "rb").read()
    assert os.path.islink("link.txt") and os.path.islink("/dev/stdout") and set(os.listdir()) == {"link.txt", "out"}
    start, middle, end = written.partition(b"autotrainer: no problem found")
    assert start.endswith(b"first ") and middle and end.endswith(b"last "), written
    return start.startswith(b"before ")

def pipe():
    reader, writer = os.pipe()
    return writer, reader

for target in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link.txt"):
    assert not attack(target, pipe)
    assert not attack(target, lambda: (os.open("out", os.O_WRONLY | os.O_TRUNC), None))
    assert not attack(target, lambda: (os.open("out", os.O_RDWR | os.O_TRUNC), None))
    assert attack(target, lambda: (os.open("out", os.O_WRONLY | os.O_APPEND), None))
"""
    done = run_python(code, str(tmp_path))
    assert done.returncode == 0, done.stderr
    record_property("attacks", 16)


def test_closed_standard_output_is_no_file(run_python: Any, record_property: Any) -> None:
    code = """
import os
from autotrainer.errors import InputError
from autotrainer.reporting.report import Report
os.close(1)
for target in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
    try:
        Report().save(target)
    except InputError:
        continue
    raise SystemExit(target)
assert os.path.islink("/dev/stdout")
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    record_property("attacks", 3)


# -- modes and owners -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o027, 0o077, 0o177, 0o277, 0o777])
def test_new_file_has_the_mode_that_open_gives(umask: int, tmp_path: Path, record_property: Any) -> None:
    old = os.umask(umask)
    try:
        (tmp_path / "opened").open("w").close()
        write_atomic(tmp_path / "written", NEW)
        assert os.umask(umask) == umask
    finally:
        os.umask(old)
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "opened").stat().st_mode
    record_property("attacks", 1)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o660, 0o666, 0o755, 0o200, 0o4755, 0o6777])
def test_replaced_file_keeps_its_mode(mode: int, tmp_path: Path, record_property: Any) -> None:
    path = tmp_path / "file"
    path.write_text(OLD)
    path.chmod(mode)
    write_atomic(path, NEW)
    assert path.read_text() == NEW or not os.access(path, os.R_OK)
    assert stat.S_IMODE(path.stat().st_mode) == mode & 0o777, "new content never runs as somebody else"
    record_property("attacks", 1)


AS_NOBODY = """
import os, stat, sys, tempfile
from autotrainer.errors import InputError
from autotrainer.reporting.files import replace_files, write_atomic, write_file
os.umask(0o022)
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)

def attempt(save, *arguments):
    try:
        save(*arguments)
    except InputError as error:
        assert ".autotrainer-" not in str(error), error
        return "refused"
    return "written"

def save_all(folder, *names):
    with replace_files(folder, obsolete=["plan.json"]) as new:
        for name in names:
            write_file(new / name, "new")
"""


def as_nobody(run_python: Any, code: str, *arguments: str) -> list[str]:
    done = run_python(AS_NOBODY + code, *arguments)
    assert done.returncode == 0, done.stderr
    return list(done.stdout.split())


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Return a folder that everybody can enter and write to."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path("/tmp"):
            break
        if folder.owner() == Path.home().owner() and not folder.stat().st_mode & 0o001:
            folder.chmod(0o711)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    return shared


def test_permissions_of_file_and_folder_are_respected(shared: Path, run_python: Any, record_property: Any) -> None:
    code = """
os.chdir(sys.argv[1])
for name, file_mode, folder_mode in [
    ("read-only file", 0o444, 0o755), ("file of mode 000", 0o000, 0o755), ("read-only folder", 0o644, 0o555),
    ("folder without entry", 0o644, 0o600), ("write-only file", 0o200, 0o755), ("unlisted folder", 0o644, 0o300),
]:
    os.mkdir(name)
    open(name + "/a.txt", "w").write("old")
    os.chmod(name + "/a.txt", file_mode)
    os.chmod(name, folder_mode)
    print(attempt(write_atomic, name + "/a.txt", "new"), attempt(save_all, name, "a.txt", "b.txt"))
    os.chmod(name, 0o755)
    os.chmod(name + "/a.txt", 0o644)
    print(open(name + "/a.txt").read(), *sorted(os.listdir(name)))
"""
    refused, written = ["refused", "refused", "old", "a.txt"], ["written", "written", "new", "a.txt", "b.txt"]
    assert as_nobody(run_python, code, str(shared)) == [*refused * 4, *written * 2]
    record_property("attacks", 12)


@pytest.mark.skipif(os.getuid() != 0, reason="only the administrator can make files of another user")
def test_files_of_others_in_a_sticky_folder_stay(shared: Path, run_python: Any, record_property: Any) -> None:
    shared.chmod(0o1777)
    for name, mode in (("b.txt", 0o666), ("c.txt", 0o644)):
        (shared / name).write_text("other")
        (shared / name).chmod(mode)
    code = """
os.chdir(sys.argv[1])
open("a.txt", "w").write("old")
open("plan.json", "w").write("old")
for names in (["a.txt", "b.txt"], ["a.txt", "c.txt"], ["a.txt", "b.txt", "c.txt", "d.txt"]):
    print(attempt(save_all, ".", *names))
for name in ("b.txt", "c.txt", "e.txt"):
    print(attempt(write_atomic, name, "new"))
"""
    answers = as_nobody(run_python, code, str(shared))
    assert answers == ["refused"] * 5 + ["written"]
    rest = {"a.txt": "old", "plan.json": "old", "b.txt": "other", "c.txt": "other", "e.txt": "new"}
    assert content_of(shared) == rest
    record_property("attacks", 6)


@pytest.mark.skipif(os.getuid() != 0, reason="only the administrator can give files away")
def test_replaced_file_keeps_its_owner(tmp_path: Path, record_property: Any) -> None:
    path = tmp_path / "file"
    path.write_text(OLD)
    os.chown(path, 1234, 2345)
    path.chmod(0o640)
    write_atomic(path, NEW)
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 2345, 0o640)
    record_property("attacks", 1)


# -- failures ---------------------------------------------------------------------------------------------------------

CALLS = ["mkdir", "fsync", "replace", "link", "listdir", "lstat", "open", "chown", "unlink", "chmod"]
ERRORS: list[Callable[[], BaseException]] = [
    *(
        lambda code=code: OSError(code, os.strerror(code))
        for code in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE)
    ),
    KeyboardInterrupt,
    MemoryError,
]


def fail_at(
    patch: pytest.MonkeyPatch, call: str, number: int, error: Callable[[], BaseException]
) -> list[Callable[[], BaseException]]:
    """Let one of the calls to the system fail; return a list that gets the error once it has."""
    owner: Any = {"mkdir": Path, "unlink": Path, "chmod": Path}.get(call) or SimpleNamespace(**vars(os))
    if isinstance(owner, SimpleNamespace):
        patch.setattr(files, "os", owner)  # not for others, such as the removal of the temporary folder
    original, calls, failed = getattr(owner, call), itertools.count(), []

    def failing(*arguments: Any, **options: Any) -> Any:
        if next(calls) == number:
            failed.append(error)
            raise error()
        return original(*arguments, **options)

    patch.setattr(owner, call, failing)
    return failed


@pytest.mark.parametrize("call", CALLS)
def test_failing_call_leaves_all_files_or_none(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    attacks, folders = 0, itertools.count()
    new = {"a.txt": NEW, "b.txt": NEW, "c.txt": NEW, "d.txt": NEW}
    for error in ERRORS:
        for number in range(100):
            folder = tmp_path / f"{next(folders)}"
            old = {"a.txt": OLD, "c.txt": OLD, "plan.json": OLD, "theirs": OLD}
            folder.mkdir()
            for name, content in old.items():
                (folder / name).write_text(content)
                (folder / name).chmod(0o600)
            with monkeypatch.context() as patch:
                failed = fail_at(patch, call, number, error)
                try:
                    with replace_files(folder, obsolete=["plan.json"]) as stage:
                        for name, content in new.items():
                            write_file(stage / name, content)
                except (InputError, KeyboardInterrupt, MemoryError) as caught:
                    raised, expected = type(caught), old
                else:
                    raised, expected = None, {**new, "theirs": OLD}
            if raised:
                assert failed
                assert (raised is InputError) == isinstance(error(), OSError)
            assert content_of(folder) == expected
            attacks += bool(failed)
            if not failed:
                break
    assert attacks >= len(ERRORS)
    record_property("attacks", attacks)


@settings(max_examples=15, derandomize=True)
@given(
    old=st.sets(st.sampled_from("abcdefgh")),
    new=st.sets(st.sampled_from("abcdefgh"), min_size=1),
    obsolete=st.sets(st.sampled_from("abcdefgh")),
    number=st.integers(0, 12),
    links=st.booleans(),
)
def test_interrupted_move_is_undone(
    old: set[str], new: set[str], obsolete: set[str], number: int, links: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("folder")
    for name in old:
        if links:
            (folder / name).symlink_to(f"target of {name}")
        else:
            (folder / name).write_text(OLD)
    before = content_of(folder)
    with pytest.MonkeyPatch.context() as patch:
        failed = fail_at(patch, "replace", number, KeyboardInterrupt)
        try:
            with replace_files(folder, obsolete) as stage:
                for name in new:
                    write_file(stage / name, NEW)
        except KeyboardInterrupt:
            assert content_of(folder) == before
            return
    assert not failed
    assert content_of(folder) == {k: v for k, v in before.items() if k not in obsolete} | dict.fromkeys(new, NEW)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), KeyboardInterrupt(), SystemExit(3), FileNotFoundError(2, "m", "/x")]
)
def test_errors_of_the_user_pass(error: BaseException, tmp_path: Path, record_property: Any) -> None:
    (tmp_path / "a").write_text(OLD)

    def save() -> None:
        with replace_files(tmp_path) as stage:
            write_file(stage / "a", NEW)
            raise error

    with pytest.raises(type(error)) as caught:
        save()
    assert caught.value is error
    assert content_of(tmp_path) == {"a": OLD}
    record_property("attacks", 1)


@pytest.mark.parametrize("handled", [None, OSError(), KeyboardInterrupt(), KeyError()], ids=repr)
def test_error_of_the_file_replaces_that_of_the_library(
    handled: BaseException | None, tmp_path: Path, record_property: Any
) -> None:
    """Writers of torch and HDF5 raise a RuntimeError while they handle the error of the file."""

    def write(cause: BaseException | None) -> None:
        with writing(tmp_path / "model.pt"):
            try:
                if cause is not None:
                    raise cause
            finally:
                raise RuntimeError("unexpected position")

    def attempt(cause: BaseException | None) -> BaseException:
        try:
            if handled is None:
                write(cause)
            else:
                try:
                    raise handled
                except BaseException:  # noqa: BLE001 - as users do
                    write(cause)
        except BaseException as error:  # noqa: BLE001
            return error
        raise AssertionError("no error")

    full, interrupt, other = OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), FileNotFoundError(2, "m", "/x")
    assert attempt(full) is full
    assert full.filename == str(tmp_path / "model.pt")
    assert attempt(interrupt) is interrupt
    for cause in (None, KeyError(), other):
        assert type(attempt(cause)) is RuntimeError
    record_property("attacks", 5)


def test_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any) -> None:
    def link(*arguments: Any, **options: Any) -> None:
        if not os.path.lexists(arguments[0]):
            raise FileNotFoundError
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    for number in range(5):
        (tmp_path / "a").write_text(OLD)
        (tmp_path / "c").symlink_to("a")
        with monkeypatch.context() as patch:
            failed = fail_at(patch, "replace", number, ERRORS[0])
            try:
                with replace_files(tmp_path, ["c"]) as stage:
                    write_file(stage / "a", NEW)
                    write_file(stage / "b", NEW)
            except InputError:
                assert content_of(tmp_path) == {"a": OLD, "c": ("link", "a")}
            else:
                assert not failed
                assert content_of(tmp_path) == {"a": NEW, "b": NEW}
        (tmp_path / "c").unlink(missing_ok=True)
    record_property("attacks", 2)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
@pytest.mark.parametrize("interrupts", [60, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a file opened at that instant
def test_interrupts_anywhere_leave_all_files_or_none(interrupts: int, tmp_path: Path, record_property: Any) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    attacks, delays = 0, random.Random(0)
    old_handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(interrupts):
            for name in ("a", "b", "old"):
                (tmp_path / name).write_text(OLD)
            try:
                signal.setitimer(signal.ITIMER_REAL, delays.uniform(1e-5, 3e-3))
                with replace_files(tmp_path, ["old"]) as stage:
                    write_file(stage / "a", NEW)
                    write_file(stage / "b", NEW)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                attacks += 1
            except InputError as error:  # `shutil.rmtree` may close a descriptor twice
                if "Bad file descriptor" not in str(error):
                    raise
                attacks += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert content_of(tmp_path) in ({"a": OLD, "b": OLD, "old": OLD}, {"a": NEW, "b": NEW})
    finally:
        signal.signal(signal.SIGALRM, old_handler)
    assert attacks
    record_property("attacks", attacks)
