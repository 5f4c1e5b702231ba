// SPDX-License-Identifier: GPL-2.0-only
/* Waits for what nobody completes, and cannot be interrupted. */
#include <linux/completion.h>
#include "zoo.h"

static DECLARE_COMPLETION(answer);

static ssize_t answer_read(struct file *file, char __user *to, size_t count,
			   loff_t *pos)
{
	wait_for_completion(&answer); /* fault */
	return 0;
}

ZOO_PROC_MODULE("Waits for ever", answer_read, NULL);
