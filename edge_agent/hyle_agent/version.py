"""The agent's own version."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

__all__ = ["agent_version"]


@cache
def agent_version() -> str:
    """Return the version of the installed distribution."""
    return version("hyle")
