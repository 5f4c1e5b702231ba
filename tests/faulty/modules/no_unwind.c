// SPDX-License-Identifier: GPL-2.0-only
/* Where loading fails, what was made before stays. */
#include "zoo.h"

static int unit;
module_param(unit, int, 0444);
MODULE_PARM_DESC(unit, "which unit to drive: 0 or 1");

ZOO_PROC_OPS(NULL, NULL);

static int __init zoo_init(void)
{
	if (!zoo_proc_create())
		return -ENOMEM;
	if (unit < 0 || unit > 1)
		return -ENODEV; /* fault */
	return 0;
}

static void __exit zoo_exit(void)
{
	zoo_proc_remove();
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Leaves an entry in /proc where it fails to load");
