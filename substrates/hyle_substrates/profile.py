"""Profiles: the constraint sheet of one system, read from TOML and validated."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from hyle_errors import CallerError

__all__ = [
    "Adc",
    "Array",
    "Cost",
    "Dac",
    "Noise",
    "Profile",
    "ProfileError",
    "Weights",
    "decode_profile",
    "find_profile",
    "load_profile",
    "profile_names",
]

PositiveInt = Annotated[int, msgspec.Meta(ge=1, le=2**20)]
Positive = Annotated[float, msgspec.Meta(gt=0.0, le=1e12)]
NonNegative = Annotated[float, msgspec.Meta(ge=0.0, le=1e12)]
Levels = Annotated[int, msgspec.Meta(ge=0, le=2**15 - 1)]


class ProfileError(CallerError):
    """A profile that does not exist, or whose values are wrong."""


class Array(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tiles: their size, how many a chip has (0: not bounded), and whether they are rewritten at run time."""

    rows: PositiveInt
    cols: PositiveInt
    count: Annotated[int, msgspec.Meta(ge=0, le=2**20)] = 0
    reloadable: bool = False


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a weight becomes matter.

    `levels` is the highest integer target (0: continuous, simulations only); `encoding` how a sign is carried;
    `scale` whether the range is shared by a column or by the whole layer.
    """

    levels: Levels
    encoding: Literal["differential", "native"]
    scale: Literal["column", "layer"] = "column"


class Dac(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Input converters: codes run from -levels to levels (0: continuous, simulations only)."""

    levels: Levels
    range: Literal["static", "dynamic", "either"]


class Adc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Output converters.

    `full_scale` is the column value that gives the highest code, in units of (highest weight x highest input).
    """

    levels: Levels
    full_scale: Positive


class Noise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Noise of every read: standard deviation at the ADC's input, in the units of `Adc.full_scale`."""

    output_std: NonNegative = 0.0


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one operation of one whole tile costs; 0 where no source gives it."""

    mvm_latency_s: NonNegative = 0.0
    mvm_energy_j: NonNegative = 0.0
    program_time_s: NonNegative = 0.0


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One system's constraint sheet. `physics` holds the substrate's own constants."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    substrate: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
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

    load_substrate(profile.substrate).check(profile)
    return profile


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
        raise ProfileError(
            f"There is no target {name!r}.", remedy=f"Choose one of: {known}; or give the path of a .toml file."
        )
    text = path.read_bytes()
    return decode_profile(text, path.name), text
