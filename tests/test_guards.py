"""Padded sums with bounded loops: the text that is expected, and the same numbers for loops of every form."""

from __future__ import annotations

import random
import subprocess
from typing import TYPE_CHECKING

import pytest

from mlf.frontends.tvm.guards import without_guards

if TYPE_CHECKING:
    from pathlib import Path

PADDED = """\
  for (int32_t yy = 0; yy < 8; ++yy) {
    out[yy] = 0.0f;
    for (int32_t ry = 0; ry < 3; ++ry) {
      int32_t cse_v1 = (yy + ry);
      float condval;
      if ((1 <= cse_v1) && (cse_v1 < 9)) {
        condval = x[(cse_v1 - 1)];
      } else {
        condval = 0.000000e+00f;
      }
      out[yy] = (out[yy] + (condval * w[ry]));
    }
  }
"""
BOUNDED = """\
  for (int32_t yy = 0; yy < 8; ++yy) {
    out[yy] = 0.0f;
    const int32_t ry_begin = (1 - yy) > 0 ? (1 - yy) : 0;
    const int32_t ry_end = (9 - yy) < 3000 ? (9 - yy) : 3000;
    for (int32_t ry = ry_begin; ry < ry_end; ++ry) {
      int32_t cse_v1 = (yy + ry);
      float condval = x[(cse_v1 - 1)];
      out[yy] = (out[yy] + (condval * w[ry]));
    }
  }
"""
SPLIT = """\
  for (int32_t yy = 0; yy < 8; ++yy) {
    out[yy] = 0.0f;
    const int32_t ry_begin = (1 - yy) > 0 ? (1 - yy) : 0;
    const int32_t ry_end = (9 - yy) < 3 ? (9 - yy) : 3;
    if (ry_begin == 0 && ry_end == 3) {
      for (int32_t ry = 0; ry < 3; ++ry) {
        int32_t cse_v1 = (yy + ry);
        float condval = x[(cse_v1 - 1)];
        out[yy] = (out[yy] + (condval * w[ry]));
      }
    } else {
      for (int32_t ry = ry_begin; ry < ry_end; ++ry) {
        int32_t cse_v1 = (yy + ry);
        float condval = x[(cse_v1 - 1)];
        out[yy] = (out[yy] + (condval * w[ry]));
      }
    }
  }
"""


def test_a_padded_sum_visits_only_what_is_inside() -> None:
    assert without_guards(PADDED.replace("ry < 3;", "ry < 3000;")) == BOUNDED


def test_a_sum_of_few_terms_is_written_twice_so_that_its_loops_unroll() -> None:
    assert without_guards(PADDED) == SPLIT


def guarded(name: str, target: str, weight: str, value: str = "x[(cse_v1 - 1)]", test: str = "1 <= cse_v1") -> str:
    return f"""\
      float {name};
      if ({test}) {{
        {name} = {value};
      }} else {{
        {name} = 0.000000e+00f;
      }}
      {target} = ({target} + ({name} * {weight}));
"""


LOOP = """\
    for (int32_t ry = 0; ry < 3000; ++ry) {
      int32_t cse_v1 = (yy + ry);
"""


def test_sums_with_one_test_share_its_bounds_and_what_they_read() -> None:
    body = guarded("condval", "t[0]", "w[ry]") + guarded("condval_1", "t[1]", "w[(ry + 3)]")
    other = "      int32_t cse_v2 = (cse_v1 * 3);\n" + guarded("condval_2", "t[2]", "w[(ry + 6)]", value="x[cse_v2]")
    assert (
        without_guards(f"{LOOP}{body}{other}    }}\n")
        == """\
    const int32_t ry_begin = (1 - yy) > 0 ? (1 - yy) : 0;
    for (int32_t ry = ry_begin; ry < 3000; ++ry) {
      int32_t cse_v1 = (yy + ry);
      float condval = x[(cse_v1 - 1)];
      t[0] = (t[0] + (condval * w[ry]));
      t[1] = (t[1] + (condval * w[(ry + 3)]));
      int32_t cse_v2 = (cse_v1 * 3);
      float condval_2 = x[cse_v2];
      t[2] = (t[2] + (condval_2 * w[(ry + 6)]));
    }
"""
    )


def test_what_a_sum_writes_is_read_again() -> None:
    body = guarded("condval", "t[0]", "w[ry]", value="t[0]") + guarded("condval_1", "t[1]", "w[ry]", value="t[0]")
    made = without_guards(f"{LOOP}{body}    }}\n")
    assert "float condval = t[0];\n" in made
    assert "float condval_1 = t[0];\n" in made


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(guarded("condval_1", "t[1]", "w[ry]", test="2 <= cse_v1"), id="another test"),
        pytest.param("      t[1] = (t[1] + w[ry]);\n", id="a sum without a test"),
        pytest.param(
            guarded("condval_1", "t[1]", "w[ry]").replace("0.000000e+00f", "1.000000e+00f"), id="another number"
        ),
    ],
)
def test_sums_with_different_tests_keep_them(second: str) -> None:
    body = f"{LOOP}{guarded('condval', 't[0]', 'w[ry]')}{second}    }}\n"
    assert without_guards(body) == body


@pytest.mark.parametrize("text", [BOUNDED, SPLIT])
def test_what_is_bounded_is_not_rewritten_again(text: str) -> None:
    assert without_guards(text) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("0.000000e+00f", "1.000000e+00f", id="padding with another number"),
        pytest.param("0.000000e+00f", "-3.402823e+38f", id="padding of a maximum"),
        pytest.param("(condval * w[ry])", "(condval + w[ry])", id="a sum in the sum"),
        pytest.param("(condval * w[ry])", "(condval * w[ry] + w[0])", id="a product and more"),
        pytest.param("(condval * w[ry])", "(condval * condval)", id="a square"),
        pytest.param("(condval * w[ry])", "(w[ry] / condval)", id="a quotient"),
        pytest.param("(condval * w[ry])", "expf(condval)", id="a function of what is outside"),
        pytest.param("out[yy] = (out[yy] + (condval * w[ry]));", "out[yy] = max(out[yy], condval);", id="no sum"),
        pytest.param("out[yy] = (out[yy] + ", "out[yy] = (out[0] + ", id="a sum of something else"),
        pytest.param("(1 <= cse_v1) && (cse_v1 < 9)", "(1 <= cse_v1) || (cse_v1 < 9)", id="a choice"),
        pytest.param("(1 <= cse_v1) && (cse_v1 < 9)", "(cse_v1 % 2) == 0", id="a remainder"),
        pytest.param("(1 <= cse_v1) && (cse_v1 < 9)", "1 < (cse_v1 / 2)", id="a quotient of the index"),
        pytest.param("(1 <= cse_v1) && (cse_v1 < 9)", "(int64_t)1 <= ((int64_t)ry)", id="a cast"),
        pytest.param("(1 <= cse_v1) && (cse_v1 < 9)", "1 <= where[ry]", id="an index that is read"),
        pytest.param("(1 <= cse_v1) && (cse_v1 < 9)", "1 <= ((2 * ry) + yy)", id="a multiple of the loop variable"),
        pytest.param("int32_t ry = 0", "int64_t ry = 0", id="a loop of another type"),
        pytest.param("    }\n  }\n", "      count[0] = 1;\n    }\n  }\n", id="more behind the sum"),
        pytest.param("int32_t cse_v1 = (yy + ry);", "float cse_v1 = x[ry];", id="something else before the test"),
    ],
)
def test_other_forms_stay_as_they_are(before: str, after: str) -> None:
    body = PADDED.replace(before, after)
    assert body != PADDED
    assert without_guards(body) == body


def test_a_condition_that_is_no_bound_stays_a_test() -> None:
    made = without_guards(PADDED.replace("(cse_v1 < 9)", "((ry % 2) == 0)"))
    assert (
        made
        == """\
  for (int32_t yy = 0; yy < 8; ++yy) {
    out[yy] = 0.0f;
    const int32_t ry_begin = (1 - yy) > 0 ? (1 - yy) : 0;
    for (int32_t ry = ry_begin; ry < 3; ++ry) {
      int32_t cse_v1 = (yy + ry);
      if ((ry % 2 == 0)) {
        float condval = x[(cse_v1 - 1)];
        out[yy] = (out[yy] + (condval * w[ry]));
      }
    }
  }
"""
    )


def test_a_loop_that_does_more_than_the_sum_keeps_its_ends() -> None:
    body = """\
  for (int32_t ry = 0; ry < 3; ++ry) {
    for (int32_t rx = 0; rx < 3; ++rx) {
      float condval;
      if (1 <= ry) {
        condval = x[((ry + rx) - 1)];
      } else {
        condval = 0.0f;
      }
      sum = (sum + (condval * w[rx]));
    }
    count[ry] = 1;
  }
"""
    assert without_guards(body) == body


def test_a_condition_on_an_outer_loop_bounds_that_loop() -> None:
    body = """\
  for (int32_t ry = 0; ry < 3; ++ry) {
    int32_t row = (ry * 4);
    for (int32_t rx = 0; rx < 300; ++rx) {
      int8_t condval;
      if (((ry + top) <= 4) && (0 < rx)) {
        condval = x[(row + rx)];
      } else {
        condval = (int8_t)0;
      }
      sum = (sum + (((int32_t)condval) * ((int32_t)w[rx])));
    }
  }
"""
    assert (
        without_guards(body)
        == """\
  const int32_t ry_end = (5 - top) < 3 ? (5 - top) : 3;
  for (int32_t ry = 0; ry < ry_end; ++ry) {
    int32_t row = (ry * 4);
    const int32_t rx_begin = (1) > 0 ? (1) : 0;
    for (int32_t rx = rx_begin; rx < 300; ++rx) {
      int8_t condval = x[(row + rx)];
      sum = (sum + (((int32_t)condval) * ((int32_t)w[rx])));
    }
  }
"""
    )


def test_definitions_that_nothing_reads_any_more_are_dropped() -> None:
    body = PADDED.replace("x[(cse_v1 - 1)]", "x[((yy + ry) - 1)]")
    assert "cse_v1" not in without_guards(body)


def padded_sum(rng: random.Random, name: str) -> str:
    """Make a function of two sliding dimensions, with any stride, dilation, padding and further conditions."""
    size, kernel = [rng.randint(1, 7) for _ in "yx"], [rng.randint(1, 4) for _ in "yx"]
    stride, step = [rng.randint(1, 3) for _ in "yx"], [rng.randint(1, 2) for _ in "yx"]
    pad, out = [rng.randint(0, 4) for _ in "yx"], [rng.randint(1, 6) for _ in "yx"]
    places = [_sum(f"({stride[i]} * o{axis})", f"({step[i]} * r{axis})") for i, axis in enumerate("yx")]
    places = [place.replace("(1 * ", "(") for place in places]
    conditions = []
    for i, axis in enumerate("yx"):
        index = f"p{axis}" if rng.random() < 0.5 else places[i]
        lower = [
            f"({pad[i]} <= {index})",
            f"({pad[i] - 1} < {index})",
            f"({index} >= {pad[i]})",
            f"(0 <= ({index} - {pad[i]}))",
        ]
        upper = [
            f"({index} < {size[i] + pad[i]})",
            f"({index} <= {size[i] + pad[i] - 1})",
            f"({size[i] + pad[i]} > {index})",
        ]
        conditions += [rng.choice(lower), rng.choice(upper)]
    if rng.random() < 0.3:
        conditions.append(rng.choice(["((rx % 2) == 0)", "(oy < 3)", "(rx < 2)", "(-1 < (ry - oy))"]))
    rng.shuffle(conditions)
    term = rng.choice(["(condval * w[rw])", "(w[rw] * condval)", "(condval * (w[rw] - 3))", "condval"])
    loops = [
        f"for (int32_t {v} = 0; {v} < {n}; ++{v}) {{"
        for v, n in zip(("oy", "ox", "ry", "rx"), (*out, *kernel), strict=True)
    ]
    return f"""\
void {name}(const int32_t* restrict x, const int32_t* restrict w, int32_t* restrict out) {{
  {loops[0]}
    {loops[1]}
      int32_t sum;
      sum = 0;
      {loops[2]}
        int32_t py = {places[0]};
        {loops[3]}
          int32_t px = {places[1]};
          int32_t rw = ((ry * {kernel[1]}) + rx);
          int32_t condval;
          if ({" && ".join(conditions)}) {{
            condval = x[(((py - {pad[0]}) * {size[1]}) + (px - {pad[1]}))];
          }} else {{
            condval = 0;
          }}
          sum = (sum + {term});
        }}
      }}
      out[((oy * {out[1]}) + ox)] = sum;
    }}
  }}
}}
"""


def _sum(first: str, second: str) -> str:
    return f"({first} + {second})"


def test_random_sums_give_the_same_numbers_and_read_nothing_outside(tmp_path: Path) -> None:
    rng = random.Random(5)  # noqa: S311  # the same functions in every run
    text, calls, bounded = "#include <stdint.h>\n#include <stdio.h>\n", "", 0
    for number in range(120):
        plain = padded_sum(rng, f"plain{number}")
        head, _, body = plain.partition("\n")
        made = without_guards(body.removesuffix("}\n"))
        bounded += "condval;" not in made
        text += f"{plain}{head.replace('plain', 'made')}\n{made}}}\n"
        calls += f"  status |= differs(plain{number}, made{number}, {number});\n"
    text += """
typedef void function(const int32_t*, const int32_t*, int32_t*);
static int32_t x[49], w[16];
static int differs(function* plain, function* made, int number) {
  int32_t right[36], got[36], i;
  for (i = 0; i < 36; ++i) { right[i] = got[i] = -1; }
  plain(x, w, right);
  made(x, w, got);
  for (i = 0; i < 36; ++i) { if (right[i] != got[i]) { printf("%d\\n", number); return 1; } }
  return 0;
}
int main(void) {
  int status = 0, i;
  for (i = 0; i < 49; ++i) { x[i] = 7 * i - 90; }
  for (i = 0; i < 16; ++i) { w[i] = 5 * i - 31; }
"""
    (tmp_path / "sums.c").write_text(f"{text}{calls}  return status;\n}}\n")
    flags = [
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Wno-unused-variable",
        "-O1",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
    ]
    subprocess.run(["gcc", *flags, "sums.c", "-o", "sums"], cwd=tmp_path, check=True)
    done = subprocess.run([str(tmp_path / "sums")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert bounded > 60  # most are rewritten, or the test would show nothing
