"""The local page, served on a free port: what it answers, and to whom."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from autotrainer import registry
from autotrainer.errors import ConfigError
from autotrainer.view import run_folder
from autotrainer.view.page import routes
from autotrainer.view.run_folder import RunFolder
from autotrainer.view.server import HEADERS, ViewServer
from tests.autotrainer.view.recording import Recording

HOSTILE = "<script>alert(1)</script>\u202e"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: Any) -> RunFolder:
    monkeypatch.setattr(run_folder, "_SCAN_EVERY", 0.0)
    return RunFolder([tmp_path], registry.make_rules)


@pytest.fixture
def server(folder: RunFolder) -> Iterator[ViewServer]:
    with ViewServer(routes(folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _get(server: ViewServer, path: str = "") -> Any:
    with urlopen(server.url + path, timeout=30) as answer:
        content = answer.read()
        return json.loads(content) if answer.headers.get_content_type() == "application/json" else content.decode()


def _all_read(server: ViewServer) -> dict[str, Any]:
    while True:
        listed: dict[str, Any] = _get(server, "runs")
        if not any(run["state"] == "reading" for run in listed["runs"]):
            return listed


def _status(server: ViewServer, path: str, method: str = "GET", **headers: str) -> int:
    request = Request(f"http://127.0.0.1:{server.server_address[1]}/{path}", method=method, headers=headers)
    try:
        with urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return 500 if server.token in error.read().decode() else error.code


def _raw(server: ViewServer, request: str) -> bytes:
    """Send a request as it is, and return the status line of the answer."""
    with socket.create_connection(server.server_address[:2], timeout=30) as connection:
        connection.sendall(request.encode("latin-1"))
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").readline().strip()


def test_page_is_served_with_its_parts_and_nothing_from_elsewhere(server: ViewServer) -> None:
    page = _get(server)
    parts = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert {"view.js", "echarts.min.js", "page.css"} <= set(parts)
    for part in parts:
        assert part.startswith("data:") or _get(server, part)
    assert "//" not in "".join(parts)


def test_token_is_long_new_and_needed_on_every_path(server: ViewServer, folder: RunFolder) -> None:
    assert len(server.token) >= 43  # 256 bits
    with ViewServer(routes(folder)) as other:
        assert other.token != server.token
    wrong = server.token[:-1] + ("A" if server.token[-1] != "A" else "B")
    for path in ("", "runs", "view.js", "runs/1", "compare/1/2"):
        assert _status(server, f"{server.token}/{path}") in (200, 404)
        for token in ("", "x", wrong, server.token + "x", server.token[:-1], server.token.lower()):
            assert _status(server, f"{token}/{path}") == 403
        assert _status(server, path) == 403
        assert _status(server, f"{path}?token={server.token}") == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "localhost:9999"}, 200),  # an SSH tunnel
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost@evil.example"}, 403),
        ({"Host": "[::1]"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
    ],
)
def test_only_this_computer_and_this_origin_are_answered(server: ViewServer, headers: Any, status: int) -> None:
    for path in ("", "runs"):
        assert _status(server, f"{server.token}/{path}", **headers) == status


def test_requests_by_hand_are_refused(server: ViewServer) -> None:
    url = f"/{server.token}/"
    assert _raw(server, f"GET {url} HTTP/1.1\r\nHost: localhost\r\n\r\n") == b"HTTP/1.1 200 OK"
    assert _raw(server, f"GET {url} HTTP/1.1\r\n\r\n") == b"HTTP/1.1 403 Forbidden"
    assert _raw(server, f"GET {url} HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n").endswith(b"Forbidden")
    absolute = f"GET http://localhost{url} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert _raw(server, absolute) == b"HTTP/1.1 403 Forbidden"
    assert b" 501 " in _raw(server, f"POST {url} HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"400" in _raw(server, "nonsense\r\n\r\n")
    assert b"414" in _raw(server, f"GET {url}{'x' * 70_000} HTTP/1.1\r\nHost: localhost\r\n\r\n")


@pytest.mark.parametrize(
    "path",
    ["../setup.cfg", "..%2f..%2fetc%2fpasswd", "/etc/passwd", "assets/view.js", "view.py", "runs/x", "runs/99",
     "runs/-1", "runs/1/../../view.js", "view.js%00", "%76iew.js", "VIEW.JS", "LICENSE", "runs/", "compare/1/1/"],
)  # fmt: skip
def test_paths_lead_to_no_file(server: ViewServer, path: str) -> None:
    assert _raw(server, f"GET /{server.token}/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n") == b"HTTP/1.1 404 Not Found"


def test_every_answer_has_the_strict_headers(server: ViewServer) -> None:
    host = urlsplit(server.url).netloc
    for path, status in ((f"/{server.token}/", 200), (f"/{server.token}/runs", 200), ("/", 403)):
        connection = http.client.HTTPConnection(host, timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        assert answer.status == status
        assert HEADERS.items() <= dict(answer.getheaders()).items()
        assert not [name for name, _ in answer.getheaders() if name.lower().startswith("access-control")]
        assert "Python" not in answer.getheader("Server", "")
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "http" not in policy


def test_port_in_use_is_an_error(server: ViewServer, folder: RunFolder) -> None:
    port = server.server_address[1]
    with pytest.raises(ConfigError, match=f"port {port} is in use"):
        ViewServer(routes(folder), port)


def test_runs_are_followed_while_they_grow(server: ViewServer, tmp_path: Path) -> None:
    assert _get(server, "runs")["runs"] == []
    run = Recording(tmp_path)
    run.step(2.0)
    run.epoch(val_loss=0.5)
    (line,) = _all_read(server)["runs"]
    assert (line["state"], line["step"], line["loss"], line["values"]) == ("running", 0, 2.0, {"val_loss": 0.5})
    details = _get(server, f"runs/{line['id']}")
    assert details["version"] == line["version"]
    (loss,) = [curve["points"] for curve in details["data"]["charts"]["curves"] if curve["name"] == "loss"]
    assert loss == [[0.0, 2.0]]
    run.step(float("inf"))
    run.end(finished=False)
    (line,) = _all_read(server)["runs"]
    assert (line["state"], line["step"], line["loss"]) == ("interrupted", 1, "inf")


def test_crashed_and_damaged_logs_are_listed(server: ViewServer, tmp_path: Path) -> None:
    crashed = Recording(tmp_path)
    crashed.step()
    crashed.cut()
    (tmp_path / "run-damaged.jsonl").write_text("x\n")
    lines = {line["name"]: line for line in _all_read(server)["runs"]}
    assert lines[crashed.path.stem]["step"] == 0
    assert lines["run-damaged"]["state"] == "unreadable"
    for line in lines.values():
        assert "findings" in _get(server, f"runs/{line['id']}")["html"]


def test_hostile_names_are_escaped(server: ViewServer, tmp_path: Path) -> None:
    run = Recording(tmp_path / "<img src=x>", layer=HOSTILE, loss=HOSTILE)
    for _ in range(20):
        run.step(float("inf"))
    run.epoch(**{HOSTILE: 1.0})
    run.end()
    (line,) = _all_read(server)["runs"]
    assert line["findings"]["error"]
    details = _get(server, f"runs/{line['id']}")
    assert "&lt;script&gt;" in details["html"]
    assert "<script" not in details["html"]
    assert "\u202e" not in json.dumps(details["data"], ensure_ascii=False)


def test_two_runs_are_compared(server: ViewServer, tmp_path: Path) -> None:
    for rate in (0.1, 0.5):
        run = Recording(tmp_path, rate=rate)
        for _ in range(20):
            run.step(rate)
        run.end()
    Recording(tmp_path)  # has no measurement yet
    numbers = sorted(line["id"] for line in _all_read(server)["runs"])
    compared = _get(server, f"compare/{numbers[0]}/{numbers[1]}")
    assert "compared with" in compared["title"]
    assert "optimizer learning rate: 0.1 → 0.5" in compared["text"]
    assert _status(server, f"{server.token}/compare/{numbers[0]}/{numbers[2]}") == 404


def test_many_runs_are_listed(server: ViewServer, tmp_path: Path) -> None:
    for number in range(run_folder.MAX_RUNS + 2):
        run = Recording(tmp_path)
        run.step(float(number))
        run.writer.close()
    listed = _all_read(server)
    assert len(listed["runs"]) == run_folder.MAX_RUNS
    assert listed["left_out"] == 2
