// SPDX-License-Identifier: GPL-2.0
#include <linux/device.h>
#include <linux/err.h>
#include <linux/module.h>

static struct class *dated_class;

static int __init dated_init(void)
{
	/* Since 6.4 it takes no owner (1aaba11da9aa). */
	dated_class = class_create(THIS_MODULE, "dated");
	return PTR_ERR_OR_ZERO(dated_class);
}
module_init(dated_init);

static void __exit dated_exit(void)
{
	class_destroy(dated_class);
}
module_exit(dated_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Compiles before 6.4, for tests");
