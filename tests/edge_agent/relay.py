"""A TCP relay between a caller and whom it calls: it keeps what passes, and can be cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Relay", "relay"]


class Relay:
    """Relays connections to an address.

    Attributes:
        address: Where to call.
        forth: All bytes that callers sent.
        back: All bytes that came back.
    """

    def __init__(self, to: str) -> None:
        host, _, port = to.rpartition(":")
        self.forth, self.back = bytearray(), bytearray()
        self._to = (host, int(port))
        self._cut = threading.Event()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections at once and make none until it is mended."""
        self._cut.set()
        for one in self._open:
            _end(one)

    def mend(self) -> None:
        self._cut.clear()

    def close(self) -> None:
        _end(self._listener)
        self.cut()
        for one in (self._listener, *self._open):
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self._cut.is_set():
                    raise ConnectionError
                far = socket.create_connection(self._to, timeout=20)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            self._open += (near, far)
            for one, other, kept in ((near, far, self.forth), (far, near, self.back)):
                threading.Thread(target=self._carry, args=(one, other, kept), daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket, kept: bytearray) -> None:
        try:
            while data := one.recv(65536):
                kept += data
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            _end(one)
            _end(other)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


@contextmanager
def relay(to: str) -> Iterator[Relay]:
    """A relay that is closed at the end."""
    made = Relay(to)
    try:
        yield made
    finally:
        made.close()
