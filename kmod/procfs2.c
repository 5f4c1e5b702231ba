// SPDX-License-Identifier: GPL-2.0
/*
 * procfs2 - /proc/buffer1k, a file that keeps and logs what is written to it
 *
 *	# insmod procfs2.ko
 *	# cat /proc/buffer1k
 *	HelloWorld!
 *	# echo 'good day' > /proc/buffer1k
 *	# cat /proc/buffer1k
 *	good day
 *	# rmmod procfs2
 *	# dmesg
 *	procfs2: /proc/buffer1k created
 *	procfs2: procfile read buffer1k: 12 bytes at 0
 *	procfs2: procfile read buffer1k: end of file at 12
 *	procfs2: procfile write buffer1k: 9 bytes at 0: "good day\n"
 *	procfs2: procfile read buffer1k: 9 bytes at 0
 *	procfs2: procfile read buffer1k: end of file at 9
 *	procfs2: /proc/buffer1k removed
 *
 * Up to 1024 bytes are kept; store.h says what a write does to them, and what
 * one that does not fit gets. The greeting is the first contents, as if it
 * had been written.
 *
 * What was written is logged between quotes, whole, and so that no data can
 * pass for another line or upset a terminal: '"' and '\' get a '\' before
 * them, newline, tab and carriage return become \n, \t and \r, any other byte
 * outside printable ASCII three octal digits, \000. A record of the kernel log
 * holds less than the longest write, so each takes 128 bytes, and those after
 * the first say how far into this write they are. The lines of one write stand
 * together, and the writes in the order in which they took effect:
 *
 *	procfs2: procfile write buffer1k: 130 bytes at 0: "xxx[...]xxx"
 *	procfs2: procfile write buffer1k: +128: "x\n"
 *
 * A call that failed says so, whatever the reason (14 is EFAULT, 28 ENOSPC):
 *
 *	procfs2: procfile read buffer1k: error -14 at 0
 *	procfs2: procfile write buffer1k: error -28
 *
 * A read of no bytes is not logged. Above a hundred reads, or a hundred writes,
 * in five seconds the rest is only counted, see procfs1.c:
 *
 *	procfs2: 7 calls were not logged
 *
 * stat(2) gives mode 0644 and size 0, as for most of /proc; lseek(2) knows the
 * end. A file that is open does not hold the module: see procfs1.c, also for a
 * name that is taken.
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
#include <linux/ratelimit.h>

#include "store.h"
#include "compat.h"

#define PROCFS2_NAME		"buffer1k"
#define PROCFS2_CAPACITY	1024
#define PROCFS2_GREETING	"HelloWorld!\n"

/* Bytes of data in one line of the log, and the room they take if all of
 * them must be written in octal.
 */
#define PROCFS2_LINE		128
#define PROCFS2_LINE_ROOM	(PROCFS2_LINE * 4 + 1)

static DEFINE_RATELIMIT_STATE(procfs2_read_limit, 5 * HZ, 100);
static DEFINE_RATELIMIT_STATE(procfs2_write_limit, 5 * HZ, 100);
static atomic_t procfs2_unlogged = ATOMIC_INIT(0);

static struct proc_dir_entry *procfs2_entry;

static bool procfs2_may_log(struct ratelimit_state *limit)
{
	if (__ratelimit(limit))
		return true;
	atomic_inc(&procfs2_unlogged);
	return false;
}

/**
 * procfs2_quote() - write bytes as printable ASCII
 * @line: PROCFS2_LINE_ROOM bytes, filled with a string
 * @bytes: what to write
 * @count: how much of it, at most PROCFS2_LINE
 *
 * Own code, since %pE passes a backslash and bytes above 0x9f as they are.
 */
static void procfs2_quote(char *line, const char *bytes, size_t count)
{
	for (; count; count--, bytes++) {
		unsigned char c = *bytes;

		if (c >= ' ' && c < 0x7f) {
			if (c == '"' || c == '\\')
				*line++ = '\\';
			*line++ = c;
			continue;
		}

		*line++ = '\\';
		switch (c) {
		case '\n':
			*line++ = 'n';
			break;
		case '\r':
			*line++ = 'r';
			break;
		case '\t':
			*line++ = 't';
			break;
		default:
			*line++ = '0' + (c >> 6);
			*line++ = '0' + ((c >> 3) & 7);
			*line++ = '0' + (c & 7);
		}
	}
	*line = '\0';
}

static void procfs2_written(const char *bytes, size_t count, loff_t pos)
{
	char line[PROCFS2_LINE_ROOM];
	size_t done;

	if (!procfs2_may_log(&procfs2_write_limit))
		return;

	procfs2_quote(line, bytes, min_t(size_t, count, PROCFS2_LINE));
	pr_info("procfile write %s: %zu bytes at %lld: \"%s\"\n", PROCFS2_NAME,
		count, pos, line);

	for (done = PROCFS2_LINE; done < count; done += PROCFS2_LINE) {
		procfs2_quote(line, bytes + done,
			      min_t(size_t, count - done, PROCFS2_LINE));
		pr_info("procfile write %s: +%zu: \"%s\"\n", PROCFS2_NAME, done,
			line);
	}
}

static char procfs2_bytes[PROCFS2_CAPACITY] = PROCFS2_GREETING;

static struct store procfs2_store = {
	.lock = __MUTEX_INITIALIZER(procfs2_store.lock),
	.bytes = procfs2_bytes,
	.size = sizeof(PROCFS2_GREETING) - 1,
	.capacity = PROCFS2_CAPACITY,
	.written = procfs2_written,
};

static void procfs2_log_read(ssize_t ret, loff_t pos)
{
	if (!procfs2_may_log(&procfs2_read_limit))
		return;

	if (ret < 0)
		pr_info("procfile read %s: error %zd at %lld\n", PROCFS2_NAME,
			ret, pos);
	else if (!ret)
		pr_info("procfile read %s: end of file at %lld\n",
			PROCFS2_NAME, pos);
	else
		pr_info("procfile read %s: %zd bytes at %lld\n", PROCFS2_NAME,
			ret, pos);
}

static ssize_t procfs2_read(struct file *file, char __user *to, size_t count,
			    loff_t *ppos)
{
	loff_t pos = *ppos;
	ssize_t ret;

	if (!count)
		return 0;

	ret = store_read(&procfs2_store, to, count, ppos);
	procfs2_log_read(ret, pos);
	return ret;
}

static ssize_t procfs2_write(struct file *file, const char __user *from,
			     size_t count, loff_t *ppos)
{
	ssize_t ret;

	ret = store_write(&procfs2_store, file, from, count, ppos);
	if (ret < 0 && procfs2_may_log(&procfs2_write_limit))
		pr_info("procfile write %s: error %zd\n", PROCFS2_NAME, ret);
	return ret;
}

static loff_t procfs2_lseek(struct file *file, loff_t offset, int whence)
{
	return store_lseek(&procfs2_store, file, offset, whence);
}

static const struct proc_ops procfs2_ops = {
	.proc_read = procfs2_read,
	.proc_write = procfs2_write,
	.proc_lseek = procfs2_lseek,
};

static int __init procfs2_init(void)
{
	procfs2_entry = proc_create(PROCFS2_NAME, 0644, NULL, &procfs2_ops);
	if (!procfs2_entry) {
		pr_err("/proc/%s could not be created\n", PROCFS2_NAME);
		return -ENOMEM;
	}

	pr_info("/proc/%s created\n", PROCFS2_NAME);
	return 0;
}

static void __exit procfs2_exit(void)
{
	int unlogged;

	proc_remove(procfs2_entry);
	unlogged = atomic_read(&procfs2_unlogged);
	if (unlogged)
		pr_info("%d calls were not logged\n", unlogged);
	pr_info("/proc/%s removed\n", PROCFS2_NAME);
}

module_init(procfs2_init);
module_exit(procfs2_exit);

MODULE_DESCRIPTION("Up to 1024 bytes, kept and logged, in /proc/buffer1k");
MODULE_AUTHOR("The lab developers");
MODULE_LICENSE("GPL");
