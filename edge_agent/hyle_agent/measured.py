"""Whether a bundle was calibrated or adapted on another device than the one that is attached."""

from __future__ import annotations

from hyle_bundle.manifest import Manifest
from hyle_substrates.driver import Device
from hyle_substrates.wire import profile_digest

__all__ = ["notice_of"]


def notice_of(manifest: Manifest, device: Device) -> str:
    """Say what people should know of a bundle that was measured on a device, "" for nothing."""
    told = manifest.measured_on
    if told is None:
        return ""
    done = "calibrated" if told.method == "calibrate" else f"adapted by {told.method}"
    if told.identity != device.identity:
        return f"{done} on another device, {told.identity!r}, at {told.at}; this one is {device.identity!r}"
    if told.profile_sha256 != profile_digest(device.profile):
        return f"{done} on this device at {told.at}, when its profile was another"
    return ""
