"""A sound card's output and input: anything that sounds becomes a network.

Every value is the amplitude of a carrier for `hold` frames; a sample is its parameters, then its inputs, then silence
in which the matter comes to rest. What is heard is multiplied with the carrier and its harmonics, part by part (a
lock-in amplifier), so that a reading is linear in the sound. A chirp before and after the samples tells where they
are: exactly as many frames must lie between them as were played, or some were lost and all is played again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from hyle_substrates.attached_black_box import AttachedBlackBox
from hyle_substrates.claim import Claim
from hyle_substrates.driver import BlackBoxInfo, DeviceError, Floats

from hyle_agent.drivers.options import Options, needs
from hyle_agent.drivers.sound import Sound

__all__ = ["connect"]

LONGEST_S = 20.0
WAIT_S = 0.3


@dataclass(frozen=True, slots=True)
class Settings:
    """How a sample sounds; frames unless named otherwise."""

    device: str
    parameters: int
    inputs: int
    rate: int
    carrier_hz: float
    hold: int
    tail: int
    gap: int
    harmonics: int
    volume: float
    retries: int
    timeout_s: float

    @property
    def parts(self) -> int:
        """Parts of a sample that are heard: one for each value, and `tail` more."""
        return self.parameters + self.inputs + self.tail

    @property
    def frames(self) -> int:
        """Frames of one sample."""
        return (self.parameters + self.inputs) * self.hold + self.gap

    @property
    def outputs(self) -> int:
        """Readings of one sample: two phases for each part and harmonic."""
        return 2 * self.harmonics * self.parts

    def sound(self, values: Floats) -> Floats:
        """Return what is played for a batch of values, one sample after the other."""
        frames = np.arange(values.shape[1] * self.hold)
        carrier = np.sin(2 * np.pi * self.carrier_hz / self.rate * frames)
        played = np.zeros((len(values), self.frames))
        played[:, : len(frames)] = self.volume * np.repeat(values, self.hold, axis=1) * carrier
        return played.ravel()

    def readings(self, heard: Floats) -> Floats:
        """Return what was heard, sample by sample, as amplitudes of cosine and sine in every part and harmonic."""
        frames = np.arange(self.parts * self.hold)
        parts = heard.reshape(-1, self.frames)[:, : len(frames)].reshape(-1, self.parts, self.hold)
        found = []
        for harmonic in range(1, self.harmonics + 1):
            phase = (2 * np.pi * harmonic * self.carrier_hz / self.rate * frames).reshape(self.parts, self.hold)
            for wave in (np.cos(phase), np.sin(phase)):
                found.append((parts * wave).mean(axis=2) * 2.0 / self.volume)
        return np.concatenate(found, axis=1)


class _Link:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        server = [os.environ.get(name, "") for name in ("PULSE_SERVER", "PULSE_SINK")]
        self._claim = Claim(":".join(["audio", settings.device, *server]))
        self._retries = 0
        try:
            self._sound = Sound(needs("sounddevice", "sounddevice"), settings.device, settings.rate)
            self._latency_s = self._calibrate()
        except BaseException:
            self._claim.release()
            raise

    def describe(self) -> BlackBoxInfo:
        s = self._settings
        self._sound.check(s.timeout_s)
        health = {"latency_s": self._latency_s, "retries": float(self._retries)}
        return BlackBoxInfo(f"audio:{s.device}", s.parameters, s.inputs, s.outputs, health=health)

    def respond(self, parameters: Floats, inputs: Floats) -> Floats:
        values = np.concatenate([parameters, inputs], axis=1)
        step = max(1, int(LONGEST_S * self._settings.rate / self._settings.frames))
        heard = [self._one(values[start : start + step]) for start in range(0, len(values), step)]
        return np.concatenate([np.zeros((0, self._settings.outputs)), *heard])

    def close(self) -> None:
        self._claim.release()

    def _one(self, values: Floats) -> Floats:
        """Play until nothing is lost: each time the recording lasts longer, and a long sound is played in halves."""
        played = self._settings.sound(values)
        for attempt in range(self._settings.retries + 1):
            wait_s = max(0.2, self._latency_s) + WAIT_S * attempt
            heard = self._sound.exchange(played, wait_s, self._settings.timeout_s)
            if heard is not None:
                return self._settings.readings(heard[1])
            self._retries += 1
            if attempt and len(values) > 1:
                middle = len(values) // 2
                return np.concatenate([self._one(values[:middle]), self._one(values[middle:])])
        raise DeviceError(
            f"Frames were lost in each of {self._settings.retries + 1} attempts.",
            remedy="Leave the machine more time, choose a larger latency, or raise the volume.",
        )

    def _calibrate(self) -> float:
        for wait_s in (0.2, 0.5, 1.0, 2.0):
            heard = self._sound.exchange(np.zeros(self._settings.frames), wait_s, self._settings.timeout_s)
            if heard is not None:
                return heard[0]
        raise DeviceError(
            f"What {self._settings.device!r} plays is not heard.", remedy="Join its output with its input."
        )


def connect(options: Mapping[str, str]) -> AttachedBlackBox:
    """Open a sound card.

    Args:
        options: `inputs`, count of values; and optionally `device` (name as `python -m sounddevice` lists it; the
            default one), `parameters` (0), `rate` (48000 Hz), `carrier_hz` (1500), `hold` (64 frames a value), `tail`
            (8 parts heard after the last value), `gap` (2048 frames of silence), `harmonics` (2), `volume` (0.5 of
            full scale), `retries` (3), `timeout_s` (5, beside the time that the sound takes).

    Raises:
        CallerError: An option is missing, unknown or wrong.
        DeviceError: There is no such device, it has an owner, or nothing is heard.
    """
    names = ("device", "parameters", "rate", "carrier_hz", "hold", "tail", "gap", "harmonics")
    optional = (*names, "volume", "retries", "timeout_s")
    given = Options("audio", options, required=("inputs",), optional=optional)
    rate, hold, tail = given.integer("rate", 48000, 8000), given.integer("hold", 64, 2), given.integer("tail", 8)
    settings = Settings(
        device=options.get("device", "default"),
        parameters=given.integer("parameters", 0),
        inputs=given.integer("inputs", 1, 1),
        rate=rate,
        carrier_hz=given.number("carrier_hz", 1500.0, 0.0, rate / 2),
        hold=hold,
        tail=tail,
        gap=given.integer("gap", max(2048, tail * hold), tail * hold),
        harmonics=given.integer("harmonics", 2, 1, 8),
        volume=given.number("volume", 0.5, 0.0, 1.0),
        retries=given.integer("retries", 3),
        timeout_s=given.number("timeout_s", 5.0),
    )
    return AttachedBlackBox(lambda: _Link(settings))
