"""What Makefiles and dkms.conf say of modules, read without running anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan.dkms import DkmsModule, parse_dkms
from orchestrator.plan.makefiles import BuiltObject, Unclear, parse_makefile


def names(text: str, *beside: str) -> list[str]:
    return [each.name for each in parse_makefile(text, beside).objects]


# --- modules -----------------------------------------------------------------------------------


def test_modules_are_named_by_obj_m() -> None:
    assert parse_makefile("obj-m := hello.o\nobj-m += two.o three.o\n").objects == (
        BuiltObject("hello", 1),
        BuiltObject("two", 2),
        BuiltObject("three", 2),
    )


def test_a_module_of_several_objects() -> None:
    text = "obj-m += big.o\nbig-objs := one.o sub/two.o\nbig-y += three.o\nother-y := four.o\n"
    assert parse_makefile(text).objects == (BuiltObject("big", 1, ("one", "sub/two", "three")),)


def test_objects_that_hang_on_the_kernel_count_too() -> None:
    text = "obj-m += big.o\nbig-y := one.o\nbig-$(CONFIG_PCI) += pci.o\n"
    assert parse_makefile(text).objects[0].parts == ("one", "pci")


def test_variables_and_their_functions() -> None:
    assert names("NAME = late.o\nobj-m := $(NAME)\n") == ["late"]
    assert names("A := one\nobj-m := ${A}.o\n") == ["one"]
    assert names("T := x\nobj-m := $(T).o\n$(T)-y := part.o\n") == ["x"]
    assert names("L := a.c b.c\nobj-m := $(L:.c=.o)\n") == ["a", "b"]
    assert names("L := a b\nobj-m := $(addsuffix .o, $(L))\n") == ["a", "b"]
    assert names("obj-m := $(patsubst %.c,%.o,$(wildcard *.c))\n", "a.c", "b.c", "c.h") == [
        "a",
        "b",
    ]


def test_both_branches_count() -> None:
    text = "ifeq ($(X),y)\n\tobj-m += one.o\nelse\nobj-m += two.o\nendif\n"
    assert names(text) == ["one", "two"]


def test_lines_go_on_after_a_backslash_and_end_at_a_comment() -> None:
    text = "# obj-m := no.o\nobj-m := a.o \\\n  b.o # c.o\nobj-m += d.o\n"
    assert [(each.name, each.line) for each in parse_makefile(text).objects] == [
        ("a", 2),
        ("b", 2),
        ("d", 4),
    ]


def test_what_is_in_a_recipe_or_a_define_names_nothing() -> None:
    assert names("all:\n\tobj-m := no.o\ndefine X\nobj-m := no.o\nendef\nobj-m := a.o\n") == ["a"]


def test_folders_that_it_goes_on_to() -> None:
    made = parse_makefile("obj-m += sub/\nobj-y := core/ no.o\nobj-$(CONFIG_X) += more/\n")
    assert (made.folders, made.objects, made.options) == (
        ("sub", "core", "more"),
        (),
        ("CONFIG_X",),
    )


def test_options_that_the_file_does_not_set_itself() -> None:
    text = "CONFIG_A ?= m\nobj-$(CONFIG_A) := a.o\nobj-${CONFIG_B} := b.o\nobj-$(CONFIG_C) :=\n"
    made = parse_makefile(text)
    assert [each.name for each in made.objects] == ["a", "b"]
    assert made.options == ("CONFIG_B",)


def test_an_option_that_is_exported_is_for_the_make_that_is_started() -> None:
    text = "ifneq ($(KERNELRELEASE),)\nobj-$(CONFIG_A) := a.o\nelse\nexport CONFIG_A = m\nendif\n"
    assert parse_makefile(text).options == ("CONFIG_A",)


def test_what_takes_make_to_know_is_told_with_its_line() -> None:
    made = parse_makefile("obj-m := a.o\n\nobj-m += $(shell ls).o\nobj-m += $(NONE).o\n")
    assert [each.name for each in made.objects] == ["a"]
    assert made.unclear == (
        Unclear(3, "obj-m: $(shell ls) is not known without running make"),
        Unclear(4, "obj-m: $(NONE) is not set in this file"),
    )


def test_a_variable_of_itself_ends() -> None:
    (unclear,) = parse_makefile("A = $(A)\nobj-m := $(A)\n").unclear
    assert unclear == Unclear(2, "obj-m: it refers to itself")


def test_a_variable_that_doubles_ends() -> None:
    lines = ["A0 = " + "x" * 1000] + [f"A{n + 1} = $(A{n}) $(A{n})" for n in range(15)]
    (unclear,) = parse_makefile("\n".join([*lines, "obj-m := $(A15)"])).unclear
    assert unclear.message == "obj-m: it is too long"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "\n".join(["A0 =", *(f"A{n + 1} = " + f"$(A{n})" * 10 for n in range(18)), "x: $(A18)"]),
        "a" + " " * 99_000 + "b",
        "a: b\n\t" + "-C x " * 19_000,
        "a" * 50_000 + "$(" * 20_000,
        "$(A" * 30_000 + ")" * 30_000 + " := x",
    ],
    ids=["many references", "blanks", "a recipe", "open brackets", "nested brackets"],
)
def test_no_text_takes_for_ever(text: str) -> None:
    assert [each.name for each in parse_makefile(f"obj-m := a.o\n{text}\n").objects] == ["a"]
    assert parse_dkms(f"BUILT_MODULE_NAME=a\nMAKE='{'$dkms_tree/' * 9000}'").modules


@given(st.text(alphabet="abo-m:=+$(){}, \n\t\\#%./", max_size=300))
def test_any_text_is_read(text: str) -> None:
    made = parse_makefile(f"obj-m := safe.o\n{text}", ["a.c"])
    assert isinstance(made.objects, tuple)


# --- rules -------------------------------------------------------------------------------------

GENERATING = """\
KERNEL_DIR ?= /lib/modules/$(shell uname -r)/build
OPTS := -C $(KERNEL_DIR) M=$(CURDIR)
obj-m += x.o
build: version.h | out
\t$(MAKE) $(OPTS) modules
version.h: Makefile
\techo > version.h
"""


def test_the_rule_that_runs_the_kernels_make() -> None:
    build, version = parse_makefile(GENERATING).rules
    assert (build.targets, build.needs) == (("build",), ("version.h", "out"))
    assert build.runs_kernel_make
    assert build.kernel_variable == "KERNEL_DIR"
    assert (version.targets, version.runs_kernel_make) == (("version.h",), False)


# --- dkms.conf -----------------------------------------------------------------------------------


def test_a_dkms_conf() -> None:
    dkms = parse_dkms(
        'PACKAGE_NAME="pair"\n'
        "BUILT_MODULE_NAME[0]=$PACKAGE_NAME\nBUILT_MODULE_LOCATION[0]='src/'\n"
        'BUILT_MODULE_NAME[1]="other"\n'
        'MAKE[0]="make KDIR=${kernel_source_dir} M=$dkms_tree/pair/1.0/build V=$kernelver"\n'
        'PRE_BUILD="./configure"\n'
    )
    assert dkms.modules == (DkmsModule("pair", "src", 2), DkmsModule("other", "", 4))
    assert dkms.make == "make KDIR=${kernel_source_dir} M=$PWD V=$kernelver"
    assert (dkms.pre_build, dkms.unclear) == ("./configure", ())


def test_one_module_needs_no_number() -> None:
    dkms = parse_dkms("BUILT_MODULE_NAME=one\nMAKE='make one.ko'\n")
    assert (dkms.modules, dkms.make) == ((DkmsModule("one", "", 1),), "make one.ko")


def test_what_takes_a_shell_is_told() -> None:
    dkms = parse_dkms("BUILT_MODULE_NAME=$(cat NAME)\nMAKE=`x`\nif [ a ]; then\n  . b\nfi\n")
    assert dkms.modules == ()
    assert dkms.unclear == (
        (1, "BUILT_MODULE_NAME is more than plain text"),
        (2, "MAKE is more than plain text"),
    )
