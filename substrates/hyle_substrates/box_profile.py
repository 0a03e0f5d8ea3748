"""Sheets of simulated black boxes, read from TOML: what the matter is, its sizes, its constants and their sources."""

from __future__ import annotations

from functools import cache
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
import numpy as np

from hyle_substrates.bounds import NonNegative, finite
from hyle_substrates.draws import Float64s
from hyle_substrates.profile import ProfileError
from hyle_substrates.substrate import Draw

__all__ = ["BoxPhysics", "BoxProfile", "box_names", "constants_of", "load_box", "load_physics"]

Size = Annotated[int, msgspec.Meta(ge=0, le=2**16)]
Constants = TypeVar("Constants", bound=msgspec.Struct)


class BoxProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One system's sheet. Inputs and parameters run from -1 to 1; `noise_std` is that of a reading, in its units."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}\Z")]
    black_box: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}\Z")]
    title: str
    sources: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    validity: str
    inputs: Annotated[int, msgspec.Meta(ge=1, le=2**16)]
    outputs: Annotated[int, msgspec.Meta(ge=1, le=2**16)]
    noise_std: NonNegative = 0.0
    physics: dict[str, Any] = {}


class BoxPhysics(Protocol):
    """A kind of matter whose answer is no matrix product."""

    def parameters(self, profile: BoxProfile) -> int:
        """Return how many parameters it has; ProfileError if the sheet is wrong."""

    def made(self, profile: BoxProfile, draw: Draw) -> dict[str, Float64s]:
        """Return one device: what differs from the next one, by name."""

    def respond(
        self, profile: BoxProfile, device: dict[str, Float64s], parameters: Float64s, inputs: Float64s
    ) -> Float64s:
        """Return readings without noise, samples by outputs; every sample begins from the same state.

        Args:
            profile: The sheet.
            device: What `made` returned.
            parameters: Samples by parameters, from -1 to 1.
            inputs: Samples by inputs, from -1 to 1.
        """


@cache
def _physics() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for point in entry_points(group="hyle.black_boxes"):
        if point.name in found:
            raise ProfileError(f"Two packages bring a black box {point.name!r}.", remedy="Uninstall one of them.")
        found[point.name] = point
    return found


def load_physics(name: str) -> BoxPhysics:
    """Find a kind of black box by its entry point; ProfileError if there is none."""
    point = _physics().get(name)
    if point is None:
        known = ", ".join(sorted(_physics()))
        raise ProfileError(f"There is no black box {name!r}.", remedy=f"Install it, or use one of: {known}.")
    physics: BoxPhysics = point.load()
    return physics


def box_names() -> tuple[str, ...]:
    """Return the names of all sheets that are installed."""
    folder = Path(str(resources.files("hyle_substrates") / "profiles" / "black_boxes"))
    return tuple(sorted(path.stem for path in folder.glob("*.toml")))


def load_box(name: str) -> BoxProfile:
    """Find a sheet by name, or read it from a path that ends in `.toml`.

    Raises:
        ProfileError: There is none, or a field is missing, unknown or out of range.
    """
    folder = Path(str(resources.files("hyle_substrates") / "profiles" / "black_boxes"))
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(box_names())
        raise ProfileError(f"There is no black box {name!r}.", remedy=f"Choose one of: {known}; or give a .toml file.")
    try:
        profile = msgspec.toml.decode(path.read_bytes(), type=BoxProfile)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path.name}: {error}.", remedy="Correct that value.") from error
    finite(path.name, msgspec.to_builtins(profile))
    load_physics(profile.black_box).parameters(profile)
    return profile


def constants_of(profile: BoxProfile, kind: type[Constants]) -> Constants:
    """Validate a sheet's `physics` table; ProfileError names what is wrong."""
    try:
        return msgspec.convert(profile.physics, kind)
    except msgspec.ValidationError as error:
        raise ProfileError(f"{profile.name}: physics: {error}.", remedy="Correct that value.") from error


def demand_size(profile: BoxProfile, field: str, wanted: int) -> None:
    """Raise ProfileError unless a size is what the physics makes of its constants."""
    if getattr(profile, field) != wanted:
        raise ProfileError(
            f"{profile.name}: {field} is {getattr(profile, field)}; its physics has {wanted}.", remedy="Correct it."
        )


def spread(values: Float64s, low: float, high: float) -> Float64s:
    """Return values on [-1, 1] as numbers from `low` to `high`."""
    out: Float64s = low + (high - low) * (np.asarray(values) + 1.0) / 2.0
    return out
