"""The datatypes of the Open Inference Protocol, as NumPy says them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hyle_agent.errors import RequestError

__all__ = ["BYTES", "DATATYPES", "Datatype", "datatype"]

BYTES = "BYTES"


@dataclass(frozen=True, slots=True)
class Datatype:
    """One datatype: its element, and the field of typed contents that carries it ("" if only raw contents can)."""

    name: str
    element: np.dtype[Any]
    field: str

    @property
    def is_float(self) -> bool:
        """Whether elements can be NaN or infinite."""
        return self.element.kind == "f"


def _table() -> dict[str, Datatype]:
    rows = [
        ("BOOL", "?", "bool_contents"),
        ("INT8", "i1", "int_contents"),
        ("INT16", "<i2", "int_contents"),
        ("INT32", "<i4", "int_contents"),
        ("INT64", "<i8", "int64_contents"),
        ("UINT8", "u1", "uint_contents"),
        ("UINT16", "<u2", "uint_contents"),
        ("UINT32", "<u4", "uint_contents"),
        ("UINT64", "<u8", "uint64_contents"),
        ("FP16", "<f2", ""),
        ("FP32", "<f4", "fp32_contents"),
        ("FP64", "<f8", "fp64_contents"),
        (BYTES, "O", "bytes_contents"),
    ]
    return {name: Datatype(name, np.dtype(element), field) for name, element, field in rows}


DATATYPES = _table()


def datatype(name: str) -> Datatype:
    """Return a datatype by its protocol name.

    Raises:
        RequestError: There is none of that name here.
    """
    found = DATATYPES.get(name)
    if found is None:
        raise RequestError(f"{name[:32]!r} is no datatype of this agent.", remedy=f"Use one of {', '.join(DATATYPES)}.")
    return found
