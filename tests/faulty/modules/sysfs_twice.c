// SPDX-License-Identifier: GPL-2.0-only
/* One name, two files in /sys. */
#include <linux/kobject.h>
#include <linux/sysfs.h>
#include "zoo.h"

static struct kobject *folder;

static ssize_t level_show(struct kobject *kobj, struct kobj_attribute *attr,
			  char *to)
{
	return scnprintf(to, PAGE_SIZE, "1\n");
}

static struct kobj_attribute level = __ATTR_RO(level);
static struct kobj_attribute again = __ATTR(level, 0444, level_show, NULL);

static int __init zoo_init(void)
{
	int ret;

	folder = kobject_create_and_add(KBUILD_MODNAME, kernel_kobj);
	if (!folder)
		return -ENOMEM;
	ret = sysfs_create_file(folder, &level.attr);
	if (ret) {
		kobject_put(folder);
		return ret;
	}
	ret = sysfs_create_file(folder, &again.attr); /* fault */
	if (ret)
		pr_info("goes without the second file\n");
	return 0;
}

static void __exit zoo_exit(void)
{
	kobject_put(folder);
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Makes a file in /sys twice");
