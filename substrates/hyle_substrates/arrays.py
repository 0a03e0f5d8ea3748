"""The array namespace of a value, found without loading what NumPy arrays do not need."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["array_namespace"]


def array_namespace(x: Any) -> Any:
    """Return the Array API namespace of `x`.

    NumPy 2 is its own. `array_api_compat` would import all of NumPy for it, f2py and its test tools included: a
    quarter of a second and several megabytes at the start of an agent.
    """
    if isinstance(x, np.ndarray | np.generic):
        return np
    from array_api_compat import array_namespace as find

    return find(x)
