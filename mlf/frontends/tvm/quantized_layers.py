"""Integer layers of neural networks as loops and tensor expressions of TVM, bit-equal to TensorFlow Lite's reference kernels.

Images are NHWC, weights OHWI, so that the innermost sum runs over neighbours in memory. The operators that take most of the
time are loops of their own (`te.extern`) and no reductions: conditions for padding stand outside the innermost loop, which
multiplies and adds 8-bit integers, several output channels at once, and reads each input once for them.

Give the functions to `BlockBuilder.emit_te` with the attributes OPAQUE: they are not to be fused with their neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mlf.frontends.tvm import fixedpoint
from mlf.frontends.tvm.fixedpoint import limits
from mlf.frontends.tvm.helpers import call
from mlf.frontends.tvm.loops import dtype_of, grid, loops, registers, script_builder, shape_of, te_module, tirx_module
from mlf.frontends.tvm.requantization import cast, clipped, const, high_product

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlf.frontends.tvm.requantization import Requantization

OPAQUE = {"op_pattern": 8}  # TVM's OpPatternKind.kOpaque
_MOST_CHANNELS_AT_ONCE = 4  # sums in registers: with pointers to their weights they fill the 13 of a Cortex-M4
_MOST_UNROLLED_TAPS = 25  # of a depthwise window, 5 x 5: larger ones are loops
SUM_BITS = 12  # before the binary point of a sum of exponentials: a row has at most 4096 entries that count
_RECIPROCAL_STEPS = 3  # of Newton's method, for 31 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How a window moves over an image: strides, dilations, and the rows and columns around the image, top left bottom right."""

    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    def output(self, image: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """Give the rows and columns of the output."""
        height, width = (
            (image[axis] + self.padding[axis] + self.padding[axis + 2] - self.dilations[axis] * (size[axis] - 1) - 1)
            // self.strides[axis] + 1
            for axis in (0, 1)
        )  # fmt: skip
        return height, width


def _channels_at_once(channels: int) -> int:
    return max(count for count in range(1, _MOST_CHANNELS_AT_ONCE + 1) if channels % count == 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """Which taps of a window lie in the image along one axis: from `first` to before `end`; `start` is where tap 0 lies."""

    start: Any
    first: Any
    end: Any

    @property
    def count(self) -> Any:
        return self.end - self.first


def _span(place: Any, extent: int, size: int, window: Window, axis: int) -> _Span:
    tirx = tirx_module()
    stride, dilation, before = window.strides[axis], window.dilations[axis], window.padding[axis]
    start = place * stride - before
    last = (window.output((extent, extent), (size, size))[axis] - 1) * stride - before + dilation * (size - 1)
    first: Any = 0
    end: Any = size
    if before:
        first = tirx.max(tirx.floordiv(dilation - 1 - start, dilation), 0)
    if last >= extent:
        end = tirx.min(tirx.floordiv(extent - start + dilation - 1, dilation), size)
    return _Span(start=start, first=first, end=end)


def is_padded(window: Window, image: tuple[int, int], size: tuple[int, int]) -> bool:
    """Tell whether any position of a window has taps outside of the image."""
    rows = window.output(image, size)
    return any(window.padding[:2]) or any(
        (rows[axis] - 1) * window.strides[axis] + window.dilations[axis] * (size[axis] - 1) >= image[axis]
        for axis in (0, 1)
    )


def folded_bias(bias: Any, weights: Any, zero_point: int, *, weight_zero_point: int = 0) -> Any:
    """Give the bias less what the zero point of the input adds to the sums: the first axis of `weights` is the output's."""
    sums = (weights.astype("int64") - weight_zero_point).reshape(weights.shape[0], -1).sum(axis=1)
    return (bias.astype("int64") - zero_point * sums).astype(bias.dtype)


class _Sums:
    """Sums of products for output channels that lie side by side, in registers from the bias to the output."""

    def __init__(self, bias: Any, first: Any, count: int, weight_zero_point: int) -> None:
        self.first = first
        self.count = count
        self.dtype = bias.dtype
        self.weight_zero_point = weight_zero_point
        self.values = registers("total", count, self.dtype)
        for index in range(count):
            self.values[index] = bias[first + index]

    def add(self, value: Any, weight: Callable[[Any], Any]) -> None:
        """Add the product of an input of 32 bits with the weight of each channel."""
        for index in range(self.count):
            factor = _less(cast(weight(self.first + index), "int32"), self.weight_zero_point)
            self.values[index] = self.values[index] + cast(value * factor, self.dtype)

    def write(self, write: Callable[[Any, Any], None], requantization: Requantization, tables: Sequence[Any]) -> None:
        """Requantize the sum of each channel and hand it to `write`, behind the number of the channel."""
        for index in range(self.count):
            channel = self.first + index
            write(channel, requantization.apply(self.values[index], tables, channel))


def _less(value: Any, zero_point: int) -> Any:
    return value - zero_point if zero_point else value


def _writer(output: Any, *place: Any) -> Callable[[Any, Any], None]:
    """Give what writes the channels of one place of an output."""

    def write(channel: Any, value: Any) -> None:
        output[(*place, channel)] = value

    return write


def conv2d(  # noqa: PLR0913  # what a convolution takes
    x: Any, weights: Any, bias: Any, *tables: Any, window: Window, requantization: Requantization, input_zero_point: int = 0,
    weight_zero_point: int = 0,
) -> Any:  # fmt: skip
    """Convolve an image NHWC with weights OHWI; groups are as many as their I fits into C.

    Outside of the image the input is its zero point, which is subtracted from every input: 0 if `bias` is a `folded_bias`,
    which is right only for a window that is not padded.
    """
    batch, height, width, channels = shape_of(x)
    outputs, rows, columns, depth = shape_of(weights)
    out_height, out_width = window.output((height, width), (rows, columns))
    group = outputs // (channels // depth)
    step = _channels_at_once(group)

    def body(image: Any, kernel: Any, start: Any, *rest: Any) -> None:
        *scales, output = rest
        with grid(n=batch, y=out_height, x=out_width, block=outputs // step) as (n, y, column, block):
            sums = _Sums(start, block * step, step, weight_zero_point)
            base = tirx_module().floordiv(block * step, group) * depth

            def add(iy: Any, ix: Any, channel: Any, ky: Any, kx: Any) -> None:
                value = _less(cast(image[n, iy, ix, base + channel], "int32"), input_zero_point)
                sums.add(value, lambda out: kernel[out, ky, kx, channel])

            spans = _span(y, height, rows, window, 0), _span(column, width, columns, window, 1)
            _visit_taps(spans, window, depth, is_joined=depth == channels, visit=add)
            sums.write(_writer(output, n, y, column), requantization, scales)

    shape = (batch, out_height, out_width, outputs)
    tensors = {"image": x, "weights": weights, "bias": bias}
    return loops("conv2d", shape, requantization.dtype, tensors, body, tables)


def _visit_taps(
    spans: tuple[_Span, _Span], window: Window, depth: int, *, is_joined: bool, visit: Callable[[Any, Any, Any, Any, Any], None]
) -> None:  # fmt: skip
    """Loop over the taps of a window and over channels; those of a row are one loop where they follow each other in memory.

    A channel that is counted beyond the last one is in the next column then, of the image as of the weights.
    """
    rows, columns = spans
    with grid(row=rows.count) as (offset,):
        ky = rows.first + offset
        iy = rows.start + ky * window.dilations[0]
        if is_joined and window.dilations[1] == 1:
            with grid(tap=columns.count * depth) as (channel,):
                visit(iy, columns.start + columns.first, channel, ky, columns.first)
            return
        with grid(column=columns.count, channel=depth) as (place, channel):
            kx = columns.first + place
            visit(iy, columns.start + kx * window.dilations[1], channel, ky, kx)


def depthwise_conv2d(  # noqa: PLR0913  # what a convolution takes
    x: Any, weights: Any, bias: Any, *tables: Any, window: Window, requantization: Requantization, padding_value: int = 0,
    weight_zero_point: int = 0,
) -> Any:  # fmt: skip
    """Convolve every channel of an image NHWC with its own weights HWO, of which a channel has one or several.

    `bias` is a `folded_bias`; outside of the image the input is `padding_value`, the zero point that was folded.
    """
    batch, height, width, channels = shape_of(x)
    rows, columns, outputs = shape_of(weights)
    out_height, out_width = window.output((height, width), (rows, columns))
    times = outputs // channels
    padded = is_padded(window, (height, width), (rows, columns))
    tirx = tirx_module()

    def body(image: Any, kernel: Any, start: Any, *rest: Any) -> None:
        *scales, output = rest
        with grid(n=batch, y=out_height, x=out_width, channel=channels, time=times) as (n, y, column, channel, index):
            sums = _Sums(start, channel * times + index, 1, weight_zero_point)

            def inside(ky: Any, kx: Any) -> tuple[Any, Any, Any]:
                iy = y * window.strides[0] - window.padding[0] + ky * window.dilations[0]
                ix = column * window.strides[1] - window.padding[1] + kx * window.dilations[1]
                return tirx.all(iy >= 0, iy < height, ix >= 0, ix < width), iy, ix

            def add(ky: Any, kx: Any, *, is_checked: bool) -> None:
                is_inside, iy, ix = inside(ky, kx)
                value = cast(image[n, iy, ix, channel], "int32")
                if is_checked:
                    value = tirx.if_then_else(is_inside, value, const(padding_value, "int32"))
                sums.add(value, lambda out: kernel[ky, kx, out])

            whole = tirx.all(inside(0, 0)[0], inside(rows - 1, columns - 1)[0]) if padded else None
            _visit_window((rows, columns), whole, add)
            sums.write(_writer(output, n, y, column), requantization, scales)

    shape = (batch, out_height, out_width, outputs)
    tensors = {"image": x, "weights": weights, "bias": bias}
    return loops("depthwise_conv2d", shape, requantization.dtype, tensors, body, tables)


def _visit_window(size: tuple[int, int], whole: Any, visit: Callable[..., None]) -> None:
    """Visit the taps of a window one by one, without checks where the condition `whole` holds or is None."""
    builder = script_builder()
    if whole is not None:
        with builder.If(whole):
            with builder.Then():
                _visit_window(size, None, visit)
            with builder.Else(), grid(ky=size[0], kx=size[1]) as (ky, kx):
                visit(ky, kx, is_checked=True)
    elif size[0] * size[1] > _MOST_UNROLLED_TAPS:
        with grid(ky=size[0], kx=size[1]) as (ky, kx):
            visit(ky, kx, is_checked=False)
    else:
        for tap in range(size[0] * size[1]):
            visit(tap // size[1], tap % size[1], is_checked=False)


def fully_connected(
    x: Any, weights: Any, bias: Any, *tables: Any, requantization: Requantization, weight_zero_point: int = 0
) -> Any:
    """Multiply rows NI with weights OI; `bias` is a `folded_bias`."""
    batch, depth = shape_of(x)
    outputs = shape_of(weights)[0]
    step = _channels_at_once(outputs)

    def body(rows: Any, kernel: Any, start: Any, *rest: Any) -> None:
        *scales, output = rest
        with grid(n=batch, block=outputs // step) as (n, block):
            sums = _Sums(start, block * step, step, weight_zero_point)
            with grid(k=depth) as (place,):
                sums.add(cast(rows[n, place], "int32"), lambda out: kernel[out, place])
            sums.write(_writer(output, n), requantization, scales)

    tensors = {"rows": x, "weights": weights, "bias": bias}
    return loops("fully_connected", (batch, outputs), requantization.dtype, tensors, body, tables)


def batch_matmul(
    left: Any,
    right: Any,
    *,
    zero_points: tuple[int, int],
    transposed: tuple[bool, bool],
    requantization: Requantization,
) -> Any:
    """Multiply stacks of matrices of three dimensions, of which the first may be 1 in one of them."""
    (left_count, *left_shape), (right_count, *right_shape) = shape_of(left), shape_of(right)
    rows, depth = reversed(left_shape) if transposed[0] else left_shape
    columns = right_shape[0] if transposed[1] else right_shape[1]
    count = max(left_count, right_count)
    te = te_module()
    axis = te.reduce_axis((0, depth), "k")

    def entry(tensor: Any, stacked: int, n: Any, row: Any, column: Any, is_transposed: bool) -> Any:
        place = (column, row) if is_transposed else (row, column)
        return cast(tensor[(n if stacked > 1 else 0, *place)], "int32")

    total = te.compute(
        (count, rows, columns),
        lambda n, row, column: te.sum(
            (entry(left, left_count, n, row, axis, transposed[0]) - zero_points[0])
            * (entry(right, right_count, n, axis, column, transposed[1]) - zero_points[1]),
            axis=axis,
        ),
        name="total",
    )
    return te.compute(total.shape, lambda *place: requantization.apply(total[place]), name="batch_matmul")


def transpose_conv(  # noqa: PLR0913  # what a convolution takes
    x: Any, weights: Any, bias: Any, *tables: Any, window: Window, output_size: tuple[int, int], input_zero_point: int,
    weight_zero_point: int = 0, requantization: Requantization,
) -> Any:  # fmt: skip
    """Convolve the transposed way: each input adds weights OHWI to a window of the output, `window.strides` apart."""
    batch, height, width, channels = shape_of(x)
    outputs, rows, columns, _ = shape_of(weights)
    tirx = tirx_module()

    def body(image: Any, kernel: Any, start: Any, *rest: Any) -> None:
        *scales, output = rest
        builder = script_builder()
        stride_y, stride_x = window.strides
        with grid(n=batch, y=output_size[0], x=output_size[1], out=outputs) as (n, y, column, out):
            sums = _Sums(start, out, 1, weight_zero_point)
            with grid(ky=rows, kx=columns) as (ky, kx):
                above, before = y + window.padding[0] - ky, column + window.padding[1] - kx
                iy, ix = tirx.floordiv(above, stride_y), tirx.floordiv(before, stride_x)
                hits = tirx.all(
                    tirx.floormod(above, stride_y) == 0, tirx.floormod(before, stride_x) == 0,
                    iy >= 0, iy < height, ix >= 0, ix < width,
                )  # fmt: skip
                with builder.If(hits), builder.Then(), grid(channel=channels) as (place,):
                    value = _less(cast(image[n, iy, ix, place], "int32"), input_zero_point)
                    sums.add(value, lambda channel: kernel[channel, ky, kx, place])
            sums.write(_writer(output, n, y, column), requantization, scales)

    shape = (batch, *output_size, outputs)
    tensors = {"image": x, "weights": weights, "bias": bias}
    return loops("transpose_conv", shape, requantization.dtype, tensors, body, tables)


def pool2d(
    x: Any, *, kind: Literal["average", "max"], size: tuple[int, int], window: Window, low: int, high: int
) -> Any:
    """Give the average, rounded with ties away from zero, or the largest of what a window shows of each channel."""
    batch, height, width, channels = shape_of(x)
    dtype = dtype_of(x)
    out_height, out_width = window.output((height, width), size)
    tirx = tirx_module()

    def body(image: Any, output: Any) -> None:
        with grid(n=batch, y=out_height, x=out_width, channel=channels) as (n, y, column, channel):
            rows, columns = _span(y, height, size[0], window, 0), _span(column, width, size[1], window, 1)
            total = registers("total" if kind == "average" else "largest", 1, "int32")
            total[0] = const(0 if kind == "average" else limits(dtype)[0], "int32")
            with grid(ky=rows.count, kx=columns.count) as (ky, kx):
                place = (n, rows.start + rows.first + ky, columns.start + columns.first + kx, channel)
                value = cast(image[place], "int32")
                total[0] = total[0] + value if kind == "average" else tirx.max(total[0], value)
            result = total[0]
            if kind == "average":
                result = call("int32", "fixed_average", result, rows.count * columns.count)
            output[n, y, column, channel] = clipped(result, low, high, dtype)

    return loops(f"{kind}_pool2d", (batch, out_height, out_width, channels), dtype, {"image": x}, body)


def softmax(x: Any, table: Any) -> Any:
    """Give the softmax of rows NI as fractions of 256 above the smallest integer.

    `table` holds exp of how far an input is below the largest of its row, with 31 bits; what lies farther off counts as 0.
    """
    batch, depth = shape_of(x)
    dtype = dtype_of(x)
    low, high = limits(dtype)
    (farthest,) = shape_of(table)
    tirx = tirx_module()

    def body(rows: Any, exponentials: Any, output: Any) -> None:
        builder = script_builder()
        with grid(n=batch) as (n,):
            largest, total, inverse = (registers(name, 1, "int32") for name in ("largest", "total", "inverse"))
            places = registers("places", 1, "uint8")

            def exponential(place: Any) -> tuple[Any, Any]:
                distance = largest[0] - cast(rows[n, place], "int32")
                return distance < farthest, exponentials[distance]

            largest[0] = const(low, "int32")
            with grid(k=depth) as (place,):
                largest[0] = tirx.max(largest[0], cast(rows[n, place], "int32"))
            total[0] = const(0, "int32")
            with grid(k=depth) as (place,):
                counts, value = exponential(place)
                with builder.If(counts), builder.Then():
                    total[0] = total[0] + _halved(value >> const(SUM_BITS - 1, "int32"))
            _invert(total, places, inverse)
            with grid(k=depth) as (place,):
                output[n, place] = const(low, dtype)
                counts, value = exponential(place)
                with builder.If(counts), builder.Then():
                    share = _halved(high_product(inverse[0], value) >> cast(places[0], "int32"))
                    output[n, place] = cast(tirx.min(share + low, const(high, "int32")), dtype)

    return loops("softmax", (batch, depth), dtype, {"rows": x, "exponentials": table}, body)


def _halved(value: Any) -> Any:
    return (value + 1) >> const(1, "int32")


def _invert(total: Any, places: Any, result: Any) -> None:
    """Write 1 / x as a fraction of 31 bits, x from 1 to 2 being a sum with all its leading zeros shifted out.

    `places` becomes by how many places a product with `result` is too large, less one. Newton's method.
    """
    builder, tirx = script_builder(), tirx_module()
    places[0] = const(SUM_BITS + 31 - 10, "uint8")
    with grid(step=SUM_BITS - 1), builder.If(total[0] < const(1 << 30, "int32")), builder.Then():
        total[0] = total[0] * 2
        places[0] = places[0] - const(1, "uint8")
    places[0] = tirx.min(places[0], const(31, "uint8"))
    result[0] = high_product(total[0], const(-1010580540, "int32")) + 1515870810  # 48 / 17 - 32 / 17 x
    for _ in range(_RECIPROCAL_STEPS):
        error = const(1 << 29, "int32") - high_product(total[0], result[0])
        result[0] = result[0] + high_product(result[0], error) * 4
    is_one = result[0] >= 1 << 30
    result[0] = tirx.if_then_else(is_one, const(fixedpoint.INT32_MAX, "int32"), result[0] * 2)
