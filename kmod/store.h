/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A few bytes that userspace wrote, to be read back
 *
 * What stands behind /proc/buffer1k and /proc/buffer2k. One rule says what a
 * write does:
 *
 *	A write at offset P keeps the first P bytes, puts its own after them,
 *	and there the contents end.
 *
 * So a write at offset 0 (a fresh open, `echo hello > FILE`) replaces the
 * whole, the further writes of a tool that writes piece by piece follow on, a
 * write of nothing at offset 0 empties, and a write past the end fills the gap
 * with NUL bytes. With O_APPEND (`echo more >> FILE`) P is the end, whatever
 * offset the caller gave.
 *
 * A write that reaches over the capacity is short: it stores what fits. The
 * next one, at the capacity, stores nothing and fails with ENOSPC, so that a
 * tool which goes on after a short write is told so instead of replacing the
 * beginning by the rest.
 *
 * O_TRUNC and truncate(2) succeed and change nothing: proc does not pass a
 * change of size on to the module.
 *
 * Every call sees the contents as one write left them, because they change
 * and are copied under the lock. User memory is touched only outside of it: a
 * page fault there can last as long as userspace likes, and nobody else shall
 * wait for it. A write whose bytes cannot all be fetched changes nothing.
 */
#ifndef KMOD_STORE_H
#define KMOD_STORE_H

#include <linux/err.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "compat.h"

/**
 * struct store - the bytes and what guards them
 * @lock: held while @bytes and @size are read or changed
 * @bytes: room for @capacity bytes
 * @size: how many of them are contents
 * @capacity: the most that is kept
 * @written: called under @lock after each write that was accepted, with what
 *	it stored and where, so that a log has the order of the writes
 */
struct store {
	struct mutex lock; /* see above */
	char *bytes;
	size_t size;
	size_t capacity;
	void (*written)(const char *bytes, size_t count, loff_t pos);
};

/**
 * store_read() - read(2) from the contents
 * @store: the contents
 * @to: user memory to fill
 * @count: the most to copy
 * @ppos: where to begin; moved past what was copied
 *
 * Return: the number of bytes copied, 0 at the end, -EFAULT if not one byte
 * could be copied, or -ENOMEM.
 */
static inline ssize_t store_read(struct store *store, char __user *to,
				 size_t count, loff_t *ppos)
{
	ssize_t ret;
	size_t size;
	char *copy;

	mutex_lock(&store->lock);
	size = store->size;
	copy = kmemdup(store->bytes, size, GFP_KERNEL);
	mutex_unlock(&store->lock);
	if (!copy)
		return -ENOMEM;

	ret = simple_read_from_buffer(to, count, ppos, copy, size);
	kfree(copy);
	return ret;
}

/**
 * store_write() - write(2) to the contents
 * @store: the contents
 * @file: the open file, asked for O_APPEND
 * @from: user memory to take
 * @count: how much of it
 * @ppos: where to begin; moved past what was stored
 *
 * Return: the number of bytes stored, -EFAULT if the memory cannot be read,
 * -ENOSPC if there is no room at that offset, or -ENOMEM.
 */
static inline ssize_t store_write(struct store *store, struct file *file,
				  const char __user *from, size_t count,
				  loff_t *ppos)
{
	ssize_t ret;
	loff_t pos;
	char *copy;

	count = min_t(size_t, count, store->capacity);
	copy = memdup_user(from, count);
	if (IS_ERR(copy))
		return PTR_ERR(copy);

	mutex_lock(&store->lock);

	pos = *ppos;
	if (file->f_flags & O_APPEND)
		pos = store->size;
	if (pos < 0) {
		ret = -EINVAL;
		goto out_unlock;
	}
	if (pos > store->capacity || (count && pos == store->capacity)) {
		ret = -ENOSPC;
		goto out_unlock;
	}

	count = min_t(size_t, count, store->capacity - pos);
	if (pos > store->size)
		memset(store->bytes + store->size, 0, pos - store->size);
	memcpy(store->bytes + pos, copy, count);
	store->size = pos + count;
	store->written(copy, count, pos);

	*ppos = pos + count;
	ret = count;

out_unlock:
	mutex_unlock(&store->lock);
	kfree(copy);
	return ret;
}

/**
 * store_lseek() - lseek(2) in the contents
 * @store: the contents
 * @file: the open file
 * @offset: as given to lseek(2)
 * @whence: as given to lseek(2); SEEK_END is the end of the contents
 *
 * Return: the new offset, or -EINVAL.
 */
static inline loff_t store_lseek(struct store *store, struct file *file,
				 loff_t offset, int whence)
{
	size_t size;

	mutex_lock(&store->lock);
	size = store->size;
	mutex_unlock(&store->lock);

	return compat_file_llseek(file, offset, whence, size);
}

#endif /* KMOD_STORE_H */
