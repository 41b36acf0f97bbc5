"""The page over HTTP, to this machine alone: the page itself, its events (Server-Sent Events), its pictures. It only reads.

Other machines reach it through SSH (``ssh -L``): who may see the robot is then SSH's affair. Pages of other origins are kept out by
the ``Host`` that browsers send, so that no web page can point its own name at this machine and look at the robot.
"""

from __future__ import annotations

import errno
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from types import TracebackType
from typing import Any

import jinja2

from flow_policy_ros.viewing.feed import Entry, Feed
from flow_policy_ros.viewing.pictures import Shelf

ADDRESS = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost", "[::1]")
PAGES = 8
"""So many pages may be open."""
CONNECTIONS = 48
"""So many connections may be open; a browser makes up to six for a page."""
IDLE_S = 5.0
"""A connection on which nothing is asked for this long is ended."""
SILENCE_S = 5.0
"""A page hears at least this often, so that it knows that the connection is alive."""
SLOW_S = 20.0
"""A page that takes nothing for this long is given up."""
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"


class ServerError(ValueError):
    """The page cannot be served; the text says why and what to do."""


class PageServer:
    """Serves ``feed`` and the pictures of ``shelf`` in threads of its own, as a context manager. ``port`` 0 takes a free one."""

    def __init__(self, feed: Feed, shelf: Shelf, port: int) -> None:
        """Raises ``ServerError`` for a port that is taken or not allowed."""
        self._stopping = threading.Event()
        handler = type("Handler", (_Handler,), {"feed": feed, "shelf": shelf, "stopping": self._stopping, "page": page()})
        try:
            self._server = _Server((ADDRESS, port), handler)
        except (OSError, OverflowError) as error:
            reason = {errno.EADDRINUSE: "another program has it", errno.EACCES: "it needs rights that this program has not"}
            why = reason.get(getattr(error, "errno", None) or 0, str(error))
            raise ServerError(f"port {port} cannot be used: {why}. Give another with --port, or 0 for a free one.") from error
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{ADDRESS}:{self._server.server_address[1]}/"

    def __enter__(self) -> PageServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2.0)


def page() -> bytes:
    """The page with its style and its scripts; it loads nothing else."""
    folder = files("flow_policy_ros.viewing")

    def text(name: str) -> str:
        return folder.joinpath(f"templates/{name}").read_text(encoding="utf-8")

    template = jinja2.Environment(autoescape=True).from_string(text("view.html.j2"))
    scripts = [text(name) for name in ("view_store.js", "view_charts.js", "view_panels.js", "view.js")]
    return template.render(style=text("view.css"), scripts=scripts).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # an open page would hold the end up
    request_queue_size = 128  # who does not fit in tries again after a second

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._room = threading.BoundedSemaphore(CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for a connection, as long as there is room; one too many is closed."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be begun
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In that thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A page that has gone is nothing to tell of."""


class _Handler(BaseHTTPRequestHandler):
    feed: Feed
    shelf: Shelf
    stopping: threading.Event
    page: bytes
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "flow_policy", ""
    timeout = IDLE_S

    def do_GET(self) -> None:
        self.connection.settimeout(SLOW_S)  # what is being answered is no longer idle
        try:
            self._get()
        finally:
            self.connection.settimeout(self.timeout)

    def _get(self) -> None:
        host = self.headers.get("Host", "").lower()
        if host.rpartition(":")[0] not in NAMES and host not in NAMES:
            return self._answer(403, "text/plain", b"Only for pages of this machine: open the address that was printed.\n")
        path = self.path.partition("?")[0]
        if path == "/":
            return self._answer(200, "text/html; charset=utf-8", self.page)
        if path == "/events":
            return self._events()
        head, _, name = path.rpartition("/")
        number = name.removesuffix(".jpg")
        if head == f"/picture/{self.feed.run}" and number.isascii() and number.isdigit() and len(number) < 12:
            data = self.shelf.get(int(number))
            if data is not None:
                return self._answer(200, "image/jpeg", data, "private, max-age=3600")
        return self._answer(404, "text/plain", b"There is nothing here.\n")

    def _answer(self, code: int, kind: str, data: bytes, keep: str = "no-store") -> None:
        self.send_response(code)
        self._headers(kind, keep)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _headers(self, kind: str, keep: str) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", keep)
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")

    def _events(self) -> None:
        self.close_connection = True
        if self.feed.viewers >= PAGES:
            return self._answer(503, "text/plain", f"{PAGES} pages are open already; close one.\n".encode())
        run, _, last = self.headers.get("Last-Event-ID", "").partition("-")
        number = int(last) if run == self.feed.run and last.isascii() and last.isdigit() and len(last) < 12 else 0
        self.send_response(200)
        self._headers("text/event-stream", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        with self.feed.viewing():
            try:
                self._send(number)
            except OSError:
                return  # the page was closed, or took nothing for too long

    def _send(self, number: int) -> None:
        self.wfile.write(b"retry: 1000\n\n")
        while not self.stopping.is_set():
            entries, ended = self.feed.after(number, SILENCE_S)
            for entry in entries:
                self.wfile.write(message(self.feed.run, entry))
                number = entry.number
            if ended:
                self.wfile.write(b"event: end\ndata: {}\n\n")
                return
            if not entries:
                self.wfile.write(b": still here\n\n")
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a page asks for pictures many times a second."""


def message(run: str, entry: Entry) -> bytes:
    """An entry as a Server-Sent Event. Source: WHATWG HTML, section 9.2."""
    return f"id: {run}-{entry.number}\nevent: {entry.event}\ndata: {entry.text}\n\n".encode()
