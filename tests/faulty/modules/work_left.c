// SPDX-License-Identifier: GPL-2.0-only
/* The work is still to be done when the module is gone. */
#include <linux/workqueue.h>
#include "zoo.h"

static void refresh(struct work_struct *unused);
static DECLARE_DELAYED_WORK(work, refresh);

static void refresh(struct work_struct *unused)
{
	schedule_delayed_work(&work, HZ / 2);
}

static int __init zoo_init(void)
{
	schedule_delayed_work(&work, HZ / 2);
	return 0;
}

static void __exit zoo_exit(void)
{
	pr_info("unloaded\n"); /* fault */
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Leaves work to be done");
