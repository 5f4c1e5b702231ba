// SPDX-License-Identifier: GPL-2.0-only
/* Thinks that it cannot be unloaded. */
#include "zoo.h"

static int __init zoo_init(void)
{
	return 0;
}

static void __exit zoo_exit(void)
{
	int users = 1;

	OPTIMIZER_HIDE_VAR(users);
	if (users)
		panic("unloaded with %d users", users); /* fault */
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Panics when it is unloaded");
