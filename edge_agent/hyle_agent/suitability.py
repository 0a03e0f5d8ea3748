"""Whether a bundle can run on the attached device at all, which is asked before its files travel."""

from __future__ import annotations

from hyle_bundle.manifest import Manifest

from hyle_agent.errors import ConflictError

__all__ = ["check_target"]


def check_target(manifest: Manifest, profile: str) -> None:
    """Refuse a bundle with physical layers whose target is another one.

    Args:
        manifest: The bundle's.
        profile: Name of the device's profile.

    Raises:
        ConflictError: It was compiled for another kind of device.
    """
    if manifest.layers and profile != manifest.target:
        message = f"The bundle was compiled for {manifest.target!r}; the device is a {profile!r}."
        raise ConflictError(message, remedy=f"Compile it again with --target {profile}.")
