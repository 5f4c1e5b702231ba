// SPDX-License-Identifier: GPL-2.0-only
/* A session is freed first and asked for its owner afterwards. */
#include "zoo.h"

struct owner {
	int id;
};

struct session {
	char name[32];
	struct owner *owner;
	char history[120];
};

static struct owner nobody = { 65534 };

static ssize_t session_write(struct file *file, const char __user *from,
			     size_t count, loff_t *pos)
{
	struct session *session = kzalloc(sizeof(*session), GFP_KERNEL);
	int id;

	if (!session)
		return -ENOMEM;
	session->owner = &nobody;
	kfree(session);
	OPTIMIZER_HIDE_VAR(session);
	id = READ_ONCE(READ_ONCE(session->owner)->id); /* fault */
	pr_info("session of %d closed\n", id);
	return count;
}

ZOO_PROC_MODULE("Uses what it has freed", NULL, session_write);
