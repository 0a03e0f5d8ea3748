"""The ONNX body of a physical layer: the converters' functions, traced, around a MatMul or Conv."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx_ir as ir
from hyle_substrates import io
from hyle_substrates.profile import Profile

from hyle_compiler.calibrate import Calibrated
from hyle_compiler.segments import DOMAIN
from hyle_compiler.tape import Tape

__all__ = ["DOMAIN", "body", "input_names"]

# Measured with onnxruntime on one core. Blocks read together win a fifth to nothing, and lose 3 % with more columns.
# Copies are added in bytes by a product whose cost grows with the columns squared: with 16 it wins a fifth, with 32 it
# loses a tenth, with 512 it takes six times as long as adding slices.
JOINED_COLUMNS, COUNTED_COLUMNS = 4096, 16


def input_names(layer: Calibrated) -> tuple[str, ...]:
    """What the body's inputs after the layer's own are bound to, in order; a block's levels once a column copy."""
    blocks = [
        name for b in range(len(layer.placed.blocks)) for name in (*[f"{b}/levels"] * layer.col_copies, f"{b}/gain")
    ]
    return ("full_scale", "noise", "offset", *blocks)


def body(layer: Calibrated, profile: Profile, opset: int) -> ir.Function:
    """Write the layer's digital twin as a model-local function of standard operators.

    The weights' type is left open: integer levels for the nominal device, float32 for an instance.
    """
    tape = Tape(opset)
    x = tape.input("x")
    bound, noise, offset = (tape.input(name) for name in ("full_scale", "noise", "offset"))
    full_scale, codes = _driven(tape, layer, profile, x, bound)
    sides = _sides(tape, layer, codes)
    unit = profile.read_unit * layer.row_copies
    weights, scales = [], []
    for index in range(len(layer.placed.blocks)):
        copies = [tape.input(f"levels_{index}_{copy}") for copy in range(layer.col_copies)]
        gain = tape.input(f"gain_{index}")
        # A static range and the mean over copies are folded into the gains when the graph is loaded: a pass less each.
        scale = gain if layer.dynamic else tape.op("Mul", gain, full_scale)
        if layer.col_copies > 1:
            scale = tape.op("Mul", scale, tape.constant(np.float32(1.0 / layer.col_copies)))
        weights.append(_weights(tape, layer, copies, unit))
        scales.append(scale)
    summed = _sum_of_blocks(tape, layer, profile, sides, weights, scales, noise)
    scaled = tape.op("Mul", summed, full_scale) if layer.dynamic else summed
    result = tape.op("Add", scaled, _per_column(tape, layer, offset), output="y")
    if tape.converters and tape.converters[-1].outputs == (summed,):
        # One converter gives the whole sum: the layer's output is its work as well.
        last = tape.converters.pop()
        inputs = {**last.inputs, **({"full_scale": full_scale} if layer.dynamic else {}), "offset": offset}
        tape.convert("Read", tape.place(last.nodes[0]), inputs, (result,), last.attributes)
    return tape.function(layer.placed.layer.name)


def _driven(tape: Tape, layer: Calibrated, profile: Profile, x: ir.Value, bound: ir.Value) -> tuple[ir.Value, ir.Value]:
    """A sample's full scale, and its DAC codes."""
    first = tape.here
    full_scale = _sample_scale(tape, layer, x) if layer.dynamic else bound
    # A range that was measured on the sample bounds it.
    codes = tape.inline(lambda a, b: io.encode(a, b, profile.dac.levels, bounded=layer.dynamic), x, full_scale)
    if profile.dac.levels and layer.dynamic:
        tape.convert("Drive", first, {"x": x}, (codes, full_scale), _driving(layer, profile))
    elif profile.dac.levels:
        # What is known when the graph is loaded stays outside, and is folded.
        scaled = next(node for node, _ in x.uses())
        factor = next(value for value in scaled.inputs if value is not None and value is not x)
        first = tape.place(scaled)
        tape.convert("Drive", first, {"x": x, "factor": factor}, (codes,), _driving(layer, profile))
    return full_scale, codes


def _driving(layer: Calibrated, profile: Profile) -> dict[str, int]:
    return {"levels": profile.dac.levels, "axis": _column_axis(layer)}


def _column_axis(layer: Calibrated) -> int:
    """Where the columns of a layer's values are."""
    return -1 if layer.placed.layer.geometry is None else 1


def _joins(layer: Calibrated, profile: Profile) -> bool:
    """Whether the blocks of a layer are read as one: each operator costs a microsecond however little it does."""
    blocks = len(layer.placed.blocks)
    few = blocks * layer.col_copies * layer.placed.layer.matrix.shape[1] <= JOINED_COLUMNS
    plain = layer.placed.layer.geometry is None and not profile.signal_noise and not profile.reference
    return blocks > 1 and few and plain


def _counts(layer: Calibrated, profile: Profile) -> bool:
    """Whether codes are bytes until they are decoded, so that rounding and adding copies take two passes, not four."""
    bytes_hold_them = 0 < profile.adc.levels <= np.iinfo(np.uint8).max // 2 and not profile.reference
    few = layer.placed.layer.matrix.shape[1] <= COUNTED_COLUMNS
    return bytes_hold_them and few and layer.col_copies > 1 and layer.placed.layer.geometry is not None


def _sum_of_blocks(
    tape: Tape,
    layer: Calibrated,
    profile: Profile,
    sides: Sequence[ir.Value],
    weights: Sequence[ir.Value],
    scales: Sequence[ir.Value],
    noise: ir.Value,
) -> ir.Value:
    """Read all blocks: their sum in units of the layer's output."""
    if _joins(layer, profile):
        blocks = [[_product(tape, layer, index, side, w) for index, w in enumerate(weights)] for side in sides]
        joined = [tape.op("Concat", *totals, axis=-1) for totals in blocks]
        every = tape.op("Concat", *(scale for scale in scales for _ in range(layer.col_copies)), axis=0)
        first = tape.here
        read = _difference(tape, [_read(tape, profile, total, noise) for total in joined])
        count = len(scales) * layer.col_copies
        result = _sum_of_copies(tape, layer, tape.inline(io.decode, read, every), count)
        if len(joined) == 1:
            inputs = {"total": joined[0], "scale": every}
            tape.convert("Read", first, inputs, (result,), _reading(layer, profile, count))
        return result
    parts = []
    for index, (weight, scale) in enumerate(zip(weights, scales, strict=True)):
        totals = [_product(tape, layer, index, side, weight) for side in sides]
        first = tape.here
        reads = [
            _block(tape, layer, index, profile, side, weight, total, noise)
            for side, total in zip(sides, totals, strict=True)
        ]
        read = _difference(tape, reads)
        if _counts(layer, profile):
            parts.append(tape.op("DequantizeLinear", read, scale, axis=1))
        else:
            parts.append(tape.inline(io.decode, read, _per_column(tape, layer, scale)))
        if len(sides) == 1 and not profile.reference and not profile.signal_noise:
            inputs = {"total": totals[0], "scale": scale}
            tape.convert("Read", first, inputs, (parts[-1],), _reading(layer, profile, layer.col_copies))
    return parts[0] if len(parts) == 1 else tape.op("Sum", *parts)


def _reading(layer: Calibrated, profile: Profile, parts: int) -> dict[str, int]:
    later = {"rectify": 0, "pool_height": 0, "pool_width": 0}
    return {"levels": profile.adc.levels, "axis": _column_axis(layer), "parts": parts, **later}


def _difference(tape: Tape, reads: Sequence[ir.Value]) -> ir.Value:
    """What a second pass reads is taken off the first."""
    return reads[0] if len(reads) == 1 else tape.op("Sub", *reads)


def _sides(tape: Tape, layer: Calibrated, codes: ir.Value) -> list[ir.Value]:
    """What is driven one after another, as `io.sides` says."""
    if layer.polarity == "signed":
        return [codes]
    positive = tape.inline(lambda a: io.sides(a, "positive")[0], codes)
    return [positive] if layer.polarity == "positive" else [positive, tape.op("Sub", positive, codes)]


def _block(
    tape: Tape,
    layer: Calibrated,
    index: int,
    profile: Profile,
    codes: ir.Value,
    weights: ir.Value,
    total: ir.Value,
    noise: ir.Value,
) -> ir.Value:
    """Read one block's sums: signed ADC codes, summed over column copies."""
    base = None
    if profile.reference:
        unit = tape.constant(np.float32(profile.reference * layer.row_copies))
        base = tape.op("Mul", _row_sum(tape, layer, index, codes), unit)
        total = tape.op("Add", total, base)
    if profile.signal_noise:
        noise = tape.op("Mul", noise, _signal_noise(tape, layer, index, profile, codes, weights, total))
    if _counts(layer, profile):
        return _counted(tape, layer, profile, total, noise)
    read = _sum_of_copies(tape, layer, _read(tape, profile, total, noise), layer.col_copies)
    if base is None:
        return read
    every = base if layer.col_copies == 1 else tape.op("Mul", base, tape.constant(np.float32(layer.col_copies)))
    return tape.op("Sub", read, every)


def _signal_noise(
    tape: Tape, layer: Calibrated, index: int, profile: Profile, codes: ir.Value, weights: ir.Value, total: ir.Value
) -> ir.Value:
    """Standard deviation of a read that depends on what is read, in ADC codes."""
    power = _row_sum(tape, layer, index, tape.op("Mul", codes, codes))
    light = tape.constant(np.float32(0.0))
    if profile.shot_noise_codes:
        bright = tape.op("Max", total, light)
        light = (
            bright
            if profile.reference
            else _product(tape, layer, index, tape.op("Abs", codes), tape.op("Abs", weights))
        )
    weight = profile.weight_noise_codes * layer.row_copies**0.5
    return tape.inline(
        lambda a, b: io.noise_std(a, b, profile.noise_codes, weight, profile.shot_noise_codes), power, light
    )


def _row_sum(tape: Tape, layer: Calibrated, index: int, values: ir.Value) -> ir.Value:
    """Sum of the values on one block's rows, broadcastable over columns."""
    geometry = layer.placed.layer.geometry
    start, stop = layer.placed.blocks[index].rows
    if geometry is None:
        return _product(tape, layer, index, values, tape.constant(np.ones((stop - start, 1), dtype=np.float32)))
    kernel = int(np.prod(geometry.kernel))
    first, last = start // kernel, -(-stop // kernel)
    ones = np.zeros((last - first) * kernel, dtype=np.float32)
    ones[start - first * kernel : stop - first * kernel] = 1.0
    return _product(tape, layer, index, values, tape.constant(ones.reshape(1, last - first, *geometry.kernel)))


def _weights(tape: Tape, layer: Calibrated, copies: Sequence[ir.Value], unit: float) -> ir.Value:
    """The copies side by side, in ADC codes a DAC code; constant, so it is folded when the graph is loaded."""
    columns = 1 if layer.placed.layer.geometry is None else 0
    cast = [tape.op("Cast", copy, to=ir.DataType.FLOAT) for copy in copies]
    joined = cast[0] if len(cast) == 1 else tape.op("Concat", *cast, axis=columns)
    return joined if unit == 1.0 else tape.op("Mul", joined, tape.constant(np.float32(unit)))


def _counted(tape: Tape, layer: Calibrated, profile: Profile, total: ir.Value, noise: ir.Value) -> ir.Value:
    """Read and sum over column copies in integers: exactly what `_read` and `_sum_of_copies` give."""
    levels, copies = profile.adc.levels, layer.col_copies
    noisy = _noisy(tape, profile, total, noise)
    zero, top = (tape.constant(np.uint8(value)) for value in (levels, 2 * levels))
    codes = tape.op("QuantizeLinear", noisy, tape.constant(np.float32(1.0)), zero)
    codes = tape.op("Clip", codes, tape.constant(np.uint8(0)), top)
    cols, geometry = layer.placed.layer.matrix.shape[1], layer.placed.layer.geometry
    point = [1] * (0 if geometry is None else len(geometry.kernel))
    ones = np.tile(np.eye(cols, dtype=np.uint8), copies).reshape(cols, copies * cols, *point)
    return tape.op("ConvInteger", codes, tape.constant(ones), zero, kernel_shape=point)


def _sum_of_copies(tape: Tape, layer: Calibrated, read: ir.Value, copies: int) -> ir.Value:
    """Sum over copies, which lie side by side."""
    if copies == 1:
        return read
    cols = layer.placed.layer.matrix.shape[1]
    axis = tape.constant(np.array([-1 if layer.placed.layer.geometry is None else 1], dtype=np.int64))
    edges = [tape.constant(np.array([cols * copy], dtype=np.int64)) for copy in range(copies + 1)]
    parts = [tape.op("Slice", read, start, stop, axis) for start, stop in pairwise(edges)]
    return tape.op("Sum", *parts)


def _read(tape: Tape, profile: Profile, total: ir.Value, noise: ir.Value) -> ir.Value:
    levels, noisy = profile.adc.levels, _noisy(tape, profile, total, noise)
    return tape.inline(lambda a: io.readout(a, None, 0.0, levels), noisy) if levels else noisy


def _noisy(tape: Tape, profile: Profile, total: ir.Value, noise: ir.Value) -> ir.Value:
    if not profile.noise_factor:
        return total
    deviate = tape.op("RandomNormalLike", total, mean=0.0, scale=1.0)
    return tape.inline(lambda a, b, c: io.readout(a, b, c, 0), total, deviate, noise)


def _sample_scale(tape: Tape, layer: Calibrated, x: ir.Value) -> ir.Value:
    geometry = layer.placed.layer.geometry
    axes = [-1] if geometry is None else list(range(1, 2 + len(geometry.kernel)))
    magnitude = tape.op("Abs", x)
    if tape.opset < 18:
        return tape.op("ReduceMax", magnitude, axes=axes, keepdims=1)
    return tape.op("ReduceMax", magnitude, tape.constant(np.array(axes, dtype=np.int64)), keepdims=1)


def _per_column(tape: Tape, layer: Calibrated, value: ir.Value) -> ir.Value:
    geometry = layer.placed.layer.geometry
    if geometry is None:
        return value
    return tape.op("Reshape", value, tape.constant(np.array([1, -1, *[1] * len(geometry.kernel)], dtype=np.int64)))


def _product(tape: Tape, layer: Calibrated, index: int, codes: ir.Value, weights: ir.Value) -> ir.Value:
    """Sum over one block's rows; a convolution's block is a range of channels (its other kernel positions are zero)."""
    geometry = layer.placed.layer.geometry
    start, stop = layer.placed.blocks[index].rows
    rows = layer.placed.layer.matrix.shape[0]
    kernel = 1 if geometry is None else int(np.prod(geometry.kernel))
    first, last = start // kernel, -(-stop // kernel)
    if (first, last) != (0, rows // kernel):
        axis = -1 if geometry is None else 1
        ends = [tape.constant(np.array([value], dtype=np.int64)) for value in (first, last, axis)]
        codes = tape.op("Slice", codes, *ends)
    if geometry is None:
        return tape.op("MatMul", codes, weights)
    return tape.op(
        "Conv",
        codes,
        weights,
        kernel_shape=list(geometry.kernel),
        strides=list(geometry.strides),
        pads=list(geometry.pads),
        dilations=list(geometry.dilations),
    )
