/* SPDX-License-Identifier: GPL-2.0 */
/*
 * One source for every kernel from 4.4 to 7.x
 *
 * The modules are written for the newest kernel. This header teaches their
 * words to the older ones, one section for each difference, and each section
 * names the commit that made the difference and the first release with it.
 * Include it after every header of the kernel: it redefines plain names.
 *
 * A version test is right here, and only here, because out-of-tree code has
 * no other way to ask; hence checkpatch runs over this one file with
 * --ignore LINUX_VERSION_CODE (see the Makefile).
 */
#ifndef KMOD_COMPAT_H
#define KMOD_COMPAT_H

#include <linux/fs.h>
#include <linux/proc_fs.h>
#include <linux/version.h>

/*
 * struct proc_ops: d56c0d45f0e2, v5.6.
 *
 * Before it a /proc file was described by a struct file_operations. Every
 * member that we use has a twin of the same type there, so that renaming is
 * all it takes for one designated initialiser to fill either structure.
 */
#if KERNEL_VERSION(5, 6, 0) <= LINUX_VERSION_CODE
#define COMPAT_HAVE_PROC_OPS
#endif

#ifndef COMPAT_HAVE_PROC_OPS
#define proc_ops	file_operations
#define proc_open	open
#define proc_read	read
#define proc_write	write
#define proc_lseek	llseek
#define proc_release	release
#endif

/**
 * compat_file_llseek() - seek in a file that has no holes
 * @file: the open file
 * @offset: as given to lseek(2)
 * @whence: as given to lseek(2)
 * @end: number of bytes that can be read, the place that SEEK_END means
 *
 * A /proc file must bring its own way to seek, or lseek(2) differs: without
 * one it works up to v5.12, calls a null pointer from v5.13 to v5.19
 * (d4455faccd6c) and is refused with ESPIPE since v6.0 (3f61631d47f1).
 *
 * Any offset from 0 up can be sought, as in a regular file. SEEK_DATA and
 * SEEK_HOLE are refused: there is nothing to find, and what they answer to a
 * negative offset depends on the kernel (EINVAL, or ENXIO with fc46820b27a2,
 * v4.14).
 *
 * Return: the new offset, or -EINVAL.
 */
static inline loff_t compat_file_llseek(struct file *file, loff_t offset,
					int whence, loff_t end)
{
	if (whence != SEEK_SET && whence != SEEK_CUR && whence != SEEK_END)
		return -EINVAL;

	return generic_file_llseek_size(file, offset, whence, MAX_LFS_FILESIZE,
					end);
}

#endif /* KMOD_COMPAT_H */
