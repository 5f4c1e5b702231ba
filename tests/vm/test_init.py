"""``lab init`` in a repository as they are found, and ``lab run`` of what it wrote, in a guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.doors.cli import main

from .conftest import run_lab

# A header that the Makefile makes, a Kbuild file in a folder below that reads one above it and
# hangs on an option, and a module that uses another's symbol. The first needs the kernel's own
# module x_tables, which is not built in.
GENERATES = """\
KERNEL_DIR := /lib/modules/$(shell uname -r)/build
obj-m := matcher.o
all: version.h
\t$(MAKE) -C $(KERNEL_DIR) M=$(CURDIR) modules
version.h:
\techo '#define VERSION "$(shell uname -r)"' > version.h
"""
MATCHER = """\
#include <linux/module.h>
#include <linux/netfilter/x_tables.h>
#include "version.h"
static unsigned int target(struct sk_buff *skb, const struct xt_action_param *par)
{
\treturn XT_CONTINUE;
}
static struct xt_target matcher __read_mostly = {
\t.name = "MATCHER", .family = NFPROTO_UNSPEC, .target = target, .me = THIS_MODULE,
};
static int __init matcher_init(void)
{
\tpr_info("for " VERSION "\\n");
\treturn xt_register_target(&matcher);
}
static void __exit matcher_exit(void)
{
\txt_unregister_target(&matcher);
}
module_init(matcher_init);
module_exit(matcher_exit);
MODULE_LICENSE("GPL");
"""
GIVER = """\
#include <linux/module.h>
#include "../../include/pair.h"
int pair_give(void) { return PAIR; }
EXPORT_SYMBOL_GPL(pair_give);
MODULE_LICENSE("GPL");
"""
TAKER = """\
#include <linux/module.h>
extern int pair_give(void);
static int __init taker_init(void) { return pair_give(); }
static void __exit taker_exit(void) { }
module_init(taker_init);
module_exit(taker_exit);
MODULE_LICENSE("GPL");
"""
TREE = {
    "net/Makefile": GENERATES,
    "net/matcher.c": MATCHER,
    "pair/src/Kbuild": "obj-$(CONFIG_PAIR) += taker.o giver.o\n",
    "pair/src/giver.c": GIVER,
    "pair/src/taker.c": TAKER,
    "include/pair.h": "#define PAIR 0\n",
}


@pytest.mark.timeout(1800)
def test_a_repository_is_under_test_with_two_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "repository"
    for name, text in TREE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert main(["init", str(root)]) == 0
    assert "not made out" not in capsys.readouterr().out
    ran = run_lab(tmp_path / "results", "--lab", root / "lab.yaml", "-k", "6.1")
    assert ran.status == 0
    assert {name: cell["outcome"] for (_, name), cell in ran.cells().items()} == {
        f"{module}/loads-twice": "passed" for module in ("matcher", "giver", "taker")
    }
    log = (ran.run_dir / "6.1/scenarios/matcher.loads-twice/kernel.log").read_text()
    release = ran.results["kernels"][0]["identity"]["release"]
    assert log.count(f"for {release}") == 2
