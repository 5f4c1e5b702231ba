// SPDX-License-Identifier: GPL-2.0-only
/* One name, two entries in /proc. */
#include "zoo.h"

ZOO_PROC_OPS(NULL, NULL);

static int __init zoo_init(void)
{
	struct proc_dir_entry *state, *control;

	state = proc_create(KBUILD_MODNAME, 0444, NULL, &zoo_proc_ops);
	if (!state)
		return -ENOMEM;
	control = proc_create(KBUILD_MODNAME, 0200, NULL, &zoo_proc_ops); /* fault */
	if (!control)
		pr_info("goes without a control file\n");
	return 0;
}

static void __exit zoo_exit(void)
{
	zoo_proc_remove();
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Makes an entry in /proc twice");
