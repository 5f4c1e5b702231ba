// SPDX-License-Identifier: GPL-2.0-only
/* The timer runs on when the module is gone. */
#include <linux/timer.h>
#include "zoo.h"

static void beat(struct timer_list *unused);
static DEFINE_TIMER(timer, beat);

static void beat(struct timer_list *unused)
{
	mod_timer(&timer, jiffies + HZ / 2);
}

static int __init zoo_init(void)
{
	mod_timer(&timer, jiffies + HZ / 2);
	return 0;
}

static void __exit zoo_exit(void)
{
	pr_info("unloaded\n"); /* fault */
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Leaves a timer running");
