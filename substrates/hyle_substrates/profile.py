"""Profiles: the constraint sheet of one system, read from TOML and validated."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from hyle_errors import did_you_mean

from hyle_substrates.bounds import NonNegative, Positive, ProfileError, Rule, finite, keep

__all__ = [
    "Adc",
    "Array",
    "Cost",
    "Dac",
    "Noise",
    "Profile",
    "ProfileError",
    "Weights",
    "Wires",
    "decode_profile",
    "find_profile",
    "load_profile",
    "profile_names",
    "several_devices",
]

PositiveInt = Annotated[int, msgspec.Meta(ge=1, le=2**20)]
Ohms = Annotated[float, msgspec.Meta(gt=0.0, le=1e6)]
Levels = Annotated[int, msgspec.Meta(ge=0, le=2**15 - 1)]


LEAST_PHOTONS = 1e-6


class Array(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tiles: their size, how many a chip has (0: not bounded), and whether they are rewritten at run time.

    The tiles of a `reloadable` chip are kept in digital memory and written to the array before they are read, so that
    a model may have more of them than the chip has arrays.
    """

    rows: PositiveInt
    cols: PositiveInt
    count: Annotated[int, msgspec.Meta(ge=0, le=2**20)] = 0
    reloadable: bool = False

    @property
    def tiles(self) -> int:
        """How many tiles a model may use; 0 for as many as it likes."""
        return 0 if self.reloadable else self.count


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a weight becomes matter.

    `levels` is the highest integer target (0: continuous, simulations only); `encoding` how a sign is carried: by the
    difference of two devices, by the device itself, or by one device around the middle of its range, in which case a
    column reads the sum of (1 + w)/2 and the host takes the sum of the inputs off again;
    `scale` whether the range is shared by a column or by the whole layer.
    """

    levels: Levels
    encoding: Literal["differential", "native", "offset"]
    scale: Literal["column", "layer"] = "column"


class Dac(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Input converters: codes run from -levels to levels (0: continuous, simulations only).

    With `nonnegative` the matter takes no negative inputs, and layers that have some are driven in two passes.
    """

    levels: Levels
    range: Literal["static", "dynamic", "either"]
    nonnegative: bool = False


class Adc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Output converters.

    `full_scale` is the column value that gives the highest code, in units of (highest weight x highest input).
    """

    levels: Levels
    full_scale: Positive


class Noise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Noise of every read, at the ADC's input, in the units of `Adc.full_scale`.

    `output_std`: standard deviation that no signal changes. `weight_std`: standard deviation of every weight anew in
    every read, over the highest weight; a column then sees it times the norm of its inputs, which is exact for
    Gaussian noise. `photons`: detected photons that the highest weight gives for the highest input (0: none); a
    column that counts n of them has the variance n, taken as Gaussian, valid from about 20 photons a column.
    """

    output_std: NonNegative = 0.0
    weight_std: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.0
    photons: NonNegative = 0.0


class Wires(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Wires that are not perfect: resistance of a segment between two crosspoints, and the highest weight's device."""

    word_ohm: Ohms
    bit_ohm: Ohms
    g_max_us: Annotated[float, msgspec.Meta(gt=0.0, le=1e6)]


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one operation of one whole tile costs; 0 where no source gives it."""

    mvm_latency_s: NonNegative = 0.0
    mvm_energy_j: NonNegative = 0.0
    program_time_s: NonNegative = 0.0


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One system's constraint sheet. `physics` holds the substrate's own constants."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}\Z")]
    substrate: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}\Z")]
    title: str
    sources: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    validity: str
    array: Array
    weights: Weights
    dac: Dac
    adc: Adc
    noise: Noise = Noise()
    cost: Cost = Cost()
    compensation: Literal["none", "global", "column", "affine"] = "none"
    wires: Wires | None = None
    physics: dict[str, Any] = {}

    @property
    def dac_unit(self) -> float:
        """Full scales that one DAC code stands for."""
        return 1.0 / (self.dac.levels or 1)

    @property
    def weight_unit(self) -> float:
        """Highest weights that one level stands for."""
        return 1.0 / (self.weights.levels or 1)

    @property
    def adc_unit(self) -> float:
        """Normalised column value that one ADC code stands for."""
        return self.adc.full_scale / self.adc.levels if self.adc.levels else 1.0

    @property
    def swing(self) -> float:
        """Change of a column's value, over that of signed matter, when a weight goes from 0 to its highest."""
        return 0.5 if self.weights.encoding == "offset" else 1.0

    @property
    def read_unit(self) -> float:
        """ADC codes that one level gives for one DAC code."""
        return self.dac_unit * self.weight_unit / self.adc_unit * self.swing

    @property
    def reference(self) -> float:
        """ADC codes that a weight of zero gives for one DAC code; 0 unless weights have an offset."""
        return self.dac_unit / self.adc_unit / 2.0 if self.weights.encoding == "offset" else 0.0

    @property
    def weight_noise_codes(self) -> float:
        """Standard deviation in ADC codes that one DAC code brings with it."""
        return self.noise.weight_std * self.swing * self.dac_unit / self.adc_unit

    @property
    def shot_noise_codes(self) -> float:
        """Variance in squared ADC codes that one ADC code of light brings with it."""
        return 1.0 / (self.noise.photons * self.adc_unit) if self.noise.photons else 0.0

    @property
    def signal_noise(self) -> bool:
        """Whether the noise of a read depends on what is read."""
        return self.noise.weight_std > 0.0 or self.noise.photons > 0.0

    @property
    def noise_factor(self) -> float:
        """What scales a read's noise: its standard deviation in ADC codes, or 1 where that depends on the signal."""
        return 1.0 if self.signal_noise else self.noise_codes

    @property
    def noise_codes(self) -> float:
        """Standard deviation of the output noise in ADC codes."""
        return self.noise.output_std / self.adc_unit


def decode_profile(text: bytes | str, origin: str = "profile") -> Profile:
    """Read a profile from TOML.

    Raises:
        ProfileError: Not TOML, or a field is missing, unknown or out of range; the message names field and range.
    """
    try:
        profile = msgspec.toml.decode(text, type=Profile)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ProfileError(
            f"{origin}: {_field_first(str(error))}.", remedy="Correct that value in the profile."
        ) from error
    from hyle_substrates.substrate import load_substrate

    finite(origin, msgspec.to_builtins(profile))
    keep(origin, *_rules(profile))
    load_substrate(profile.substrate).check(profile)
    return profile


def _rules(profile: Profile) -> list[Rule]:
    """What no bound of a single field can say."""
    noise, adc, g_max = profile.noise, profile.adc, profile.physics.get("g_max_us")
    wired = None if profile.wires is None else profile.wires.g_max_us
    return [
        (
            "noise.output_std",
            noise.output_std < adc.full_scale,
            "is not below adc.full_scale, so that nothing but noise is read",
            "Give both in the same unit: highest weight times highest input.",
        ),
        (
            "noise.photons",
            noise.photons == 0.0 or noise.photons >= LEAST_PHOTONS,
            f"is below {LEAST_PHOTONS:g}, so that nothing but noise is read",
            "Give the photons that the highest weight gives for the highest input, or leave it out.",
        ),
        (
            "wires.g_max_us",
            wired is None or g_max is None or wired == g_max,
            f"is {wired}, physics.g_max_us {g_max}: they are the same device",
            "Give both the highest weight's conductance.",
        ),
    ]


def several_devices(profile: Profile, devices: int) -> Profile:
    """A profile of as many devices side by side, as one device with so many times the tiles.

    Raises:
        ProfileError: `devices` is below 1, or one device holds a model of any size already.
    """
    if devices < 1:
        raise ProfileError(f"There are {devices} devices.", remedy="Give 1 or more.")
    if devices > 1 and not profile.array.tiles:
        raise ProfileError(
            f"{profile.name} holds a model of any size on one device.", remedy="Leave out the number of devices."
        )
    array = msgspec.structs.replace(profile.array, count=profile.array.count * devices)
    return profile if devices == 1 else msgspec.structs.replace(profile, array=array)


def _field_first(message: str) -> str:
    text, separator, path = message.partition(" - at `$.")
    return f"{path.rstrip('`')}: {text}" if separator else message


@cache
def _bundled() -> Mapping[str, Path]:
    folder = Path(str(resources.files("hyle_substrates") / "profiles"))
    found = {path.stem: path for path in sorted(folder.glob("*.toml"))}
    for point in entry_points(group="hyle.profiles"):
        for path in sorted(Path(str(resources.files(point.value))).glob("*.toml")):
            if path.stem in found:
                raise ProfileError(f"Two packages bring a profile {path.stem!r}.", remedy="Uninstall one of them.")
            found[path.stem] = path
    return found


def profile_names() -> tuple[str, ...]:
    """Return the names of all installed profiles."""
    return tuple(sorted(_bundled()))


def load_profile(name: str) -> Profile:
    """Find a profile by name, or read it from a path that ends in `.toml`; errors as for `find_profile`."""
    return find_profile(name)[0]


def find_profile(name: str) -> tuple[Profile, bytes]:
    """Find a profile by name, or read it from a path that ends in `.toml`; also its text, byte for byte.

    Raises:
        ProfileError: There is no such profile, or it is wrong.
    """
    path = Path(name) if name.endswith(".toml") else _bundled().get(name)
    if path is None or not path.is_file():
        known = ", ".join(profile_names())
        near = did_you_mean(name, profile_names())
        raise ProfileError(
            f"There is no target {name!r}.", remedy=f"{near}Choose one of: {known}; or give the path of a .toml file."
        )
    text = path.read_bytes()
    return decode_profile(text, path.name), text
