// SPDX-License-Identifier: GPL-2.0-only
/* Takes an entry off its list that was taken off before. */
#include <linux/list.h>
#include "zoo.h"

struct item {
	struct list_head list;
	int number;
};

static LIST_HEAD(items);
static struct item only = { .number = 1 };

static noinline void drop(struct item *item)
{
	list_del(&item->list); /* fault */
	pr_info("item %d dropped\n", item->number);
}

static ssize_t drop_write(struct file *file, const char __user *from,
			  size_t count, loff_t *pos)
{
	drop(&only);
	return count;
}

ZOO_PROC_OPS(NULL, drop_write);

static int __init zoo_init(void)
{
	list_add(&only.list, &items);
	return zoo_proc_create() ? 0 : -ENOMEM;
}

static void __exit zoo_exit(void)
{
	zoo_proc_remove();
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Removes from a list twice");
