// SPDX-License-Identifier: GPL-2.0
/*
 * procfs1 - /proc/helloworld, a file that can only be read
 *
 *	# insmod procfs1.ko
 *	# cat /proc/helloworld
 *	HelloWorld!
 *	# rmmod procfs1
 *	# dmesg
 *	procfs1: /proc/helloworld created
 *	procfs1: procfile read helloworld: 12 bytes at 0
 *	procfs1: procfile read helloworld: end of file at 12
 *	procfs1: /proc/helloworld removed
 *
 * The file holds the twelve bytes of the greeting with its newline. A read
 * gets at most what it asked for, from its offset on; the next one goes on
 * there, and at the end there is 0 for as long as one asks. A read whose
 * memory is bad gets the bytes that could be written, or EFAULT if there are
 * none:
 *
 *	procfs1: procfile read helloworld: error -14 at 0
 *
 * Each read that asks for something is logged, but anybody may read: above a
 * hundred in five seconds the rest is only counted. The kernel gives the count
 * from time to time ("procfs1_log_read: 7 callbacks suppressed"), and the
 * module the whole of it when it goes, if there is any:
 *
 *	procfs1: 7 calls were not logged
 *
 * The mode is 0644 and there is nothing to write: write(2) fails with EIO.
 * stat(2) gives size 0, as for most of /proc; lseek(2) knows the end.
 *
 * A file that is open does not hold the module. Once it is gone, reads from
 * the file that is still open fail with EIO. proc sees to it: no handler runs
 * after proc_remove(), and that waits for those that do.
 *
 * If the name is taken, proc_create() warns and gives no entry, and it gives
 * none for want of memory; it does not say which, and so the load fails with
 * ENOMEM either way:
 *
 *	procfs1: /proc/helloworld could not be created
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/printk.h>
#include <linux/proc_fs.h>
#include <linux/ratelimit.h>

#include "compat.h"

#define PROCFS1_NAME "helloworld"

static const char procfs1_greeting[] = "HelloWorld!\n";
#define PROCFS1_LENGTH (sizeof(procfs1_greeting) - 1)

static DEFINE_RATELIMIT_STATE(procfs1_log_limit, 5 * HZ, 100);
static atomic_t procfs1_unlogged = ATOMIC_INIT(0);

static struct proc_dir_entry *procfs1_entry;

static void procfs1_log_read(ssize_t ret, loff_t pos)
{
	if (!__ratelimit(&procfs1_log_limit)) {
		atomic_inc(&procfs1_unlogged);
		return;
	}

	if (ret < 0)
		pr_info("procfile read %s: error %zd at %lld\n", PROCFS1_NAME,
			ret, pos);
	else if (!ret)
		pr_info("procfile read %s: end of file at %lld\n",
			PROCFS1_NAME, pos);
	else
		pr_info("procfile read %s: %zd bytes at %lld\n", PROCFS1_NAME,
			ret, pos);
}

static ssize_t procfs1_read(struct file *file, char __user *to, size_t count,
			    loff_t *ppos)
{
	loff_t pos = *ppos;
	ssize_t ret;

	if (!count)
		return 0;

	ret = simple_read_from_buffer(to, count, ppos, procfs1_greeting,
				      PROCFS1_LENGTH);
	procfs1_log_read(ret, pos);
	return ret;
}

static loff_t procfs1_lseek(struct file *file, loff_t offset, int whence)
{
	return compat_file_llseek(file, offset, whence, PROCFS1_LENGTH);
}

static const struct proc_ops procfs1_ops = {
	.proc_read = procfs1_read,
	.proc_lseek = procfs1_lseek,
};

static int __init procfs1_init(void)
{
	procfs1_entry = proc_create(PROCFS1_NAME, 0644, NULL, &procfs1_ops);
	if (!procfs1_entry) {
		pr_err("/proc/%s could not be created\n", PROCFS1_NAME);
		return -ENOMEM;
	}

	pr_info("/proc/%s created\n", PROCFS1_NAME);
	return 0;
}

static void __exit procfs1_exit(void)
{
	int unlogged;

	proc_remove(procfs1_entry);
	unlogged = atomic_read(&procfs1_unlogged);
	if (unlogged)
		pr_info("%d calls were not logged\n", unlogged);
	pr_info("/proc/%s removed\n", PROCFS1_NAME);
}

module_init(procfs1_init);
module_exit(procfs1_exit);

MODULE_DESCRIPTION("A greeting in /proc/helloworld");
MODULE_AUTHOR("The lab developers");
MODULE_LICENSE("GPL");
