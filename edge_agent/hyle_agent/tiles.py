"""Who owns which tiles: two slots and several models share one device, each through a window of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hyle_bundle.manifest import Manifest
from hyle_substrates.box_driver import Responsive
from hyle_substrates.driver import BlackBoxInfo, Codes, Device, Driver, Floats, ProgramReport, SimulatedMatter, Weights

from hyle_agent.errors import ConflictError

__all__ = ["Span", "TileMap", "tiles_needed", "window"]


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring tiles of the device: the first, and how many."""

    start: int
    count: int


class TileMap:
    """Spans of the device's tiles that are given out.

    Args:
        tiles: Tiles that the device has.
    """

    def __init__(self, tiles: int) -> None:
        self.tiles = tiles
        self._given: list[Span] = []

    @property
    def used(self) -> int:
        """Tiles that are given out."""
        return sum(span.count for span in self._given)

    def claim(self, count: int, preferred: int | None = None) -> Span:
        """Give out a span of `count` tiles: from `preferred` on if that is free, else the first that is.

        Raises:
            ConflictError: No such span is free.
        """
        if preferred is not None and count and self._is_free(Span(preferred, count)):
            self._given.append(Span(preferred, count))
            return self._given[-1]
        start = 0
        for span in sorted(self._given, key=lambda given: given.start):
            if span.start - start >= count:
                break
            start = span.start + span.count
        if start + count > self.tiles:
            got = f"the device has {self.tiles}, of which {self.used} are in use"
            message = f"The bundle needs {count} neighbouring tiles; {got}."
            raise ConflictError(message, remedy="Remove a model from this agent, or compile for fewer tiles.")
        claimed = Span(start, count)
        if count:
            self._given.append(claimed)
        return claimed

    def check(self, count: int, freed: Span) -> None:
        """Raise what `claim` would raise once a span was taken back; nothing is given out."""
        after = TileMap(self.tiles)
        after._given = [span for span in self._given if span != freed]
        after.claim(count)

    def _is_free(self, wanted: Span) -> bool:
        end = wanted.start + wanted.count
        return end <= self.tiles and all(
            end <= given.start or given.start + given.count <= wanted.start for given in self._given
        )

    def free(self, span: Span) -> None:
        """Take a span back."""
        if span.count:
            self._given.remove(span)


def tiles_needed(manifest: Manifest) -> int:
    """Return how many neighbouring tiles a bundle occupies."""
    return max((tile.index + 1 for layer in manifest.layers for tile in layer.tiles), default=0)


class _Window:
    """A driver that sees only its span of tiles, numbered from 0; closing it leaves the device open."""

    def __init__(self, driver: Driver, span: Span, check: Callable[[], None]) -> None:
        self._driver = driver
        self._span = span
        self._check = check

    def describe(self) -> Device:
        return replace(self._driver.describe(), tiles=self._span.count)

    def program(self, tile: int, targets: Codes) -> ProgramReport:
        self._check()
        return replace(self._driver.program(self._absolute(tile), targets), tile=tile)

    def apply(self, tiles: Sequence[int], codes: Codes) -> Codes:
        self._check()
        return self._driver.apply([self._absolute(tile) for tile in tiles], codes)

    def close(self) -> None:
        return

    def _absolute(self, tile: int) -> int:
        if not 0 <= tile < self._span.count:
            raise IndexError(f"tile {tile} of a window of {self._span.count}")
        return self._span.start + tile


class _SimulatedWindow(_Window):
    """The same for a twin, whose weights can be read and whose clock can be set."""

    def __init__(self, driver: Driver, matter: SimulatedMatter, span: Span, check: Callable[[], None]) -> None:
        super().__init__(driver, span, check)
        self._matter = matter

    def weights(self, tile: int) -> Weights:
        return self._matter.weights(self._absolute(tile))

    def advance(self, age_s: float) -> None:
        self._matter.advance(age_s)


class _ResponsiveWindow(_Window):
    """The same for a device with a black box, which all windows share."""

    def __init__(self, driver: Driver, device: Responsive, span: Span, check: Callable[[], None]) -> None:
        super().__init__(driver, span, check)
        self._device = device

    def box(self) -> BlackBoxInfo:
        return self._device.box()

    def respond(self, parameters: Floats, inputs: Floats) -> Floats:
        self._check()
        return self._device.respond(parameters, inputs)


def window(driver: Driver, span: Span, check: Callable[[], None] = lambda: None) -> Driver:
    """Return a view of `driver` in which tile 0 is the first of `span`; a twin's view is a twin too.

    Args:
        driver: The device.
        span: Its tiles that are seen.
        check: Called before each piece of work on the matter; what it raises keeps the work from it.
    """
    if isinstance(driver, Responsive):
        return _ResponsiveWindow(driver, driver, span, check)
    if isinstance(driver, SimulatedMatter):
        return _SimulatedWindow(driver, driver, span, check)
    return _Window(driver, span, check)
