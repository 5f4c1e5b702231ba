// SPDX-License-Identifier: GPL-2.0-only
/* The thread runs on when the module is gone. */
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include "zoo.h"

static struct task_struct *thread;

static int watch(void *unused)
{
	while (!kthread_should_stop())
		msleep(500);
	return 0;
}

static int __init zoo_init(void)
{
	thread = kthread_run(watch, NULL, KBUILD_MODNAME);
	return PTR_ERR_OR_ZERO(thread);
}

static void __exit zoo_exit(void)
{
	pr_info("unloaded\n"); /* fault */
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Leaves a thread running");
