// SPDX-License-Identifier: GPL-2.0
/*
 * ktaplog: a module that tests itself and logs it as KTAP
 *
 *	# insmod ktaplog.ko fails=1
 *	# dmesg
 *	ktaplog: KTAP version 1
 *	ktaplog: 1..1
 *	ktaplog:   KTAP version 1
 *	ktaplog:   1..2
 *	ktaplog:   ok 1 adds
 *	ktaplog:   # subtracts: expected 1, found 3
 *	ktaplog:   not ok 2 subtracts
 *	ktaplog: not ok 1 sums
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/init.h>
#include <linux/module.h>

static bool fails;
module_param(fails, bool, 0444);
MODULE_PARM_DESC(fails, "whether the second test fails");

static int __init ktaplog_init(void)
{
	pr_info("KTAP version 1\n");
	pr_info("1..1\n");
	pr_info("  KTAP version 1\n");
	pr_info("  1..2\n");
	pr_info("  ok 1 adds\n");
	if (fails)
		pr_info("  # subtracts: expected 1, found 3\n");
	pr_info("  %s 2 subtracts\n", fails ? "not ok" : "ok");
	pr_info("%s 1 sums\n", fails ? "not ok" : "ok");
	return 0;
}

static void __exit ktaplog_exit(void)
{
}

module_init(ktaplog_init);
module_exit(ktaplog_exit);

MODULE_DESCRIPTION("Logs KTAP");
MODULE_LICENSE("GPL");
