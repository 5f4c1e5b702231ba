"""The first error of a build: where it is, what its line is, and what of it is not believed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan.apichanges import API_CHANGES
from orchestrator.plan.buildfailure import BuildFailure, first_error, parse_failure
from orchestrator.plan.version import KernelVersion

FOLDER = "/lab/src/dated"
BROKEN = """\
// SPDX-License-Identifier: GPL-2.0
#include <linux/module.h>

static int __init broken_init(void)
{
\treturn broken_nowhere_declared();
}
"""
DATED = "\n" * 10 + '\tdated_class = class_create(THIS_MODULE, "dated");\n'
FILES = {"broken.c": BROKEN, "dated.c": DATED, "sub/deep.h": "#error no\n"}
# gcc 14.2 in a guest with 6.12.117+deb13-cloud-amd64; some of the includes left out.
IN_A_MACRO = """\
make: Entering directory '/usr/src/linux-headers-6.12.117+deb13-cloud-amd64'
  CC [M]  /lab/src/dated/dated.o
In file included from /usr/src/linux-headers-6.12.117+deb13-common/include/linux/device.h:15,
                 from /lab/src/dated/dated.c:2:
/lab/src/dated/dated.c: In function 'dated_init':
/usr/src/linux-headers-6.12.117+deb13-common/include/linux/init.h:180:22: error: passing \
argument 1 of 'class_create' from incompatible pointer type [-Wincompatible-pointer-types]
  180 | #define THIS_MODULE (&__this_module)
      |                     ~^~~~~~~~~~~~~~~
      |                      |
      |                      struct module *
/lab/src/dated/dated.c:11:36: note: in expansion of macro 'THIS_MODULE'
   11 |         dated_class = class_create(THIS_MODULE, "dated");
      |                                    ^~~~~~~~~~~
In file included from /usr/src/linux-headers-6.12.117+deb13-common/include/linux/device.h:30:
/lab/src/dated/dated.c:11:23: error: too many arguments to function 'class_create'
   11 |         dated_class = class_create(THIS_MODULE, "dated");
      |                       ^~~~~~~~~~~~
make: Leaving directory '/usr/src/linux-headers-6.12.117+deb13-cloud-amd64'
"""
DECLARED = "implicit declaration of function 'broken_nowhere_declared'"


def lines_of(file: str) -> Sequence[str] | None:
    return FILES[file].split("\n") if file in FILES else None


def parse(output: str, version: str | None = "6.12", folder: str = FOLDER) -> BuildFailure:
    known = None if version is None else KernelVersion.parse(version)
    return parse_failure("dated", output, folder, known, lines_of)


def test_an_error_in_a_macro_of_the_kernel_is_where_the_module_uses_it() -> None:
    failure = parse(IN_A_MACRO)
    assert failure.place == "dated.c:11:36"
    assert failure.source == '        dated_class = class_create(THIS_MODULE, "dated");'
    assert failure.excerpt() == (
        '   11 | dated_class = class_create(THIS_MODULE, "dated");',
        "      |                            ^",
    )
    assert failure.explain() == (
        "dated does not build: dated.c:11:36: error: passing argument 1 of 'class_create' from "
        "incompatible pointer type [-Wincompatible-pointer-types]; likely: class_create() takes "
        "no owner: write class_create(name), since 6.4 (1aaba11da9aa)"
    )


def test_an_older_kernel_is_not_told_of_the_change() -> None:
    assert parse(IN_A_MACRO, "5.4.0-216-generic").change is None
    assert parse(IN_A_MACRO, None).change is None


@pytest.mark.parametrize(
    ("column", "excerpt"),
    [
        pytest.param(
            9, "    6 |  return broken_nowhere_declared();\n      |         ^", id="gcc 9"
        ),
        pytest.param(9, "  return broken_nowhere_declared();\n         ^", id="gcc 7"),
        pytest.param(
            16,
            "    6 |         return broken_nowhere_declared();\n      |                ^",
            id="gcc 12",
        ),
        pytest.param(9, "make: *** Error 1", id="no excerpt"),
    ],
)
def test_the_caret_is_below_the_column_however_tabs_are_counted(column: int, excerpt: str) -> None:
    failure = parse(f"{FOLDER}/broken.c:6:{column}: error: {DECLARED}\n{excerpt}\n")
    assert failure.excerpt() == (
        "    6 | return broken_nowhere_declared();",
        "      |        ^",
    )
    assert (failure.column, failure.caret) == (column, 15)


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        (f"{FOLDER}/broken.c", "broken.c"),
        ("broken.c", "broken.c"),  # 6.13 and later build in the module's own folder
        ("./broken.c", "broken.c"),
        ("sub/deep.h", "sub/deep.h"),
        ("../dated/broken.c", "../dated/broken.c"),
        ("/etc/passwd", "/etc/passwd"),
        ("include/linux/kernel.h", "include/linux/kernel.h"),
        (f"{FOLDER}-too/broken.c", f"{FOLDER}-too/broken.c"),
    ],
)
def test_only_what_the_host_calls_the_modules_own_is_shown(file: str, shown: str) -> None:
    failure = parse(f"{file}:1:2: error: no\n")
    assert failure.place == f"{shown}:1:2"
    assert bool(failure.source) == (shown in FILES)
    assert bool(failure.excerpt()) == (shown in FILES)


def test_a_line_that_is_not_what_was_compiled_is_not_shown() -> None:
    failure = parse(f"{FOLDER}/broken.c:6:9: error: no\n    6 |  return other();\n      |  ^\n")
    assert (failure.place, failure.source, failure.caret) == ("broken.c:6:9", "", None)


@pytest.mark.parametrize("line", ["0", "99", "999999999"])
def test_a_line_that_the_file_does_not_have(line: str) -> None:
    assert parse(f"{FOLDER}/broken.c:{line}:9: error: no\n").excerpt() == ()


def test_a_note_behind_the_next_error_is_not_taken() -> None:
    output = (
        "include/linux/a.h:1:1: error: one\n"
        "include/linux/b.h:1:1: error: two\n"
        f"{FOLDER}/broken.c:6:9: note: in expansion of macro 'TWO'\n"
    )
    assert parse(output).place == "include/linux/a.h:1:1"


def test_an_error_without_a_place() -> None:
    output = f'ERROR: modpost: "del_timer" [{FOLDER}/dated.ko] undefined!\nmake: *** Error 1\n'
    failure = parse(output, "6.17")
    assert (failure.file, failure.line, failure.place) == ("", None, "")
    assert failure.explain() == (
        'dated does not build: ERROR: modpost: "del_timer" [dated.ko] undefined!; likely: '
        "del_timer() is called timer_delete(), del_timer_sync() timer_delete_sync(), "
        "since 6.15 (8fa7292fee5c)"
    )


def test_a_very_long_message_is_cut_and_the_advice_is_not() -> None:
    failure = BuildFailure("m", "x" * 10_000, "m.c", 1, 1, "y" * 10_000, 9000, API_CHANGES[0])
    assert len(failure.explain()) < 600
    assert failure.explain().endswith(API_CHANGES[0].explain())
    assert [len(line) for line in failure.excerpt()] == [208]


def test_what_is_shown_is_safe() -> None:
    line, caret = BuildFailure("m", "no", "m.c", 3, 5, "  \x1b[2J\u202e = x;", 8).excerpt()
    assert line == "    3 | \\x1b[2J\\u202e = x;"
    assert caret.index("^") == line.index("=")


@given(st.text(alphabet="a.c/:0123456789 error:note\n|^\t'\x00\udc80", max_size=400))
def test_nothing_that_a_guest_prints_breaks_it(output: str) -> None:
    failure = parse(output)
    assert failure.explain().startswith("dated does not build: ")
    assert all(line.isprintable() for line in failure.excerpt())
    assert len(first_error(output)) <= 300
