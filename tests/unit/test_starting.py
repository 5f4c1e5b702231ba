"""``lab init``: what it finds in a repository, what it writes, and what it leaves alone."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.adapters.sources import entry_types
from orchestrator.doors.cli import main
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.starting import Survey, render_files, survey
from orchestrator.policy.runner import create_run_dir

KBUILD = "make -C $(KDIR) M=$(PWD) modules"


def find(**files: str) -> Survey:
    """What is found in a tree; ``__`` in a name is a slash, ``_dot_`` a point."""
    tree = {name.replace("__", "/").replace("_dot_", "."): text for name, text in files.items()}
    return survey(tree, "repo")


def built(found: Survey) -> dict[str, list[str]]:
    return {each.path: [module.name for module in each.modules] for each in found.folders}


# --- modules and folders -----------------------------------------------------------------------


def test_a_module_in_the_tree_itself() -> None:
    found = find(Makefile="obj-m := hello.o\n", hello_dot_c="int x;\n")
    (folder,) = found.folders
    assert (folder.name, folder.path, folder.folder, folder.make) == ("hello", ".", "", "")
    (module,) = folder.modules
    assert (module.file, module.line, module.sources) == ("Makefile", 1, ("hello.c",))
    assert not found.unclear


def test_kbuild_comes_before_makefile_as_kbuild_has_it() -> None:
    found = find(Kbuild="obj-m := a.o\n", Makefile="obj-m := b.o\n", a_dot_c="", b_dot_c="")
    assert built(found) == {".": ["a"]}


def test_a_folder_that_another_goes_on_to_is_built_with_it() -> None:
    found = find(
        Makefile="obj-m += sub/\n",
        sub__Makefile="obj-m := one.o\n",
        sub__one_dot_c="",
        apart__Makefile="obj-m := two.o\n",
        apart__two_dot_c="",
    )
    assert built(found) == {".": ["one"], "apart": ["two"]}


def test_a_makefile_that_only_goes_elsewhere_is_none() -> None:
    found = find(Makefile=f"all:\n\tcd src; {KBUILD}\n", src__Makefile="obj-m := m.o\n")
    assert built(found) == {"src": ["m"]}


def test_a_module_without_sources_is_told() -> None:
    (place,) = find(Makefile="\nobj-m := gone.o\n").unclear
    assert str(place) == "Makefile:2: gone: there is no gone.c"


def test_the_second_folder_of_a_module_is_left_out_and_told() -> None:
    found = find(a__Makefile="obj-m := x.o\n", b__Makefile="obj-m := x.o\n", a__x_dot_c="")
    assert built(found) == {"a": ["x"]}
    assert "b/Makefile:1: x is built by a/Makefile too" in str(found.unclear[-1])


def test_what_is_read_above_the_folder_is_sent_too() -> None:
    found = find(
        src__Makefile="obj-m := m.o\nccflags-y := -I$(src)/../include\n",
        src__m_dot_c='#include "m.h"\n',
        include__m_dot_h="",
    )
    (folder,) = found.folders
    assert (folder.path, folder.folder) == (".", "src")
    found = find(
        drv__src__Makefile="obj-m := m.o\n",
        drv__src__m_dot_c='#include "../common.h"\n',
        drv__common_dot_h="",
    )
    (folder,) = found.folders
    assert (folder.name, folder.path, folder.folder) == ("m", "drv", "src")


def test_what_is_above_the_tree_is_told() -> None:
    found = find(
        Makefile="obj-m := m.o\nall: # of ../all\n\techo ready...\nccflags-y := -I$(src)/../inc\n",
        m_dot_c='\n#include "../m.h"\n',
    )
    assert built(found) == {".": ["m"]}
    assert [str(place) for place in found.unclear] == [
        "Makefile:4: ../inc is read, which is above this folder: run `lab init` there",
        "m.c:2: ../m.h is read, which is above this folder: run `lab init` there",
    ]


def test_a_makefile_that_makes_a_source_is_run_itself() -> None:
    text = (
        f"KDIR := /x\nobj-m := m.o\nall: v.h\n\t{KBUILD}\n"
        f"v.h:\n\techo > v.h\nclean: v.h\n\t{KBUILD} clean\n"
    )
    (folder,) = find(Makefile=text, m_dot_c="").folders
    assert (folder.make, folder.why) == ("make KDIR=$KDIR all", "its Makefile makes v.h")
    (folder,) = find(Makefile=text, m_dot_c="", v_dot_h="").folders
    assert folder.make == "", "the header is there"


def test_a_tool_that_is_made_beside_the_module_is_not_waited_for() -> None:
    text = f"obj-m := m.o\nall: mkfs\n\t{KBUILD}\nmkfs: mkfs.c\n\tcc\n"
    (folder,) = find(Makefile=text, m_dot_c="").folders
    assert folder.make == ""


def test_options_of_its_own_are_set() -> None:
    (folder,) = find(Makefile="obj-$(CONFIG_M) += m.o\n", m_dot_c="").folders
    assert folder.make == "make -C $KDIR M=$PWD CONFIG_M=m modules"


# --- dkms.conf -----------------------------------------------------------------------------------


def test_dkms_adds_nothing_where_kbuild_does() -> None:
    conf = "BUILT_MODULE_NAME=m\nMAKE='make all the things'\n"
    (folder,) = find(Makefile="obj-m := m.o\n", m_dot_c="", dkms_dot_conf=conf).folders
    assert folder.make == ""


def test_dkms_prepares_a_tree_and_names_what_no_makefile_does() -> None:
    conf = "BUILT_MODULE_NAME[0]=m\nPRE_BUILD=./configure\nMAKE='make m.ko'\n"
    (folder,) = find(sub__dkms_dot_conf=conf).folders
    assert (folder.path, folder.make) == ("sub", "./configure && make m.ko")
    found = find(dkms_dot_conf=conf, Makefile_dot_in="obj-m := m.o\n", m_dot_c="")
    assert [each.make for each in found.folders] == ["./configure && make m.ko"]


# --- order -----------------------------------------------------------------------------------


def test_modules_that_others_need_come_first() -> None:
    found = find(
        Makefile="obj-m := a.o b.o c.o d.o\n",
        a_dot_c='MODULE_SOFTDEP("pre: other d");\n',
        b_dot_c="void f(void) { give(); }\n",
        c_dot_c="EXPORT_SYMBOL_GPL(give);\nint x = also();\n",
        d_dot_c='EXPORT_SYMBOL_NS(also, "X");\n',
    )
    assert [(each.name, each.first) for each in found.modules] == [
        ("d", ()),
        ("a", ("d",)),
        ("c", ("d",)),
        ("b", ("d", "c")),
    ]


def test_two_that_need_each_other_end() -> None:
    found = find(
        Makefile="obj-m := a.o b.o\n",
        a_dot_c="EXPORT_SYMBOL(one); two();",
        b_dot_c="EXPORT_SYMBOL(two); one();",
    )
    assert {each.name: each.first for each in found.modules} == {"a": ("b",), "b": ("a",)}


def test_parameters_are_told_where_a_load_may_want_them() -> None:
    text = (
        "module_param(path, charp, 0);\n/* module_param(no, int, 0) */\nmodule_param(x, int, 0);\n"
    )
    found = find(Makefile="obj-m := a.o b.o\n", a_dot_c=text, b_dot_c="")
    files = render_files(found, "x", "scenarios")
    assert "`parameters: {NAME: VALUE}`. It takes path, x.\n" in files["scenarios/a.yaml"]
    assert "parameters" not in files["scenarios/b.yaml"]


def test_a_livepatch_is_switched_off_before_it_goes() -> None:
    found = find(Makefile="obj-m := a-b.o\n", **{"a-b_dot_c": "return klp_enable_patch(&p);\n"})
    text = render_files(found, "x", "scenarios")["scenarios/a-b.yaml"]
    assert text.count("echo 0 > /sys/kernel/livepatch/a_b/enabled; ") == 2


# --- what the kernel must have ---------------------------------------------------------------


def test_drivers_that_small_kernels_lack_are_asked_for() -> None:
    found = find(
        Makefile="obj-m := m.o\n",
        m_dot_c='\n#include "m.h"\n#include <linux/hwmon.h>\n',
        m_dot_h="#include <media/v4l2-device.h>\n",
    )
    assert [(d.header, d.file, d.line, d.extra) for d in found.drivers] == [
        ("linux/hwmon.h", "m.c", 3, False),
        ("media/v4l2-device.h", "m.h", 1, True),
    ]
    text = render_files(found, "x", "scenarios")["lab.yaml"]
    assert '"5.4": {image: focal, version: "5.4", extra: true}' in text
    assert text.count("flavour: amd64}") == 4
    plain = find(Makefile="obj-m := m.o\n", m_dot_c="#include <linux/proc_fs.h>\n")
    text = render_files(plain, "x", "scenarios")["lab.yaml"]
    assert "extra: true" not in text
    assert "flavour: amd64}" not in text


# --- the command -----------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "my driver"
    (root / "src").mkdir(parents=True)
    (root / "src/Makefile").write_text("obj-m := one.o two-b.o\nobj-m += $(shell x).o\n")
    (root / "src/one.c").write_text("int f(void) { return give(); }\n")
    (root / "src/two-b.c").write_text("EXPORT_SYMBOL(give);\n")
    monkeypatch.chdir(root)
    return root


def test_a_lab_is_written_that_can_be_read(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines() == [
        "found:",
        "  src/Makefile:1: two-b",
        "  src/Makefile:1: one, after two-b",
        "not made out:",
        "  src/Makefile:2: obj-m: $(shell x) is not known without running make",
        "written:",
        "  lab.yaml",
        "  scenarios/two-b.yaml",
        "  scenarios/one.yaml",
        "  .kmod-lab, for editors",
        "results go to lab-results/ beside lab.yaml, which git does not see",
        "next: lab run -k 6.1      one kernel; without -k, five",
    ]
    for file in (repository / "lab.yaml", repository / "scenarios/one.yaml"):
        line = file.read_text().partition("\n")[0]
        schema = file.parent / line.removeprefix("# yaml-language-server: $schema=")
        assert "properties" in json.loads(schema.read_text())
    lab = load_lab(repository / "lab.yaml", entry_types())
    assert lab.file.lab == "my-driver"
    assert lab.module_dirs == {"my-driver": repository / "src"}
    assert list(lab.file.kernels) == ["5.4", "5.10", "6.1", "6.12", "7.x"]
    assert {each.name: each.modules for each in lab.scenarios} == {
        "one/loads-twice": ("two-b", "one"),
        "two-b/loads-twice": ("two-b",),
    }
    steps = [step.title for step in lab.scenarios[1].scenario.steps]
    assert steps == ["load two-b", "unload two-b"] * 2


def test_a_folder_is_named_and_every_form_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "gen").mkdir()
    (tmp_path / "src/Kbuild").write_text("obj-m := yes.o\nccflags-y := -I$(src)/..\n")
    (tmp_path / "src/yes.c").write_text('#include "../a.h"\n')
    (tmp_path / "a.h").touch()
    (tmp_path / "gen/Makefile").write_text("obj-$(CONFIG_Q) := 1e3.o\n")
    (tmp_path / "gen/1e3.c").touch()
    assert main(["init", str(tmp_path)]) == 0
    lab = load_lab(tmp_path / "lab.yaml", entry_types())
    one, two = lab.file.modules["1e3"], lab.file.modules["yes"]
    assert (one.path, one.make) == ("gen", "make -C $KDIR M=$PWD CONFIG_Q=m modules")
    assert (two.path, two.folder, two.make) == (".", "src", None)
    assert {each.modules for each in lab.scenarios} == {("yes",), ("1e3",)}


def test_nothing_is_written_over(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "lab.yaml").write_text("mine")
    assert main(["init"]) == 2
    assert "lab.yaml is there already, and is not written over" in capsys.readouterr().err
    assert (repository / "lab.yaml").read_text() == "mine"
    assert not (repository / "scenarios").exists()
    (repository / "lab.yaml").unlink()
    (repository / "scenarios").mkdir()
    (repository / "scenarios/one.yaml").write_text("theirs")
    assert main(["init"]) == 0
    assert (repository / "scenarios/one.yaml").read_text() == "theirs"
    assert (repository / "lab-scenarios/one.yaml").exists()
    assert "  - lab-scenarios/*.yaml" in (repository / "lab.yaml").read_text()


def test_a_folder_without_modules_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Makefile").write_text("obj-m := $(NAMES)\n")
    assert main(["init", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "no module was found in" in said
    assert "Makefile:1: obj-m: $(NAMES) is not set in this file" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Makefile"]
    assert main(["init", str(tmp_path / "none")]) == 2


def test_what_a_file_says_is_shown_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Makefile").write_text("obj-m := a.o $(\x1b[2J)\nobj-m += b.o\n")
    (tmp_path / "b.c").touch()
    assert main(["init", str(tmp_path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_does_not_see_results(repository: Path) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    run_dir = create_run_dir(repository / "lab-results", "run")
    (run_dir.root / "report.txt").touch()
    (repository / "lab-results/.gitignore").chmod(0o444)
    create_run_dir(repository / "lab-results", "again")
    seen = subprocess.run(["git", "status", "--porcelain"], check=True, capture_output=True)
    assert seen.stdout.decode().splitlines() == ["?? src/"]
