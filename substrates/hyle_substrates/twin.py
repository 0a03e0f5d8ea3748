"""The twin driver: a device made of numbers, a first-class driver like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hyle_errors import CallerError

from hyle_substrates import draws, io
from hyle_substrates.driver import Codes, Device, DeviceError, Driver, ProgramReport, Weights
from hyle_substrates.mismatch import Mismatch
from hyle_substrates.profile import Profile, load_profile
from hyle_substrates.substrate import load_substrate
from hyle_substrates.wires import loaded

__all__ = ["TwinDriver", "connect"]

UNBOUNDED_TILES = 2**20
LARGEST = 1024
AS_ITS_SHEET = Mismatch()


class TwinDriver:
    """A digital twin of one device instance.

    Args:
        profile: The constraint sheet.
        seed: Which instance; the same seed gives the same device on every machine.
        noiseless: Leave out the noise of the reads (write errors and drift stay).
        exact: Leave out write errors and drift as well: the matter holds its targets.
        mismatch: How this instance differs from its sheet for good, whatever is written.
    """

    def __init__(
        self,
        profile: Profile,
        seed: int = 0,
        *,
        noiseless: bool = False,
        exact: bool = False,
        mismatch: Mismatch = AS_ITS_SHEET,
    ) -> None:
        if not 0 <= seed < 1 << 64:
            raise CallerError(f"The seed is {seed}.", remedy="Give a seed of 0 or more, below 2**64.")
        self._profile = profile
        self._seed = seed
        self._tiles = profile.array.tiles or UNBOUNDED_TILES
        self._exact, self._mismatch = exact, mismatch
        self._noise = 0.0 if noiseless else profile.noise_factor
        self._substrate = load_substrate(profile.substrate)
        self._matter: dict[int, dict[str, np.ndarray[Any, Any]]] = {}
        self._writes: dict[int, int] = {}
        self._gains: dict[int, np.ndarray[Any, Any]] = {}
        self._weights: dict[int, Weights] = {}
        self._scaled: dict[tuple[int, ...], Weights] = {}
        self._age_s = 0.0
        self._reads = _noise_of(seed, 0)
        self._closed = False

    @property
    def noiseless(self) -> bool:
        """Whether its reads have no noise."""
        return self._noise == 0.0

    def describe(self) -> Device:
        """Return the instance's identity and age."""
        return Device(
            identity=f"twin:{self._profile.name}:{self._seed}",
            profile=self._profile,
            tiles=self._tiles,
            simulated=True,
            health={"age_s": self._age_s},
        )

    def program(self, tile: int, targets: Codes) -> ProgramReport:
        """Write one tile; every write of a tile draws new errors. Contract: `Driver.program`."""
        self._check_targets(tile, targets)
        relative = targets.astype(np.float64) * self._profile.weight_unit
        write = self._writes[tile] = self._writes.get(tile, -1) + 1
        if self._exact:
            self._matter[tile] = {"exact": relative}
        else:
            written = self._substrate.program(self._profile, relative, self._draw(tile, write))
            self._matter[tile] = {name: array.astype(np.float32) for name, array in written.items()}
        self._forget(tile)
        reached = self.weights(tile).astype(np.float64) * self._profile.weight_unit
        residual = float(np.sqrt(np.mean((reached - relative) ** 2))) if targets.size else 0.0
        return ProgramReport(tile, residual, self._profile.cost.program_time_s)

    def apply(self, tiles: Sequence[int], codes: Codes) -> Codes:
        """Multiply, add the noise of one read, and convert. Contract: `Driver.apply`."""
        scaled = self._columns(tuple(tiles))
        if codes.ndim != 2 or codes.shape[1] != scaled.shape[0]:
            raise DeviceError(
                f"Codes of shape {codes.shape} were sent to tiles of {scaled.shape[0]} rows.",
                remedy="Send batch by rows.",
            )
        if codes.dtype.kind == "f" and not np.isfinite(codes).all():
            raise DeviceError("A DAC code is not finite.", remedy="Give finite numbers.")
        levels = self._profile.dac.levels
        if levels and codes.size and int(np.abs(codes).max()) > levels:
            raise DeviceError(f"A DAC code exceeds {levels}.", remedy="Encode with this device's profile.")
        if self._profile.dac.nonnegative and codes.size and codes.min() < 0:
            raise DeviceError("A DAC code is negative.", remedy="Drive this device in two passes.")
        driven = codes.astype(np.float32)
        total = driven @ scaled
        if self._profile.reference:
            total += np.float32(self._profile.reference) * driven.sum(axis=1, keepdims=True)
        deviate = self._reads.standard_normal(total.shape, dtype=np.float32) if self._noise else None
        out = io.readout(total, deviate, self._read_noise(driven, scaled, total), self._profile.adc.levels)
        codes_out: Codes = out.astype(np.int32) if self._profile.adc.levels else out
        return codes_out

    def seed_reads(self, number: int) -> None:
        """Let the noise of the reads from here on be that of a number, 0 or more, whatever was read before."""
        self._reads = _noise_of(self._seed, number + 1)

    def weights(self, tile: int) -> Weights:
        """Return a tile's effective weights now, rows by columns, in units of one level."""
        if tile not in self._weights:
            matter = self._programmed(tile)
            if self._exact:
                relative = matter["exact"]
            else:
                draw = self._draw(tile, self._writes[tile], f"age {self._age_s!r}")
                wide = {name: array.astype(np.float64) for name, array in matter.items()}
                relative = loaded(self._substrate.age(self._profile, wide, self._age_s, draw), self._profile)
            relative = self._as_this_device(tile, relative)
            self._weights[tile] = (relative / self._profile.weight_unit).astype(np.float32)
        return self._weights[tile]

    def advance(self, age_s: float) -> None:
        """Let the matter be `age_s` seconds old, counted from the end of programming; only forward in a real device."""
        if not age_s >= 0.0:
            raise CallerError(f"The age is {age_s} s.", remedy="Give an age of 0 s or more.")
        self._age_s = float(age_s)
        self._weights.clear()
        self._scaled.clear()

    def close(self) -> None:
        """Forget everything."""
        self._closed = True
        self._matter.clear()
        self._weights.clear()
        self._scaled.clear()

    def _as_this_device(self, tile: int, relative: Any) -> Any:
        if not self._mismatch:
            return relative
        if tile not in self._gains:
            array = self._profile.array
            most = min(array.rows, LARGEST), min(array.cols, LARGEST)
            whole = max(most[0], len(relative)), max(most[1], relative.shape[1])
            self._gains[tile] = self._mismatch.gains(whole, self._draw(tile, 0))
        rows, cols = relative.shape
        return relative * self._gains[tile][:rows, :cols]

    def _draw(self, tile: int, write: int, stage: str = "") -> Any:
        return lambda name, shape: draws.normal(self._seed, self._profile.name, tile, write, stage, name, shape=shape)

    def _programmed(self, tile: int) -> dict[str, np.ndarray[Any, Any]]:
        if self._closed:
            raise DeviceError("The device was closed.", remedy="Connect again.")
        if tile not in self._matter:
            raise DeviceError(f"Tile {tile} is not programmed.", remedy="Program it first.")
        return self._matter[tile]

    def _columns(self, tiles: tuple[int, ...]) -> Weights:
        if tiles not in self._scaled:
            profile = self._profile
            unit = profile.read_unit
            joined = np.concatenate([self.weights(tile) for tile in tiles], axis=1)
            self._scaled[tiles] = np.ascontiguousarray(joined * np.float32(unit), dtype=np.float32)
        return self._scaled[tiles]

    def _read_noise(self, codes: Weights, scaled: Weights, total: Weights) -> Any:
        profile = self._profile
        if not (self._noise and profile.signal_noise):
            return np.float32(self._noise)
        power = np.sum(codes * codes, axis=1, keepdims=True)
        light: Any = np.float32(0.0)
        if profile.shot_noise_codes:
            light = np.maximum(total, 0.0) if profile.reference else np.abs(codes) @ np.abs(scaled)
        std = io.noise_std(power, light, profile.noise_codes, profile.weight_noise_codes, profile.shot_noise_codes)
        return std.astype(np.float32)

    def _forget(self, tile: int) -> None:
        self._weights.pop(tile, None)
        for key in [key for key in self._scaled if tile in key]:
            del self._scaled[key]

    def _check_targets(self, tile: int, targets: Codes) -> None:
        if self._closed:
            raise DeviceError("The device was closed.", remedy="Connect again.")
        array, levels = self._profile.array, self._profile.weights.levels
        if not 0 <= tile < self._tiles:
            raise DeviceError(f"There is no tile {tile}.", remedy=f"The device has {self._tiles} tiles.")
        if targets.ndim != 2 or targets.shape[0] > array.rows or targets.shape[1] > array.cols:
            raise DeviceError(
                f"Targets of shape {targets.shape} do not fit a tile of {array.rows} x {array.cols}.",
                remedy="Split the layer.",
            )
        if not np.isfinite(targets).all() or (levels and targets.size and int(np.abs(targets).max()) > levels):
            raise DeviceError(
                f"A target is not finite or exceeds {levels}.", remedy="Give levels of this device's profile."
            )


def _noise_of(seed: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, number << 32 | 0x72656164]))


def connect(options: Mapping[str, str]) -> Driver:
    """Make a twin from an agent's driver options.

    Args:
        options: `profile` (name or path of a .toml file), and optionally `seed` (an integer ≥ 0), `age_s`, `mismatch`
            (share by which the gains of weights, rows and columns differ from the sheet for good), and `speed` (seconds
            by which the matter ages in a second; given, the twin is run layer by layer, as attached hardware is).

    Raises:
        CallerError: An option is missing, unknown or not a number.
    """
    unknown = set(options) - {"profile", "seed", "age_s", "mismatch", "speed"}
    if unknown or "profile" not in options:
        wrong = f"has no option {sorted(unknown)[0]!r}" if unknown else "needs the option 'profile'"
        raise CallerError(
            f"The twin driver {wrong}.", remedy="Its options are profile, seed, age_s, mismatch and speed."
        )
    try:
        seed, age_s = int(options.get("seed", "0")), float(options.get("age_s", "0"))
        share, speed = float(options.get("mismatch", "0")), float(options.get("speed", "0"))
    except ValueError as error:
        raise CallerError(
            f"The twin driver's seed, age_s, mismatch or speed is not a number: {error}.", remedy="Give numbers."
        ) from error
    if not 0.0 <= speed < 1e9:
        raise CallerError(f"The twin driver's speed is {speed}.", remedy="Give 0 or more, below 1e9.")
    twin = TwinDriver(load_profile(options["profile"]), seed, mismatch=Mismatch(share, share, share))
    twin.advance(age_s)
    if speed:
        from hyle_substrates.ageing import AgeingTwin

        return AgeingTwin(twin, age_s=age_s, speed=speed)
    return twin
