"""Whether a bundle was calibrated or adapted on another device than the one that is attached."""

from __future__ import annotations

from hyle_bundle.manifest import Manifest
from hyle_substrates.driver import Device
from hyle_substrates.wire import profile_digest

__all__ = ["notice_of", "preferred_tile"]


def preferred_tile(manifest: Manifest, device: Device) -> int | None:
    """The first of the tiles that a bundle was measured on, if it was on this device."""
    told = manifest.measured_on
    return told.first_tile if told is not None and told.identity == device.identity else None


def notice_of(manifest: Manifest, device: Device, first_tile: int) -> str:
    """Say what people should know of a bundle that was measured on a device, "" for nothing."""
    told = manifest.measured_on
    if told is None:
        return ""
    done = "calibrated" if told.method == "calibrate" else f"adapted by {told.method}"
    if told.identity != device.identity:
        return f"{done} on another device, {told.identity!r}, at {told.at}; this one is {device.identity!r}"
    if told.profile_sha256 != profile_digest(device.profile):
        return f"{done} on this device at {told.at}, when its profile was another"
    if told.first_tile != first_tile:
        return f"{done} on this device's tiles from {told.first_tile} on, which are in use; it is on others"
    return ""
