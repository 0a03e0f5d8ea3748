"""A circuit in ngspice: any netlist as a black box, before it is soldered.

The netlist defines a subcircuit `hyle` whose nodes are the parameters, the inputs and the outputs, in this order; its
own supplies are inside. Parameters and inputs are driven by ideal voltage sources, outputs are read as voltages at the
operating point. A batch is one sweep over its samples, which takes a tenth of the time of as many runs; a circuit with
more than one operating point may stay near that of the sample before. Valid for what ngspice's models are valid for;
an operating point has no noise.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hyle_errors import CallerError
from hyle_substrates.attached_black_box import AttachedBlackBox
from hyle_substrates.driver import BlackBoxInfo, DeviceError, Floats

from hyle_agent.drivers.options import Options

__all__ = ["connect"]

AT_ONCE = 200
SUBCIRCUIT = re.compile(r"^\s*\.subckt\s+hyle\s+(.*)$", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Settings:
    """The circuit and its sizes; voltages from `low_v` to `high_v`."""

    netlist: Path
    parameters: int
    inputs: int
    outputs: int
    low_v: float
    high_v: float
    timeout_s: float


class _Link:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._program = shutil.which("ngspice")
        if self._program is None:
            raise DeviceError("ngspice is not installed.", remedy="Install it (Debian: apt-get install ngspice).")
        try:
            self._circuit = settings.netlist.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise DeviceError(f"{settings.netlist} cannot be read: {error}.", remedy="Check the path.") from error
        self._check()

    def describe(self) -> BlackBoxInfo:
        s = self._settings
        digest = hashlib.sha256(self._circuit.encode()).hexdigest()[:12]
        return BlackBoxInfo(f"spice:{digest}", s.parameters, s.inputs, s.outputs, s.low_v, s.high_v, simulated=True)

    def respond(self, parameters: Floats, inputs: Floats) -> Floats:
        values = np.concatenate([parameters, inputs], axis=1)
        parts = [self._solve(values[start : start + AT_ONCE]) for start in range(0, len(values), AT_ONCE)]
        return np.concatenate([np.zeros((0, self._settings.outputs)), *parts])

    def close(self) -> None: ...

    def _check(self) -> None:
        s, found = self._settings, SUBCIRCUIT.search(self._circuit)
        if found is None:
            raise CallerError(f"{s.netlist} has no '.subckt hyle'.", remedy="Define it: parameters, inputs, outputs.")
        nodes, wanted = len(found.group(1).split()), s.parameters + s.inputs + s.outputs
        if nodes != wanted:
            raise CallerError(
                f"The subcircuit has {nodes} nodes; parameters, inputs and outputs are {wanted}.",
                remedy="Name its nodes in this order, and nothing else: supplies belong inside.",
            )

    def _solve(self, values: Floats) -> Floats:
        with tempfile.TemporaryDirectory(prefix="hyle-spice-") as folder:
            path = Path(folder) / "batch.cir"
            path.write_text(self._batch(values, Path(folder) / "readings"))
            try:
                done = subprocess.run(
                    [str(self._program), "-b", str(path)],
                    capture_output=True,
                    text=True,
                    timeout=self._settings.timeout_s,
                    check=False,
                    cwd=self._settings.netlist.parent,
                )
            except subprocess.TimeoutExpired as error:
                raise DeviceError("ngspice did not end in time.", remedy="Raise timeout_s.") from error
            return self._read(Path(folder) / "readings", len(values), done.stderr)

    def _read(self, path: Path, samples: int, told: str) -> Floats:
        """Columns of the sweep, after that of the swept sample; the last row is there for the sweep's sake."""
        shape = (samples + 1, self._settings.outputs + 1)
        found = np.loadtxt(path, ndmin=2) if path.is_file() else np.zeros((0, 0))
        if found.shape != shape or not np.isfinite(found).all():
            why = next((line for line in told.splitlines() if "rror" in line), "no operating point was found")
            raise DeviceError(f"ngspice could not solve the circuit: {why}.", remedy="Run the netlist by hand.")
        readings: Floats = found[:-1, 1:]
        return readings

    def _batch(self, values: Floats, readings: Path) -> str:
        swept = np.concatenate([values, values[-1:]])
        lines = ["hyle", self._circuit.replace("\r", ""), "Vsample sample 0 0"]
        for i, column in enumerate(swept.T):
            lines.append(f"B{i} u{i} 0 V = pwl(v(sample)")
            lines += [f"+ , {k} , {float(value)!r}" for k, value in enumerate(column)]
            lines.append("+ )")
        nodes = [*(f"u{i}" for i in range(values.shape[1])), *(f"y{j}" for j in range(self._settings.outputs))]
        lines += ["Xhyle", *(f"+ {node}" for node in nodes), "+ hyle", ".options reltol=1e-6"]
        read = [f"v(y{j})" for j in range(self._settings.outputs)]
        sweep = ["set wr_singlescale", "set numdgt=12", f"dc Vsample 0 {len(values)} 1"]
        return "\n".join([*lines, ".control", *sweep, f"wrdata {readings} {' '.join(read)}", ".endc", ".end", ""])


def connect(options: Mapping[str, str]) -> AttachedBlackBox:
    """Open a circuit.

    Args:
        options: `netlist` (a path), `inputs` and `outputs` (counts); and optionally `parameters` (a count, default 0),
            `low_v` and `high_v` (default -1 and 1), `timeout_s` (default 60).

    Raises:
        CallerError: An option is missing, unknown or wrong, or the netlist does not fit them.
        DeviceError: ngspice or the netlist is not there.
    """
    optional = ("parameters", "low_v", "high_v", "timeout_s")
    read = Options("spice", options, required=("netlist", "inputs", "outputs"), optional=optional)
    low_v, high_v = read.number("low_v", -1.0, low=-1e3, high=1e3), read.number("high_v", 1.0, low=-1e3, high=1e3)
    if not low_v < high_v:
        raise CallerError(f"The range runs from {low_v:g} to {high_v:g} V.", remedy="Give low_v below high_v.")
    settings = Settings(
        Path(options["netlist"]).absolute(),
        read.integer("parameters", 0, 0, 10_000),
        read.integer("inputs", 1, 1, 10_000),
        read.integer("outputs", 1, 1, 10_000),
        low_v,
        high_v,
        read.number("timeout_s", 60.0, high=3600.0),
    )
    return AttachedBlackBox(lambda: _Link(settings))
