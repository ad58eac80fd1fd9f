"""Whatever the monitor prints or logs, and whatever it calls, can fail without harm to the training."""

from __future__ import annotations

import errno
import io
import logging
import logging.handlers
import os
import queue
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import Sampler
from autotrainer.output import SafeStream, logger, print_error
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LAYER_COLUMNS, LayerInfo, Observation
from autotrainer.records.task import TaskContext
from autotrainer.rule import Rule
from autotrainer.training.progress import Progress

MESSAGE = "The loss is 3× that of └→ π, layer \udc80."
"""Characters that ASCII, code page 1252 and strict UTF-8 lack."""


class AlwaysError(Rule):
    """Reports an error."""

    problem = "always_error"
    code = "AT970"
    needs = frozenset({"loss"})

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        return self.finding(Severity.ERROR, 1.0, MESSAGE, {"loss": 1})


class CausedError(AlwaysError):
    """Reports an error that the other one causes."""

    problem = "consequence"
    code = "AT971"
    causes = ("always_error",)


class UserError(Exception):
    """An exception of the user's training."""


def train(error: BaseException | None = None, monitor: Monitor | None = None, **options: Any) -> Monitor:
    """Run a watched training with two errors, which an exception may end."""
    watched = monitor or Monitor([AlwaysError(), CausedError()], Sampler(), **options)
    with watched:
        watched.begin(TaskContext(layers=(LayerInfo("a"),)))
        for step in range(4):
            watched.record(Observation(step, np.full((1, len(LAYER_COLUMNS)), np.nan), 0.5))
            watched.log(loss=0.5)
        watched.end_epoch(val_loss=1.0)
        watched.fail("a part", ValueError(MESSAGE))
        if error is not None:
            raise error
    return watched


def assert_training_survives(**options: Any) -> None:
    """Run a training to its end, and one that the user's exception ends, which must arrive as it is."""
    watched = train(**options)
    assert watched.closed
    assert [f.problem for f in watched.findings] == ["always_error", "consequence"]
    with pytest.raises(UserError) as raised:
        train(UserError("mine"), **options)
    assert raised.value.__context__ is None
    assert raised.value.__cause__ is None


@contextmanager
def configured(*handlers: Any) -> Iterator[pytest.MonkeyPatch]:
    """Give the logger these handlers alone; without any, Python writes warnings to standard error."""
    with pytest.MonkeyPatch.context() as patch:  # a fixture would let pytest add its handlers
        patch.setattr(logger, "propagate", False)
        patch.setattr(logger, "handlers", list(handlers))
        yield patch


# -- standard error ---------------------------------------------------------------------------------------------------


class Raising(io.StringIO):
    """A stream whose methods raise."""

    def __init__(self, error: BaseException, *methods: str) -> None:
        super().__init__()
        for method in methods or ("write",):
            setattr(self, method, self._raise)
        self._error = error

    def _raise(self, *args: Any) -> NoReturn:
        raise self._error


class Attributes:
    """An object with only these attributes."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


def closed(stream: Any) -> Any:
    """Close a stream."""
    stream.close()
    return stream


def encoded(encoding: str, errors: str = "strict") -> io.TextIOWrapper:
    """Return a stream with an encoding."""
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors)


def broken_pipe() -> Any:
    """Return a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")


def full_pipe() -> Any:
    """Return a pipe that is full and does not block."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        pass
    stream = open(writer, "w", encoding="utf-8")  # noqa: SIM115 - closed by the test
    stream.reader = open(reader, "rb")  # type: ignore[attr-defined] # noqa: SIM115 - open as long as the writer
    return stream


def lost_descriptor() -> Any:
    """Return a stream whose file descriptor somebody has closed."""
    stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - closed by the test
    os.close(stream.fileno())
    return stream


def _unicode_error() -> UnicodeEncodeError:
    return UnicodeEncodeError("ascii", "└", 0, 1, "ordinal not in range(128)")


STREAMS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "closed text": lambda: closed(io.StringIO()),
    "closed file": lambda: closed(open(os.devnull, "w")),  # noqa: SIM115
    "full disk": lambda: open("/dev/full", "w", encoding="utf-8"),  # noqa: SIM115
    "full disk, line-buffered": lambda: open("/dev/full", "w", buffering=1, encoding="ascii"),  # noqa: SIM115
    "broken pipe": broken_pipe,
    "full pipe": full_pipe,
    "lost descriptor": lost_descriptor,
    "read only": lambda: open(os.devnull),  # noqa: SIM115
    "ascii": lambda: encoded("ascii"),
    "cp1252": lambda: encoded("cp1252"),
    "latin-1": lambda: encoded("latin-1"),
    "utf-8": lambda: encoded("utf-8"),
    "utf-16": lambda: encoded("utf-16"),
    "shift-jis": lambda: encoded("shift_jis"),
    "ascii that replaces": lambda: encoded("ascii", "replace"),
    "unknown encoding": lambda: Attributes(encoding="no-such", errors="strict", write=len),
    "encoding of the wrong type": lambda: Attributes(encoding=7, write=len),
    "unknown error handler": lambda: Attributes(encoding="ascii", errors="no-such", write=len, flush=int),
    "bytes": io.BytesIO,
    "no attributes": object,
    "only write": lambda: Attributes(write=len),
    "write is no function": lambda: Attributes(write="x", flush=3),
    "flush fails": lambda: Raising(OSError(errno.ENOSPC, "full"), "flush"),
    "all fails": lambda: Raising(OSError(errno.EIO, "gone"), "write", "flush", "isatty", "fileno"),
    **{
        f"write raises {type(error).__name__}": (lambda error=error: Raising(error))
        for error in (
            OSError(errno.ENOSPC, "full"), BrokenPipeError(), BlockingIOError(), PermissionError(),
            ValueError("closed"),
            RuntimeError(), TypeError(), AttributeError(), LookupError(), RecursionError(), MemoryError(),
            StopIteration(), AssertionError(), UserWarning(), _unicode_error(),
        )
    },
}  # fmt: skip


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Replaces standard error."""
    streams = []

    def replace(stream: Any) -> None:
        streams.append(stream)
        monkeypatch.setattr(sys, "stderr", stream)

    yield replace
    monkeypatch.undo()
    for stream in streams:
        for part in (stream, getattr(stream, "reader", None)):
            try:
                if part is not None:
                    part.close()
            except (OSError, AttributeError):
                pass


@pytest.mark.parametrize("name", STREAMS)
def test_training_survives_a_standard_error_that_fails(name: str, stderr: Any, record_property: Any) -> None:
    record_property("attacks", 2)
    stderr(STREAMS[name]())
    with configured():
        assert_training_survives()


@pytest.mark.parametrize("name", STREAMS)
def test_progress_survives_a_terminal_that_fails(name: str, stderr: Any, record_property: Any) -> None:
    record_property("attacks", 1)
    stream = STREAMS[name]()
    if hasattr(stream, "__dict__"):
        stream.isatty = lambda: True
    stderr(stream)

    def show() -> None:
        with Progress(enabled=True) as progress:
            progress.begin("baseline training", 3)
            progress.update(0, 0.5)
            progress.begin("attempt 1", 3)
            progress.update(2, float("nan"))
            raise UserError

    with pytest.raises(UserError):
        show()
    assert sys.stderr is stream


@pytest.mark.parametrize("name", ["ascii", "cp1252", "latin-1", "utf-8", "shift-jis"])
def test_characters_that_an_encoding_lacks_are_escaped(name: str, stderr: Any) -> None:
    stream = STREAMS[name]()
    stderr(stream)
    train()
    stream.seek(0)
    text = stream.read()
    assert "autotrainer: 2 errors in this training run" in text
    assert r"\udc80" in text
    assert (r"\u2514 causes" in text) == (name not in ("utf-8", "shift-jis"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupt_while_the_summary_is_printed_goes_through(error: type[BaseException], stderr: Any) -> None:
    stderr(Raising(error()))
    with pytest.raises(error):
        train()


def test_failed_text_is_not_kept_for_the_end_of_the_process(stderr: Any) -> None:
    """Python would try to write it again when it ends, and report a failure by its exit status."""
    stream = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115
    stderr(stream)
    print_error("lost")
    stream.flush()


def test_summary_follows_what_was_printed_before(stderr: Any, tmp_path: Path) -> None:
    stream = open(tmp_path / "err", "w", encoding="utf-8")  # noqa: SIM115
    stderr(stream)
    stream.write("before ")
    print_error("summary")
    stream.write("after")
    stream.close()
    assert (tmp_path / "err").read_text("utf-8") == "before summary\nafter"


def test_safe_stream_describes_its_stream() -> None:
    stream = SafeStream(encoded("cp1252"))
    assert (stream.encoding, stream.isatty(), SafeStream(None).isatty()) == ("cp1252", False, False)
    for broken in (None, io.StringIO()):
        with pytest.raises(OSError, match="fileno"):
            SafeStream(broken).fileno()
    assert SafeStream(None).encoding == "utf-8"


# -- logging ----------------------------------------------------------------------------------------------------------


class RaisingHandler(logging.Handler):
    """A handler one of whose methods raises."""

    def __init__(self, error: BaseException, method: str = "emit") -> None:
        super().__init__()
        self._error = error
        setattr(self, method, self._raise)

    def emit(self, record: logging.LogRecord) -> None:
        pass

    def _raise(self, *args: Any) -> NoReturn:
        raise self._error


class Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        raise KeyError("%(nope)s")


def _formatted() -> logging.Handler:
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(Format())
    return handler


def _full_queue() -> logging.Handler:
    return logging.handlers.QueueHandler(queue.Queue(1))


class WithoutStream(logging.Handler):
    @property
    def stream(self) -> NoReturn:
        raise RuntimeError

    def emit(self, record: logging.LogRecord) -> None:
        pass


class Warns(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        warnings.warn("slow handler", stacklevel=1)


HANDLERS: dict[str, Callable[[], logging.Handler]] = {
    **{
        f"{method} raises {type(error).__name__}": (lambda error=error, method=method: RaisingHandler(error, method))
        for error in (OSError(28, "full"), RuntimeError(), RecursionError(), MemoryError(), _unicode_error())
        for method in ("emit", "handle", "filter", "handleError", "acquire")
    },
    **{
        f"writes to {name}": (lambda name=name: logging.StreamHandler(STREAMS[name]()))
        for name in STREAMS
        if name not in ("none", "full pipe", "broken pipe", "lost descriptor", "read only") and "disk" not in name
    },
    "formatter fails": _formatted,
    "queue is full": _full_queue,
    "stream attribute fails": WithoutStream,
    "warns": Warns,
    "no handler": lambda: None,  # type: ignore[dict-item,return-value]
    "level of the wrong type": lambda: Attributes(level="x"),  # type: ignore[dict-item,return-value]
}


@pytest.mark.parametrize("raise_exceptions", [True, False])
@pytest.mark.parametrize("name", HANDLERS)
def test_training_survives_logging_that_fails(
    name: str, raise_exceptions: bool, monkeypatch: pytest.MonkeyPatch, stderr: Any, record_property: Any
) -> None:
    record_property("attacks", 2)
    stderr(closed(io.StringIO()))  # logging reports its errors there
    monkeypatch.setattr(logging, "raiseExceptions", raise_exceptions)
    handler = HANDLERS[name]()
    with configured(handler):
        assert_training_survives()
    getattr(handler, "__dict__", {}).pop("acquire", None)  # logging calls it when the process ends


def _filter(record: logging.LogRecord) -> bool:
    raise OSError(28, "full")


def _factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
    raise RuntimeError("no records today")


@pytest.mark.parametrize(
    ("target", "attribute", "value"),
    [
        (logger, "filters", [_filter]),
        (logger, "filters", [None]),
        (logger, "handlers", None),
        (logger, "parent", object()),
        (logger, "name", None),
        (logger, "disabled", True),
        (logger, "level", logging.CRITICAL),
        (logging, "_logRecordFactory", _factory),
        (logging, "lastResort", None),
        (logging, "lastResort", RaisingHandler(OSError(28, "full"), "handle")),
    ],
)
def test_training_survives_a_logging_configuration_that_fails(
    target: Any, attribute: str, value: Any, record_property: Any
) -> None:
    record_property("attacks", 2)
    with configured() as patch:
        patch.setattr(target, attribute, value)
        assert_training_survives()


def test_log_line_is_escaped_for_the_weakest_handler() -> None:
    stream = encoded("ascii")
    with configured(logging.StreamHandler(io.StringIO()), logging.StreamHandler(stream)):
        train()
    stream.seek(0)
    text = stream.read()
    assert r"The loss is 3\xd7 that of" in text
    assert "Logging error" not in text


def test_argument_without_text_does_not_hide_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    class MuteError(Exception):
        def __repr__(self) -> str:
            raise RuntimeError

    with caplog.at_level(logging.WARNING, "autotrainer"):
        Monitor([], Sampler()).fail("a part", MuteError())
    assert caplog.messages == ["a part failed and is switched off; the training continues: '<MuteError>'"]


def test_log_records_name_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "autotrainer"):
        logger.warning("one %s", 1)
        logging.getLogger("autotrainer").warning("two")
    assert [(r.filename, r.funcName) for r in caplog.records] == [
        ("test_output.py", "test_log_records_name_the_caller")
    ] * 2


def test_unconfigured_logging_prints_warnings_as_python_does(capsys: pytest.CaptureFixture[str]) -> None:
    with configured() as patch:
        logger.warning("one %s", 1)
        logger.info("two")
        patch.setattr(logger, "filters", [lambda record: False])
        logger.warning("three")
    assert capsys.readouterr().err == "one 1\n"


def test_logger_of_another_class_keeps_its_methods(run_python: Any) -> None:
    code = (
        "import logging\n"
        "class Mine(logging.Logger):\n    def shout(self, text): self.warning(text.upper())\n"
        "logging.setLoggerClass(Mine)\n"
        "log = logging.getLogger('autotrainer')\n"
        "log.setLevel(logging.ERROR)\n"
        "import autotrainer.output as output\n"
        "assert output.logger is log is logging.getLogger('autotrainer') and log.level == logging.ERROR\n"
        "log.setLevel(0); log.shout('mine')\n"
    )
    ran = run_python(code)
    assert (ran.returncode, ran.stderr) == (0, "MINE\n")


# -- callbacks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError(28, "full"), RecursionError(), MemoryError(), StopIteration(), UserWarning()]
)
def test_training_survives_a_callback_that_raises(error: Exception, record_property: Any) -> None:
    record_property("attacks", 2)

    def callback(finding: Finding) -> None:
        raise error

    assert_training_survives(on_finding=callback)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_callback_can_end_the_process(error: type[BaseException]) -> None:
    def callback(finding: Finding) -> None:
        raise error

    with pytest.raises(error):
        train(on_finding=callback)


@pytest.mark.parametrize(
    "action",
    [
        lambda monitor: monitor.close(),
        lambda monitor: monitor.findings,
        lambda monitor: monitor.should_stop,
        lambda monitor: str(monitor.report()),
        lambda monitor: monitor.end_epoch(val_loss=2.0),
        lambda monitor: monitor.end_epoch(val_loss="bad"),
        lambda monitor: monitor.log(loss=1.0),
        lambda monitor: monitor.finish(),
        lambda monitor: monitor.__exit__(None, None, None),
        lambda monitor: logging.getLogger("autotrainer").warning("%d", "x"),
    ],
)
def test_training_survives_a_callback_or_handler_that_calls_the_monitor(
    action: Callable[[Monitor], Any], record_property: Any, tmp_path: Path
) -> None:
    record_property("attacks", 2)
    watched: list[Monitor] = []

    class Calls(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            action(watched[-1])

    for handlers, callback in (((), lambda finding: action(watched[-1])), ((Calls(),), None)):
        watched.append(Monitor([AlwaysError()], Sampler(), log_dir=tmp_path, on_finding=callback))
        with configured(*handlers):
            train(monitor=watched[-1])


def test_warnings_as_errors_do_not_reach_the_training(record_property: Any) -> None:
    record_property("attacks", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_training_survives(on_finding=lambda finding: warnings.warn("mine", stacklevel=1))
