"""A twin's converters as operators of onnxruntime, compiled where there was a C compiler when hyle was installed.

`converters.c` beside this file says what they do. Without them everything works and answers the same, and a twin takes
longer.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import onnxruntime as ort

__all__ = ["DOMAIN", "LIBRARY", "MOST_LEVELS", "MOST_POOLED", "VARIANTS", "register"]

_LOG = logging.getLogger(__name__)
DOMAIN = "hyle.converters.2"
LIBRARY = Path(__file__).with_name("converters.so")
# As converters.c has them: how many operators of each kind the numbers in their names tell apart, the highest code, and
# the longest side of what is pooled.
VARIANTS = {"Drive": 8, "Read": 32}
MOST_LEVELS = 1 << 21
MOST_POOLED = 1 << 10


def register(options: ort.SessionOptions) -> bool:
    """Let sessions with these options have the operators; False if there are none that load here."""
    if not _loads(LIBRARY):
        return False
    options.register_custom_ops_library(str(LIBRARY))
    return True


@cache
def _loads(library: Path) -> bool:
    if not library.is_file():
        _LOG.info("%s was not compiled: twins take longer", library.name)
        return False
    try:
        ort.SessionOptions().register_custom_ops_library(str(library))
    except Exception as error:
        # onnxruntime raises nothing narrower where a library is of another machine or C library.
        _LOG.warning("%s does not load, and twins take longer: %s", library, str(error).splitlines()[0])
        return False
    return True
