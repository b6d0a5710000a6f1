from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from toolbox import CORTEX_M3, HOST, Target, compile_c, link, merge_files, run

import mlf
from mlf.objects.elf import parse_object
from mlf.objects.fold import fold_objects
from mlf.report import library_text, size_text
from mlf.sizes import Image, break_down, measure, section_totals, unfolded
from mlf.toolchain import RUNTIME, compiler_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlf.toolchain import Compiler

SAMPLES = Path(__file__).parent.parent / "samples"
# Every way of calling operators, plans of all kinds, and constants and code that several of them have alike.
CASES = ("conv-alloc", "conv-graph", "conv-packed", "dense-packed", "int8-usmp", "lstm-graph-params", "lstm-pool")
LIBRARIES = (
    "aarch64",
    "cortex-m0",
    "cortex-m4",
    "cortex-m4 clang",
    "rv32imac",
)  # targets, and compilers if not the first
SIZE_TOOLS = {
    "aarch64": "aarch64-linux-gnu-size",
    "cortex-m0": "arm-none-eabi-size",
    "cortex-m4": "arm-none-eabi-size",
    "rv32imac": "riscv64-unknown-elf-size",
}
# What linkers change in code of these machines: it becomes shorter, or stubs on pages of their own go round an erratum.
LINKER_FLAGS = {"aarch64": ("-mno-fix-cortex-a53-843419",), "rv32imac": ("-Wl,--no-relax",)}
ROLES = ("run", "tvm_module_main", "registry", "everything")
TOLERANCE = 0.01
TEXT_COLUMNS = 100

_MAIN = """
%(declarations)s
static void nothing(void) {}
static void (*const volatile calls[])(void) = {%(calls)s};
int main(void) {
  unsigned i;
  nothing();
  for (i = 0; i < sizeof(calls) / sizeof(calls[0]); ++i) calls[i]();
  return 0;
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked:
    """A library of real models, and the compiler that firmware is made with."""

    document: Mapping[str, Any]
    folder: Path
    compiler: Compiler

    @property
    def target(self) -> str:
        return str(self.document["target"])


@pytest.fixture(scope="module")
def libraries() -> dict[str, Linked]:
    return {}


@pytest.fixture(params=LIBRARIES)
def linked(
    request: pytest.FixtureRequest,
    libraries: dict[str, Linked],
    real_archives: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Linked:
    return made(request.param, libraries, real_archives, tmp_path_factory)


def made(
    name: str, libraries: dict[str, Linked], real_archives: Path, tmp_path_factory: pytest.TempPathFactory
) -> Linked:
    if name not in libraries:
        target, _, cc = name.partition(" ")
        folder = tmp_path_factory.mktemp(target)
        models = {case.replace("-", "_"): real_archives / f"{case}.tar" for case in CASES}
        models |= {name: SAMPLES / f"{name}.tar" for name in ("glyph", "motor", "tone")}
        document = mlf.link(models, output=folder / "libmodels.a", target=target, cc=cc or None, jobs=2).document
        libraries[name] = Linked(document=document, folder=folder, compiler=compiler_for(target))
        prepare(libraries[name])
    return libraries[name]


def prepare(linked: Linked) -> None:
    """Compile the start-up code, and give the board more memory than there is: nothing is run."""
    board, start = linked.compiler.target.board, RUNTIME / "board"
    assert board is not None
    script = re.sub(r"(BOARD_(?:FLASH|RAM)_LENGTH = )\w+", r"\g<1>16M", board.linker_script())
    (linked.folder / "board_memory.ld").write_text(script)
    for name in board.sources:
        extra = ("-I.", f"-I{start}", "-fno-builtin")
        linked.compiler.compile(str(start / name), f"{name}.o", cwd=linked.folder, extra=extra)


def image_sizes(linked: Linked, names: Sequence[str], *flags: str, is_calling: bool) -> dict[str, int]:
    """Link firmware that calls these functions, or as many of its own, and ask GNU `size`.

    What models need from elsewhere, such as libm, is in both.
    """
    board = linked.compiler.target.board
    assert board is not None
    declarations = "\n".join(f"void {name}(void);" for name in names if is_calling)
    calls = ", ".join(names if is_calling else ["nothing"] * len(names))
    (linked.folder / "main.c").write_text(_MAIN % {"declarations": declarations, "calls": calls})
    linked.compiler.compile("main.c", "main.o", cwd=linked.folder)
    needs = {name for model in linked.document["models"] for name in model["needs"] if not name.startswith("mlf_")}
    objects = [*(f"{name}.o" for name in board.sources), "main.o", "libmodels.a"]
    extra = ["-nostartfiles", "-static", "-T", "board_memory.ld", *(f"-Wl,-u,{name}" for name in sorted(needs)), *flags]
    linked.compiler.link(objects, "firmware", cwd=linked.folder, extra=[*extra, *linked.compiler.libraries()])
    text, data, bss = run([SIZE_TOOLS[linked.target], linked.folder / "firmware"]).splitlines()[1].split()[:3]
    return {"flash_bytes": int(text) + int(data), "ram_bytes": int(data) + int(bss)}


def image_difference(linked: Linked, role: str, *flags: str) -> dict[str, int]:
    """Tell what firmware is larger by that uses the library in one way."""
    key = "run" if role == "everything" else role
    names = (
        [model["entrypoints"][key] for model in linked.document["models"]]
        if key != "registry"
        else linked.document["registry"]["symbols"][:1]
    )
    collect = "-Wl,--no-gc-sections" if role == "everything" else "-Wl,--gc-sections"
    with_models, without = (
        image_sizes(linked, names, collect, *flags, is_calling=is_calling) for is_calling in (True, False)
    )
    return {key: with_models[key] - without[key] for key in with_models}


def stated(linked: Linked, role: str) -> Mapping[str, int]:
    found: Mapping[str, int] = linked.document["totals"] if role == "everything" else linked.document["linked"][role]
    return found


@pytest.mark.parametrize("role", ROLES)
def test_figures_agree_with_size_on_the_image_within_one_percent(linked: Linked, role: str) -> None:
    flags = LINKER_FLAGS.get(linked.target, ())

    real, said = image_difference(linked, role, *flags), stated(linked, role)

    for key, size in real.items():
        assert abs(said[key] - size) <= TOLERANCE * size, (key, said[key], size)


def test_an_image_for_riscv_is_at_most_five_percent_smaller_because_linkers_shorten_code(
    libraries: dict[str, Linked], real_archives: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    linked = made("rv32imac", libraries, real_archives, tmp_path_factory)

    real, said = image_difference(linked, "run")["flash_bytes"], stated(linked, "run")["flash_bytes"]

    assert 0.95 * said <= real < said
    assert "linkers for RISC-V shorten code" in size_text(mlf.size(linked.folder / "libmodels.json"))


def test_what_is_stated_holds_arenas_and_what_is_stored_once(linked: Linked) -> None:
    document = linked.document

    assert document["saved"]["folded_bytes"] > 0
    assert document["totals"]["ram_bytes"] >= max(arena["size_bytes"] for arena in document["arenas"]) > 10_000
    flash = [document["linked"][role]["flash_bytes"] for role in ("run", "tvm_module_main")]
    assert flash[0] < flash[1] < document["totals"]["flash_bytes"]


def test_sizes_of_members_are_those_that_size_prints(linked: Linked) -> None:
    lines = run([SIZE_TOOLS[linked.target], linked.folder / "libmodels.a"]).splitlines()[1:]
    printed = {line.split()[5]: [int(word) for word in line.split()[:3]] for line in lines}
    document = linked.document
    items = [*document["models"], *document["arenas"], document["arguments"], document["registry"]]

    assert {
        item["member"]: [item["sizes"][key] for key in ("text_bytes", "data_bytes", "bss_bytes")] for item in items
    } == printed


def test_parts_of_a_model_make_up_its_flash(linked: Linked) -> None:
    for model in linked.document["models"]:
        functions = sum(one["code_bytes"] + one["constants_bytes"] for one in model["operators"])
        shared = sum(one["flash_bytes"] for one in model["shared"])
        registry_code = sum(one["code_bytes"] for one in model["operators"] if one["role"] == "registry")
        registry = model["registry_bytes"] - registry_code

        assert functions + shared + model["descriptor_bytes"] + registry == model["sizes"]["flash_bytes"], model["name"]
        assert sum(one["size_bytes"] for one in model["sections"]) == sum(
            model["sizes"][key] for key in ("text_bytes", "data_bytes", "bss_bytes")
        )


def test_a_model_by_itself_counts_what_it_shares_with_others(linked: Linked) -> None:
    for model in linked.document["models"]:
        for role in ("run", "tvm_module_main"):
            reached = model["linked"][role]["flash_bytes"]
            assert 0.5 * model["sizes"]["flash_bytes"] < reached < model["sizes"]["flash_bytes"], (model["name"], role)


def test_every_entrypoint_has_a_stack_whose_path_speaks_of_functions_by_their_names(linked: Linked) -> None:
    for model in linked.document["models"]:
        assert {use["entrypoint"] for use in model["stack"]} == model["entrypoints"].keys()
        for use in model["stack"]:
            assert use["path"][0] == model["entrypoints"][use["entrypoint"]]
            assert not [text for text in (*use["path"], *use["notes"]) if "mlf_fold_" in text]
            assert use["size_bytes"] >= 0


FUNCTIONS = """
const int own[50] = {1, 2, 3};
const int common[20] = {4, 5, 6};
const int far[30] = {7, 8, 9};
const int* const table[2] = {far, common};
int variable[12];
int initialised[3] = {1, 2, 3};
__attribute__((noinline)) static int first(int i) { return own[i] + common[i]; }
__attribute__((noinline)) static int second(int i) { return table[i & 1][i] + variable[i]++; }
int entry(int i) { return first(i) + second(i) + initialised[i]++; }
"""


def cut(
    source: str, *flags: str
) -> tuple[dict[str, tuple[int, int, str]], dict[str, tuple[int, int, tuple[str, ...]]]]:
    data = merge_files({"a.o": compile_c(source, CORTEX_M3, "-O2", *flags)}, {"entry": "entry"}).data
    functions, shared = break_down(parse_object(data, "a.o"), {"entry": "run"}, except_section=".rodata.mlf")
    return (
        {one.name: (one.constants_bytes, one.ram_bytes, one.role) for one in functions},
        {one.name: (one.flash_bytes, one.ram_bytes, one.functions) for one in shared},
    )


def test_a_constant_belongs_to_the_function_that_alone_refers_to_it() -> None:
    functions, shared = cut(FUNCTIONS)

    assert functions == {
        "entry": (12, 12, "run"),  # initialised variables lie in flash too
        "first": (200, 0, "operator"),
        "second": (120 + 8, 48, "operator"),  # what a table refers to, and the table
    }
    assert shared == {"common": (80, 0, ("first", "second"))}


def test_functions_and_constants_that_share_a_section_are_told_apart_by_their_symbols() -> None:
    assert cut(FUNCTIONS, "-fno-function-sections", "-fno-data-sections", "-fno-section-anchors") == cut(FUNCTIONS)


def test_where_any_constant_of_a_section_may_be_meant_all_count_as_shared() -> None:
    source = """
    static const int one[10] = {1}, two[20] = {2};
    __attribute__((noinline)) static int first(int i) { return one[i] + two[i]; }
    int entry(int i) { return first(i) + two[i + 1]; }
    """

    functions, shared = cut(source, "-fno-data-sections")

    assert functions == {"entry": (0, 0, "run"), "first": (0, 0, "operator")}
    assert sum(flash for flash, _, _ in shared.values()) == 120


def test_code_bytes_of_functions_are_those_of_their_sections() -> None:
    item = parse_object(compile_c(FUNCTIONS, CORTEX_M3), "a.o")

    functions, _ = break_down(item, {}, except_section="")

    code = sum(section.size_bytes for section in item.sections if section.name.startswith(".text"))
    assert sum(one.code_bytes for one in functions) == code > 0


def test_sections_are_summed_without_the_names_of_what_is_in_them() -> None:
    source = """
    const char text[] __attribute__((section(".flash.weights"))) = "abc";
    const int tvmgen_a_table[4] = {1};
    int counter, *pointer = &counter;
    int tvmgen_a_run(void) { return tvmgen_a_table[0] + counter; }
    int other(void) { return *pointer; }
    """
    item = parse_object(compile_c(source, CORTEX_M3, "-fno-common"), "a.o")

    totals = section_totals(item)

    code = measure(item).text_bytes - 4 - 16
    assert totals == [
        {"kind": "bss", "name": ".bss", "size_bytes": 4},
        {"kind": "data", "name": ".data", "size_bytes": 4},
        {"kind": "text", "name": ".flash.weights", "size_bytes": 4},
        {"kind": "text", "name": ".rodata", "size_bytes": 16},
        {"kind": "text", "name": ".text", "size_bytes": code},
    ]


def text_size(program: Path) -> int:
    return int(run(["arm-none-eabi-size", program]).splitlines()[1].split()[0])


def test_equal_literals_of_several_members_count_once_as_linkers_store_them(tmp_path: Path) -> None:
    source = 'const char* %s(int i) { return i ? "a text of its own" : "%s text that only one has"; }'
    objects = {name: compile_c(source % (name, name), CORTEX_M3, "-O2") for name in ("one", "two")}
    main = "int main(void) { return one(1) == two(1); } "
    image = Image({name: parse_object(data, name) for name, data in objects.items()})

    said = image.sizes(image.everything())

    assert said.merged_bytes == 20
    base = compile_c("int one(int i) { return i; } int two(int i) { return i; }" + main, CORTEX_M3, "-w")
    full = compile_c("int one(int); int two(int);" + main, CORTEX_M3, "-w")
    own = measure(parse_object(base, "")).text_bytes - measure(parse_object(full, "")).text_bytes
    sizes = [text_size(link(parts, CORTEX_M3, tmp_path / "program")) for parts in ([full, *objects.values()], [base])]
    assert abs(sizes[0] - sizes[1] + own - said.sizes.text_bytes) <= 8  # where sections happen to begin


def test_what_is_folded_counts_once_and_keeps_its_name_for_people() -> None:
    weights = ", ".join(map(str, range(300)))
    source = """
    static const int weights[] = {%s};
    __attribute__((noinline)) static int layer(int i) { return weights[i] * %d; }
    int %s(int i) { return layer(i) + 1; }
    """
    merged = {
        name: merge_files(
            {name: compile_c(source % (weights, 3, name), HOST, "-O2", "-fno-asynchronous-unwind-tables")},
            {name: name},
            name,
        ).data
        for name in ("one", "two")
    }
    folded = fold_objects(merged)
    items = {name: parse_object(data, name) for name, data in folded.data.items()}
    image = Image(items)

    everything = image.everything()

    assert image.sum(everything).text_bytes == measure(items["one"]).text_bytes * 2 - folded.saved_bytes
    assert folded.saved_bytes >= 1200
    assert image.reached(["one", "two"]) == everything
    assert image.sum(image.reached(["two"])) == measure(items["two"])
    assert "layer" in [one.name for one in break_down(unfolded(items["two"]), {}, except_section="")[0]]


def test_unwind_tables_that_say_nothing_belong_to_their_functions_and_count_nothing_in_an_image() -> None:
    source = "int first(int i) { return i; } int second(int i) { return i + 1; }"
    clang = Target(name="clang", cc=("clang", "--target=thumbv7m-none-eabi"))
    flags = ("-O2", "-ffreestanding", "-fno-unwind-tables", "-fno-exceptions")
    item = parse_object(compile_c(source, clang, *flags), "a")
    image = Image({"a": item})

    functions, _ = break_down(item, {}, except_section="")

    sections = {one["name"]: one["size_bytes"] for one in section_totals(item)}
    assert sections.keys() == {".text", ".ARM.exidx"}
    assert sum(one.code_bytes for one in functions) == sum(sections.values()) == measure(item).text_bytes
    assert image.sizes(image.everything()).merged_bytes == sections[".ARM.exidx"] == 16


def test_linkers_keep_start_up_arrays_of_members_that_they_take() -> None:
    source = """
    static volatile int done;
    __attribute__((constructor)) static void begin(void) { done = 1; }
    int entry(void) { return done; }
    int unused(void) { return 2; }
    """
    image = Image({"a": parse_object(compile_c(source, HOST, "-O2"), "a")})

    kept = {image.members["a"].sections[place].name for _, place in image.reached(["entry"])}

    assert {".text.entry", ".init_array", ".bss.done"} < kept
    assert ".text.unused" not in kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    status: int
    printed: str
    complaints: str


def command(folder: Path, *arguments: str) -> Said:
    argv = [sys.executable, "-m", "mlf", *arguments]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    return Said(status=done.returncode, printed=done.stdout, complaints=done.stderr)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    models = [f"{name}={SAMPLES / name}.tar" for name in ("glyph", "motor", "tone")]
    assert command(folder, "link", *models, "--target", "cortex-m4").status == 0
    return folder


def test_a_person_sees_who_shares_memory_and_what_is_largest(desk: Path) -> None:
    lines = command(desk, "size", "libmodels.json").printed.splitlines()

    assert lines[0] == "libmodels.json: 3 models for cortex-m4 (32-bit little-endian ARM)"
    start = lines.index("everything                flash   RAM")
    assert [line.split()[0] for line in lines[start + 1 : start + 4]] == ["tone", "glyph", "motor"]
    assert "  glyph  4096  ##############################  global_workspace 4096" in lines
    assert "  tone   2192  #################               allocated 2192" in lines
    assert "  motor  208  workspace sram" in lines
    assert max(len(line) for line in lines) <= TEXT_COLUMNS


def test_text_of_many_models_fits_a_terminal_and_leaves_out_small_ones(linked: Linked) -> None:
    lines = size_text(mlf.size(linked.folder / "libmodels.json")).splitlines()

    assert max(len(line) for line in lines) <= TEXT_COLUMNS
    assert any(re.fullmatch(r"  [0-9]+ more +[0-9]+ +[0-9]+ +[0-9]+", line) for line in lines)


@pytest.mark.parametrize(("count", "words"), [(11, "1 more model is smaller"), (12, "2 more models are smaller")])
def test_models_that_are_left_out_are_counted(desk: Path, count: int, words: str) -> None:
    document = mlf.size(desk / "libmodels.json")
    document = {**document, "models": [document["models"][0]] * count}

    assert size_text(document).endswith(f"{words}; --json lists them too")


def test_a_budget_that_is_kept(desk: Path) -> None:
    said = command(desk, "size", "libmodels.json", "--budget", "flash=64K,ram=8K")

    assert (said.status, said.complaints) == (0, "")
    assert re.search(r"^budget for ram +8192  +[0-9]+ left$", said.printed, re.MULTILINE)


def test_a_budget_that_is_not_kept_fails_after_the_report(desk: Path) -> None:
    ram = json.loads((desk / "libmodels.json").read_text())["totals"]["ram_bytes"]

    said = command(desk, "size", "libmodels.json", "--budget", "flash=64K,ram=4K")

    assert (said.status, said.complaints) == (1, f"error: libmodels.json: ram is {ram} bytes, the budget 4096\n")
    assert re.search(rf"^budget for ram +4096  +OVER by {ram - 4096}$", said.printed, re.MULTILINE)


def test_a_budget_that_is_not_kept_leaves_one_json_document(desk: Path) -> None:
    said = command(desk, "size", "libmodels.json", "--budget", "ram=1", "--json")

    document = json.loads(said.printed)
    assert (said.status, document["schema"]) == (1, "mlf-size-v1")
    assert document["budget"] == [{"kind": "ram", "limit_bytes": 1, "size_bytes": document["totals"]["ram_bytes"]}]


def test_an_archive_is_linked_alone_and_nothing_is_left(tmp_path: Path) -> None:
    said = command(tmp_path, "size", str(SAMPLES / "tone.tar"), "--target", "cortex-m0", "--json")

    document = json.loads(said.printed)
    assert (said.status, document["source"], document["target"]) == (0, "tone.tar", "cortex-m0")
    assert [model["name"] for model in document["models"]] == ["default"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("libmodels.json", "--target", "host"), 2, "libmodels.json: was linked for cortex-m4, not for host"),
        (("libmodels.json", "--budget", "disk=1"), 2, "--budget names `disk`, expected flash or ram"),
        (("other.json",), 1, "other.json: cannot be read: no such file or directory"),
        (
            ("plan.json",),
            1,
            "plan.json: is not the document of a library: expected the schema `mlf-library-v1`",
        ),
        (("old.json",), 1, "old.json: is not the document of a library: `linked` is missing"),
        (
            ("wrong.json",),
            1,
            "wrong.json: is not the document of a library: `models[0].stack[0].size_bytes` is `-1`, expected a size in bytes",
        ),
    ],
)
def test_what_cannot_be_told(desk: Path, arguments: tuple[str, ...], status: int, message: str) -> None:
    document = json.loads((desk / "libmodels.json").read_text())
    (desk / "plan.json").write_text('{"schema": "mlf-plan-v1"}')
    (desk / "old.json").write_text(json.dumps({key: value for key, value in document.items() if key != "linked"}))
    document["models"][0]["stack"][0]["size_bytes"] = -1
    (desk / "wrong.json").write_text(json.dumps(document))

    said = command(desk, "size", *arguments)

    assert (said.status, said.printed, said.complaints) == (status, "", f"error: {message}\n")


def test_a_library_of_many_models_names_a_few_that_share_an_arena(desk: Path) -> None:
    document = json.loads((desk / "libmodels.json").read_text())
    document["arenas"][0]["models"] = [f"model{number}" for number in range(87)]

    arena = next(line for line in library_text(document, "lib.a").splitlines() if line.startswith("arena"))

    assert arena.endswith("  for model0, model1, model2 and 84 more")


def test_memory_that_the_application_lends_as_an_arena_is_told_once(tmp_path: Path) -> None:
    said = command(
        tmp_path, "link", f"tone={SAMPLES / 'tone.tar'}", f"motor={SAMPLES / 'motor.tar'}", "--arena", "external"
    )
    assert said.status == 0

    lines = command(tmp_path, "size", "libmodels.json").printed.splitlines()

    start = next(number for number, line in enumerate(lines) if line.endswith(": 2192 lent by the application"))
    assert lines[start + 1 : start + 5] == [
        "  tone  2192  ##############################  allocated 2192",
        "lent by the application, on top",
        "  motor  208  workspace sram",
        "",
    ]


def test_the_rows_of_a_library_add_up_to_its_total(desk: Path) -> None:
    document = json.loads((desk / "libmodels.json").read_text())

    rows = [re.split(r" {2,}", line) for line in library_text(document, "lib.a").splitlines()[1:-1]]

    flash = {row[0]: int(row[1]) for row in rows}
    assert flash.pop("total") == sum(flash.values()) == document["totals"]["flash_bytes"]
