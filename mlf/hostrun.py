"""Runs a model of a shared object once, in a process of its own, so that a crash of the model ends nobody else.

Started as a script by `mlf.runner` in a folder that holds `input.<n>`, and `pool.<n>` for pools with content; it writes
`output.<n>`. It imports nothing of mlf and no numpy: starting takes most of its time.

Arguments: shared object, symbol, then the sizes in bytes of the inputs, the outputs and the pools, each as `1,2,3` or `-`;
where the inputs and then the outputs lie, as `pool:offset,...`, or `-` if they are passed; the number of devices.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

FAILED_STATUS = 3
OVERRUN_STATUS = 4
_ALIGNMENT = 64  # what a model may expect at most
_CANARY = b"\xa5" * 64  # behind every buffer, to notice a model that writes too far


class _Buffer:
    """Aligned memory with a canary behind it."""

    def __init__(self, size_bytes: int, content: bytes = b"") -> None:
        self.size_bytes = size_bytes
        self.memory = ctypes.create_string_buffer(size_bytes + len(_CANARY) + _ALIGNMENT)
        start = ctypes.addressof(self.memory)
        self.address = start + -start % _ALIGNMENT
        ctypes.memmove(self.address, content, len(content))
        ctypes.memmove(self.address + size_bytes, _CANARY, len(_CANARY))

    def is_intact(self) -> bool:
        return ctypes.string_at(self.address + self.size_bytes, len(_CANARY)) == _CANARY

    def content(self) -> bytes:
        return ctypes.string_at(self.address, self.size_bytes)


def _sizes(text: str) -> list[int]:
    return [] if text == "-" else [int(size) for size in text.split(",")]


def _pointers(addresses: list[int]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * max(len(addresses), 1))(*addresses)


def _filled(kind: str, sizes: list[int]) -> list[_Buffer]:
    files = [Path(f"{kind}.{index}") for index in range(len(sizes))]
    return [_Buffer(size, file.read_bytes() if file.exists() else b"") for size, file in zip(sizes, files, strict=True)]


def _placed(text: str, pools: list[_Buffer]) -> list[int]:
    """Give the addresses inside pools that a list of places names."""
    pairs = [] if text == "-" else [place.split(":") for place in text.split(",")]
    return [pools[int(pool)].address + int(offset) for pool, offset in pairs]


def main(argv: list[str]) -> int:
    """Run the model; gives the exit status."""
    library, symbol, *groups, places, devices = argv
    inputs, pools = _filled("input", _sizes(groups[0])), _filled("pool", _sizes(groups[2]))
    outputs = [_Buffer(size) for size in _sizes(groups[1])]
    run = getattr(ctypes.CDLL(str(Path(library).resolve())), symbol)
    run.restype = ctypes.c_int32
    inside = _placed(places, pools)
    for buffer, address in zip(inputs, inside, strict=False):
        ctypes.memmove(address, buffer.address, buffer.size_bytes)
    structs = [] if inside else [[item.address for item in inputs], [item.address for item in outputs]]
    structs += [[item.address for item in pools]] if pools else []
    structs += [[0] * int(devices)] if int(devices) else []
    if run(*map(_pointers, structs)) != 0:
        return FAILED_STATUS
    for buffer, address in zip(outputs, inside[len(inputs) :], strict=False):
        ctypes.memmove(buffer.address, address, buffer.size_bytes)
    if not all(buffer.is_intact() for buffer in [*inputs, *outputs, *pools]):
        return OVERRUN_STATUS
    for index, buffer in enumerate(outputs):
        Path(f"output.{index}").write_bytes(buffer.content())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
