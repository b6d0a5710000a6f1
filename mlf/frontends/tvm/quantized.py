"""Integer operators of neural networks as tensor expressions of TVM, bit-equal to TensorFlow Lite's reference kernels.

Images are NHWC, weights OHWI, so that the innermost sum runs over neighbours in memory. The operators that take most of the
time are loops of their own (`te.extern`) and no reductions: conditions for padding stand outside the innermost loop, which
multiplies and adds 8-bit integers, several output channels at once, and reads each input once for them.

Give the functions to `BlockBuilder.emit_te` with the attributes OPAQUE: they are not to be fused with their neighbours.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mlf.frontends.tvm import fixedpoint
from mlf.frontends.tvm.fixedpoint import limits, quantize_multiplier
from mlf.frontends.tvm.helpers import call
from mlf.frontends.tvm.requantization import (
    cast,
    clipped,
    const,
    high_product,
    multiplied,
    round_half_away,
    round_to_even,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mlf.frontends.tvm.requantization import Requantization

OPAQUE = {"op_pattern": 8}  # TVM's OpPatternKind.kOpaque
_MOST_CHANNELS_AT_ONCE = 4  # sums in registers: with pointers to their weights they fill the 13 of a Cortex-M4
_MOST_UNROLLED_TAPS = 25  # of a depthwise window, 5 x 5: larger ones are loops
SUM_BITS = 12  # before the binary point of a sum of exponentials: a row has at most 4096 entries that count
_RECIPROCAL_STEPS = 3  # of Newton's method, for 31 bits
_ELEMENTWISE_SHIFTS = {"int8": 20, "uint8": 20, "int16": 15}  # that sums of two tensors gain before they are scaled


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


def _tirx() -> Any:
    from mlf.frontends.tvm.releases import load_tvm  # noqa: PLC0415

    return load_tvm().tirx


def _te() -> Any:
    from tvm import te  # noqa: PLC0415

    return te


def _builder() -> Any:
    """Give the functions that write statements: those that TVM's own operators are written with."""
    from tvm.script.ir_builder import tirx as builder  # noqa: PLC0415

    return builder


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(extent) for extent in tensor.shape)


def _dtype(tensor: Any) -> str:
    return str(getattr(tensor.dtype, "dtype", tensor.dtype))


def _loops(
    name: str, shape: Sequence[int], dtype: str, tensors: Mapping[str, Any], body: Callable[..., None], tables: Sequence[Any] = ()
) -> Any:  # fmt: skip
    """Make an operator of loops that `body` writes; it gets the buffers of `tensors` and `tables` and of the output.

    The buffers begin where their pointers point to, which `te.extern` leaves open unless told.
    """
    tirx = _tirx()
    factors = ("factors",) if tables and _dtype(tables[0]).startswith("float") else ("multipliers", "places", "shifts")
    tensors = {**tensors, **dict(zip(factors, tables, strict=False))}
    inputs = [tirx.decl_buffer(item.shape, _dtype(item), word) for word, item in tensors.items()]
    output = tirx.decl_buffer(tuple(shape), dtype, "output")

    def write(given: Sequence[Any], results: Sequence[Any]) -> Any:
        from tvm.script.ir_builder import IRBuilder  # noqa: PLC0415

        proxy = _builder().buffer_proxy
        with IRBuilder() as builder:
            body(*(proxy(item) for item in given), proxy(results[0]))
            return builder.get()

    return _te().extern(
        [tuple(shape)], list(tensors.values()), write, name=name, dtype=dtype, in_buffers=inputs, out_buffers=[output]
    )


@contextmanager
def _grid(**extents: Any) -> Iterator[tuple[Any, ...]]:
    """Write loops, the outermost first; gives their variables, which are called as the extents are."""
    from tvm.script.ir_builder import IRBuilder  # noqa: PLC0415

    with _builder().grid(*extents.values()) as found:
        variables = tuple(found) if hasattr(found, "__len__") else (found,)
        for name, variable in zip(extents, variables, strict=True):
            IRBuilder.name(name, variable)
        yield variables


def _registers(name: str, count: int, dtype: str) -> Any:
    """Make an array that is only read and written at places known to the compiler, so that it lives in registers."""
    from tvm.script.ir_builder import IRBuilder  # noqa: PLC0415

    builder = _builder()
    array = builder.alloc_buffer((count,), dtype, scope="global")
    IRBuilder.name(name, array)
    return builder.buffer_proxy(array)


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
    tirx = _tirx()
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
        self.values = _registers("total", count, self.dtype)
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
    batch, height, width, channels = _shape(x)
    outputs, rows, columns, depth = _shape(weights)
    out_height, out_width = window.output((height, width), (rows, columns))
    group = outputs // (channels // depth)
    step = _channels_at_once(group)

    def body(image: Any, kernel: Any, start: Any, *rest: Any) -> None:
        *scales, output = rest
        with _grid(n=batch, y=out_height, x=out_width, block=outputs // step) as (n, y, column, block):
            sums = _Sums(start, block * step, step, weight_zero_point)
            base = _tirx().floordiv(block * step, group) * depth

            def add(iy: Any, ix: Any, channel: Any, ky: Any, kx: Any) -> None:
                value = _less(cast(image[n, iy, ix, base + channel], "int32"), input_zero_point)
                sums.add(value, lambda out: kernel[out, ky, kx, channel])

            spans = _span(y, height, rows, window, 0), _span(column, width, columns, window, 1)
            _visit_taps(spans, window, depth, is_joined=depth == channels, visit=add)
            sums.write(_writer(output, n, y, column), requantization, scales)

    shape = (batch, out_height, out_width, outputs)
    tensors = {"image": x, "weights": weights, "bias": bias}
    return _loops("conv2d", shape, requantization.dtype, tensors, body, tables)


def _visit_taps(
    spans: tuple[_Span, _Span], window: Window, depth: int, *, is_joined: bool, visit: Callable[[Any, Any, Any, Any, Any], None]
) -> None:  # fmt: skip
    """Loop over the taps of a window and over channels; those of a row are one loop where they follow each other in memory.

    A channel that is counted beyond the last one is in the next column then, of the image as of the weights.
    """
    rows, columns = spans
    with _grid(row=rows.count) as (offset,):
        ky = rows.first + offset
        iy = rows.start + ky * window.dilations[0]
        if is_joined and window.dilations[1] == 1:
            with _grid(tap=columns.count * depth) as (channel,):
                visit(iy, columns.start + columns.first, channel, ky, columns.first)
            return
        with _grid(column=columns.count, channel=depth) as (place, channel):
            kx = columns.first + place
            visit(iy, columns.start + kx * window.dilations[1], channel, ky, kx)


def depthwise_conv2d(  # noqa: PLR0913  # what a convolution takes
    x: Any, weights: Any, bias: Any, *tables: Any, window: Window, requantization: Requantization, padding_value: int = 0,
    weight_zero_point: int = 0,
) -> Any:  # fmt: skip
    """Convolve every channel of an image NHWC with its own weights HWO, of which a channel has one or several.

    `bias` is a `folded_bias`; outside of the image the input is `padding_value`, the zero point that was folded.
    """
    batch, height, width, channels = _shape(x)
    rows, columns, outputs = _shape(weights)
    out_height, out_width = window.output((height, width), (rows, columns))
    times = outputs // channels
    padded = is_padded(window, (height, width), (rows, columns))
    tirx = _tirx()

    def body(image: Any, kernel: Any, start: Any, *rest: Any) -> None:
        *scales, output = rest
        with _grid(n=batch, y=out_height, x=out_width, channel=channels, time=times) as (n, y, column, channel, index):
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
    return _loops("depthwise_conv2d", shape, requantization.dtype, tensors, body, tables)


def _visit_window(size: tuple[int, int], whole: Any, visit: Callable[..., None]) -> None:
    """Visit the taps of a window one by one, without checks where the condition `whole` holds or is None."""
    builder = _builder()
    if whole is not None:
        with builder.If(whole):
            with builder.Then():
                _visit_window(size, None, visit)
            with builder.Else(), _grid(ky=size[0], kx=size[1]) as (ky, kx):
                visit(ky, kx, is_checked=True)
    elif size[0] * size[1] > _MOST_UNROLLED_TAPS:
        with _grid(ky=size[0], kx=size[1]) as (ky, kx):
            visit(ky, kx, is_checked=False)
    else:
        for tap in range(size[0] * size[1]):
            visit(tap // size[1], tap % size[1], is_checked=False)


def fully_connected(
    x: Any, weights: Any, bias: Any, *tables: Any, requantization: Requantization, weight_zero_point: int = 0
) -> Any:
    """Multiply rows NI with weights OI; `bias` is a `folded_bias`."""
    batch, depth = _shape(x)
    outputs = _shape(weights)[0]
    step = _channels_at_once(outputs)

    def body(rows: Any, kernel: Any, start: Any, *rest: Any) -> None:
        *scales, output = rest
        with _grid(n=batch, block=outputs // step) as (n, block):
            sums = _Sums(start, block * step, step, weight_zero_point)
            with _grid(k=depth) as (place,):
                sums.add(cast(rows[n, place], "int32"), lambda out: kernel[out, place])
            sums.write(_writer(output, n), requantization, scales)

    tensors = {"rows": x, "weights": weights, "bias": bias}
    return _loops("fully_connected", (batch, outputs), requantization.dtype, tensors, body, tables)


def batch_matmul(
    left: Any,
    right: Any,
    *,
    zero_points: tuple[int, int],
    transposed: tuple[bool, bool],
    requantization: Requantization,
) -> Any:
    """Multiply stacks of matrices of three dimensions, of which the first may be 1 in one of them."""
    (left_count, *left_shape), (right_count, *right_shape) = _shape(left), _shape(right)
    rows, depth = reversed(left_shape) if transposed[0] else left_shape
    columns = right_shape[0] if transposed[1] else right_shape[1]
    count = max(left_count, right_count)
    te = _te()
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
    batch, height, width, channels = _shape(x)
    outputs, rows, columns, _ = _shape(weights)
    tirx = _tirx()

    def body(image: Any, kernel: Any, start: Any, *rest: Any) -> None:
        *scales, output = rest
        builder = _builder()
        stride_y, stride_x = window.strides
        with _grid(n=batch, y=output_size[0], x=output_size[1], out=outputs) as (n, y, column, out):
            sums = _Sums(start, out, 1, weight_zero_point)
            with _grid(ky=rows, kx=columns) as (ky, kx):
                above, before = y + window.padding[0] - ky, column + window.padding[1] - kx
                iy, ix = tirx.floordiv(above, stride_y), tirx.floordiv(before, stride_x)
                hits = tirx.all(
                    tirx.floormod(above, stride_y) == 0, tirx.floormod(before, stride_x) == 0,
                    iy >= 0, iy < height, ix >= 0, ix < width,
                )  # fmt: skip
                with builder.If(hits), builder.Then(), _grid(channel=channels) as (place,):
                    value = _less(cast(image[n, iy, ix, place], "int32"), input_zero_point)
                    sums.add(value, lambda channel: kernel[channel, ky, kx, place])
            sums.write(_writer(output, n, y, column), requantization, scales)

    shape = (batch, *output_size, outputs)
    tensors = {"image": x, "weights": weights, "bias": bias}
    return _loops("transpose_conv", shape, requantization.dtype, tensors, body, tables)


def pool2d(
    x: Any, *, kind: Literal["average", "max"], size: tuple[int, int], window: Window, low: int, high: int
) -> Any:
    """Give the average, rounded with ties away from zero, or the largest of what a window shows of each channel."""
    batch, height, width, channels = _shape(x)
    dtype = _dtype(x)
    out_height, out_width = window.output((height, width), size)
    tirx = _tirx()

    def body(image: Any, output: Any) -> None:
        with _grid(n=batch, y=out_height, x=out_width, channel=channels) as (n, y, column, channel):
            rows, columns = _span(y, height, size[0], window, 0), _span(column, width, size[1], window, 1)
            total = _registers("total" if kind == "average" else "largest", 1, "int32")
            total[0] = const(0 if kind == "average" else limits(dtype)[0], "int32")
            with _grid(ky=rows.count, kx=columns.count) as (ky, kx):
                place = (n, rows.start + rows.first + ky, columns.start + columns.first + kx, channel)
                value = cast(image[place], "int32")
                total[0] = total[0] + value if kind == "average" else tirx.max(total[0], value)
            result = total[0]
            if kind == "average":
                result = call("int32", "fixed_average", result, rows.count * columns.count)
            output[n, y, column, channel] = clipped(result, low, high, dtype)

    return _loops(f"{kind}_pool2d", (batch, out_height, out_width, channels), dtype, {"image": x}, body)


def softmax(x: Any, table: Any) -> Any:
    """Give the softmax of rows NI as fractions of 256 above the smallest integer.

    `table` holds exp of how far an input is below the largest of its row, with 31 bits; what lies farther off counts as 0.
    """
    batch, depth = _shape(x)
    dtype = _dtype(x)
    low, high = limits(dtype)
    (farthest,) = _shape(table)
    tirx = _tirx()

    def body(rows: Any, exponentials: Any, output: Any) -> None:
        builder = _builder()
        with _grid(n=batch) as (n,):
            largest, total, inverse = (_registers(name, 1, "int32") for name in ("largest", "total", "inverse"))
            places = _registers("places", 1, "uint8")

            def exponential(place: Any) -> tuple[Any, Any]:
                distance = largest[0] - cast(rows[n, place], "int32")
                return distance < farthest, exponentials[distance]

            largest[0] = const(low, "int32")
            with _grid(k=depth) as (place,):
                largest[0] = tirx.max(largest[0], cast(rows[n, place], "int32"))
            total[0] = const(0, "int32")
            with _grid(k=depth) as (place,):
                counts, value = exponential(place)
                with builder.If(counts), builder.Then():
                    total[0] = total[0] + _halved(value >> const(SUM_BITS - 1, "int32"))
            _invert(total, places, inverse)
            with _grid(k=depth) as (place,):
                output[n, place] = const(low, dtype)
                counts, value = exponential(place)
                with builder.If(counts), builder.Then():
                    share = _halved(high_product(inverse[0], value) >> cast(places[0], "int32"))
                    output[n, place] = cast(tirx.min(share + low, const(high, "int32")), dtype)

    return _loops("softmax", (batch, depth), dtype, {"rows": x, "exponentials": table}, body)


def _halved(value: Any) -> Any:
    return (value + 1) >> const(1, "int32")


def _invert(total: Any, places: Any, result: Any) -> None:
    """Write 1 / x as a fraction of 31 bits, x from 1 to 2 being a sum with all its leading zeros shifted out.

    `places` becomes by how many places a product with `result` is too large, less one. Newton's method.
    """
    builder, tirx = _builder(), _tirx()
    places[0] = const(SUM_BITS + 31 - 10, "uint8")
    with _grid(step=SUM_BITS - 1), builder.If(total[0] < const(1 << 30, "int32")), builder.Then():
        total[0] = total[0] * 2
        places[0] = places[0] - const(1, "uint8")
    places[0] = tirx.min(places[0], const(31, "uint8"))
    result[0] = high_product(total[0], const(-1010580540, "int32")) + 1515870810  # 48 / 17 - 32 / 17 x
    for _ in range(_RECIPROCAL_STEPS):
        error = const(1 << 29, "int32") - high_product(total[0], result[0])
        result[0] = result[0] + high_product(result[0], error) * 4
    is_one = result[0] >= 1 << 30
    result[0] = tirx.if_then_else(is_one, const(fixedpoint.INT32_MAX, "int32"), result[0] * 2)


def _broadcast(*tensors: Any) -> tuple[tuple[int, ...], tuple[Callable[[Sequence[Any]], Any], ...]]:
    """Give the shape that tensors have together, and for each a function that reads it there."""
    shapes = [_shape(tensor) for tensor in tensors]
    rank = max(len(shape) for shape in shapes)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    common = tuple(max(extents) for extents in zip(*padded, strict=True))

    def reader(tensor: Any, shape: tuple[int, ...]) -> Callable[[Sequence[Any]], Any]:
        def read(place: Sequence[Any]) -> Any:
            own = place[rank - len(shape) :]
            return tensor[tuple(0 if extent == 1 else index for index, extent in zip(own, shape, strict=True))]

        return read

    return common, tuple(reader(tensor, shape) for tensor, shape in zip(tensors, shapes, strict=True))


def add(  # noqa: PLR0913  # two scales, two zero points and those of the output
    left: Any, right: Any, *, scales: tuple[float, float], zero_points: tuple[int, int], is_difference: bool, output_scale: float,
    requantization: Requantization,
) -> Any:  # fmt: skip
    """Add two tensors, or subtract the second, of which each has its own scale; the factors of `requantization` are unused."""
    shape, readers = _broadcast(left, right)
    shift = _ELEMENTWISE_SHIFTS[_dtype(left)]
    largest = 2 * max(scales)
    factors = [quantize_multiplier(scale / largest) for scale in scales]
    result = quantize_multiplier(largest / ((1 << shift) * output_scale))

    def scaled(index: int, place: Sequence[Any]) -> Any:
        value = (cast(readers[index](place), "int32") - zero_points[index]) * (1 << shift)
        return multiplied(value, *factors[index])

    def compute(*place: Any) -> Any:
        first, second = scaled(0, place), scaled(1, place)
        total = first - second if is_difference else first + second
        return requantization.clip(multiplied(total, *result) + requantization.zero_point)

    return _te().compute(shape, compute, name="subtract" if is_difference else "add")


def multiply(left: Any, right: Any, *, zero_points: tuple[int, int], requantization: Requantization) -> Any:
    """Multiply two tensors."""
    shape, readers = _broadcast(left, right)

    def compute(*place: Any) -> Any:
        first, second = (cast(reader(place), "int32") - zero for reader, zero in zip(readers, zero_points, strict=True))
        return requantization.apply(first * second)

    return _te().compute(shape, compute, name="multiply")


def extremum(left: Any, right: Any, *, is_maximum: bool) -> Any:
    """Give the larger or the smaller of each two integers of one scale."""
    shape, readers = _broadcast(left, right)
    pick = _tirx().max if is_maximum else _tirx().min
    name = "maximum" if is_maximum else "minimum"
    return _te().compute(shape, lambda *place: pick(readers[0](place), readers[1](place)), name=name)


def prelu(
    x: Any, slopes: Any, *, zero_points: tuple[int, int], positive: Requantization, negative: Requantization
) -> Any:
    """Scale what is positive by one factor, and what is negative by another and by a slope."""
    shape, readers = _broadcast(x, slopes)

    def compute(*place: Any) -> Any:
        value = cast(readers[0](place), "int32") - zero_points[0]
        slope = cast(readers[1](place), "int32") - zero_points[1]
        return _tirx().if_then_else(value >= 0, positive.apply(value), negative.apply(value * slope))

    return _te().compute(shape, compute, name="prelu")


def reduce(
    x: Any, *, axes: tuple[int, ...], keeps_axes: bool, offset: int, requantization: Requantization | None
) -> Any:
    """Sum over axes, less `offset`, and requantize the sums; without a requantization, give the largest instead."""
    te = _te()
    shape = _shape(x)
    summed = {axis: te.reduce_axis((0, shape[axis]), f"k{axis}") for axis in axes}
    kept = [axis for axis in range(len(shape)) if axis not in summed]
    out_shape = [1 if axis in summed else shape[axis] for axis in range(len(shape)) if keeps_axes or axis not in summed]

    def at(place: Sequence[Any]) -> Any:
        own = dict(zip(range(len(shape)), place, strict=True)) if keeps_axes else dict(zip(kept, place, strict=True))
        return x[tuple(summed.get(axis, own.get(axis, 0)) for axis in range(len(shape)))]

    if requantization is None:
        return te.compute(out_shape, lambda *place: te.max(at(place), axis=list(summed.values())), name="reduce_max")
    total = te.compute(
        out_shape, lambda *place: te.sum(cast(at(place), "int32"), axis=list(summed.values())), name="total"
    )
    return te.compute(out_shape, lambda *place: requantization.apply(total[place] - offset), name="reduce_sum")


def lookup(x: Any, table: Any) -> Any:
    """Give what a table of 256 numbers holds for 8-bit integers, beginning with the smallest."""
    low, _ = limits(_dtype(x))
    return _te().compute(_shape(x), lambda *place: table[cast(x[place], "int32") - low], name="lookup")


def clip(x: Any, *, low: int, high: int) -> Any:
    """Clip integers."""
    tirx = _tirx()
    dtype = _dtype(x)
    return _te().compute(
        _shape(x), lambda *place: tirx.max(tirx.min(x[place], const(high, dtype)), const(low, dtype)), name="clip"
    )


def requantize(x: Any, *, input_zero_point: int, requantization: Requantization) -> Any:
    """Give the integers of another scale, zero point or type that stand for the same numbers."""
    return _te().compute(
        _shape(x), lambda *place: requantization.apply(cast(x[place], "int32") - input_zero_point), name="requantize"
    )


def quantize(x: Any, *, scale: float, zero_point: int, dtype: str, ties: Literal["even", "away"] = "away") -> Any:
    """Make integers of floats: x / scale, rounded, plus the zero point, clipped."""
    low, high = limits(dtype)
    tirx = _tirx()
    # Anything beyond gives the same after the last clip, and fits 32 bits.
    bounds = [const(float(bound - zero_point), "float32") for bound in (low - 1, high + 1)]
    rounded = round_half_away if ties == "away" else round_to_even

    def compute(*place: Any) -> Any:
        value = call("float32", "clip_float", tirx.div(x[place], const(scale, "float32")), *bounds)
        return clipped(rounded(value) + zero_point, low, high, dtype)

    return _te().compute(_shape(x), compute, name="quantize")


def dequantize(x: Any, *, scale: float, zero_point: int) -> Any:
    """Make floats of integers."""
    factor = const(scale, "float32")
    return _te().compute(
        _shape(x), lambda *place: cast(cast(x[place], "int32") - zero_point, "float32") * factor, name="dequantize"
    )


def resize_nearest(x: Any, rows: Any, columns: Any) -> Any:
    """Give an image NHWC of which each row and column is the one that the arrays name."""
    batch, _, _, channels = _shape(x)
    shape = (batch, _shape(rows)[0], _shape(columns)[0], channels)
    return _te().compute(
        shape, lambda n, y, column, channel: x[n, rows[y], columns[column], channel], name="resize_nearest"
    )


def resize_bilinear(x: Any, rows: Any, columns: Any) -> Any:
    """Blend four pixels of an image NHWC: the arrays hold the first, the second and the share of the second of 1024."""
    batch, _, _, channels = _shape(x)
    dtype = _dtype(x)
    shape = (batch, _shape(rows)[0], _shape(columns)[0], channels)
    tirx = _tirx()

    def compute(n: Any, y: Any, column: Any, channel: Any) -> Any:
        def line(row: Any) -> Any:
            left, right = (cast(x[n, row, columns[column, side], channel], "int32") for side in (0, 1))
            return left * (1024 - columns[column, 2]) + right * columns[column, 2]

        total = line(rows[y, 0]) * (1024 - rows[y, 2]) + line(rows[y, 1]) * rows[y, 2]
        half = tirx.if_then_else(total > 0, const(1 << 19, "int32"), const(-(1 << 19), "int32"))
        return cast(tirx.truncdiv(total + half, const(1 << 20, "int32")), dtype)

    return _te().compute(shape, compute, name="resize_bilinear")


def mirror_pad(x: Any, *, before: Sequence[int], after: Sequence[int], repeats_border: bool) -> Any:
    """Pad a tensor with its own mirror image, of which the border is a part or not."""
    inner = _shape(x)
    shape = [extent + first + last for extent, first, last in zip(inner, before, after, strict=True)]
    border = 1 if repeats_border else 0
    tirx = _tirx()

    def at(index: Any, extent: int, first: int, last: int) -> Any:
        place = index - first
        if first:
            place = tirx.if_then_else(place < 0, -place - border, place)
        return tirx.if_then_else(place >= extent, 2 * extent - 2 + border - place, place) if last else place

    return _te().compute(shape, lambda *place: x[tuple(map(at, place, inner, before, after))], name="mirror_pad")


def pad(x: Any, *, before: Sequence[int], after: Sequence[int], value: int) -> Any:
    """Surround a tensor with one value."""
    inner, dtype = _shape(x), _dtype(x)
    shape = [extent + first + last for extent, first, last in zip(inner, before, after, strict=True)]

    def body(source: Any, output: Any) -> None:
        builder = _builder()
        with builder.serial(1):
            with _grid(**_axes(shape)) as place:
                output[place] = const(value, dtype)
            with _grid(**_axes(inner)) as place:
                output[tuple(index + first for index, first in zip(place, before, strict=True))] = source[place]

    return _loops("pad", shape, dtype, {"source": x}, body)


def concatenate(*tensors: Any, axis: int) -> Any:
    """Join tensors along an axis."""
    shape = list(_shape(tensors[0]))
    shape[axis] = sum(_shape(tensor)[axis] for tensor in tensors)

    def body(*buffers: Any) -> None:
        *sources, output = buffers
        builder = _builder()
        with builder.serial(1):
            start = 0
            for tensor, source in zip(tensors, sources, strict=True):
                with _grid(**_axes(_shape(tensor))) as place:
                    moved = [index + start if item == axis else index for item, index in enumerate(place)]
                    output[tuple(moved)] = source[place]
                start += _shape(tensor)[axis]

    sources = {f"source_{index}": tensor for index, tensor in enumerate(tensors)}
    return _loops("concatenate", shape, _dtype(tensors[0]), sources, body)


def _axes(shape: Sequence[int]) -> dict[str, int]:
    """Name the loops over all of a tensor."""
    return {f"i{axis}": extent for axis, extent in enumerate(shape)}


def strided_slice(x: Any, *, starts: Sequence[int], steps: Sequence[int], extents: Sequence[int]) -> Any:
    """Take every so many places of each axis from a start on."""
    return _te().compute(
        tuple(extents),
        lambda *place: x[tuple(start + index * step for start, index, step in zip(starts, place, steps, strict=True))],
        name="strided_slice",
    )


def gather(x: Any, places: Any, *, axis: int) -> Any:
    """Take those slices along an axis that integers name."""
    shape, chosen = _shape(x), _shape(places)
    rank = len(chosen)

    def compute(*place: Any) -> Any:
        index = places[place[axis : axis + rank]]
        return x[(*place[:axis], index, *place[axis + rank :])]

    return _te().compute((*shape[:axis], *chosen, *shape[axis + 1 :]), compute, name="gather")
