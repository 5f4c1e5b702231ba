// SPDX-License-Identifier: GPL-2.0
/*
 * procfs4 - /proc/iter, a seq_file that counts how often it was read through
 *
 *	# insmod procfs4.ko
 *	# cat /proc/iter
 *	0
 *	# cat /proc/iter
 *	1
 *	# dd if=/proc/iter bs=1 status=none
 *	2
 *	# rmmod procfs4
 *	# dmesg
 *	procfs4: /proc/iter created
 *	procfs4: /proc/iter removed
 *
 * The sequence has one record, the number of this reading and a newline, and
 * then it ends: an open file gives 0 from there on, until it is rewound.
 *
 * A reading begins with a read(2) or pread(2) at offset 0 and takes the next
 * number, so that two that race never show the same one. Reads at any other
 * offset go on with the number that their open file took last, however many
 * there are and however small; if it has none yet they take one. A number of
 * which not one byte reached the reader (EFAULT, a read of no bytes, an offset
 * behind the end, an lseek(2)) is not lost: the open file keeps it for its
 * next reading. It is lost with the file, when that is closed.
 *
 * The mode is 0444 and there is nothing to write: root may open for writing,
 * and write(2) fails with EIO. stat(2) gives size 0. lseek(2) knows SEEK_SET
 * and SEEK_CUR and refuses the rest with EINVAL, as every seq_file does. A
 * file that is open does not hold the module: see procfs1.c, also for a name
 * that is taken:
 *
 *	procfs4: /proc/iter could not be created
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/printk.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#include "compat.h"

#define PROCFS4_NAME "iter"

/* The last number that was taken. */
static atomic64_t procfs4_last = ATOMIC64_INIT(-1);

static struct proc_dir_entry *procfs4_entry;

/**
 * struct procfs4_reading - what an open file knows about its sequence
 * @lock: held by every call that can start the sequence
 * @number: the record, if @taken
 * @taken: a number was taken
 * @shown: and the reader has got some of it
 *
 * seq_file starts the same sequence as often as it likes: to skip to an
 * offset, to retry with a larger buffer, to look for more after a partial
 * read. Hence ->start() only looks up the number, and procfs4_read(), which
 * knows where the reader is, says when the old one has served.
 */
struct procfs4_reading {
	struct mutex lock; /* see above */
	u64 number;
	bool taken;
	bool shown;
};

static void *procfs4_seq_start(struct seq_file *seq, loff_t *pos)
{
	struct procfs4_reading *reading = seq->private;

	if (*pos)
		return NULL;

	if (!reading->taken) {
		reading->number = atomic64_inc_return(&procfs4_last);
		reading->taken = true;
	}
	return reading;
}

static void *procfs4_seq_next(struct seq_file *seq, void *v, loff_t *pos)
{
	++*pos;
	return NULL;
}

static void procfs4_seq_stop(struct seq_file *seq, void *v)
{
}

static int procfs4_seq_show(struct seq_file *seq, void *v)
{
	struct procfs4_reading *reading = v;

	seq_printf(seq, "%llu\n", (unsigned long long)reading->number);
	return 0;
}

static const struct seq_operations procfs4_seq_ops = {
	.start = procfs4_seq_start,
	.next = procfs4_seq_next,
	.stop = procfs4_seq_stop,
	.show = procfs4_seq_show,
};

static struct procfs4_reading *procfs4_reading_of(struct file *file)
{
	struct seq_file *seq = file->private_data;

	return seq->private;
}

static int procfs4_open(struct inode *inode, struct file *file)
{
	struct procfs4_reading *reading;

	reading = __seq_open_private(file, &procfs4_seq_ops, sizeof(*reading));
	if (!reading)
		return -ENOMEM;

	mutex_init(&reading->lock);
	return 0;
}

static ssize_t procfs4_read(struct file *file, char __user *to, size_t count,
			    loff_t *ppos)
{
	struct procfs4_reading *reading = procfs4_reading_of(file);
	ssize_t ret;

	/* Before v5.10 (d4d50710a8b4) seq_read() would start a sequence. */
	if (!count)
		return 0;

	mutex_lock(&reading->lock);
	if (!*ppos && reading->shown) {
		reading->taken = false;
		reading->shown = false;
	}
	ret = seq_read(file, to, count, ppos);
	if (ret > 0)
		reading->shown = true;
	mutex_unlock(&reading->lock);

	return ret;
}

static loff_t procfs4_lseek(struct file *file, loff_t offset, int whence)
{
	struct procfs4_reading *reading = procfs4_reading_of(file);
	loff_t ret;

	mutex_lock(&reading->lock);
	ret = seq_lseek(file, offset, whence);
	mutex_unlock(&reading->lock);

	return ret;
}

static const struct proc_ops procfs4_ops = {
	.proc_open = procfs4_open,
	.proc_read = procfs4_read,
	.proc_lseek = procfs4_lseek,
	.proc_release = seq_release_private,
};

static int __init procfs4_init(void)
{
	procfs4_entry = proc_create(PROCFS4_NAME, 0444, NULL, &procfs4_ops);
	if (!procfs4_entry) {
		pr_err("/proc/%s could not be created\n", PROCFS4_NAME);
		return -ENOMEM;
	}

	pr_info("/proc/%s created\n", PROCFS4_NAME);
	return 0;
}

static void __exit procfs4_exit(void)
{
	proc_remove(procfs4_entry);
	pr_info("/proc/%s removed\n", PROCFS4_NAME);
}

module_init(procfs4_init);
module_exit(procfs4_exit);

MODULE_DESCRIPTION("A sequence in /proc/iter that counts its readings");
MODULE_AUTHOR("The lab developers");
MODULE_LICENSE("GPL");
