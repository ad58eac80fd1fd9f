"""A web server for one user on one computer: some fixed files and JSON, only to be read, behind a secret URL.

It listens on 127.0.0.1 alone. What reaches it is answered only

* under a random token, the first part of every path, so that no other user and no other program can read it;
* if ``Host`` names this computer, so that no website reaches it by a name of its own (DNS rebinding);
* if it does not come from a page of another origin (``Origin``, ``Sec-Fetch-Site``).

No path of a URL ever becomes the path of a file. The pages may load nothing from elsewhere, run no inline script and be
shown in no frame.
"""

from __future__ import annotations

import errno
import hmac
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from autotrainer.errors import ConfigError
from autotrainer.output import logger

__all__ = ["HEADERS", "Content", "ViewServer"]

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
"""Headers of every answer."""

_ADDRESS = "127.0.0.1"
_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?")
"""What ``Host`` may be; with any port, as an SSH tunnel may have another one."""

_TIMEOUT = 30.0
"""Seconds after which a connection that sends nothing is closed."""


@dataclass(frozen=True, slots=True)
class Content:
    """The body of an answer, with its media type."""

    kind: str
    body: bytes

    @classmethod
    def json(cls, value: Any) -> Content:
        """Return a value as strict JSON."""
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
        return cls("application/json", text.encode("ascii"))


Route = Callable[..., Content | None]
"""Returns what is at a path, given the groups of its pattern; None if there is nothing."""


class ViewServer(ThreadingHTTPServer):
    """The server; `serve_forever` serves until `shutdown`.

    Args:
        routes: What to answer, by the regular expression that the path behind the token matches as a whole.
        port: The port; 0 for a free one.

    Raises:
        ConfigError: If the port is in use or not allowed.
    """

    daemon_threads = True
    allow_reuse_address = os.name == "posix"  # elsewhere, two servers could share the port

    def __init__(self, routes: Mapping[str, Route], port: int = 0) -> None:
        self.token = secrets.token_urlsafe(32)
        self.routes = {re.compile(pattern): route for pattern, route in routes.items()}
        try:
            super().__init__((_ADDRESS, port), _Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            reason = "is in use" if error.errno == errno.EADDRINUSE else "can't be used without more rights"
            raise ConfigError(f"port {port} {reason}: pass another one, or --port 0 for a free one") from error

    @property
    def url(self) -> str:
        """The secret address of the page."""
        return f"http://{_ADDRESS}:{self.server_address[1]}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error, unless a connection has broken off: the browser has left."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            logger.warning("a request to the page failed: %r", error)


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        given, _, rest = path.removeprefix("/").partition("/")
        if not self._is_local() or not hmac.compare_digest(given.encode(), self.server.token.encode()):
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        content = None
        for pattern, route in self.server.routes.items():
            match = pattern.fullmatch(rest)
            if match is not None:
                content = route(*match.groups())
                break
        if content is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self._answer(HTTPStatus.OK, content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _is_local(self) -> bool:
        """Return whether a request is addressed to this computer by its own name, and comes from no other origin."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            return False
        site, mode, destination = (self.headers.get(f"Sec-Fetch-{name}") for name in ("Site", "Mode", "Dest"))
        opened = (mode, destination) == ("navigate", "document")  # from a terminal in a browser, for example
        own = site in (None, "none", "same-origin") or opened
        return own and self.headers.get("Origin") in (None, f"http://{hosts[0]}")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer that there is nothing, in words that repeat nothing of the request."""
        self.close_connection = True
        status = HTTPStatus(code)
        self._answer(status, Content("text/plain", f"{status.value} {status.phrase}\n".encode("ascii")))

    def _answer(self, status: HTTPStatus, content: Content) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{content.kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content.body)

    def version_string(self) -> str:
        """Return a name without versions."""
        return "autotrainer"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a request holds the token."""
