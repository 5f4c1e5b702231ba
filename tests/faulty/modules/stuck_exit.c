// SPDX-License-Identifier: GPL-2.0-only
/* Waits at its end for a last user who never comes. */
#include <linux/completion.h>
#include "zoo.h"

static DECLARE_COMPLETION(drained);

static int __init zoo_init(void)
{
	return 0;
}

static void __exit zoo_exit(void)
{
	wait_for_completion(&drained); /* fault */
	pr_info("unloaded\n");
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Never ends its unload");
