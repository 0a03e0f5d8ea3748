"""ONNX's own backend test suite, run in this process over a backend.

Run as a program (`python onnx_suite.py BACKEND START STEP`) it runs every STEP-th case from START on and writes one
JSON line a case, so that a crash of the process is a line that is missing and not the end of the tests.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import sys
import tempfile
import unittest
import warnings
from typing import Any

CASE_LIMIT_S = 60


def backend(name: str) -> Any:
    if name == "onnxruntime":
        import onnxruntime.backend

        return onnxruntime.backend
    from hyle_compiler.backend import HyleBackend

    return type("Target", (HyleBackend,), {"target": name})


class Outcome(unittest.TestResult):
    """What became of one case."""

    def __init__(self) -> None:
        super().__init__()
        self.outcome, self.text = "pass", ""

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self.outcome, self.text = "skip", reason

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        from hyle_errors import HyleError

        told = isinstance(err[1], HyleError)
        self.outcome, self.text = "refused" if told else "error", f"{type(err[1]).__name__}: {err[1]}"[:400]

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self.outcome, self.text = "differs", str(err[1])[:400]


def _cases(name: str) -> Any:
    from onnx.backend.test import BackendTest

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return BackendTest(backend(name), __name__).tests


def run(name: str, start: int, step: int, out: Any, only: str = "") -> None:
    cases = _cases(name)
    chosen = [case for case in dir(cases) if case.startswith("test_") and case.endswith("_cpu") and only in case]
    for case in chosen[start::step]:
        faulthandler.dump_traceback_later(CASE_LIMIT_S, exit=True)
        outcome = Outcome()
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            cases(case).run(outcome)
        out.write(json.dumps({"case": case, "outcome": outcome.outcome, "text": outcome.text}) + "\n")
        out.flush()
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ["ONNX_HOME"] = home
        run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.stdout, *sys.argv[4:5])
