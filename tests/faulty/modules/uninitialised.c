// SPDX-License-Identifier: GPL-2.0-only
/* One of the members of what was allocated was never set. */
#include "zoo.h"

struct queue {
	int length;
};

struct job {
	char title[24];
	int number;
	struct queue *queue;
	char history[120];
};

static ssize_t job_write(struct file *file, const char __user *from,
			 size_t count, loff_t *pos)
{
	struct job *job = kmalloc(sizeof(*job), GFP_KERNEL);

	if (!job)
		return -ENOMEM;
	strcpy(job->title, "print");
	job->number = 1;
	OPTIMIZER_HIDE_VAR(job);
	READ_ONCE(job->queue)->length++; /* fault */
	kfree(job);
	return count;
}

ZOO_PROC_MODULE("Uses a pointer that it never set", NULL, job_write);
