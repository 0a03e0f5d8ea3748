"""What answers in place of a device that cannot: the same bundle on a twin, or computed exactly."""

from __future__ import annotations

from hyle_substrates.driver import Device
from hyle_substrates.twin import TwinDriver

from hyle_agent.loading import Bundle
from hyle_agent.models import Loaded
from hyle_agent.policy import Policy
from hyle_agent.program import Load
from hyle_agent.tiles import Span

__all__ = ["Fallbacks"]


class Fallbacks:
    """Makes fallbacks; called on the operator's thread only.

    Args:
        load: Makes programs; the executor's.
        policy: Which fallback.
        threads: Threads for one operator.
    """

    def __init__(self, load: Load, policy: Policy, *, threads: int) -> None:
        self._load, self._policy, self._threads = load, policy, threads

    @property
    def wanted(self) -> bool:
        """Whether there is one."""
        return self._policy.fallback != "none"

    def make(self, bundle: Bundle, device: Device) -> Loaded:
        """Return a program that answers as `bundle` would and needs no device.

        `twin` has the write errors, the noise and the converters of the device's profile; `digital` has the compiled
        model's integers and converters and nothing else.

        Args:
            bundle: The active slot's bundle, programmed or not.
            device: The device, for its profile.

        Raises:
            HyleError: The bundle cannot be opened.
        """
        exact = self._policy.fallback == "digital"
        driver = TwinDriver(device.profile, 0, noiseless=exact, exact=exact)
        program = self._load(bundle.folder, bundle.manifest, driver, threads=self._threads)
        return Loaded(
            bundle.digest,
            bundle.manifest,
            program,
            Span(0, 0),
            self._policy.fallback,
            bundle.folder,
            on_device=False,
            aside=True,
        )
