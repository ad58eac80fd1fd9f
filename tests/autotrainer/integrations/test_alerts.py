"""Alerts: once for each root, with a cooldown, to a real server; secrets of URLs appear nowhere."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest

from autotrainer.errors import ConfigError
from autotrainer.integrations import alerts as alerts_module
from autotrainer.integrations.alerts import Alerts
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import Sampler
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LAYER_COLUMNS, LayerInfo, Observation
from autotrainer.records.task import TaskContext
from autotrainer.rule import Rule

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SECRET = "T0KEN"
ROOT = Finding("vanishing_gradient", "AT101", Severity.ERROR, 0.9, "Fades.\x1b", ("a",), step=7, repairs=("x", "y"))
OTHER = Finding("unscaled_inputs", "AT501", Severity.WARNING, 0.9, "Large.", step=8)
CONSEQUENCE = Finding("not_learning", "AT303", Severity.ERROR, 0.9, "Stuck.", step=7, caused_by="vanishing_gradient")


class Server:
    """Takes notifications, and answers with a status."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.status = 200
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if server.status == 200:
                    server.messages.append(body)
                self.send_response(server.status)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        self.url = f"json://user:{SECRET}@127.0.0.1:{self.http.server_port}/{SECRET}?+X-Key={SECRET}"

    @property
    def texts(self) -> list[str]:
        return [message["message"] for message in self.messages]


@pytest.fixture
def server() -> Iterator[Server]:
    pytest.importorskip("apprise")
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()
    made.thread.join()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(alerts_module, "monotonic", lambda: now[0])
    return now


def test_root_is_sent_once_and_at_once_and_consequences_never(server: Server) -> None:
    sink = Alerts(server.url, name="train.py")
    sink.finding(ROOT)
    (message,) = server.messages
    for finding in (CONSEQUENCE, ROOT, replace(ROOT, confidence=0.8)):
        sink.finding(finding)
    sink.close()
    assert len(server.messages) == 1
    assert message["title"] == "autotrainer: error in train.py"
    assert message["message"] == f"{ROOT} Step 7, epoch 0. Suggested repairs: x, y."
    assert message["type"] == "failure"


def test_those_within_the_cooldown_are_sent_together_once_it_is_over(server: Server, clock: list[float]) -> None:
    sink = Alerts([server.url], cooldown=60)
    for number in range(14):
        sink.finding(replace(OTHER, problem=f"problem_{number}"))
    sink.scalars(1, {})
    assert len(server.texts) == 1
    clock[0] += 61
    sink.scalars(2, {})
    assert len(server.texts) == 2
    assert server.texts[1].count("unscaled") == 0
    assert server.texts[1].count("problem_") == 10
    assert server.texts[1].endswith("and 3 more")


def test_what_waits_is_sent_at_the_end(server: Server) -> None:
    sink = Alerts(server.url)
    sink.finding(ROOT)
    sink.finding(OTHER)
    assert len(server.texts) == 1
    sink.close()
    sink.close()
    assert "unscaled_inputs" in server.texts[1]
    assert len(server.texts) == 2


def test_a_problem_that_comes_back_is_sent_again_after_the_cooldown(server: Server, clock: list[float]) -> None:
    sink = Alerts(server.url, cooldown=60)
    sink.finding(ROOT)
    clock[0] += 30
    sink.finding(replace(ROOT, step=20))
    clock[0] += 40
    sink.finding(replace(ROOT, step=30))
    sink.close()
    assert ["Step 7," in server.texts[0], "Step 30," in server.texts[1], len(server.texts)] == [True, True, 2]


def test_infos_are_never_sent_and_warnings_only_if_wanted(server: Server) -> None:
    sink = Alerts(server.url, severity="error")
    for severity in Severity:
        sink.finding(replace(OTHER, problem=severity.value, severity=severity))
    sink.close()
    assert [text.split()[1] for text in server.texts] == ["error"]


def test_only_the_first_process_sends(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    sink = Alerts(server.url)
    sink.finding(ROOT)
    sink.close()
    assert server.texts == []


class Bad(Rule):
    """Reports an error."""

    problem = "bad"
    code = "AT970"
    needs = frozenset({"loss"})

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        return self.finding(Severity.ERROR, 1.0, "Bad.", {"loss": 1})


@pytest.mark.parametrize("status", [200, 500])
def test_secrets_of_urls_appear_nowhere(
    status: int, server: Server, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    server.status = status
    with caplog.at_level(logging.DEBUG):
        sink = Alerts([server.url, server.url])
        monitor = Monitor([Bad()], Sampler(), sinks={"alerts": sink})
        with monitor:
            monitor.begin(TaskContext(layers=(LayerInfo("a"),)))
            monitor.record(Observation(0, np.ones((1, len(LAYER_COLUMNS))), 0.5))
    texts = [*caplog.messages, *capfd.readouterr(), repr(sink), str(monitor.report()), monitor.report().to_json()]
    assert not [text for text in texts if SECRET in text or str(server.http.server_port) in text]
    assert len(server.texts) == (2 if status == 200 else 0)
    notes = monitor.report().run.get("sinks", [])
    assert [("no alert was sent to URL number 1, 2 of 2" in note) for note in notes] == (
        [] if status == 200 else [True]
    )


def test_logs_of_others_stay(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    sink = Alerts(server.url)
    sink.finding(ROOT)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("apprise").warning("mine")
        logging.getLogger("urllib3.connectionpool").debug("mine, too")
    assert caplog.messages == ["mine", "mine, too"]


def test_one_service_that_fails_does_not_keep_the_other(server: Server) -> None:
    sink = Alerts(["json://127.0.0.1:1/x", server.url])
    with pytest.raises(RuntimeError, match="URL number 1 of 2"):
        sink.finding(ROOT)
    assert len(server.texts) == 1


def test_what_could_not_be_sent_is_tried_again_at_the_end(server: Server) -> None:
    sink = Alerts(server.url)
    server.status = 500
    with pytest.raises(RuntimeError):
        sink.finding(ROOT)
    server.status = 200
    sink.close()
    assert len(server.texts) == 1


@pytest.mark.parametrize(
    ("urls", "options"),
    [
        ([], {}),
        ("", {}),
        (3, {}),
        ([None], {}),
        (f"nosuch://{SECRET}", {}),
        (f"{SECRET}", {}),
        ("json://localhost", {"cooldown": -1}),
        ("json://localhost", {"cooldown": float("nan")}),
        ("json://localhost", {"cooldown": "5"}),
        ("json://localhost", {"severity": "info"}),
    ],
)
def test_bad_arguments_are_one_line_without_secrets(urls: Any, options: Any) -> None:
    pytest.importorskip("apprise")
    with pytest.raises(ConfigError) as caught:
        Alerts(urls, **options)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
