// SPDX-License-Identifier: GPL-2.0
/*
 * procfs3 - /proc/buffer2k, a file that holds its module while it is open
 *
 *	# insmod procfs3.ko dyndbg=+p
 *	# stat -c '%a %u:%g %s' /proc/buffer2k
 *	644 0:0 80
 *	# echo 'good day' > /proc/buffer2k
 *	# cat /proc/buffer2k
 *	good day
 *	# rmmod procfs3 < /proc/buffer2k
 *	rmmod: ERROR: Module procfs3 is in use
 *	# rmmod procfs3
 *	# dmesg
 *	procfs3: /proc/buffer2k created
 *	procfs3: procfs_write: 9 bytes at 0
 *	procfs3: procfs_read: 9 bytes at 0
 *	procfs3: procfs_read: end of file at 9
 *	procfs3: /proc/buffer2k removed
 *
 * Up to 2048 bytes are kept, none at first; store.h says what a write does to
 * them, and what one that does not fit gets. Reading changes nothing.
 *
 * The lines on reading and writing are debug messages, off until dyndbg or
 * dynamic_debug/control turns them on. A call that failed has one too (14 is
 * EFAULT, 28 ENOSPC); a read of no bytes has none:
 *
 *	procfs3: procfs_read: error -14 at 0
 *	procfs3: procfs_write: error -28
 *
 * Owner and size are set when the entry is made, the owner to root and the
 * size to 80. That size is a number for stat(2) to show, not a length: it
 * never changes, as proc copies it into an inode of its own for each mount.
 * Whoever believes it is misled: `wc -c FILE` prints 80, and copy_file_range(2)
 * stops there from v5.3 to v5.9, and so does cp(1) of coreutils 9 on those. A
 * larger one would mislead more of them: from 512 up cp(1) looks for holes, and
 * above the block size of 1024 tail(1) skips to what it takes for the end. The
 * true end is where a read gives 0, and where lseek(2) puts SEEK_END.
 *
 * Each open(2) takes a reference on the module, dup(2) and fork(2) take none,
 * and the last close drops it; rmmod fails with EAGAIN meanwhile ("in use").
 *
 * If the name is taken, the load fails as procfs1.c says:
 *
 *	procfs3: /proc/buffer2k could not be created
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/printk.h>
#include <linux/proc_fs.h>
#include <linux/uidgid.h>

#include "store.h"
#include "compat.h"

#define PROCFS3_NAME		"buffer2k"
#define PROCFS3_CAPACITY	2048
#define PROCFS3_STAT_SIZE	80

static struct proc_dir_entry *procfs3_entry;

static void procfs3_written(const char *bytes, size_t count, loff_t pos)
{
	pr_debug("procfs_write: %zu bytes at %lld\n", count, pos);
}

static char procfs3_bytes[PROCFS3_CAPACITY];

static struct store procfs3_store = {
	.lock = __MUTEX_INITIALIZER(procfs3_store.lock),
	.bytes = procfs3_bytes,
	.capacity = PROCFS3_CAPACITY,
	.written = procfs3_written,
};

/*
 * A module that takes a reference on itself runs two risks. Here proc covers
 * both, because it lets proc_remove() in procfs3_exit() return only when no
 * call into the module is under way, and rmmod frees nothing before that:
 *
 * - open(2) can come when rmmod has already decided. Then try_module_get()
 *   fails, and so does the open, as it does a moment later when the name is
 *   gone. proc_remove() waits for this call to return.
 *
 * - After module_put() rmmod may go ahead, while this function has still to
 *   return. proc takes the open file off its list only after ->proc_release
 *   has returned, and proc_remove() waits for every file on that list.
 */
static int procfs3_open(struct inode *inode, struct file *file)
{
	return try_module_get(THIS_MODULE) ? 0 : -ENOENT;
}

static int procfs3_release(struct inode *inode, struct file *file)
{
	module_put(THIS_MODULE);
	return 0;
}

static ssize_t procfs3_read(struct file *file, char __user *to, size_t count,
			    loff_t *ppos)
{
	loff_t pos = *ppos;
	ssize_t ret;

	if (!count)
		return 0;

	ret = store_read(&procfs3_store, to, count, ppos);
	if (ret < 0)
		pr_debug("procfs_read: error %zd at %lld\n", ret, pos);
	else if (!ret)
		pr_debug("procfs_read: end of file at %lld\n", pos);
	else
		pr_debug("procfs_read: %zd bytes at %lld\n", ret, pos);
	return ret;
}

static ssize_t procfs3_write(struct file *file, const char __user *from,
			     size_t count, loff_t *ppos)
{
	ssize_t ret;

	ret = store_write(&procfs3_store, file, from, count, ppos);
	if (ret < 0)
		pr_debug("procfs_write: error %zd\n", ret);
	return ret;
}

static loff_t procfs3_lseek(struct file *file, loff_t offset, int whence)
{
	return store_lseek(&procfs3_store, file, offset, whence);
}

static const struct proc_ops procfs3_ops = {
	.proc_open = procfs3_open,
	.proc_read = procfs3_read,
	.proc_write = procfs3_write,
	.proc_lseek = procfs3_lseek,
	.proc_release = procfs3_release,
};

static int __init procfs3_init(void)
{
	procfs3_entry = proc_create(PROCFS3_NAME, 0644, NULL, &procfs3_ops);
	if (!procfs3_entry) {
		pr_err("/proc/%s could not be created\n", PROCFS3_NAME);
		return -ENOMEM;
	}
	proc_set_size(procfs3_entry, PROCFS3_STAT_SIZE);
	proc_set_user(procfs3_entry, GLOBAL_ROOT_UID, GLOBAL_ROOT_GID);

	pr_info("/proc/%s created\n", PROCFS3_NAME);
	return 0;
}

static void __exit procfs3_exit(void)
{
	proc_remove(procfs3_entry);
	pr_info("/proc/%s removed\n", PROCFS3_NAME);
}

module_init(procfs3_init);
module_exit(procfs3_exit);

MODULE_DESCRIPTION("Up to 2048 bytes in /proc/buffer2k, which holds the module");
MODULE_AUTHOR("The lab developers");
MODULE_LICENSE("GPL");
