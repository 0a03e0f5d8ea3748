"""Plays and records at once, says where in the recording the sound is, and notices when frames were lost."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
from hyle_substrates.driver import DeviceError, Floats

__all__ = ["Sound", "find_marker", "marker"]

LEAD = 2048
REST = 4096


def marker(rate: int, frames: int = 2048) -> Floats:
    """Return the chirp that marks a place, from 0.5 to 8 kHz, a quarter of full scale, faded in and out."""
    time_s = np.arange(frames) / rate
    sweep_hz_s = 7500.0 / (frames / rate)
    wave: Floats = 0.25 * np.hanning(frames) * np.sin(2 * np.pi * (500.0 * time_s + sweep_hz_s / 2 * time_s**2))
    return wave


def find_marker(heard: Floats, mark: Floats) -> tuple[int, float]:
    """Return the frame where `mark` begins in `heard`, and the correlation there, from 0 to 1."""
    size = 1 << (len(heard) + len(mark) - 1).bit_length()
    spectrum = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(mark, size))
    match = np.abs(np.fft.irfft(spectrum, size)[: max(1, len(heard) - len(mark) + 1)])
    total = np.concatenate([[0.0], np.cumsum(heard**2)])
    power = np.maximum(total[len(mark) :] - total[: -len(mark)], 1e-9)
    quality = match / np.sqrt(power * np.sum(mark**2))
    best = int(np.argmax(quality))
    return best, float(quality[best])


class _Recording:
    """What was heard, and when it arrived."""

    def __init__(self) -> None:
        self.started_s = 0.0
        self.damaged = False
        self._blocks: list[Floats] = []
        self._arrivals: list[tuple[int, float]] = [(0, 0.0)]

    def take(self, block: Any, count: int, _: Any, status: Any) -> None:
        self._blocks.append(block[:, 0].astype(np.float64))
        self._arrivals.append((self._arrivals[-1][0] + count, time.monotonic()))
        self.damaged = self.damaged or bool(status)

    def frames(self) -> Floats:
        return np.concatenate([np.zeros(0), *self._blocks])

    def latency_s(self, heard: int, played: int, rate: int) -> float:
        """How much later than it was due a frame's block came back, in seconds, as exact as a block is long.

        A sound server that renders ahead hands a frame back before it is due; that is no latency.
        """
        arrived = next(time_s for count, time_s in self._arrivals if count >= heard)
        return max(0.0, arrived - self.started_s - played / rate)


class Sound:
    """One sound card.

    Args:
        module: sounddevice.
        device: Its name.
        rate: Frames per second.

    Raises:
        DeviceError: There is no such device.
    """

    _stuck: threading.Thread | None = None

    def __init__(self, module: Any, device: str, rate: int) -> None:
        self._module, self._device, self._rate = module, device, rate
        self._mark = marker(rate)
        self._within(10.0, self._begin_anew)

    def check(self, timeout_s: float) -> None:
        """Raise DeviceError unless the card can be opened now."""
        settings = {"device": self._device, "channels": 1, "dtype": "float32", "samplerate": self._rate}

        def check() -> bool:
            self._module.check_input_settings(**settings)
            self._module.check_output_settings(**settings)
            return True

        self._within(timeout_s, check)

    def exchange(self, played: Floats, latency_s: float, timeout_s: float) -> tuple[float, Floats] | None:
        """Play between two markers and record.

        Args:
            played: Frames, -1 to 1.
            latency_s: How much longer than the sound is played the recording lasts.
            timeout_s: How long it may take beside the sound itself.

        Returns:
            The latency in seconds and as many frames as were played, or None if frames were lost.

        Raises:
            DeviceError: The card failed, or did not finish in time.
        """
        rest = np.zeros(REST)
        parts = [np.zeros(LEAD), self._mark, rest, played, rest, self._mark, rest]
        sound = np.concatenate(parts).astype(np.float32)
        # Opening and draining two streams takes a sound server up to some seconds of its own.
        limit_s = timeout_s + 2.0 * len(sound) / self._rate + latency_s
        recording: _Recording = self._within(limit_s, lambda: self._play(sound, latency_s))
        return None if recording.damaged else self._locate(recording, len(played))

    def _locate(self, recording: _Recording, frames: int) -> tuple[float, Floats] | None:
        heard, mark = recording.frames(), self._mark
        span = len(mark) + REST + frames + REST
        room = len(heard) - span - len(mark)
        if room < 0:
            return None
        first, quality = find_marker(heard[: room + len(mark)], mark)
        last, again = find_marker(heard[first + span - len(mark) :][: 3 * len(mark)], mark)
        if min(quality, again) < 0.3 or last != len(mark):
            return None
        start = first + len(mark) + REST
        return recording.latency_s(first + len(mark), LEAD + len(mark), self._rate), heard[start : start + frames]

    def _play(self, sound: Any, latency_s: float) -> _Recording:
        """Play on one stream and record on another: one for both loses frames with PulseAudio on a busy machine."""
        recording = _Recording()
        settings = {"channels": 1, "dtype": "float32", "device": self._device, "latency": "high"}
        with (
            self._module.InputStream(self._rate, callback=recording.take, **settings),
            self._module.OutputStream(self._rate, **settings) as output,
        ):
            recording.started_s = time.monotonic()
            recording.damaged = bool(output.write(sound[:, None])) or recording.damaged
            output.stop()
            time.sleep(latency_s)
        return recording

    def _begin_anew(self) -> Any:
        """PortAudio lists the machine's devices once; one that came back is only seen by a new start."""
        self._module._terminate()
        self._module._initialize()
        return self._module.query_devices(self._device)

    def _within(self, seconds: float, work: Any) -> Any:
        """PortAudio waits for ever for a card that hangs; such a call is left behind on its thread."""
        if Sound._stuck is not None and Sound._stuck.is_alive():
            raise DeviceError("The sound card still hangs.", remedy="Restart the sound server.")
        outcome: list[Any] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                outcome.append(work())
            except (self._module.PortAudioError, ValueError) as error:
                failure.append(error)

        thread = threading.Thread(target=run, name="sound", daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            Sound._stuck = thread
            raise DeviceError(f"The sound card did not finish in {seconds:.1f} s.", remedy="Check the sound server.")
        if failure or not outcome:
            why = str(failure[0])[:200] if failure else "no sound"
            raise DeviceError(f"The sound card failed: {why}.", remedy="Check that it is attached and free.")
        return outcome[0]
