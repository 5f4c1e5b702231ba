// SPDX-License-Identifier: GPL-2.0-only
/* Thinks that nothing can go on without it. */
#include <linux/kernel.h>
#include "zoo.h"

static int __init zoo_init(void)
{
	void *found = NULL;

	OPTIMIZER_HIDE_VAR(found);
	if (!found)
		panic("no controller found"); /* fault */
	return 0;
}

static void __exit zoo_exit(void)
{
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Panics when it is loaded");
