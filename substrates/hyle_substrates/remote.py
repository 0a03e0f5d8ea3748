"""The remote driver: a device in another process, language or machine, by the substrate service."""

from __future__ import annotations

import contextlib
import ipaddress
import queue
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from hyle_errors import CallerError
from hyle_protos.substrate import substrate_pb2 as pb
from hyle_protos.substrate import substrate_pb2_grpc as rpc

from hyle_substrates.attached import AttachedDriver
from hyle_substrates.driver import (
    Codes,
    Device,
    DeviceAwayError,
    DeviceError,
    DeviceTimeoutError,
    LeaseLostError,
    ProgramReport,
)
from hyle_substrates.wire import pack, unpack, unpack_profile

__all__ = ["Link", "channel_to", "connect", "explained", "is_local"]

OPTIONS = {"address", "timeout_s", "ca", "key", "certificate", "insecure"}
_CHANNEL = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]


class Link:
    """One connection: a channel, and the Apply stream that owns the device while it is open.

    Args:
        channel: To the server; closed with the link.
        timeout_s: How long one call may take.
        owner: Who the server knows as the device's owner; by default somebody new.

    Raises:
        DeviceError: Nobody answers there, or the device has another owner.
    """

    def __init__(self, channel: grpc.Channel, timeout_s: float, owner: str | None = None) -> None:
        self._channel, self._timeout_s = channel, timeout_s
        self._stub = rpc.SubstrateStub(channel)
        self._owner = owner or uuid.uuid4().hex
        self._torn = False
        self._asked: queue.SimpleQueue[pb.ApplyRequest | None] = queue.SimpleQueue()
        self._answered: queue.SimpleQueue[pb.ApplyResponse | grpc.RpcError | None] = queue.SimpleQueue()
        try:
            self._described = self._unary(self._stub.Describe, pb.DescribeRequest())
            self._profile = unpack_profile(self._described.profile)
            self._stream = self._stub.Apply(self._requests(), wait_for_ready=False)
            threading.Thread(target=self._listen, name="remote-device", daemon=True).start()
            self._exchange(pb.ApplyRequest(owner=self._owner))
        except BaseException:
            self.close()
            raise

    def describe(self) -> Device:
        """Return the device; contract: `Driver.describe`."""
        health = self._unary(self._stub.Health, pb.HealthRequest()).readings
        if not health.get("connected", 1.0):
            raise DeviceAwayError("The server has lost its device.", remedy="Check the device at the other end.")
        said = self._described
        return Device(said.identity, self._profile, said.tiles, said.simulated, dict(health))

    def program(self, tile: int, targets: Codes) -> ProgramReport:
        """Write one tile; contract: `Driver.program`."""
        return self.write(tile, targets, 0)

    def write(self, tile: int, targets: Codes, number: int) -> ProgramReport:
        """Write one tile; `number` counts its writes from 1, so that one may be sent again (0: not counted)."""
        request = pb.ProgramRequest(owner=self._owner, tile=tile, targets=pack(targets), write=number)
        report = self._unary(self._stub.Program, request)
        return ProgramReport(tile, report.residual, report.seconds)

    def apply(self, tiles: Sequence[int], codes: Codes) -> Codes:
        """Drive and read; contract: `Driver.apply`."""
        return unpack(self._exchange(pb.ApplyRequest(tiles=tiles, codes=pack(codes))).codes)

    def close(self) -> None:
        """End the stream and the connection."""
        self._asked.put(None)
        with contextlib.suppress(AttributeError):
            self._stream.cancel()
        self._channel.close()

    def _requests(self) -> Iterator[pb.ApplyRequest]:
        while (request := self._asked.get()) is not None:
            yield request

    def _listen(self) -> None:
        try:
            for response in self._stream:
                self._answered.put(response)
            self._answered.put(None)
        except grpc.RpcError as error:
            self._answered.put(error)

    def _exchange(self, request: pb.ApplyRequest) -> pb.ApplyResponse:
        if self._torn:
            raise ConnectionError("an answer was not waited for")
        self._torn = True
        self._asked.put(request)
        try:
            answer = self._answered.get(timeout=self._timeout_s)
        except queue.Empty:
            raise TimeoutError(f"no answer in {self._timeout_s} s") from None
        self._torn = False
        if isinstance(answer, grpc.RpcError):
            raise explained(answer)
        if answer is None:
            raise ConnectionError("the server ended the stream")
        return answer

    def _unary(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise explained(error) from error


def explained(error: grpc.RpcError) -> DeviceError:
    """Say what a failed call means."""
    code, details = error.code(), error.details() or "no details"
    if code is grpc.StatusCode.ABORTED:
        return DeviceError("The device has an owner already.", remedy="Stop the other program first.")
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return LeaseLostError(details[:300], remedy="Begin again; what was learned so far can be kept by a checkpoint.")
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED):
        return DeviceError(f"The device refused: {details[:300]}", remedy="Encode with this device's profile.")
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED):
        return DeviceError(f"The server refused: {details[:300]}", remedy="Use a certificate with the role 'operate'.")
    kind = DeviceTimeoutError if code is grpc.StatusCode.DEADLINE_EXCEEDED else DeviceAwayError
    return kind(f"The device does not answer ({code.name}: {details[:300]}).", remedy="Check its server.")


def channel_to(options: Mapping[str, str]) -> Callable[[], grpc.Channel]:
    """Return what opens channels to a server.

    Args:
        options: As for `connect`.

    Raises:
        CallerError: The certificates cannot be read, or the connection would be open to all.
    """
    credentials, address = _credentials(options), options["address"]
    if credentials is None:
        return lambda: grpc.insecure_channel(address, _CHANNEL)
    return lambda: grpc.secure_channel(address, credentials, _CHANNEL)


def connect(options: Mapping[str, str]) -> AttachedDriver:
    """Open a device that a server offers.

    Args:
        options: `address` (HOST:PORT or unix:PATH); `timeout_s` (10), how long one call may take; for a server on
            another machine `ca`, and if it asks for them `certificate` and `key` (PEM files), or `insecure` = yes.

    Raises:
        CallerError: An option is missing, unknown or wrong.
        DeviceError: Nobody answers there, or the device has an owner.
    """
    unknown = set(options) - OPTIONS
    if unknown or not options.get("address"):
        wrong = f"has no option {sorted(unknown)[0]!r}" if unknown else "needs the option 'address'"
        raise CallerError(f"The remote driver {wrong}.", remedy=f"Its options are {', '.join(sorted(OPTIONS))}.")
    timeout_s = _seconds(options.get("timeout_s", "10"))
    channel = channel_to(options)
    return AttachedDriver(lambda: Link(channel(), timeout_s))


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 86400.0:
        raise CallerError(f"timeout_s is {text!r}.", remedy="Give seconds, more than 0.")
    return value


def _credentials(options: Mapping[str, str]) -> grpc.ChannelCredentials | None:
    if "ca" in options:
        try:
            read = {name: Path(options[name]).read_bytes() for name in ("ca", "key", "certificate") if name in options}
        except OSError as error:
            raise CallerError(f"A certificate cannot be read: {error}.", remedy="Name PEM files.") from error
        return grpc.ssl_channel_credentials(read["ca"], read.get("key"), read.get("certificate"))
    if not is_local(options["address"]) and options.get("insecure") != "yes":
        raise CallerError(
            "The address is on another machine, and the connection would be open to all.",
            remedy="Give `ca`, or `insecure` = yes on a network of your own.",
        )
    return None


def is_local(address: str) -> bool:
    """Whether only this machine reaches an address."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or address.startswith("unix:")
