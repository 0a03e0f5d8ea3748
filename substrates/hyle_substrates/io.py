"""The converters and the sum between them, written once over the Python Array API.

NumPy runs these functions in the twin, torch differentiates them, and tracing them gives the ONNX bodies of a bundle.
Source of the model: Rasch et al. 2023, Nat. Commun. 14, 5282 (clip, quantise, sum, noise, quantise, clip); valid while
the converters are linear and the noise of a read does not depend on its value.
"""

from __future__ import annotations

from typing import Any, Literal

from hyle_substrates.arrays import array_namespace

__all__ = ["Polarity", "decode", "encode", "noise_std", "readout", "round_through", "sides"]

Polarity = Literal["signed", "positive", "two-pass"]
TINY = 1e-30


def round_through(x: Any) -> Any:
    """Round to the nearest integer, halves to even; where the array has gradients they pass as if nothing was done."""
    hard = array_namespace(x).round(x)
    return x + (hard - x).detach() if getattr(x, "requires_grad", False) else hard


def _clip(x: Any, bound: float) -> Any:
    return array_namespace(x).clip(x, -bound, bound)


def encode(x: Any, full_scale: Any, levels: int, *, bounded: bool = False) -> Any:
    """Quantise values to DAC codes.

    Args:
        x: Values, any shape, in units of the layer's input.
        full_scale: Value that drives the highest code, same unit, > 0; broadcasts against `x`.
        levels: Highest code; 0 for a continuous converter without limits.
        bounded: No magnitude exceeds `full_scale`, so that nothing needs to be cut; exact below 2^21 levels, where
            float32's rounding is less than half a code.

    Returns:
        Codes from -levels to levels, the shape of `x`; for a continuous converter `x / full_scale`.
    """
    if not levels:
        return x / (full_scale + TINY)
    scaled = x * (levels / (full_scale + TINY))
    return round_through(scaled if bounded else _clip(scaled, float(levels)))


def sides(codes: Any, polarity: Polarity) -> tuple[Any, ...]:
    """What is driven: codes as they are, their positive part, or first the positive and then the negative part.

    The answer to a second part is taken off that of the first.
    """
    if polarity == "signed":
        return (codes,)
    xp = array_namespace(codes)
    positive = xp.maximum(codes, 0.0 * codes)
    return (positive,) if polarity == "positive" else (positive, positive - codes)


def noise_std(power: Any, light: Any, constant: float, weight: float, shot: float) -> Any:
    """Standard deviation of a column's noise in ADC codes.

    Args:
        power: Sum of the squared DAC codes on its rows, any shape.
        light: Sum of the magnitudes that it detects, in ADC codes; broadcasts against `power`.
        constant: Standard deviation that no signal changes, in ADC codes.
        weight: Standard deviation in ADC codes for one DAC code.
        shot: Variance in squared ADC codes for one ADC code of light.
    """
    return array_namespace(power).sqrt(constant * constant + weight * weight * power + shot * light)


def readout(total: Any, deviate: Any, noise: Any, levels: int) -> Any:
    """Turn a column's sum into an ADC code.

    Args:
        total: Sums over the rows, in ADC codes, any shape.
        deviate: Standard normal deviates, the shape of `total`, or None without noise.
        noise: Standard deviation of the output noise in ADC codes; broadcasts against `total`.
        levels: Highest code; 0 for a continuous converter without limits.

    Returns:
        Codes from -levels to levels, the shape of `total`.
    """
    noisy = total if deviate is None else total + noise * deviate
    return _clip(round_through(noisy), float(levels)) if levels else noisy


def decode(codes: Any, gain: Any) -> Any:
    """Turn ADC codes into values in units of the input's full scale; `gain` is the value of one code, per column."""
    return codes * gain
