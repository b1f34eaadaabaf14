"""The proxy of the fault tests cuts, stalls and restores connections."""

import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.fixtures.proxy import HOST, Proxy


class EchoHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(1000):
            self.request.sendall(data)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with (
        socketserver.ThreadingTCPServer((HOST, 0), EchoHandler) as server,
        Proxy(server.server_address[1]) as proxy,
    ):
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield proxy
        server.shutdown()
        thread.join()


def connect(proxy: Proxy) -> socket.socket:
    connection = socket.create_connection((HOST, proxy.port), timeout=60)
    connection.sendall(b"a")
    return connection


def test_cut_closes_and_refuses_connections_until_restored(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        assert connection.recv(1) == b"a"
        proxy.cut()
        assert connection.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.restore()
    with connect(proxy) as connection:
        assert connection.recv(1) == b"a"


def test_stalled_bytes_arrive_after_restore(proxy: Proxy) -> None:
    with connect(proxy) as old:
        assert old.recv(1) == b"a"
        proxy.stall()
        old.sendall(b"b")
        with connect(proxy) as new:
            for connection in (old, new):
                connection.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    connection.recv(1)
                connection.settimeout(60)
            proxy.restore()
            assert (old.recv(1), new.recv(1)) == (b"b", b"a")
