// SPDX-License-Identifier: GPL-2.0-only
/* A tag was put into the upper bits of a pointer and never taken out. */
#include "zoo.h"

#define WILD_TAG	(1UL << 62)

static int value = 7;
static unsigned long tagged;

static ssize_t value_read(struct file *file, char __user *to, size_t count,
			  loff_t *pos)
{
	int found = READ_ONCE(*(int *)tagged); /* fault */
	char text[16];
	int len = scnprintf(text, sizeof(text), "%d\n", found);

	return simple_read_from_buffer(to, count, pos, text, len);
}

ZOO_PROC_OPS(value_read, NULL);

static int __init zoo_init(void)
{
	tagged = (unsigned long)&value & ~WILD_TAG;
	return zoo_proc_create() ? 0 : -ENOMEM;
}

static void __exit zoo_exit(void)
{
	zoo_proc_remove();
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Uses an address that cannot be");
