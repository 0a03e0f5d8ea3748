"""`report.html`: one self-contained page, drawn from `report.json` and nothing else."""

from hyle_compiler.page.document import render

__all__ = ["render"]
