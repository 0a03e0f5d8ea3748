"""Print the versions in this environment of hyle's dependencies, and theirs, as a constraints file."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEADER = "# Versions that were tested together. Written by `make pin`; the [train] extra pins torch itself.\n"


def requirements(name: str, extras: frozenset[str]) -> list[Requirement]:
    """Return what a distribution asks for in this environment, with these extras."""
    parsed = [Requirement(line) for line in distribution(name).requires or ()]
    return [one for one in parsed if not one.marker or any(one.marker.evaluate({"extra": e}) for e in extras | {""})]


def closure(name: str, extras: frozenset[str]) -> dict[str, str]:
    """Return the version of every installed package below `name`.

    Args:
        name: Distribution to start from.
        extras: Extras of it to follow.
    """
    versions: dict[str, str] = {}
    waiting = [(canonicalize_name(name), extras)]
    seen = set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        try:
            versions[current[0]] = distribution(current[0]).version
        except PackageNotFoundError:
            continue
        waiting += [(canonicalize_name(one.name), frozenset(one.extras)) for one in requirements(*current)]
    return versions


def main() -> int:
    """Print the constraints of hyle with every extra, but for torch, which its extra pins."""
    versions = closure("hyle", frozenset(distribution("hyle").metadata.get_all("Provides-Extra") or ()))
    for unpinned in ("hyle", "torch"):
        versions.pop(unpinned, None)
    sys.stdout.write(HEADER + "".join(f"{name}=={version}\n" for name, version in sorted(versions.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
