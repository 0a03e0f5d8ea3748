"""A second reader: it takes requests off the sockets while the serving thread is away, computing and answering."""

from __future__ import annotations

import threading
import time
from typing import Any

from grpc._cython import cygrpc

__all__ = ["AWAY_S", "SecondReader"]

# When the serving thread comes back sooner, handing on what was read costs more than reading beside it wins.
AWAY_S = 150e-6
_STAY_S = 0.05
_TURN_S = 0.02
_SHUTDOWN = cygrpc.CompletionType.queue_shutdown
_END_S = 2.0


class SecondReader:
    """A thread that waits at a queue of its own, on which nothing ever completes, for a moment after each `help`.

    Only of use where whoever waits at a queue reads the sockets (`polling`): reading, decryption and parsing of frames
    are then done beside the serving thread, which holds Python's lock.

    Args:
        server: The server, not yet started.
    """

    def __init__(self, server: Any) -> None:
        self._queue = cygrpc.CompletionQueue()
        server.register_completion_queue(self._queue)
        self._until = 0.0
        self._wake = threading.Event()
        self._reads = self._closed = False
        self._thread = threading.Thread(target=self._main, name="reading", daemon=True)

    def start(self) -> None:
        """Start the thread; it sleeps until it is asked to help."""
        self._thread.start()

    def help(self) -> None:
        """Read for a moment."""
        self._until = time.monotonic() + _STAY_S
        if not self._reads:
            self._wake.set()

    def close(self) -> None:
        """End the thread; after the server was shut down."""
        self._closed = True
        self._wake.set()
        self._queue.shutdown()
        self._thread.join(_END_S)

    def _main(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            self._reads = True
            while not self._closed and time.monotonic() < self._until:
                if self._queue.poll(time.time() + _TURN_S).completion_type == _SHUTDOWN:
                    return
            self._reads = False
