/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What all modules of the zoo share: a file in /proc that is named after the
 * module, made and removed as it should be. Whatever is wrong is in the
 * module's own file, where a comment marks it.
 */
#ifndef ZOO_H
#define ZOO_H

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/version.h>

/* A /proc file has operations of its own since d56c0d45f0e2, v5.6. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 6, 0)
#define proc_ops	file_operations
#define proc_open	open
#define proc_read	read
#define proc_write	write
#define proc_lseek	llseek
#define proc_release	release
#endif

/* Put the parts of a module that have nothing to do with its fault. */
#define ZOO_MODULE(what)						\
	MODULE_LICENSE("GPL");						\
	MODULE_DESCRIPTION(what)

/* The file in /proc, with these two operations; either can be NULL. */
#define ZOO_PROC_OPS(reader, writer)					\
	static const struct proc_ops zoo_proc_ops = {			\
		.proc_read = reader,					\
		.proc_write = writer,					\
		.proc_lseek = default_llseek,				\
	}

#define zoo_proc_create()						\
	proc_create(KBUILD_MODNAME, 0644, NULL, &zoo_proc_ops)

#define zoo_proc_remove()	remove_proc_entry(KBUILD_MODNAME, NULL)

/* A module that is nothing but its file in /proc. */
#define ZOO_PROC_MODULE(what, reader, writer)				\
	ZOO_PROC_OPS(reader, writer);					\
	static int __init zoo_init(void)				\
	{								\
		return zoo_proc_create() ? 0 : -ENOMEM;			\
	}								\
	static void __exit zoo_exit(void)				\
	{								\
		zoo_proc_remove();					\
	}								\
	module_init(zoo_init);						\
	module_exit(zoo_exit);						\
	ZOO_MODULE(what)

#endif /* ZOO_H */
