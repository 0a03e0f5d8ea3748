"""Checks of a substrate with one of its profiles: the physics itself, and then its twin as a driver."""

from __future__ import annotations

import numpy as np

from hyle_substrates import conformance_driver, draws
from hyle_substrates.conformance import Finding, Subject, demand, refused, run
from hyle_substrates.driver import Driver
from hyle_substrates.profile import Profile, load_profile, profile_names
from hyle_substrates.substrate import Draw, Float64s, load_substrate
from hyle_substrates.twin import TwinDriver

__all__ = ["CHECKS", "check_substrate"]

ENOUGH = 32
AGES_S = (0.0, 25.0, 86400.0, 31536000.0)


def _targets(profile: Profile, tile: int = 0) -> Float64s:
    shape = (min(12, profile.array.rows), min(8, profile.array.cols))
    return np.random.default_rng(5 + tile).uniform(-1.0, 1.0, shape)


def _draw(seed: int) -> Draw:
    return lambda name, shape: draws.normal(seed, name, shape=shape)


def _made(profile: Profile, seed: int, age_s: float = 25.0, tile: int = 0) -> Float64s:
    substrate = load_substrate(profile.substrate)
    matter = substrate.program(profile, _targets(profile, tile), _draw(seed))
    return substrate.age(profile, matter, age_s, _draw(seed + 1))


def gives_finite_weights_at_every_age(profile: Profile) -> None:
    """From 0 s to a year, weights are finite and of the targets' shape."""
    for age_s in AGES_S:
        weights = _made(profile, 0, age_s)
        demand(weights.shape == _targets(profile).shape, f"At {age_s:g} s the weights' shape is {weights.shape}.")
        demand(np.isfinite(weights).all(), f"At {age_s:g} s a weight is not finite.")


def follows_its_targets(profile: Profile) -> None:
    """Soon after programming, weights correlate with their targets, over as many tiles as give enough of them."""
    tiles = range(-(-ENOUGH // _targets(profile).size))
    made = np.concatenate([_made(profile, 2 * tile, tile=tile).ravel() for tile in tiles])
    alike = np.corrcoef(made, np.concatenate([_targets(profile, tile).ravel() for tile in tiles]))[0, 1]
    demand(alike > 0.9, f"Weights correlate {alike:.2f} with their targets.")


def repeats_itself_by_seed(profile: Profile) -> None:
    """The same draws give the same matter, bit by bit."""
    demand(np.array_equal(_made(profile, 3), _made(profile, 3)), "The same draws gave other matter.")


def draws_nothing_by_itself(profile: Profile) -> None:
    """With every deviate at zero, nothing is left to chance."""

    def zeros(name: str, shape: tuple[int, ...]) -> Float64s:
        return np.zeros(shape)

    substrate = load_substrate(profile.substrate)
    made = [substrate.age(profile, substrate.program(profile, _targets(profile), zeros), 25.0, zeros) for _ in range(2)]
    demand(np.array_equal(made[0], made[1]), "There is randomness that is no argument.")


def refuses_targets_that_are_no_numbers(profile: Profile) -> None:
    """Its twin refuses NaN and levels that are too high before they reach the physics."""
    twin = TwinDriver(profile, 0)
    targets = np.full(_targets(profile).shape, np.nan)
    refused(lambda: twin.program(0, targets), "A target that is NaN")


CHECKS = (
    gives_finite_weights_at_every_age,
    follows_its_targets,
    repeats_itself_by_seed,
    draws_nothing_by_itself,
    refuses_targets_that_are_no_numbers,
)


def check_substrate(name: str) -> dict[str, list[Finding]]:
    """Check a substrate with every installed profile that uses it.

    Returns:
        The findings by profile: those of the physics, then those of its twin as a driver.

    Raises:
        ProfileError: No installed package brings the substrate.
    """
    load_substrate(name)
    found: dict[str, list[Finding]] = {}
    for profile in map(load_profile, profile_names()):
        if profile.substrate == name:
            found[profile.name] = [*run(CHECKS, profile), *run(conformance_driver.CHECKS, _twin(profile))]
    return found


def _twin(profile: Profile) -> Subject[Driver]:
    return Subject(lambda: TwinDriver(profile, 0))
