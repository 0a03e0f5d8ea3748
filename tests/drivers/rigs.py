"""Devices in processes of their own that tests can kill, freeze and bring back."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
BOARD = HERE / "board.toml"


class Process:
    """One device; a `Rig` of the conformance suite.

    Args:
        command: Starts it; its first line says that it is there, and a port if it has one.
        port: Index in `command` of the port, which stays the same from then on.
    """

    def __init__(self, command: Sequence[str], port: int | None = None, environment: dict[str, str] | None = None):
        self._command, self._place, self._environment = list(command), port, environment
        self.port = 0
        self._process: subprocess.Popen[str] | None = None
        self.replug()

    def unplug(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()

    def replug(self) -> None:
        environment = {**os.environ, **(self._environment or {})}
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        assert said, f"{self._command} did not start"
        if self._place is not None:
            self.port = int(said)
            self._command[self._place] = said

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # The signal is on its way only: a device that still runs may answer the next call.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


def remote_twin(profile: str = "pcm-hermes") -> Process:
    return Process([sys.executable, str(HERE / "remote_device.py"), "0", profile], 2)


def mismatched_twin(profile: str, seed: int, share: float) -> Process:
    """A twin whose weights', rows' and columns' gains differ from its sheet for good, by a relative deviation."""
    words = [sys.executable, str(HERE / "mismatched_device.py"), "0", profile, str(seed), str(share)]
    return Process(words, 2)


def scpi_instrument() -> Process:
    return Process([sys.executable, str(HERE / "scpi_instrument.py"), "0"], 2)


def serial_board(link: Path) -> Process:
    return Process([sys.executable, str(HERE / "serial_board.py"), str(link), str(BOARD)])


PLATE = """
load-module module-native-protocol-unix
load-module module-null-sink sink_name=plate rate=48000 channels=1
load-module module-ladspa-sink sink_name=comb sink_master=plate plugin=comb_1190 label=comb control=150,0.4 channels=1
load-module module-ladspa-sink sink_name=valve sink_master=comb plugin=valve_1209 label=valve control=0.5,0.5 channels=1
"""


def why_no_plate() -> str:
    """Say what is missing for a plate of sound, or nothing."""
    if shutil.which("pulseaudio") is None:
        return "pulseaudio is not installed"
    if not list(Path("/usr/lib/ladspa").glob("valve_1209*")):
        return "swh-plugins is not installed"
    if not list(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so")):
        return "libasound2-plugins is not installed"
    try:
        import sounddevice  # noqa: F401
    except (ImportError, OSError) as error:
        return f"sounddevice: {error}"
    return ""


class Plate:
    """PulseAudio with a LADSPA chain that nobody here wrote, between two null sinks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "plate.pa").write_text(PLATE)
        (folder / "run").mkdir(mode=0o700)
        (folder / "home").mkdir()
        self.socket = folder / "run/pulse/native"
        self.replug()

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to play into the valve and to hear the plate."""
        return {"PULSE_SERVER": f"unix:{self.socket}", "PULSE_SINK": "valve", "PULSE_SOURCE": "plate.monitor"}

    def replug(self) -> None:
        folder = str(self._folder)
        environment = {**os.environ, "XDG_RUNTIME_DIR": f"{folder}/run", "HOME": f"{folder}/home"}
        words = ["-n", "-F", f"{folder}/plate.pa", "--daemonize=no", "--exit-idle-time=-1", "--disable-shm=yes"]
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._folder / "run/pulse")
        self._process = subprocess.Popen(
            ["pulseaudio", *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 30.0
        while not self.socket.exists() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(1.0)

    def unplug(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # The signal is on its way only: a device that still runs may answer the next call.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
