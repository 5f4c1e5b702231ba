// SPDX-License-Identifier: GPL-2.0
/*
 * beep - the module that docs/own-module.md speaks of
 *
 *	# insmod beep.ko
 *	# echo 3 > /proc/beep
 *	# cat /proc/beep
 *	3
 *	# dmesg
 *	beep: beep!
 *	beep: beep!
 *	beep: beep!
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/uaccess.h>
#include <linux/version.h>

#define BEEP_MOST 100

static int buffer = 16;
module_param(buffer, int, 0444);
MODULE_PARM_DESC(buffer, "bytes that are kept, at least 1");

static unsigned int beep_count;

static ssize_t beep_read(struct file *file, char __user *to, size_t count, loff_t *pos)
{
	char text[16];
	int length = scnprintf(text, sizeof(text), "%u\n", READ_ONCE(beep_count));

	return simple_read_from_buffer(to, count, pos, text, length);
}

static ssize_t beep_write(struct file *file, const char __user *from, size_t count, loff_t *pos)
{
	unsigned int times, i;
	int ret = kstrtouint_from_user(from, count, 10, &times);

	if (ret)
		return ret;
	if (times > BEEP_MOST)
		return -EINVAL;
	for (i = 0; i < times; i++)
		pr_info("beep!\n");
	WRITE_ONCE(beep_count, times);
	return count;
}

/* d56c0d45f0e2 (v5.6) */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 6, 0)
static const struct proc_ops beep_ops = {
	.proc_read = beep_read,
	.proc_write = beep_write,
	.proc_lseek = default_llseek,
};
#else
static const struct file_operations beep_ops = {
	.owner = THIS_MODULE,
	.read = beep_read,
	.write = beep_write,
	.llseek = default_llseek,
};
#endif

static int __init beep_init(void)
{
	if (buffer < 1)
		return -EINVAL;
	return proc_create("beep", 0644, NULL, &beep_ops) ? 0 : -ENOMEM;
}

static void __exit beep_exit(void)
{
	remove_proc_entry("beep", NULL);
}

module_init(beep_init);
module_exit(beep_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Beeps as often as it is told to");
