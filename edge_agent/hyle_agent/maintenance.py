"""The table `[maintenance]` of the agent's configuration."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

__all__ = ["MaintenanceConfig"]

Positive = Annotated[float, msgspec.Meta(gt=0.0, le=31_536_000.0)]


class MaintenanceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the device is lent.

    Attributes:
        serve: What answers inference while the whole device is lent: `refuse` (UNAVAILABLE with the reason) or `twin`.
        free_tiles: Lend free tiles where there are enough, so that what serves goes on.
        expire_s: A lease that is not renewed for so long is over.
        grace_s: How long a lease outlives its holder's last stream, unless it is renewed.
        longest_s: No lease lasts longer, renewed or not.
        twin_seed: Which instance answers with `serve = "twin"`.
    """

    serve: Literal["refuse", "twin"] = "refuse"
    free_tiles: bool = True
    expire_s: Positive = 15.0
    grace_s: Positive = 10.0
    longest_s: Positive = 14_400.0
    twin_seed: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0
