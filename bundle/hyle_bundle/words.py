"""What words in files that people write may be, for every room that reads such files."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["Text"]

# No path and no option holds a NUL.
Text = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*\Z")]
