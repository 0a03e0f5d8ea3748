"""Codes and profiles as the substrate service sends them; both halves use it."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
from hyle_protos.substrate import substrate_pb2 as pb

from hyle_substrates.driver import Codes, DeviceError
from hyle_substrates.profile import Profile
from hyle_substrates.substrate import load_substrate

__all__ = ["pack", "pack_profile", "profile_digest", "unpack", "unpack_profile"]


def pack(values: Codes) -> pb.Matrix:
    """Turn a matrix (rows by columns) into a message: integers stay integers, everything else becomes single precision.

    Raises:
        DeviceError: An integer does not fit 32 bits.
    """
    integers = values.dtype.kind in "iu"
    if integers and values.size and (int(values.max()) > 2**31 - 1 or int(values.min()) < -(2**31)):
        raise DeviceError("A code does not fit 32 bits.", remedy="Encode with this device's profile.")
    kind = pb.Matrix.INT32 if integers else pb.Matrix.FLOAT32
    data = np.ascontiguousarray(values, dtype="<i4" if integers else "<f4").tobytes()
    return pb.Matrix(rows=values.shape[0], cols=values.shape[1], format=kind, data=data)


def unpack(matrix: pb.Matrix) -> Codes:
    """Read a matrix.

    Raises:
        DeviceError: Its data is not as long as its shape says, or of no known format.
    """
    known = {pb.Matrix.INT32: "<i4", pb.Matrix.FLOAT32: "<f4"}
    if matrix.format not in known or len(matrix.data) != 4 * matrix.rows * matrix.cols:
        raise DeviceError("A matrix has the wrong length or format.", remedy="Check both ends' versions.")
    values: Codes = np.frombuffer(matrix.data, known[matrix.format]).reshape(matrix.rows, matrix.cols)
    return values


def pack_profile(profile: Profile) -> bytes:
    """Write a profile as JSON."""
    return msgspec.json.encode(profile)


def profile_digest(profile: Profile) -> str:
    """SHA-256 of a profile, hexadecimal: the same on both ends of a wire."""
    return hashlib.sha256(msgspec.json.encode(profile, order="sorted")).hexdigest()


def unpack_profile(text: bytes) -> Profile:
    """Read and check a profile.

    Raises:
        DeviceError: It is not one.
        ProfileError: Its physics is unknown here, or wrong.
    """
    try:
        profile = msgspec.json.decode(text, type=Profile)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DeviceError(f"The device's profile is wrong: {error}.", remedy="Correct it on the device.") from error
    load_substrate(profile.substrate).check(profile)
    return profile
