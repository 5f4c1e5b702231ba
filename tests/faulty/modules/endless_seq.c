// SPDX-License-Identifier: GPL-2.0-only
/* An iterator that goes round and round. */
#include <linux/seq_file.h>
#include "zoo.h"

static const char * const colours[] = { "red", "green", "blue" };

static void *colour_start(struct seq_file *seq, loff_t *pos)
{
	return (void *)&colours[*pos % ARRAY_SIZE(colours)];
}

static void *colour_next(struct seq_file *seq, void *v, loff_t *pos)
{
	++*pos;
	return (void *)&colours[*pos % ARRAY_SIZE(colours)]; /* fault */
}

static void colour_stop(struct seq_file *seq, void *v)
{
}

static int colour_show(struct seq_file *seq, void *v)
{
	seq_printf(seq, "%s\n", *(const char * const *)v);
	return 0;
}

static const struct seq_operations colour_ops = {
	.start = colour_start,
	.next = colour_next,
	.stop = colour_stop,
	.show = colour_show,
};

static int __init zoo_init(void)
{
	return proc_create_seq(KBUILD_MODNAME, 0444, NULL, &colour_ops) ?
		       0 : -ENOMEM;
}

static void __exit zoo_exit(void)
{
	zoo_proc_remove();
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Iterates without an end");
