#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/device.h>
#include <linux/timer.h>
#include <linux/hrtimer.h>
#include <linux/interrupt.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/blkdev.h>
#include <linux/slab.h>
#include <linux/netdevice.h>
#include <linux/platform_device.h>
#include <linux/uaccess.h>

struct mine {
	struct timer_list timer;
	struct hrtimer hrtimer;
};
static enum hrtimer_restart hrtimer_fn(struct hrtimer *t)
{
	return HRTIMER_NORESTART;
}
static int new_open(struct inode *inode, struct file *file)
{
	return 0;
}
static const struct proc_ops pops = {
	.proc_open = new_open,
};
static void timer_fn(struct timer_list *t)
{
	struct mine *mine = timer_container_of(mine, t, timer);

	timer_delete_sync(&mine->timer);
	timer_delete(&mine->timer);
}
static void timer_fn_2(struct timer_list *t)
{
	struct mine *mine = from_timer(mine, t, timer);

	timer_setup(&mine->timer, timer_fn, 0);
	hrtimer_setup(&mine->hrtimer, hrtimer_fn, CLOCK_MONOTONIC, HRTIMER_MODE_REL);
}
static int new_proc(void)
{
	proc_create("new", 0444, NULL, &pops);
	return pde_data(NULL) != NULL;
}
static struct class *new_class(void)
{
	return class_create("new");
}
static void new_mm(struct vm_area_struct *vma, struct tasklet_struct *t)
{
	vm_flags_set(vma, VM_IO);
	vm_flags_clear(vma, VM_IO);
	vm_flags_mod(vma, VM_IO, 0);
	tasklet_setup(t, NULL);
	kthread_use_mm(current->mm);
	kthread_unuse_mm(current->mm);
}
static int size = MAX_PAGE_ORDER;
static int new_bopen(struct gendisk *disk, blk_mode_t mode)
{
	return size;
}
static int poll(struct napi_struct *napi, int budget)
{
	return 0;
}
static void new_net(struct net_device *dev, struct napi_struct *napi)
{
	netif_napi_add(dev, napi, poll);
}
static void new_remove(struct platform_device *dev)
{
}
static struct platform_driver platform = {
	.remove = new_remove,
};
static int new_uaccess(void __user *at, long size)
{
	return access_ok(at, size);
}
MODULE_IMPORT_NS("NEW");
MODULE_LICENSE("GPL");
