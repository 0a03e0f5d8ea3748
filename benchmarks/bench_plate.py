"""A third-party device end to end: the fit of a plate of sound, and digits through it beside the same read-out without.

python benchmarks/bench_plate.py [--splits 50] [--samples 1000]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "drivers"))
import plate_digits
from hyle_agent.drivers.audio import connect
from hyle_compiler.fitting.fit import FitOptions, fit_device
from rigs import Plate, why_no_plate

FIT = {**plate_digits.OPTIONS, "inputs": "8", "parameters": "2"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=50)
    parser.add_argument("--samples", type=int, default=1000)
    args = parser.parse_args()
    if why_no_plate():
        sys.exit(why_no_plate())
    with tempfile.TemporaryDirectory() as folder:
        plate = Plate(Path(folder))
        os.environ.update(plate.environment)
        try:
            print(json.dumps(_fit(Path(folder), args.samples), indent=2))
            print(json.dumps(_digits(args.splits), indent=2))
        finally:
            plate.unplug()


def _fit(folder: Path, samples: int) -> dict[str, object]:
    box = connect(FIT)
    record = fit_device(box, folder / "twin.onnx", FitOptions(driver="audio", samples=samples), print)
    box.close()
    interval = (record.correlation, record.error)
    values = [[figure.value, figure.low, figure.high] for figure in interval]
    return {
        "family": record.family,
        "correlation": values[0],
        "relative_error": values[1],
        "repeatability": record.repeatability,
        "drives": record.drives,
    }


def _digits(splits: int) -> dict[str, object]:
    features, labels, driven = plate_digits.digits()
    box = connect(plate_digits.OPTIONS)
    answers = plate_digits.answered(box, driven)
    health = dict(box.describe().health)
    box.close()
    mixed = plate_digits.compare(features, driven, labels, splits)
    return {
        "plate": asdict(plate_digits.compare(features, answers, labels, splits)),
        "mixture_alone": mixed.with_plate,
        "health": health,
    }


if __name__ == "__main__":
    main()
