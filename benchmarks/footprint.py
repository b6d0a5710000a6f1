"""What a library of `mlf link` adds to a firmware, against what an expert links by hand from the same C with the same flags.

`python benchmarks/footprint.py [FOLDER]` reads the archives that `bash tests/run.sh` makes in `.cache/real`, and prints
tables. By hand means: the C of each archive with its identifiers renamed, one object per file, `ar`, one stack allocator of
the size that is needed, `--gc-sections`. Both ways end in the same small program, which calls every model once; GNU `size`
judges it, and what it takes without models is subtracted. For this machine it also runs.

`--target NAME` (repeatable) chooses processors; `--all` measures every archive alone, and not just one of each kind. The
exit status is 1 if a library of mlf is larger than one made by hand by more than descriptors, guards and checks of arguments.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mlf.archive import open_archive
from mlf.arenas import ArenaOptions
from mlf.csource import without_registry
from mlf.errors import MlfError, ToolError
from mlf.layout import INCLUDE_DIRECTORY
from mlf.linker import LinkOptions, LinkRequest, link, plan_link
from mlf.params import DTYPES
from mlf.toolchain import RUNTIME, compiler_for, own_words, run, run_many

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mlf.linker import LinkPlan, PlannedModel
    from mlf.metadata import Tensor
    from mlf.toolchain import Command, Compiler

ARCHIVES = Path(__file__).parent.parent / ".cache" / "real"
TARGETS = ("cortex-m4", "cortex-m0", "rv32imac", "host")
# Every way in which memory reaches a model: allocated, inside the code, lent in pools, constants lent; then packed arguments.
ALONE = (
    "conv-alloc", "lstm-alloc", "mobile-alloc", "residual-alloc", "tvm08-conv-alloc", "tvm09-conv-alloc", "clash-systemlib",
    "conv-usmp", "int8-net-usmp", "lstm-usmp", "mobile-usmp", "residual-usmp", "conv-pool", "conv-pools", "residual-io-pools",
    "conv-cpool", "int8-net-cpool", "conv-packed", "int8-packed-usmp", "dense-unpacked-packed",
)  # fmt: skip
TOGETHER: Mapping[str, Sequence[str]] = {
    "two": ("conv-alloc", "int8-net-usmp"),
    "four, memory inside": ("conv-usmp", "int8-net-usmp", "lstm-usmp", "residual-usmp"),
    "four that allocate": ("conv-alloc", "int8-alloc", "lstm-alloc", "residual-alloc"),
    "four, two lent pools": ("conv-pools", "int8-net-usmp", "lstm-alloc", "residual-io-pools"),
    "ten": (
        "clash-systemlib", "conv-alloc", "dense-usmp", "int8-net-usmp", "lstm-usmp", "math-alloc", "mobile-usmp", "named-usmp",
        "residual-alloc", "twin-usmp",
    ),
}  # fmt: skip
FOLDED: Mapping[str, Sequence[str]] = {
    "one model, by two releases": ("conv-alloc", "tvm09-conv-alloc"),
    "one model, allocated and inside": ("residual-alloc", "residual-usmp"),
    "one model, large, allocated and inside": ("mobile-alloc", "mobile-usmp"),
    "one model, inside and lent": ("lstm-pool", "lstm-usmp"),
    "one model, graph and ahead of time": ("int8-alloc", "int8-graph"),
    "one model, four ways": ("dense-alloc", "dense-pool", "dense-unpacked-packed", "dense-usmp"),
    "two convolutions that differ": ("conv-alloc", "twin-alloc"),
    "a small network and its like": ("int8-alloc", "int8-net-usmp"),
    "four that differ": TOGETHER["four, memory inside"],
    "ten, two with the same weights": TOGETHER["ten"],
}
# No model of the tests has a larger tensor; the program without models has the same two arrays, so they do not count.
TENSOR_BYTES = 1 << 20
PLANNED_EXCESS = 0.01  # over the lower bound, which mlf promises
HALF = 16  # pointers to tensors on each side; no model of the tests has more
ALIGNMENT_BYTES = 16  # of memory and constants
# Which section comes first decides on what the linker puts between them, and on the end of RAM's sections.
FLASH_PADDING_BYTES = 12
RAM_PADDING_BYTES = 4
# Where picolibc puts a program; large enough for ten models.
_PICOLIBC = {"flash": "0x80000000", "flash_size": "64M", "ram": "0x90000000", "ram_size": "64M"}
_PROGRAM = """
#include "tvm/runtime/c_runtime_api.h"

static uint8_t given[%(tensor)d] __attribute__((aligned(16)));
static uint8_t taken[%(tensor)d] __attribute__((aligned(16)));
static void* slots[2 * %(half)d];
%(declarations)s

int main(void) {
  int i;
  for (i = 0; i < 2 * %(half)d; ++i) ((void* volatile*)slots)[i] = i < %(half)d ? given : taken;
%(calls)s
  return 0;
}
"""
# Last in, first out, with the one check that TVM's own allocator has.
_ALLOCATOR = """
static size_t used%(suffix)s;

void* TVMBackendAllocWorkspace%(suffix)s(int type, int device, uint64_t bytes, int code, int bits) {
  size_t size = ((size_t)bytes + 15u) & ~(size_t)15u;
  uint8_t* block = workspace%(suffix)s + used%(suffix)s;
  if (size > %(size)du - used%(suffix)s) return NULL;
  used%(suffix)s += size;
  return block;
}

int TVMBackendFreeWorkspace%(suffix)s(int type, int device, void* block) {
  used%(suffix)s = (size_t)((uint8_t*)block - workspace%(suffix)s);
  return 0;
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes of flash and RAM; data takes both."""

    flash_bytes: int
    ram_bytes: int

    def __sub__(self, other: Sizes) -> Sizes:
        return Sizes(flash_bytes=self.flash_bytes - other.flash_bytes, ram_bytes=self.ram_bytes - other.ram_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A linked program: what it takes beyond the one without models, and the sizes of what its symbols name."""

    sizes: Sizes
    symbols: Sequence[tuple[str, int]]

    def total(self, pattern: str) -> int:
        """Sum the sizes of the symbols whose whole name matches."""
        return sum(size for name, size in self.symbols if re.fullmatch(pattern, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What mlf puts into an image on purpose.

    A descriptor says in flash what a model is; the guard is code at the entrypoints and in the allocator that takes an
    arena, gives it back and keeps to its end; the check is code and tables that judge packed arguments; the state is RAM.
    """

    descriptor_bytes: int
    guard_bytes: int
    check_bytes: int
    state_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The same models by hand and by mlf.

    `apart` is by hand with memory for each model, `lent` by mlf with all memory lent by the application, which may use it
    for something else between runs.
    """

    hand: Image
    apart: Image
    mlf: Image
    lent: Image | None
    added: Added
    document: Mapping[str, Any]

    @property
    def more(self) -> Sizes:
        """What mlf takes more than by hand."""
        return self.mlf.sizes - self.hand.sizes

    @property
    def rest(self) -> Sizes:
        """What mlf takes more than by hand without a purpose, the better way counting where there are two."""
        added = self.added
        flash = added.descriptor_bytes + added.guard_bytes + added.check_bytes
        lent = (self.lent or self.mlf).sizes.ram_bytes - self.hand.sizes.ram_bytes
        ram = min(self.more.ram_bytes, lent) - added.state_bytes
        return Sizes(flash_bytes=self.more.flash_bytes - flash, ram_bytes=ram)

    @property
    def is_kept(self) -> bool:
        """Tell whether nothing is larger than by hand but for a purpose."""
        return self.rest.flash_bytes <= FLASH_PADDING_BYTES and self.rest.ram_bytes <= RAM_PADDING_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Memory of the application, which models are lent or allocate from; the suffix tells blocks apart."""

    suffix: str
    size_bytes: int
    allocates: bool


class Bench:
    """Links models for one processor by hand and by mlf, in a folder of its own, and measures the images."""

    def __init__(self, target: str, folder: Path) -> None:
        self.compiler: Compiler = compiler_for(target)
        self.folder = folder
        self.numbers = count()
        libraries = self.compiler.libraries()
        script = (
            [f"--defsym=__{name}={value}" for name, value in _PICOLIBC.items()]
            if "picolibc" in "".join(libraries)
            else []
        )
        # Sorted, the same sections need the same padding in whatever order an archive holds them.
        words = ["--gc-sections", "--sort-section=alignment", "-Map,image.map", *script]
        fixed = ["-no-pie"] if self.compiler.target.is_host else []  # firmware is not moved, and has no table for that
        self.extra = (*(f"-Wl,{word}" for word in words), *fixed, *libraries)
        self.empty = self._image(self._place("none"), (), program_source(())).sizes

    def _place(self, name: str) -> Path:
        folder = self.folder / f"{next(self.numbers):03}-{name}"
        folder.mkdir(parents=True)
        return folder

    def compare(self, archives: Mapping[str, Path]) -> Comparison:
        """Measure models, whose names are given; ToolError where their C cannot be linked by hand."""
        models = self._plan(archives, self.folder / "libmodels.a").models
        hand = self.by_hand(models, shared_blocks(models))
        apart = self.by_hand(models, own_blocks(models)) if len(models) > 1 else hand
        mlf, document = self.by_mlf(archives)
        can_lend = len(models) > 1 and not any(map(is_packed, models))
        options = LinkOptions(arenas=ArenaOptions(style="external"))
        lent = self.by_mlf(archives, options)[0] if can_lend else None
        added = _added(models, document, hand, mlf)
        return Comparison(hand=hand, apart=apart, mlf=mlf, lent=lent, added=added, document=document)

    def _plan(self, archives: Mapping[str, Path], output: Path, options: LinkOptions | None = None) -> LinkPlan:
        requests = [LinkRequest(path=path, name=name) for name, path in archives.items()]
        return plan_link(requests, output=output, compiler=self.compiler, options=options)

    def by_mlf(
        self, archives: Mapping[str, Path], options: LinkOptions | None = None
    ) -> tuple[Image, Mapping[str, Any]]:
        """Measure what mlf links, with the memory that it is lent; gives the library's document too."""
        folder = self._place("mlf")
        plan = self._plan(archives, folder / "libmodels.a", options)
        document = link(plan).document
        block = Block(suffix="", size_bytes=max(map(lent_bytes, plan.models)), allocates=False)
        calls = [model_call(model, entry(model, by_hand=False), "") for model in plan.models]
        return self._image(folder, ("libmodels.a",), memory_source([block]) + program_source(calls)), document

    def by_hand(self, models: Sequence[PlannedModel], blocks: Mapping[str, Block]) -> Image:
        """Measure what an expert links; `blocks` gives the memory of each model."""
        calls = [model_call(model, entry(model, by_hand=True), blocks[model.name].suffix) for model in models]
        folder = self._place("hand")
        objects = [name for model in models for name in self._objects(model, folder, blocks[model.name])]
        self._tool("ar", "rcs", "libhand.a", *objects, cwd=folder)
        return self._image(folder, ("libhand.a",), memory_source(blocks.values()) + program_source(calls))

    def _objects(self, model: PlannedModel, folder: Path, block: Block) -> list[str]:
        commands = list(self._units(model, folder, block))
        for finished in run_many(commands, jobs=os.cpu_count() or 1):
            if finished.status != 0:
                raise ToolError(f"TVM's C of {model.module.archive} does not compile:\n{own_words(finished)}")
        return [command.argv[-1] for command in commands]

    def _units(self, model: PlannedModel, folder: Path, block: Block) -> Iterator[Command]:
        """Write the C of an archive with its identifiers renamed; gives the command for each file."""
        module = model.module
        if module.graph or module.objects:
            raise ToolError(f"{module.archive} needs TVM's graph executor or holds objects: not linked by hand")
        extra = [f"-I{model.name}", f"-I{RUNTIME / 'include'}"]
        names = [f"TVMBackend{what}Workspace" for what in ("Alloc", "Free")]
        extra += [f"-D{name}={name}{block.suffix}" for name in names if block.suffix]
        with open_archive(model.path) as archive:
            for member in (*module.includes, *module.sources):
                path = PurePosixPath(
                    member.removeprefix(INCLUDE_DIRECTORY) if member in module.includes else PurePosixPath(member).name
                )
                file = folder / model.name / renamed(str(path), model)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(renamed(without_registry(archive.read_text(member)), model), encoding="utf-8")
                if member in module.sources:
                    source = f"{model.name}/{file.name}"
                    yield self.compiler.compile_command(source, f"{source}.o", cwd=folder, extra=extra)

    def _image(self, folder: Path, libraries: Sequence[str], source: str) -> Image:
        """Link the program and measure it; run it if it is for this machine."""
        (folder / "main.c").write_text(source, encoding="utf-8")
        self.compiler.compile("main.c", "main.o", cwd=folder, extra=(f"-I{RUNTIME / 'include'}",))
        self.compiler.link(["main.o", *libraries], "image", cwd=folder, extra=self.extra)
        if self.compiler.target.is_host and run([str(folder / "image")]).status != 0:
            raise ToolError(f"the program in {folder.name} fails")
        sizes = section_sizes(self._tool("size", "-A", "image", cwd=folder))
        table = self._tool("nm", "-S", "image", cwd=folder)
        symbols = [(name, int(size, 16)) for size, name in re.findall(r"^\S+ (\S+) \w (\S+)$", table, re.MULTILINE)]
        return Image(sizes=sizes - self.empty if libraries else sizes, symbols=symbols)

    def _tool(self, name: str, *arguments: str, cwd: Path) -> str:
        """Run a GNU tool of the same family as the compiler."""
        prefix = re.fullmatch(r"(.*-)gcc", self.compiler.command[0])
        finished = run([f"{prefix[1] if prefix else ''}{name}", *arguments], cwd=cwd)
        if finished.status != 0:
            raise ToolError(f"{name} fails:\n{own_words(finished)}")
        return finished.stdout


def section_sizes(table: str) -> Sizes:
    """Read what `size -A` prints.

    Sections count by name: TVM marks its constants writable, so that `size` without `-A` takes `.rodata` for data.
    """
    flash = ram = 0
    for name, text, address in re.findall(r"^(\.\S+) +([0-9]+) +([0-9]+)$", table, re.MULTILINE):
        size = int(text) if address != "0" else 0  # what is not loaded has no address
        is_zero = name.startswith((".bss", ".sbss", ".tbss", ".noinit"))
        is_data = name.startswith((".data", ".sdata", ".tdata")) and name != ".data.rel.ro"
        flash += 0 if is_zero else size
        ram += size if is_zero or is_data else 0
    return Sizes(flash_bytes=flash, ram_bytes=ram)


_ALLOCATORS = r"(TVMBackend(Alloc|Free)Workspace|mlf_arena_[0-9a-f]{8}\w*_(allocate|free)\w*|allocate)"
_CHECKS = r"mlf_check_arguments_1|__aeabi_lmul|types|codes|argument_[0-9]+_shape"
_STATES = r"used|mlf_arena_[0-9a-f]{8}(_[0-9]+)?"


def _added(models: Sequence[PlannedModel], document: Mapping[str, Any], hand: Image, mlf: Image) -> Added:
    """Tell what mlf added: descriptors by its document, guards by how much entrypoints and allocator grew."""
    names = [re.escape(entry(model, by_hand=is_hand)) for model in models for is_hand in (True, False)]
    guarded = "|".join([*names, _ALLOCATORS])
    return Added(
        descriptor_bytes=sum(-(-model["descriptor_bytes"] // 4) * 4 for model in document["models"]),
        guard_bytes=mlf.total(guarded) - hand.total(guarded), check_bytes=mlf.total(_CHECKS) - hand.total(_CHECKS),
        state_bytes=mlf.total(_STATES) - hand.total(_STATES),
    )  # fmt: skip


def is_packed(model: PlannedModel) -> bool:
    """Tell whether the model is called with packed arguments: what it was compiled for, if it is linked by hand at all."""
    return "run" not in model.module.entrypoints and not model.module.graph and not model.module.objects


def entry(model: PlannedModel, *, by_hand: bool) -> str:
    """Name the function that is called: by hand the archive's own, renamed; of mlf the one of the same style."""
    role = "tvm_module_main" if is_packed(model) else "run"
    return renamed(model.module.entrypoints[role], model) if by_hand else model.entrypoints[role]


def renamed(text: str, model: PlannedModel) -> str:
    """Give a text with the model's identifiers under its name in the library."""
    return re.sub(rf"\btvmgen_{re.escape(model.module.name)}(?=_|\.h\b)", f"tvmgen_{model.name}", text)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def lent_bytes(model: PlannedModel) -> int:
    """Give the memory that an application lends to a model for a run; the last pool needs no padding."""
    sizes = [pool.size_bytes or 0 for pool in model.interface.external_pools if not pool.data]
    return sum(map(_aligned, sizes[:-1])) + sum(sizes[-1:])


def shared_blocks(models: Sequence[PlannedModel]) -> dict[str, Block]:
    """Give all models the same memory: what one is lent, the next may allocate."""
    allocated = max(model.module.allocator_bytes or 0 for model in models)
    block = Block(suffix="", size_bytes=max(allocated, *map(lent_bytes, models)), allocates=allocated > 0)
    return dict.fromkeys((model.name for model in models), block)


def own_blocks(models: Sequence[PlannedModel]) -> dict[str, Block]:
    """Give each model memory of its own."""
    allocated = {model.name: model.module.allocator_bytes or 0 for model in models}
    return {
        model.name: Block(suffix=f"_{model.name}", size_bytes=max(allocated[model.name], lent_bytes(model)), allocates=allocated[model.name] > 0)
        for model in models
    }  # fmt: skip


def memory_source(blocks: Iterable[Block]) -> str:
    """Write the application's memory, and its allocators."""
    lines = ["#include <stddef.h>", "#include <stdint.h>"]
    for block in {block.suffix: block for block in blocks if block.size_bytes}.values():
        lines.append(
            f"static uint8_t workspace{block.suffix}[{block.size_bytes}] __attribute__((aligned({ALIGNMENT_BYTES})));"
        )
        lines += [_ALLOCATOR % {"suffix": block.suffix, "size": block.size_bytes}] if block.allocates else []
    return "\n".join(lines)


def program_source(calls: Iterable[tuple[str, str]]) -> str:
    """Write the program that makes these calls, each with the declarations in front of it."""
    found = list(calls)
    values = {
        "tensor": TENSOR_BYTES, "half": HALF, "declarations": "\n".join(declarations for declarations, _ in found),
        "calls": "\n".join(f"  if ({call} != 0) return 1;" for _, call in found),
    }  # fmt: skip
    return _PROGRAM % values


def model_call(model: PlannedModel, function: str, suffix: str) -> tuple[str, str]:
    """Write the declarations for a call and the call, in the style that the archive's own entrypoint has."""
    return _packed_call(model, function) if is_packed(model) else _struct_call(model, function, suffix)


def _struct_call(model: PlannedModel, function: str, suffix: str) -> tuple[str, str]:
    """Call with structs of pointers, to which arrays of pointers are equal."""
    interface = model.interface
    arguments = [] if interface.io_places else ["slots", f"slots + {HALF}"]
    declared, pools, offset = [], [], 0
    for pool in interface.external_pools:
        if pool.data:
            data = ", ".join(map(str, pool.data))
            declared.append(
                f"static const uint8_t {pool.name}_{model.name}[] __attribute__((aligned({ALIGNMENT_BYTES}))) = {{{data}}};"
            )
            pools.append(f"(void*){pool.name}_{model.name}")
        else:
            pools.append(f"workspace{suffix} + {offset}")
            offset += _aligned(pool.size_bytes or 0)
    if pools:
        declared.append(f"static void* const pools_{model.name}[] = {{{', '.join(pools)}}};")
        arguments.append(f"(void**)pools_{model.name}")
    declared.append(f"int32_t {function}({', '.join(['void**'] * len(arguments))});")
    return "\n".join(declared), f"{function}({', '.join(arguments)})"


def _packed_call(model: PlannedModel, function: str) -> tuple[str, str]:
    """Call with packed arguments, which an application that uses them keeps."""
    interface = model.interface
    if interface.external_pools:
        raise ToolError(f"TVM's wrapper in {model.module.archive} does not pass the pools: it cannot be called")
    tensors = [
        *((tensor, "given") for tensor in interface.inputs),
        *((tensor, "taken") for tensor in interface.outputs),
    ]
    rows = [_dltensor(tensor, data, f"shape_{model.name}_{index}") for index, (tensor, data) in enumerate(tensors)]
    values = ", ".join(f"{{.v_handle = &tensors_{model.name}[{index}]}}" for index in range(len(tensors)))
    declared = [
        *(f"static int64_t shape_{model.name}_{index}[] = {{{', '.join(map(str, tensor.shape or (1,)))}}};" for index, (tensor, _) in enumerate(tensors)),
        f"static DLTensor tensors_{model.name}[] = {{{', '.join(rows)}}};",
        f"static TVMValue values_{model.name}[] = {{{values}}};",
        f"static int codes_{model.name}[] = {{{', '.join(['kTVMDLTensorHandle'] * len(tensors))}}};",
        f"int32_t {function}(TVMValue*, int*, int, TVMValue*, int*, void*);",
    ]  # fmt: skip
    return "\n".join(declared), f"{function}(values_{model.name}, codes_{model.name}, {len(tensors)}, NULL, NULL, NULL)"


def _dltensor(tensor: Tensor, data: str, shape: str) -> str:
    dtype = DTYPES[tensor.dtype or "uint8"]
    return f"{{{data}, {{kDLCPU, 0}}, {len(tensor.shape or ())}, {{{dtype.code}, {dtype.bits}, 1}}, {shape}, NULL, 0}}"


class Report:
    """Prints the tables for a folder of archives, and remembers whether every promise is kept."""

    def __init__(self, archives: Path, scratch: Path) -> None:
        self.archives = archives
        self.scratch = scratch
        self.is_kept = True

    def paths(self, cases: Iterable[str]) -> dict[str, Path]:
        """Give archives by the names of their models."""
        return {case.replace("-", "_"): self.archives / f"{case}.tar" for case in cases}

    def alone(self, target: str, cases: Sequence[str]) -> None:
        """Compare each model alone."""
        head(
            "One model",
            target,
            "archive|flash by hand|mlf|more|descriptor|guard|check|rest|RAM by hand|mlf|more|guard|rest|",
        )
        bench = Bench(target, self.scratch / f"alone-{target}")
        for case in cases:
            found = self._compared(bench, case, [case])
            if found:
                hand, mlf, more, rest, added = found.hand.sizes, found.mlf.sizes, found.more, found.rest, found.added
                row(
                    case, hand.flash_bytes, mlf.flash_bytes, more.flash_bytes, added.descriptor_bytes, added.guard_bytes, added.check_bytes,
                    rest.flash_bytes, hand.ram_bytes, mlf.ram_bytes, more.ram_bytes, added.state_bytes, rest.ram_bytes,
                    self._verdict(is_kept=found.is_kept),
                )  # fmt: skip

    def together(self, target: str) -> None:
        """Compare models that run one after another."""
        columns = "models|flash by hand|mlf|more|descriptors|guards|rest|RAM by hand, apart|shared|mlf|mlf, lent|"
        head("Several models", target, columns)
        bench = Bench(target, self.scratch / f"together-{target}")
        for name, cases in TOGETHER.items():
            found = self._compared(bench, name, cases)
            if found:
                hand, mlf, added = found.hand.sizes, found.mlf.sizes, found.added
                row(
                    name, hand.flash_bytes, mlf.flash_bytes, found.more.flash_bytes, added.descriptor_bytes, added.guard_bytes,
                    found.rest.flash_bytes, found.apart.sizes.ram_bytes, hand.ram_bytes, mlf.ram_bytes,
                    found.lent.sizes.ram_bytes if found.lent else "", self._verdict(is_kept=found.is_kept),
                )  # fmt: skip

    def _compared(self, bench: Bench, name: str, cases: Sequence[str]) -> Comparison | None:
        try:
            return bench.compare(self.paths(cases))
        except MlfError as error:
            row(name, error.message.splitlines()[0])
            return None

    def _verdict(self, *, is_kept: bool) -> str:
        self.is_kept &= is_kept
        return "" if is_kept else "MISSED"

    def by_mlf_alone(self, target: str) -> None:
        """Measure what nobody links by hand: graphs without a graph executor, and objects."""
        head("Graphs and objects", target, "archive|flash|RAM")
        bench = Bench(target, self.scratch / f"graphs-{target}")
        for case in self._cases():
            has_objects = "-llvm" in case
            if not case.startswith("operator") and (case.endswith(target) if has_objects else "-graph" in case):
                self._by_mlf_alone(bench, case)

    def _by_mlf_alone(self, bench: Bench, case: str) -> None:
        try:
            sizes = bench.by_mlf(self.paths([case]))[0].sizes
        except MlfError as error:
            row(case, error.message.splitlines()[0])
            return
        row(case, sizes.flash_bytes, sizes.ram_bytes)

    def _cases(self) -> list[str]:
        return sorted(path.stem for path in self.archives.glob("*.tar"))

    def folded(self, target: str) -> None:
        """Tell what folding saved in an image, and of which kind it was in the library."""
        head("Folding", target, "models|flash without|with|saved|constants|code|largest")
        bench = Bench(target, self.scratch / f"folded-{target}")
        for name, cases in FOLDED.items():
            without = bench.by_mlf(self.paths(cases), LinkOptions(is_folded=False))[0].sizes.flash_bytes
            image, document = bench.by_mlf(self.paths(cases))
            groups: list[Mapping[str, Any]] = sorted(document["folded"], key=lambda group: -group["saved_bytes"])
            code = sum(group["saved_bytes"] for group in groups if group["is_code"])
            constants = sum(group["saved_bytes"] for group in groups) - code
            largest = f"{groups[0]['size_bytes']} in {len(groups[0]['models'])} models" if groups else "none"
            row(name, without, image.sizes.flash_bytes, without - image.sizes.flash_bytes, constants, code, largest)

    def planned(self, target: str) -> None:
        """Tell how small the arenas of graphs are."""
        head("Memory of graphs", target, "archive|TVM's plan|lower bound|mlf|over the bound|operators allocate|")
        compiler = compiler_for(target)
        for case in self._cases():
            for model in _graphs(self.archives / f"{case}.tar", compiler):
                program, need = model.program, model.need
                if program and need:
                    bound, planned, storage = program.lower_bound_bytes, program.arena_bytes, program.storage_bytes
                    is_kept = planned <= (storage or planned) and planned <= bound * (1 + PLANNED_EXCESS)
                    row(
                        f"{case}:{model.module.name}", storage or "none", bound, planned, f"{planned / bound - 1:.2%}" if bound else "",
                        need.allocator_bytes, self._verdict(is_kept=is_kept),
                    )  # fmt: skip


def _graphs(path: Path, compiler: Compiler) -> Sequence[PlannedModel]:
    """Plan the models of an archive if it holds graphs."""
    if "graph" not in path.stem:
        return ()
    return plan_link([LinkRequest(path=path)], output=path.with_suffix(".a"), compiler=compiler).models


def head(title: str, target: str, columns: str) -> None:
    """Print the head of a table."""
    names = columns.split("|")
    print(f"\n### {title}, {target}\n")
    row(*names)
    row("---", *["---:"] * (len(names) - 1))


def row(*cells: object) -> None:
    """Print a row of a table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the size of libraries with libraries linked by hand.")
    parser.add_argument("folder", nargs="?", type=Path, default=ARCHIVES)
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--all", action="store_true", help="every archive alone")
    arguments = parser.parse_args()
    if not any(arguments.folder.glob("*.tar")):
        sys.exit(f"error: no archives in {arguments.folder}\n\nhint: `bash tests/run.sh` makes them in .cache/real")
    targets: Sequence[str] = arguments.target or TARGETS
    with tempfile.TemporaryDirectory() as scratch:
        report = Report(arguments.folder, Path(scratch))
        every = [path.stem for path in sorted(arguments.folder.glob("*.tar"))]
        for target in targets:
            report.alone(target, every if arguments.all else ALONE)
            report.together(target)
        report.by_mlf_alone(targets[0])
        report.folded(targets[0])
        report.planned(targets[0])
    sys.exit(not report.is_kept)


if __name__ == "__main__":
    main()
