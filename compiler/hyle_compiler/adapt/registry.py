"""Which methods there are, which of them a substrate and the data admit, and which one `auto` takes."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import cast

from hyle_errors import did_you_mean
from hyle_substrates.profile import Profile
from hyle_substrates.substrate import load_substrate

from hyle_compiler.adapt.method import Ability, AdaptError, Method

__all__ = ["abilities", "choose", "load_method", "method_names", "refusal", "suitable"]

METHODS = {
    "none": "none",
    "in-silico": "in_silico",
    "pat": "physics_aware",
    "dfa": "feedback_alignment",
    "augmented-dfa": "augmented_feedback_alignment",
    "forward-forward": "forward_forward",
    "phyll": "phyll",
    "layer-wise": "layer_wise",
    "spsa": "spsa",
    "finite-difference": "finite_difference",
    "cma-es": "cma_es",
    "equilibrium-propagation": "equilibrium_propagation",
    "coupled-learning": "coupled_learning",
    "photonic-adjoint": "photonic_adjoint",
    "hamiltonian-echo": "hamiltonian_echo",
}
MATRIX: frozenset[Ability] = frozenset({"model", "gradient", "layer reads", "writes"})
WORDS: dict[Ability, str] = {
    "model": "it has no digital model",
    "gradient": "its model cannot be differentiated",
    "layer reads": "its layers cannot be read one by one",
    "writes": "its weights cannot be written while it learns",
    "nudging": "its outputs cannot be nudged (it does not settle into a minimum of an energy)",
    "reversal": "it cannot run backwards in time",
    "bidirectional": "light cannot be sent through it backwards",
}


def method_names() -> tuple[str, ...]:
    """Return the names of all methods."""
    return tuple(METHODS)


def load_method(name: str) -> Method:
    """Find a method by name.

    Raises:
        AdaptError: There is no such method, or it needs a package that is not installed.
    """
    if name not in METHODS:
        near = did_you_mean(name, ["auto", *METHODS])
        raise AdaptError(f"There is no method {name!r}.", remedy=f"{near}Choose one of: auto, {', '.join(METHODS)}.")
    return cast(Method, import_module(f"hyle_compiler.adapt.{METHODS[name]}").METHOD)


def abilities(profile: Profile) -> frozenset[Ability]:
    """What a substrate offers to training: its own word (`supports`), else what every matrix substrate can do."""
    own = getattr(load_substrate(profile.substrate), "supports", None)
    return MATRIX if own is None else cast("frozenset[Ability]", frozenset(own))


def refusal(method: Method, profile: Profile, *, labels: bool) -> str | None:
    """Why a method cannot be used, or None if it can."""
    missing = sorted(method.needs.abilities - abilities(profile))
    if missing:
        return f"{profile.name}: {'; '.join(WORDS[ability] for ability in missing)}"
    if method.needs.labels == "needed" and not labels:
        return "the samples have no labels"
    if method.needs.torch and find_spec("torch") is None:
        return "torch is not installed (pip install 'hyle[train]')"
    if method.needs.package is not None and find_spec(method.needs.package) is None:
        return f"{method.needs.package} is not installed (pip install 'hyle[train]')"
    return None


def suitable(profile: Profile, *, labels: bool) -> tuple[str, ...]:
    """Names of the methods that can be used."""
    return tuple(name for name in METHODS if refusal(load_method(name), profile, labels=labels) is None)


def checked(name: str, profile: Profile, *, labels: bool) -> Method:
    """Load a method that fits.

    Raises:
        AdaptError: It does not fit; says why and which ones do.
    """
    method = load_method(name)
    why = refusal(method, profile, labels=labels)
    if why is not None:
        fitting = ", ".join(suitable(profile, labels=labels))
        raise AdaptError(f"The method {name} cannot be used: {why}.", remedy=f"Methods that fit: {fitting}.")
    return method


def choose(profile: Profile, *, labels: bool, samples: int, device: bool) -> tuple[str, str]:
    """What `auto` takes, and why.

    The rule is that of the field: a good differentiable model first, the device itself where it is attached, and
    methods of the loss alone where there is no gradient. Few samples overfit many weights: then statistics only.
    """
    fits = suitable(profile, labels=labels)
    if profile.weights.levels == 0:
        return "none", "the matter holds every weight exactly: there is nothing to learn"
    if samples < FEW:
        return "none", f"{samples} samples are too few to train on; statistics are corrected, which is free"
    if device and "pat" in fits:
        return "pat", "a device is attached and its twin can be differentiated"
    if "in-silico" in fits:
        return "in-silico", "the twin can be differentiated and no device is attached"
    if "spsa" in fits:
        return "spsa", "there is no gradient; the loss alone is enough"
    return "none", "no training method fits; statistics are corrected, which is free"


FEW = 1000
