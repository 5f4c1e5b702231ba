// SPDX-License-Identifier: GPL-2.0-only
/* Much of what the faulty ones do, done as it should be. */
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/miscdevice.h>
#include <linux/mutex.h>
#include <linux/timer.h>
#include <linux/workqueue.h>
#include "zoo.h"

static DEFINE_MUTEX(lock);
static char text[64];
static struct task_struct *thread;

static void refresh(struct work_struct *unused);
static DECLARE_DELAYED_WORK(work, refresh);

static void refresh(struct work_struct *unused)
{
	schedule_delayed_work(&work, HZ / 10);
}

static int watch(void *unused)
{
	while (!kthread_should_stop())
		msleep(100);
	return 0;
}

static ssize_t text_read(struct file *file, char __user *to, size_t count,
			 loff_t *pos)
{
	ssize_t ret;

	mutex_lock(&lock);
	ret = simple_read_from_buffer(to, count, pos, text, strlen(text));
	mutex_unlock(&lock);
	return ret;
}

static ssize_t text_write(struct file *file, const char __user *from,
			  size_t count, loff_t *pos)
{
	char *copy;

	if (count >= sizeof(text))
		return -ENOSPC;
	copy = memdup_user_nul(from, count);
	if (IS_ERR(copy))
		return PTR_ERR(copy);
	mutex_lock(&lock);
	strcpy(text, copy);
	mutex_unlock(&lock);
	kfree(copy);
	return count;
}

ZOO_PROC_OPS(text_read, text_write);

static const struct file_operations tidy_fops = {
	.owner = THIS_MODULE,
};

static struct miscdevice tidy_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = KBUILD_MODNAME,
	.fops = &tidy_fops,
};

static int __init zoo_init(void)
{
	int ret;

	thread = kthread_run(watch, NULL, KBUILD_MODNAME);
	if (IS_ERR(thread))
		return PTR_ERR(thread);
	ret = misc_register(&tidy_device);
	if (ret)
		goto stop;
	if (!zoo_proc_create()) {
		ret = -ENOMEM;
		goto deregister;
	}
	schedule_delayed_work(&work, HZ / 10);
	return 0;

deregister:
	misc_deregister(&tidy_device);
stop:
	kthread_stop(thread);
	return ret;
}

static void __exit zoo_exit(void)
{
	cancel_delayed_work_sync(&work);
	zoo_proc_remove();
	misc_deregister(&tidy_device);
	kthread_stop(thread);
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Does nothing wrong");
