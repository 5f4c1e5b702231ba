// SPDX-License-Identifier: GPL-2.0-only
/* A word of any length is copied into sixteen bytes of stack. */
#include "zoo.h"

static noinline long parse_word(const char *from, size_t count)
{
	char word[16];
	size_t i;
	long value;

	for (i = 0; i < count; i++)
		WRITE_ONCE(word[i], from[i]); /* fault */
	word[sizeof(word) - 1] = '\0';
	if (kstrtol(word, 10, &value))
		return -EINVAL;
	return value;
}

static ssize_t word_write(struct file *file, const char __user *from,
			  size_t count, loff_t *pos)
{
	char *copy = memdup_user_nul(from, min_t(size_t, count, 1000));
	long value;

	if (IS_ERR(copy))
		return PTR_ERR(copy);
	value = parse_word(copy, strlen(copy));
	kfree(copy);
	return value < 0 ? value : count;
}

ZOO_PROC_MODULE("Overruns a buffer on the stack", NULL, word_write);
