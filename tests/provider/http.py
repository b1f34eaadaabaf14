"""HTTP for the stand-in: requests and replies as objects, and connections that drop or hang."""

import json
import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

Event = Mapping[str, Any] | str | bytes  # of a stream: an object, its text, or bytes to send unchanged


@dataclass(frozen=True, kw_only=True)
class Request:
    """A client's request."""

    method: str
    path: str  # without /v1 and without the query
    query: str = ""  # behind the question mark
    headers: Mapping[str, str]  # names in lower case
    body: Any  # parsed JSON; None for a GET

    @property
    def key(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def streams(self) -> bool:
        return isinstance(self.body, dict) and bool(self.body.get("stream"))


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A reply: an object sent as JSON, bytes sent unchanged, or a stream of events."""

    body: Mapping[str, Any] | bytes | Iterator[Event]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Rejection(Exception):
    """An error reply in OpenAI's format."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, kind: str = "invalid_request_error"
    ):
        super().__init__(message)
        self.reply = Reply(
            status=status,
            body={"error": {"message": message, "type": kind, "param": "input", "code": code}},
        )


class Dropped(Exception):
    """Reset the connection, also in the middle of an answer."""


class Hung(Exception):
    """Send nothing more until the stand-in is closed."""


class Server(socketserver.ThreadingTCPServer):
    """A threading HTTP server that resolves no host names and ends all its threads when closed."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int, handle: Callable[[Request], Reply]) -> None:
        self.handle = handle
        self.connections: set[socket.socket] = set()
        self.accepted = 0  # connections since the start
        self.closing = threading.Event()
        super().__init__(("127.0.0.1", port), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.add(connection)
        self.accepted += 1
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # tests kill clients on purpose
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        self.closing.set()
        for connection in tuple(
            self.connections
        ):  # its thread waits for the next request of a keep-alive connection
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # header and body in one packet
    server: Server

    def do_GET(self) -> None:
        self.answer(None)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            body = json.loads(data) if data else None
        except ValueError:
            self.send(Rejection(400, "We could not parse the JSON body of your request.").reply)
        else:
            self.answer(body)

    def answer(self, body: Any) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        path, _, query = self.path.removeprefix("/v1").partition("?")
        try:
            try:
                reply = self.server.handle(
                    Request(method=self.command, path=path, query=query, headers=headers, body=body)
                )
            except Rejection as rejection:
                reply = rejection.reply
            self.send(reply)
        except Hung:
            self.server.closing.wait()
            self.close_connection = True
        except Dropped:
            self.close_connection = True
            with suppress(OSError):
                self.wfile.flush()
            # SO_LINGER 0: the client gets RST instead of FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if isinstance(reply.body, (Mapping, bytes)):
            payload = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            if "Content-Type" not in reply.headers:
                self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)
            return
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in reply.body:
            self.send_chunk(_server_sent(event))
        self.send_chunk(b"")

    def send_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing; `stats` has the counts."""


def _server_sent(event: Event) -> bytes:
    if isinstance(event, bytes):
        return event
    if isinstance(event, str):
        return f"data: {event}\n\n".encode()
    # events of the Responses API have a name
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()
