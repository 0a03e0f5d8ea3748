"""Random numbers that are the same on every machine, for ever.

A counter-based generator (Philox 4x64, keyed by a hash of the seed and the draw's name) gives the bits, and a rational
approximation of the inverse normal distribution turns them into deviates, so that no stream depends on the order of
the calls, on NumPy's choice of algorithm, or on the number of threads.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np

__all__ = ["Float64s", "inverse_normal", "normal", "uniform"]

Float64s = np.ndarray[Any, np.dtype[np.float64]]
CHUNK = 8192

_CENTRAL = (
    (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3, 2.1213794301586595867e4,
     3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3),
)  # fmt: skip
_MIDDLE = (
    (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
     1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1, 1.48103976427480074590e-1,
     1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)  # fmt: skip
_FAR = (
    (6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
     2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2, 7.86869131145613259100e-4,
     1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15),
)  # fmt: skip


def _ratio(r: Float64s, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Float64s:
    def horner(terms: tuple[float, ...]) -> Float64s:
        total = np.full_like(r, terms[-1])
        for term in reversed(terms[:-1]):
            total *= r
            total += term
        return total

    return horner(coefficients[0]) / horner(coefficients[1])


def inverse_normal(p: Float64s) -> Float64s:
    """Quantiles of the standard normal distribution.

    Args:
        p: Probabilities, any shape, 0 < p < 1.

    Returns:
        Quantiles, the shape of `p`, to about 1e-15 relative.

    Source: Wichura 1988, algorithm AS 241 (PPND16), Applied Statistics 37, 477.
    """
    flat = p.reshape(-1)
    out = np.empty_like(flat)
    for start in range(0, flat.size, CHUNK):
        _quantiles(flat[start : start + CHUNK], out[start : start + CHUNK])
    return out.reshape(p.shape)


def _quantiles(p: Float64s, out: Float64s) -> None:
    q = p - 0.5
    np.multiply(q, _ratio(0.180625 - q * q, _CENTRAL), out=out)
    tail = np.flatnonzero(np.abs(q) > 0.425)
    if not tail.size:
        return
    beyond = p[tail]
    r = np.sqrt(-np.log(np.minimum(beyond, 1.0 - beyond)))
    magnitude = _ratio(r - 1.6, _MIDDLE)
    far = np.flatnonzero(r > 5.0)
    if far.size:
        magnitude[far] = _ratio(r[far] - 5.0, _FAR)
    out[tail] = np.copysign(magnitude, q[tail])


def uniform(seed: int, *path: str | int, shape: tuple[int, ...]) -> Float64s:
    """Draw uniform deviates in (0, 1).

    Args:
        seed: The instance's seed, ≥ 0.
        path: Name of the draw; draws of different names are independent.
        shape: Shape of the result.
    """
    digest = blake2b(repr((seed, path)).encode(), digest_size=16).digest()
    generator = np.random.Philox(key=np.frombuffer(digest, dtype="<u8").astype(np.uint64))
    raw = generator.random_raw(int(np.prod(shape, dtype=np.int64)))
    return (((np.asarray(raw, dtype=np.uint64) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53).reshape(shape)


def normal(seed: int, *path: str | int, shape: tuple[int, ...]) -> Float64s:
    """Draw standard normal deviates; arguments as for `uniform`."""
    return inverse_normal(uniform(seed, *path, shape=shape))
