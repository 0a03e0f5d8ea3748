"""The attached device of one compilation: leased from its agent, measured, and told of in the bundle."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from hyle_bundle.manifest import Golden, Manifest, MeasuredOn
from hyle_bundle.scoring import score
from hyle_runtime.body import Body
from hyle_substrates.driver import Device, DeviceError
from hyle_substrates.leased import LeasedDriver, lease
from hyle_substrates.profile import Profile
from hyle_substrates.wire import profile_digest

from hyle_compiler.activations import Observed
from hyle_compiler.calibrate import Calibrated
from hyle_compiler.errors import PlacementError
from hyle_compiler.evaluate import run_batches, tensor_file
from hyle_compiler.golden import GOLDEN
from hyle_compiler.measured import measure
from hyle_compiler.progress import Advance
from hyle_compiler.samples import Samples
from hyle_compiler.tensors import PROGRAMMING

__all__ = ["Attachment", "attach"]

WRITES = 3


@dataclass(slots=True, eq=False)
class Attachment:
    """A leased device, and what was measured on it.

    Attributes:
        driver: Drives it.
        device: What it said of itself at the beginning.
        since: When that was, UTC.
        learned: Whether something was learned on it that must not be lost should it go away.
        lost: Whether it went away.
        layers: Measured error of each layer, beside the one expected from the profile.
        notes: What a person should know.
        proven: Scores and residuals of the compiled model on the device.
    """

    driver: LeasedDriver
    device: Device
    since: datetime
    learned: bool = False
    lost: bool = False
    layers: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    proven: dict[str, Any] = field(default_factory=dict)

    def calibrate(self, calibrated: Calibrated, seen: Observed, profile: Profile) -> Calibrated:
        """Choose a layer's input range by what the device answers.

        Raises:
            DeviceError: It does not answer, and nothing was learned on it before.
        """
        if self.lost:
            return calibrated
        try:
            found = measure(calibrated, seen, profile, self.driver)
        except DeviceError as error:
            self._went_away(error, "ranges are those of the profile")
            return calibrated
        name = calibrated.placed.layer.name
        self.layers.append({"name": name, "expected_error": calibrated.error, "measured_error": found.error})
        return found

    def prove(self, folder: Path, manifest: Manifest, samples: Samples, labels: Any, young_residual: float) -> Manifest:
        """Run the compiled model on the device, and let its self-test allow what a healthy device of its kind gives.

        Args:
            folder: Where the bundle's files lie.
            manifest: Its manifest, with the bound that twins gave.
            samples: What to answer.
            labels: One label a sample.
            young_residual: Mean residual of the twins at their youngest age.

        Raises:
            DeviceError: It does not answer, and nothing was learned on it before.
        """
        programming, golden = tensor_file(folder / PROGRAMMING), tensor_file(folder / GOLDEN)
        scores, residuals = [], []
        if self.lost:
            return manifest
        try:
            for _ in range(WRITES):
                body = Body(folder, manifest, programming, golden, self.driver)
                body.program()
                scores.append(score(run_batches(body, samples, manifest.outputs[0].name), labels))
                residuals.append(body.self_test().residual)
        except DeviceError as error:
            self._went_away(error, "ranges were measured")
            return manifest
        mean = float(np.mean(residuals))
        self.proven = {"writes": WRITES, "samples": len(samples), "scores": scores, "score": float(np.mean(scores))}
        self.proven |= {"residuals": residuals, "residual": mean}
        ratio = mean / young_residual if young_residual else 1.0
        if ratio <= 1.0:
            return manifest
        bound = manifest.golden
        text = f"{bound.derivation}; times {ratio:.3g}, by which the attached device's residual exceeds theirs"
        scaled = Golden(bound.samples, bound.tolerance * ratio, text, bound.corrected * ratio)
        return msgspec.structs.replace(manifest, golden=scaled)

    def counting(self, progress: Callable[[str], None]) -> Callable[[str], None]:
        """Let progress tell how many vectors the device was driven by."""

        def told(text: str) -> None:
            progress(text.on_device(self.driver.vectors) if isinstance(text, Advance) else text)

        return told

    def signed(self, manifest: Manifest, method: str) -> Manifest:
        """Say in the manifest which device was measured."""
        at = self.since.strftime("%Y-%m-%dT%H:%M:%SZ")
        digest, first = profile_digest(self.device.profile), self.driver.terms.first_tile
        told = MeasuredOn(self.device.identity, digest, at, method, first)
        return msgspec.structs.replace(manifest, measured_on=told)

    def as_json(self) -> dict[str, Any]:
        """What happened, as one JSON document."""
        terms = self.driver.terms
        return {
            "identity": self.device.identity,
            "simulated": self.device.simulated,
            "profile_sha256": profile_digest(self.device.profile),
            "first_tile": terms.first_tile,
            "tiles": terms.tiles,
            "serving_meanwhile": terms.serving,
            "layers": self.layers,
            **self.proven,
            "vectors": self.driver.vectors,
            "tiles_written": self.driver.writes,
            "reconnections": self.driver.reconnections,
            "notes": self.notes,
        }

    def _went_away(self, error: DeviceError, consequence: str) -> None:
        if not self.learned:
            raise error
        self.lost = True
        self.notes.append(f"the device went away ({error.message}): {consequence}, and the bundle was not proven on it")


@contextmanager
def attach(
    options: Mapping[str, str], profile: Profile, tiles: int, purpose: str, progress: Callable[[str], None]
) -> Iterator[Attachment]:
    """Lease a device for a compilation; it is given back at the end, however that comes.

    Args:
        options: Of `hyle_substrates.leased.lease`.
        profile: The target; the device must take the same codes and levels.
        tiles: Tiles that the model needs.
        purpose: What for, for people.
        progress: Told what is being done.

    Raises:
        CallerError: The device is not lent, or is of another kind.
        DeviceError: Nobody answers there.
    """
    progress(f"leasing the device at {options['address']}")
    holder = f"{_user()}@{socket.gethostname()}"
    with lease(options, holder=holder, purpose=purpose, tiles=tiles) as driver:
        device = driver.describe()
        _check_kind(device.profile, profile)
        terms = driver.terms
        last = terms.first_tile + terms.tiles - 1
        progress(f"leased tiles {terms.first_tile} to {last} of {device.identity}; inference: {terms.serving}")
        try:
            yield Attachment(driver, device, datetime.now(UTC))
        finally:
            progress("giving the device back: what served before is programmed and tested again")
    for words in driver.restored:
        progress(f"given back: {words}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"


_KIND: Sequence[tuple[str, Callable[[Profile], Any]]] = (
    ("name", lambda p: p.name),
    ("substrate", lambda p: p.substrate),
    ("rows and columns of a tile", lambda p: (p.array.rows, p.array.cols)),
    ("levels of a weight", lambda p: p.weights.levels),
    ("DAC levels", lambda p: (p.dac.levels, p.dac.nonnegative)),
    ("ADC levels", lambda p: p.adc.levels),
)


def _check_kind(found: Profile, wanted: Profile) -> None:
    for what, of in _KIND:
        if of(found) != of(wanted):
            raise PlacementError(
                f"The device is of another kind than {wanted.name}: its {what}: {of(found)}, wanted: {of(wanted)}.",
                remedy=f"Compile with the device's own profile (it says {found.name}).",
            )
