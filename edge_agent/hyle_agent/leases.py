"""Who has the device for maintenance: one lease at a time, that ends by itself; on the event loop only."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
import uuid

from hyle_errors import HyleError

from hyle_agent.errors import LeaseHeldError, LeaseOverError, NotReadyError
from hyle_agent.lease import Lease, Restoration
from hyle_agent.maintenance import MaintenanceConfig
from hyle_agent.models import Models
from hyle_agent.operator_thread import OperatorThread
from hyle_agent.tenancy import Tenancy

__all__ = ["Leases"]

_LOG = logging.getLogger(__name__)
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.5, 30.0
_KEPT_SECRETS = 16


class Leases:
    """Gives out the device, and takes it back.

    Args:
        config: How it is lent.
        tenancy: Clears the device and brings models back.
        operator: Runs that between other operator's work.
        models: What serves.
    """

    def __init__(self, config: MaintenanceConfig, tenancy: Tenancy, operator: OperatorThread, models: Models) -> None:
        self.config = config
        self._tenancy, self._operator, self._models = tenancy, operator, models
        self.current: Lease | None = None
        self._ended: dict[str, str] = {}
        self._owed: list[Lease] = []
        self._changed = asyncio.Event()

    async def open(self, holder: str, purpose: str, tiles: int) -> Lease:
        """Lend the device.

        Raises:
            LeaseHeldError: Somebody has it.
            ConflictError: It has not so many tiles.
            NotReadyError: The agent is starting or stopping.
        """
        if not self._models.booted or self._models.stopping:
            raise NotReadyError("The agent is starting or stopping.", remedy="Ask again shortly.")
        if self.current is not None:
            raise LeaseHeldError(f"Not now: {self.current.words}.", remedy="Wait for its end, or ask its holder.")
        now = time.monotonic()
        ends = now + self.config.longest_s
        lease = Lease(uuid.uuid4().hex, _plain(holder[:128]) or "somebody", _plain(purpose[:256]), ends, ends)
        self.current = lease
        try:
            await self._operator.run(lambda _: self._tenancy.clear(lease, tiles))
        except BaseException:
            await asyncio.shield(self._end(lease, "it could not be given"))
            raise
        lease.renew(self.config.expire_s)
        self._changed.set()
        return lease

    def find(self, token: str) -> Lease:
        """Return the lease of a token.

        Raises:
            LeaseOverError: There is none, or no longer.
        """
        lease = self.current
        if lease is not None and lease.span is not None and hmac.compare_digest(lease.token.encode(), token.encode()):
            lease.check()
            return lease
        why = self._ended.get(token, "the agent knows of none such, it may have been restarted since")
        raise LeaseOverError(f"The lease is over: {why}.", remedy="Open another one.")

    def renew(self, token: str) -> Lease:
        """Keep a lease alive.

        Raises:
            LeaseOverError: It is over.
        """
        lease = self.find(token)
        lease.renew(self.config.expire_s)
        return lease

    async def close(self, token: str) -> list[Restoration]:
        """End a lease and wait until what served before serves again, or could not be brought back.

        Raises:
            LeaseOverError: It is over already.
        """
        lease = self.find(token)
        return await asyncio.shield(asyncio.ensure_future(self._end(lease, "its holder closed it")))

    def attach(self, lease: Lease) -> None:
        """Count a stream of the holder."""
        lease.streams += 1
        lease.renew(self.config.expire_s)

    def detach(self, lease: Lease) -> None:
        """Count a stream less; the last one leaves the holder its grace to come back."""
        lease.streams -= 1
        if not lease.streams and not lease.why:
            lease.shorten(self.config.grace_s)
            self._changed.set()

    def stop(self) -> None:
        """End the lease without bringing anything back: the agent is about to go."""
        if self.current is not None and not self.current.why:
            self._say_over(self.current, "the agent is stopping")

    @property
    def words(self) -> str:
        """Who has the device, "" for nobody."""
        return self.current.words if self.current is not None else ""

    async def run(self) -> None:
        """End what expires, and bring back what is owed; until cancelled."""
        retry_s, due = _FIRST_RETRY_S, 0.0
        while True:
            waits = self._waits(due)
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), waits)
            lease = self.current
            if lease is not None and not lease.why and lease.span is not None and time.monotonic() >= lease.expires:
                await self._expire(lease)
            if not self._owed:
                retry_s, due = _FIRST_RETRY_S, 0.0
            elif time.monotonic() >= due:
                retry_s = min(_LONGEST_RETRY_S, 2.0 * retry_s)
                due = time.monotonic() + retry_s
                await self._bring_back()

    def _waits(self, due: float) -> float | None:
        moments = [due] if self._owed else []
        if self.current is not None and not self.current.why and self.current.span is not None:
            moments.append(self.current.expires)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    async def _expire(self, lease: Lease) -> None:
        longest = time.monotonic() >= lease.ends
        gone = "its holder was not heard of any more"
        why = f"it lasted {self.config.longest_s:g} s, the longest that the agent allows" if longest else gone
        with contextlib.suppress(HyleError):
            await self._end(lease, why)

    async def _end(self, lease: Lease, why: str) -> list[Restoration]:
        self._say_over(lease, why)
        try:
            return await self._operator.run(lambda _: self._tenancy.restore(lease))
        finally:
            if self.current is lease:
                self.current = None
            if lease.replaced:
                self._owed.append(lease)
                self._changed.set()

    def _say_over(self, lease: Lease, why: str) -> None:
        lease.check()
        lease.why = why
        lease.over.set()
        self._ended[lease.token] = why
        while len(self._ended) > _KEPT_SECRETS:
            del self._ended[next(iter(self._ended))]
        _LOG.info("the lease of %s is over: %s", lease.holder, why)

    async def _bring_back(self) -> None:
        for lease in tuple(self._owed):
            with contextlib.suppress(HyleError):
                await self._operator.run(lambda _, lease=lease: self._tenancy.restore(lease))  # type: ignore[misc]
            if not lease.replaced:
                self._owed.remove(lease)


def _plain(words: str) -> str:
    """What a stranger calls itself, without what would end a line of the log or move somebody's cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in words).strip()
