"""A device that an agent lends: driven like any other, kept by heartbeats, resumed after a lost connection.

The lease outlives a connection: a call that fails because nobody answers is sent again for as long as the agent waits,
over a new connection. A write carries its number, so that one whose answer was lost is not done twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import grpc
import numpy as np
from hyle_errors import CallerError, HyleError
from hyle_protos.maintenance import maintenance_pb2 as pb
from hyle_protos.maintenance import maintenance_pb2_grpc as rpc

from hyle_substrates.attached import AttachedDriver
from hyle_substrates.driver import Codes, Device, DeviceAwayError, DeviceError, LeaseLostError, ProgramReport
from hyle_substrates.remote import Link, channel_to

__all__ = ["LeasedDriver", "Terms", "lease"]

T = TypeVar("T")
MOST_BYTES = 4 << 20
_OPEN_S, _CLOSE_S = 120.0, 300.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What an agent lent: its tiles from `first_tile` on, and what answers inference meanwhile.

    `renew_every_s` is the time between heartbeats, `grace_s` how long the agent waits for who lost the connection.
    """

    first_tile: int
    tiles: int
    serving: str
    renew_every_s: float
    grace_s: float


class _LeasedLink(Link):
    """One connection under a lease."""

    def __init__(
        self, channel: grpc.Channel, timeout_s: float, token: str, tiles: int, writes: Mapping[int, int]
    ) -> None:
        self._tiles, self._writes = tiles, writes
        super().__init__(channel, timeout_s, token)

    def describe(self) -> Device:
        return replace(super().describe(), tiles=self._tiles)

    def program(self, tile: int, targets: Codes) -> ProgramReport:
        return self.write(tile, targets, self._writes.get(tile, 0))


class LeasedDriver:
    """A driver of an agent's device; closing it gives the device back.

    Attributes:
        terms: What was lent.
        vectors: Vectors that the device was driven by.
        writes: Tiles that were written.
        reconnections: How often the connection was lost and made again.
        restored: After `close`: how each model that was off the device came back, in the agent's words.
    """

    def __init__(self, channel: Callable[[], grpc.Channel], opened: pb.Lease, timeout_s: float) -> None:
        self.terms = Terms(opened.first_tile, opened.tiles, opened.serving, opened.renew_every_s or 1.0, opened.grace_s)
        self.reconnections = self.vectors = self.writes = 0
        self.restored: tuple[str, ...] = ()
        self._channel, self._token = channel, opened.token
        self._writes: dict[int, int] = {}
        self._lost = ""
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._heart.start()
        try:
            self._attached = self._patiently(
                lambda: AttachedDriver(
                    lambda: _LeasedLink(channel(), timeout_s, opened.token, opened.tiles, self._writes)
                )
            )
        except BaseException:
            self._give_back()
            raise

    def describe(self) -> Device:
        """Return the device, with as many tiles as were lent. Contract: `Driver.describe`."""
        return self._attached.describe()

    def program(self, tile: int, targets: Codes) -> ProgramReport:
        """Write one tile, once, however often the connection is lost. Contract: `Driver.program`."""
        self._writes[tile] = self._writes.get(tile, 0) + 1
        self.writes += 1
        return self._patiently(lambda: self._attached.program(tile, targets))

    def apply(self, tiles: Sequence[int], codes: Codes) -> Codes:
        """Drive and read, in messages of at most 4 MiB. Contract: `Driver.apply`."""
        width = max(codes.shape[-1] if codes.ndim == 2 else 1, self._attached.width(tiles))
        step = max(1, MOST_BYTES // (4 * max(1, width)))
        self.vectors += len(codes)
        if len(codes) <= step:
            return self._patiently(lambda: self._attached.apply(tiles, codes))
        parts = [codes[start : start + step] for start in range(0, len(codes), step)]
        return np.concatenate([self._patiently(lambda p=p: self._attached.apply(tiles, p)) for p in parts])  # type: ignore[misc]

    def close(self) -> None:
        """Give the device back, and wait until what served before serves again."""
        if not self._closed.is_set():
            self._attached.close()
            self._give_back()

    def __enter__(self) -> LeasedDriver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _patiently(self, work: Callable[[], T]) -> T:
        """Do it, again while nobody answers, for as long as the agent waits."""
        pause, until = _FIRST_PAUSE_S, 0.0
        while True:
            if self._lost:
                raise LeaseLostError(self._lost, remedy="Begin again; a checkpoint keeps what was learned.")
            try:
                return work()
            except DeviceAwayError:
                now = time.monotonic()
                until = until or now + self.terms.grace_s
                if now + pause >= until or self._closed.is_set():
                    raise
                self.reconnections += 1
                time.sleep(pause)
                pause = min(_LONGEST_PAUSE_S, 2.0 * pause)

    def _beat(self) -> None:
        """Renew until closed or told that the lease is over."""
        every = self.terms.renew_every_s
        while not self._closed.wait(every):
            with self._channel() as channel:
                stub = rpc.MaintenanceStub(channel)
                while not self._closed.is_set():
                    try:
                        stub.Renew(pb.RenewRequest(token=self._token), timeout=every)
                    except grpc.RpcError as error:
                        if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                            self._lost = str(error.details())
                            return
                        every = min(self.terms.renew_every_s, 0.5)
                        break
                    every = self.terms.renew_every_s
                    self._closed.wait(every)

    def _give_back(self) -> None:
        """Close the lease; where nobody can be reached within the grace, the agent ends it by itself."""
        self._closed.set()
        until = time.monotonic() + self.terms.grace_s
        while True:
            try:
                with self._channel() as channel:
                    told = rpc.MaintenanceStub(channel).Close(pb.CloseRequest(token=self._token), timeout=_CLOSE_S)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() >= until:
                    return
                time.sleep(_LONGEST_PAUSE_S / 4)
                continue
            self.restored = tuple(map(_words, told.models))
            return


def lease(options: Mapping[str, str], *, holder: str, purpose: str, tiles: int = 0) -> LeasedDriver:
    """Lease an agent's device.

    Args:
        options: Those of the remote driver: `address`, `timeout_s`, and `ca`, `certificate`, `key` for TLS.
        holder: Who asks, for people.
        purpose: What for, for people.
        tiles: How many neighbouring tiles are needed; 0 for the whole device.

    Raises:
        CallerError: The address or the certificates cannot be used or do not allow it, somebody holds the device, it
            has too few tiles, or whoever answers there lends nothing.
        DeviceError: Nobody answers there.
    """
    channel, timeout_s = channel_to(options), float(options.get("timeout_s", "30"))
    request = pb.OpenRequest(holder=holder, purpose=purpose, tiles=tiles)
    with channel() as connection:
        try:
            opened = rpc.MaintenanceStub(connection).Open(request, timeout=_OPEN_S)
        except grpc.RpcError as error:
            raise _refused(error, options["address"]) from error
    return LeasedDriver(channel, opened, timeout_s)


def _refused(error: grpc.RpcError, address: str) -> HyleError:
    code, details = error.code(), (error.details() or "").strip()
    remedies = {
        grpc.StatusCode.ABORTED: "Wait for its end, or ask its holder.",
        grpc.StatusCode.FAILED_PRECONDITION: "Compile for fewer tiles, or on a larger device.",
        grpc.StatusCode.PERMISSION_DENIED: "Use a certificate with the role 'operate' (--cert and --key).",
        grpc.StatusCode.UNIMPLEMENTED: "Give the address of a hyle agent of this version.",
    }
    if code in remedies:
        return CallerError(f"The agent at {address} lends no device: {details}", remedy=remedies[code])
    message = f"The agent at {address} cannot be reached ({details or code.name})."
    return DeviceError(
        message, remedy="See that it runs there, that the port is right, and whether it wants TLS (--ca)."
    )


def _words(model: pb.RestoredModel) -> str:
    if model.serves:
        return f"{model.name} serves again, self-test residual {model.residual:.4f} of {model.tolerance:.4f}"
    return f"{model.name} does not serve yet: {model.reason or 'no slot is active'}"
