// SPDX-License-Identifier: GPL-2.0
/*
 * litter - leaves something behind when it is unloaded, for tests of the lab's verdicts
 *
 *	# insmod litter.ko what=proc
 *	# rmmod litter
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/errno.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/ioport.h>
#include <linux/kernel.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>
#include <linux/string.h>

/* Ports that nothing in a PC uses. */
#define LITTER_PORT	0x0a40

static char *what = "none";
module_param(what, charp, 0444);
MODULE_PARM_DESC(what,
		 "what to leave: none, proc, device, cache, region, ports; tidy: nothing; stuck: never to end");

static const struct proc_ops litter_proc_ops = {
	.proc_lseek = noop_llseek,
};

static const struct file_operations litter_fops = {
	.owner = THIS_MODULE,
};

static struct miscdevice litter_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "litter",
	.fops = &litter_fops,
};

static int __init litter_init(void)
{
	dev_t region;

	if (!strcmp(what, "proc"))
		return proc_create("litter", 0444, NULL, &litter_proc_ops) ?
			       0 : -ENOMEM;
	if (!strcmp(what, "device") || !strcmp(what, "tidy"))
		return misc_register(&litter_device);
	/* No cache like this is merged with another, so it has a name. */
	if (!strcmp(what, "cache"))
		return kmem_cache_create("litter_cache", 48, 0,
					 SLAB_TYPESAFE_BY_RCU, NULL) ?
			       0 : -ENOMEM;
	if (!strcmp(what, "region"))
		return alloc_chrdev_region(&region, 0, 1, "litter");
	if (!strcmp(what, "ports"))
		return request_region(LITTER_PORT, 4, "litter") ? 0 : -EBUSY;
	return 0;
}

static void __exit litter_exit(void)
{
	if (!strcmp(what, "tidy"))
		misc_deregister(&litter_device);
	while (!strcmp(what, "stuck"))
		msleep_interruptible(1000); /* here: stuck */
}

module_init(litter_init);
module_exit(litter_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Leaves something behind, for tests");
