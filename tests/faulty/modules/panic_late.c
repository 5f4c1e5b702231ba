// SPDX-License-Identifier: GPL-2.0-only
/* A watchdog that nobody stopped bites five seconds after the unload. */
#include <linux/timer.h>
#include "zoo.h"

static void bite(struct timer_list *unused);
static DEFINE_TIMER(watchdog, bite);

static void bite(struct timer_list *unused)
{
	pr_info("nobody fed the watchdog\n");
}

static int __init zoo_init(void)
{
	return 0;
}

static void __exit zoo_exit(void)
{
	mod_timer(&watchdog, jiffies + 5 * HZ); /* fault */
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Takes the kernel down after its own end");
