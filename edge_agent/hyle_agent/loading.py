"""From a bundle's bytes to a program on the device: trust, digests, programming, self-test, in that order."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hyle_bundle.manifest import Manifest, decode_manifest
from hyle_bundle.names import MANIFEST_NAME, SIGNATURE_NAME
from hyle_substrates.driver import Device, Driver

from hyle_agent import disk
from hyle_agent.device_thread import DeviceThread
from hyle_agent.errors import ConflictError, NotReadyError, SelfTestError, StoreError
from hyle_agent.measured import notice_of, preferred_tile
from hyle_agent.memory import collect
from hyle_agent.models import Loaded, Tested
from hyle_agent.program import Array, Load
from hyle_agent.suitability import check_target
from hyle_agent.tiles import Span, TileMap, tiles_needed, window
from hyle_agent.trust import Trust

__all__ = ["Admitted", "Bundle", "SlotLoader", "Unprogrammed", "run_batch"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A manifest that this agent may run: who signed it ("" for nobody) and its SHA-256, hexadecimal."""

    manifest: Manifest
    signer: str
    digest: str


class Bundle(Protocol):
    """A slot's bundle, programmed or not."""

    @property
    def digest(self) -> str:
        """SHA-256 of its manifest, hexadecimal."""
        ...

    @property
    def manifest(self) -> Manifest:
        """Its manifest."""
        ...

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        ...


@dataclass(frozen=True, slots=True)
class Unprogrammed:
    """A slot's bundle that is on no device."""

    digest: str
    manifest: Manifest
    folder: Path


class SlotLoader:
    """Loads slots onto the device and takes them off again; blocks, so never call it on the serving thread.

    Args:
        device: Owner of the driver.
        load: The executor's `load`.
        trust: Whose bundles run.
        threads: Threads for the digital part of a program.
        timeout_s: Longest time that one self-test or one step of a calibration may take, seconds.

    Attributes:
        stopping: Whether the agent stops: a calibration is left.
        given_up: Whether it stops before its start was over: what is being programmed is left too.
    """

    def __init__(
        self, device: DeviceThread, load: Load, trust: Trust, *, threads: int, timeout_s: float | None = None
    ) -> None:
        self._device = device
        self.make = load
        self.trust = trust
        self.threads = threads
        self._timeout_s = timeout_s
        self.stopping = False
        self.given_up = False
        self.described: Device = device.call(lambda driver: driver.describe())
        self.tiles = TileMap(self.described.tiles)
        self.lent: Callable[[], str] | None = None

    def refresh(self) -> None:
        """Ask the device for its live health.

        Raises:
            DeviceTimeoutError: It hangs.
        """
        self.described = self._device.call(lambda driver: driver.describe(), timeout_s=self._timeout_s)

    def admit(self, manifest: bytes, signature: bytes) -> Admitted:
        """Check the signature, and only then read the manifest.

        Raises:
            UntrustedError: No trusted key signed it.
            ManifestError: It is not a manifest.
        """
        signer = self.trust.signer(manifest, signature)
        return Admitted(decode_manifest(manifest), signer, hashlib.sha256(manifest).hexdigest())

    def admit_folder(self, folder: Path, digest: str) -> Admitted:
        """Check what a slot's folder holds, down to every file's digest.

        Raises:
            UntrustedError: No trusted key signed it.
            StoreError: A file is missing or changed.
        """
        with disk.explained(folder):
            signature = folder / SIGNATURE_NAME
            manifest = (folder / MANIFEST_NAME).read_bytes()
            admitted = self.admit(manifest, signature.read_bytes() if signature.is_file() else b"")
            files = admitted.manifest.files
            changed = [name for name, entry in files.items() if _digest(folder / name) != entry.sha256]
            changed += sorted(_present(folder) - {*files, MANIFEST_NAME, SIGNATURE_NAME})
        if admitted.digest != digest:
            changed.append(MANIFEST_NAME)
        if changed:
            bundle = f"{admitted.manifest.name} {admitted.manifest.version}"
            message = f"{', '.join(changed)} of {bundle} changed on the disk."
            raise StoreError(message, remedy="Install the bundle again.")
        return admitted

    def check_suits(self, manifest: Manifest, idle: Loaded | None) -> None:
        """Refuse a bundle that this device could not hold beside what serves.

        Args:
            manifest: The bundle's.
            idle: What the slot that it would take holds now.

        Raises:
            ConflictError: It was compiled for another kind of device, or has too many tiles.
        """
        check_target(manifest, self.described.profile.name)
        self.tiles.check(tiles_needed(manifest), idle.span if idle is not None else Span(0, 0))

    def unprogrammed(self, folder: Path, digest: str) -> Unprogrammed:
        """Return a slot's bundle without a device; checks what `admit_folder` checks.

        Raises:
            HyleError: As `admit_folder`.
        """
        return Unprogrammed(digest, self.admit_folder(folder, digest).manifest, folder)

    def load(self, folder: Path, digest: str) -> tuple[Loaded, Tested]:
        """Program a slot into free tiles and run its golden vectors.

        Raises:
            SelfTestError: They did not come back within tolerance; the tiles are free again.
            HyleError: The folder, the bundle or the device is not as it must be.
        """
        self.check_lent()
        manifest = self.admit_folder(folder, digest).manifest
        span = self.tiles.claim(tiles_needed(manifest), preferred_tile(manifest, self.described))

        def program(driver: Driver) -> Loaded:
            made = self.make(folder, manifest, window(driver, span, self._check_wanted), threads=self.threads)
            simulated = "twin" if self.described.simulated else "hardware"
            physical = bool(made.tiles or manifest.boxes)
            kind = simulated if physical else "digital"
            notice = notice_of(manifest, self.described, span.start)
            return Loaded(digest, manifest, made, span, kind, folder, on_device=physical, notice=notice)

        try:
            loaded = self._device.call(program)
        except BaseException:
            self.tiles.free(span)
            raise
        if loaded.notice:
            _LOG.warning("%s %s was %s", manifest.name, manifest.version, loaded.notice)
        return loaded, self._proven(loaded)

    def load_aside(self, folder: Path, digest: str, driver: Driver) -> Loaded:
        """Program a slot into a driver beside the device's, such as a twin; it has no tiles of the device."""
        manifest = self.admit_folder(folder, digest).manifest
        made = self.make(folder, manifest, driver, threads=self.threads)
        kind = "twin" if made.tiles else "digital"
        return Loaded(digest, manifest, made, Span(0, 0), kind, folder, on_device=False, aside=True)

    def check_lent(self) -> None:
        """Refuse to touch a device that is lent.

        Raises:
            ConflictError: It is; says to whom.
        """
        if self.lent is not None:
            raise ConflictError(f"Nothing can be changed now: {self.lent()}.", remedy="Try again then.")

    def _check_wanted(self) -> None:
        if self.given_up:
            remedy = "Nothing is to be done: the next start programs the device anew."
            raise NotReadyError("The agent is stopping; what it was loading was left.", remedy=remedy)

    def unload(self, loaded: Loaded) -> None:
        """Close a program and free its tiles; requests that were queued before are answered first."""

        def close(_: Driver) -> None:
            loaded.closed = True
            loaded.program.close()

        try:
            self._device.call(close)
        finally:
            self.tiles.free(loaded.span)
            collect()

    def self_test(self, loaded: Loaded) -> Tested:
        """Run the golden vectors, between requests."""
        result = self._device.call(lambda _: loaded.program.self_test(), timeout_s=self._timeout_s)
        return Tested(bool(result.passed), float(result.residual), float(result.tolerance), fault=result.fault)

    def recalibrate(self, loaded: Loaded) -> None:
        """Measure the compensation anew, one bounded step after another, each between two requests.

        Raises:
            DeviceError: The device did not answer; the old compensation stays.
            NotReadyError: The agent is stopping; likewise.
        """
        steps = loaded.program.recalibration()
        while self._device.call(lambda _: next(steps, self) is not self, timeout_s=self._timeout_s):
            if self.stopping:
                remedy = "Nothing is to be done: the compensation that serves stays."
                raise NotReadyError("The agent is stopping; a calibration was left.", remedy=remedy)
        loaded.note_calibration()

    def _proven(self, loaded: Loaded) -> Tested:
        try:
            tested = self.self_test(loaded)
            if not tested.passed:
                named = f" The device is {tested.fault}." if tested.fault else ""
                message = (
                    f"The self-test's residual is {tested.residual:.3g}; {tested.tolerance:.3g} is allowed.{named}"
                )
                remedy = "Check the device, or compile the bundle for the device that is attached."
                raise SelfTestError(message, remedy=remedy)
        except BaseException:
            self.unload(loaded)
            raise
        return tested


def run_batch(loaded: Loaded, inputs: dict[str, Array], samples: int) -> tuple[dict[str, Array], float]:
    """Answer one batch on the device thread.

    Returns:
        The outputs by name, and the estimated energy in joules.

    Raises:
        NotReadyError: The program was closed while the batch waited.
        CallerError: A value that the DAC cannot represent.
    """
    if loaded.closed:
        raise NotReadyError("The model was taken out of service.", remedy="Ask again, or see `hyle status`.")
    return loaded.program.run(inputs), loaded.program.energy_j(samples)


def _present(folder: Path) -> set[str]:
    """Return the names of a slot's files, and of whatever else is in its folder and no folder itself."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def _digest(path: Path) -> str:
    """Return a plain file's SHA-256, in hexadecimal; a symbolic link is not followed, "" for one."""
    if path.is_symlink():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
