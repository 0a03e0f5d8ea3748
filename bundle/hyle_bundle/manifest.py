"""The manifest: what `bundle.json` says, as frozen values."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from hyle_errors import CallerError

from hyle_bundle.names import MANIFEST_NAME, SIGNATURE_NAME, FileNameError, check_names

__all__ = [
    "FORMAT",
    "Block",
    "Box",
    "Control",
    "Convolution",
    "FileEntry",
    "Golden",
    "Layer",
    "Manifest",
    "ManifestError",
    "MeasuredOn",
    "Step",
    "Subgraph",
    "TensorInfo",
    "Tile",
    "decode_manifest",
    "encode_manifest",
]

FORMAT = "hyle-bundle/1"

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Span = tuple[Count, Count]


class ManifestError(CallerError):
    """A manifest that does not say what a manifest must."""


class TensorInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One input or output of the model.

    `datatype` is the Open Inference Protocol's word (`FP32`, `INT64`, …); a dimension of -1 is free.
    """

    name: Name
    datatype: Name
    shape: tuple[Annotated[int, msgspec.Meta(ge=-1, le=2**53)], ...]


class Convolution(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Geometry of a convolution layer, one entry a spatial axis; `pads` lists all begins, then all ends."""

    kernel: tuple[Count, ...]
    strides: tuple[Count, ...]
    pads: tuple[Count, ...]
    dilations: tuple[Count, ...]
    channels: Count


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Rows of a layer's weight matrix that are driven together, over all its columns.

    `rows` is a span of the flattened weight matrix (for a convolution channel-major, then kernel positions).
    `levels` and `gain` name tensors of `programming.safetensors`: integer targets in the operator's own
    layout, and the value of one ADC code at full scale 1, one per column. Every tile of the block holds its part of
    the matrix `row_copies` times below itself, driven by the same codes, and `col_copies` times beside itself, read
    apart and averaged.
    """

    rows: Span
    levels: Name
    gain: Name
    row_copies: Annotated[int, msgspec.Meta(ge=1, le=2**20)] = 1
    col_copies: Annotated[int, msgspec.Meta(ge=1, le=2**20)] = 1


class Tile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A rectangle of a layer that occupies one tile of the device; `index` counts tiles over the bundle."""

    index: Count
    block: Count
    rows: Span
    cols: Span


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One layer on physics: the tensors it joins, its shape, and the names of its host-side numbers.

    `range_mode` is `static` (one full scale for all samples, the tensor `full_scale`) or `dynamic`
    (each sample's largest magnitude). `offset` names the per-column bias in output units.
    `probes` and `responses` name tensors of `golden.safetensors`: DAC codes, probes by rows, and the
    columns' wanted answers in units of the input's full scale, probes by columns, without `bias`;
    `probe_scales` the full scale that each probe stood for. `polarity`: whether codes are driven as they are, without
    their negative part, or positive and negative parts one after another; `reference`: ADC codes that a weight of
    zero gives for one DAC code, taken off by the host.
    """

    name: Name
    op: Literal["matmul", "conv"]
    input: Name
    output: Name
    rows: Count
    cols: Count
    range_mode: Literal["static", "dynamic"]
    full_scale: Name
    offset: Name
    noise: Name
    blocks: tuple[Block, ...]
    tiles: tuple[Tile, ...]
    macs: Count
    probes: Name
    probe_scales: Name
    responses: Name
    convolution: Convolution | None = None
    polarity: Literal["signed", "positive", "two-pass"] = "signed"
    reference: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0


class Box(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One layer on a black box: matter that is no matrix, whose twin was fitted.

    `matter` is the fitted twin's name and `identity` that of the device it was fitted to; `correlation` and `error` are
    what the fit reached on samples that it never saw. The layer's `inputs` and its `count` parameters (the tensor
    `values` of `programming.safetensors`) are cut to [`low`, `high`] before they are driven. `noise` names the
    scalar that scales the twin's error in the graph.
    """

    name: Name
    matter: Name
    identity: str
    input: Name
    output: Name
    inputs: Count
    outputs: Count
    low: float
    high: float
    noise: Name
    correlation: float
    error: float
    count: Count = 0
    values: str = ""


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One step of execution: a digital segment (an ONNX file), then the layers that it feeds, then control flow."""

    segment: str
    inputs: tuple[Name, ...]
    outputs: tuple[Name, ...]
    layers: tuple[Name, ...]
    controls: tuple[Control, ...] = ()


class Subgraph(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of a loop or one branch: its own inputs and outputs in order, and its steps."""

    inputs: tuple[Name, ...]
    outputs: tuple[Name, ...]
    steps: tuple[Step, ...]


class Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A node of control flow with layers on physics inside, run by the host.

    `inputs` are the node's in order, "" for one that is absent; `bodies` one subgraph, for `if` the branches of true
    and false. `stacked` says type and shape (-1 where free) of one slice of each output that a loop stacks. The axes
    and directions (1 is backwards) are those of `Scan`, one an input or output that is cut in slices.
    """

    kind: Literal["if", "loop", "scan"]
    name: Name
    inputs: tuple[str, ...]
    outputs: tuple[Name, ...]
    bodies: tuple[Subgraph, ...]
    stacked: tuple[TensorInfo, ...] = ()
    input_axes: tuple[int, ...] = ()
    input_directions: tuple[int, ...] = ()
    output_axes: tuple[int, ...] = ()
    output_directions: tuple[int, ...] = ()


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The self-test: `golden.safetensors` holds `input/<name>` and `output/<name>` with these samples.

    `tolerance` bounds the relative root-mean-square residual of a healthy device, `corrected` that of one which was
    corrected just before; 0 if it is the same.
    """

    samples: Count
    tolerance: Annotated[float, msgspec.Meta(ge=0.0)]
    derivation: str
    corrected: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file of the bundle: its size in bytes and the SHA-256 of its content, in hexadecimal."""

    size: Count
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class MeasuredOn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The very device that a bundle was calibrated or adapted on.

    `identity` is the device's own word, `profile_sha256` the digest of the profile that it gave, `at` when (UTC,
    `2026-01-31T12:00:00Z`), `method` what was done: `calibrate`, or a training method's name. `first_tile` is the
    device's tile that was the bundle's tile 0.
    """

    identity: Name
    profile_sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    at: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")]
    method: Name
    first_tile: Count = 0


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything an agent needs to know to run a bundle; `files` lists every other file but the signature.

    `largest_inputs` is the largest magnitude of each float input over the calibration samples: what converters' ranges
    were made for. `stackable` says whether samples of several requests may be answered as one batch: the model gave
    them the same answers together and alone. `measured_on` is the device that it was calibrated or adapted on, if there
    was one. `devices` is how many of the target the model was laid out for, their tiles counted through.
    """

    format: Literal["hyle-bundle/1"]
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")]
    version: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\Z")]
    counter: Count
    compiler: Name
    seed: Count
    source_sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    target: Name
    substrate: Name
    compensation: Literal["none", "global", "column", "affine"]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    layers: tuple[Layer, ...]
    steps: tuple[Step, ...]
    golden: Golden
    files: dict[str, FileEntry]
    largest_inputs: dict[Name, Annotated[float, msgspec.Meta(ge=0.0)]] = {}
    boxes: tuple[Box, ...] = ()
    devices: Annotated[int, msgspec.Meta(ge=1, le=2**20)] = 1
    stackable: bool = True
    measured_on: MeasuredOn | None = None


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest's one canonical JSON form (keys sorted, two-space indentation, final newline)."""
    plain = msgspec.json.encode(manifest, order="sorted")
    return msgspec.json.format(plain, indent=2) + b"\n"


def decode_manifest(data: bytes | memoryview) -> Manifest:
    """Read a manifest.

    Raises:
        ManifestError: `data` is not JSON, a field is missing, unknown or out of its range (the message names it),
            a file's name is not allowed, or the bytes are not the canonical form.
    """
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"bundle.json is not a manifest: {error}.", remedy="Compile the bundle again.") from error
    if encode_manifest(manifest) != bytes(data):
        raise ManifestError("bundle.json is not in canonical form.", remedy="Compile the bundle again.")
    try:
        check_names([*manifest.files, MANIFEST_NAME, SIGNATURE_NAME])
    except FileNameError as error:
        raise ManifestError(error.message, remedy=error.remedy) from error
    return manifest
