// SPDX-License-Identifier: GPL-2.0-only
/* The mean of nothing. */
#include "zoo.h"

static unsigned int sum, samples;

static ssize_t mean_read(struct file *file, char __user *to, size_t count,
			 loff_t *pos)
{
	unsigned int total = READ_ONCE(sum), number = READ_ONCE(samples);
	unsigned int mean = total / number; /* fault */
	char text[16];
	int len = scnprintf(text, sizeof(text), "%u\n", mean);

	return simple_read_from_buffer(to, count, pos, text, len);
}

static ssize_t mean_write(struct file *file, const char __user *from,
			  size_t count, loff_t *pos)
{
	WRITE_ONCE(sum, sum + count);
	WRITE_ONCE(samples, samples + 1);
	return count;
}

ZOO_PROC_MODULE("Divides by zero", mean_read, mean_write);
