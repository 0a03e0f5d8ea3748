"""The other half of the remote driver: offers any driver by the substrate service."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
from hyle_errors import CallerError, HyleError
from hyle_protos.substrate import substrate_pb2 as pb
from hyle_protos.substrate import substrate_pb2_grpc as rpc

from hyle_substrates.driver import Driver
from hyle_substrates.remote import is_local
from hyle_substrates.wire import pack, pack_profile, unpack

__all__ = ["Server", "serve"]

T = TypeVar("T")
_ROLES = "urn:hyle:role:"


class Server:
    """A running server.

    Attributes:
        port: The TCP port it listens on; 1 for a Unix socket.
    """

    def __init__(self, server: grpc.Server, port: int, device: ThreadPoolExecutor, driver: Driver) -> None:
        self.port = port
        self._server, self._device, self._driver = server, device, driver

    def wait(self) -> None:
        """Serve until somebody stops it."""
        self._server.wait_for_termination()

    def stop(self, grace_s: float = 1.0) -> None:
        """End every call after at most `grace_s` seconds and close the driver."""
        self._server.stop(grace_s).wait()
        self._device.submit(self._driver.close).result()
        self._device.shutdown()


class _Servicer(rpc.SubstrateServicer):
    """Runs every call on the one thread that owns the driver."""

    def __init__(self, driver: Driver, device: ThreadPoolExecutor) -> None:
        self._driver, self._device = driver, device
        self._owner = ""
        self._lock = threading.Lock()

    def Describe(self, request: Any, context: Any) -> pb.Description:  # noqa: N802
        _admit(context)
        found = self._on_device(context, lambda driver: driver.describe())
        return pb.Description(
            identity=found.identity,
            profile=pack_profile(found.profile),
            tiles=found.tiles,
            simulated=found.simulated,
        )

    def Health(self, request: Any, context: Any) -> pb.HealthResponse:  # noqa: N802
        _admit(context)
        found = self._on_device(context, lambda driver: driver.describe())
        return pb.HealthResponse(readings=dict(found.health))

    def Program(self, request: Any, context: Any) -> pb.ProgramReport:  # noqa: N802
        _admit(context)
        if not self._owner or request.owner != self._owner:
            context.abort(grpc.StatusCode.ABORTED, "Another program owns the device, or none does.")

        def work(driver: Driver) -> pb.ProgramReport:
            report = driver.program(request.tile, unpack(request.targets))
            return pb.ProgramReport(residual=report.residual, seconds=report.seconds)

        return self._on_device(context, work)

    def Apply(self, requests: Iterator[Any], context: Any) -> Iterator[pb.ApplyResponse]:  # noqa: N802
        _admit(context)
        first = next(requests, None)
        if first is None:
            return
        self._own(first.owner, context)
        try:
            yield pb.ApplyResponse()
            for request in requests:
                yield self._on_device(context, _application(request))
        finally:
            with self._lock:
                self._owner = ""

    def _own(self, owner: str, context: Any) -> None:
        if not owner:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The first message names no owner.")
        with self._lock:
            taken, self._owner = bool(self._owner), self._owner or owner
        if taken:
            context.abort(grpc.StatusCode.ABORTED, "Another program owns the device.")

    def _on_device(self, context: Any, work: Callable[[Driver], T]) -> T:
        try:
            return self._device.submit(work, self._driver).result()
        except HyleError as error:
            caller = isinstance(error, CallerError)
            code = grpc.StatusCode.INVALID_ARGUMENT if caller else grpc.StatusCode.UNAVAILABLE
            context.abort(code, f"{error.message} {error.remedy}")
            raise


def _admit(context: Any) -> None:
    """Refuse a caller whose certificate names roles of hyle, and not the one that may drive a device."""
    said = {name.decode("utf-8", "replace") for name in context.auth_context().get("x509_subject_alternative_name", ())}
    roles = {name for name in said if name.startswith(_ROLES)}
    if roles and _ROLES + "operate" not in roles:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "The call needs the role 'operate'. Use such a certificate.")


def _application(request: Any) -> Callable[[Driver], pb.ApplyResponse]:
    return lambda driver: pb.ApplyResponse(codes=pack(driver.apply(list(request.tiles), unpack(request.codes))))


def serve(
    connect: Callable[[], Driver],
    address: str = "127.0.0.1:0",
    credentials: grpc.ServerCredentials | None = None,
    *,
    insecure: bool = False,
) -> Server:
    """Offer a driver to one owner at a time.

    Args:
        connect: Opens the driver, on the thread that will own it.
        address: Where to listen: HOST:PORT (port 0: any) or unix:PATH.
        credentials: For TLS; they should ask for the client's certificate. One that names roles (`hyle agent init`)
            must name `operate`.
        insecure: Also serve without credentials beyond this machine, where everybody may then drive the device.

    Raises:
        CallerError: Other machines reach the address, and there are neither credentials nor `insecure`.
        HyleError: What the driver said when it was opened.
        CallerError: The address cannot be listened on.
    """
    if credentials is None and not insecure and not is_local(address):
        message = f"{address} can be reached by other machines, and there are no credentials."
        remedy = "Give credentials that ask for clients' certificates, or listen on 127.0.0.1."
        raise CallerError(message, remedy=remedy)
    device = ThreadPoolExecutor(1, thread_name_prefix="device")
    driver = device.submit(connect).result()
    options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(8), options=options)
    rpc.add_SubstrateServicer_to_server(_Servicer(driver, device), server)
    try:
        secure = credentials is not None
        port = server.add_secure_port(address, credentials) if secure else server.add_insecure_port(address)
    except RuntimeError as error:
        device.submit(driver.close).result()
        raise CallerError(f"Cannot listen on {address}.", remedy="Choose another address.") from error
    server.start()
    return Server(server, port, device, driver)
