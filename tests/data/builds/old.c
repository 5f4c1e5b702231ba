#include <linux/module.h>
#include <linux/fs.h>
#include <linux/proc_fs.h>
#include <linux/device.h>
#include <linux/timer.h>
#include <linux/hrtimer.h>
#include <linux/uaccess.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/vmalloc.h>
#include <linux/dma-mapping.h>
#include <linux/pci.h>
#include <linux/platform_device.h>
#include <linux/i2c.h>
#include <linux/spi/spi.h>
#include <linux/netdevice.h>
#include <linux/blkdev.h>
#include <linux/tty.h>
#include <linux/tty_driver.h>
#include <linux/kobject.h>
#include <linux/random.h>
#include <linux/sysctl.h>
#include <linux/string.h>
#include <linux/wait.h>
#include <linux/kthread.h>
#include <linux/mmu_context.h>

struct mine {
	struct timer_list timer;
	struct hrtimer hrtimer;
};
static wait_queue_t waiter;
static int value;
static const struct file_operations fops = {
	.llseek = no_llseek,
};

static void timer_fn(struct timer_list *t)
{
	struct mine *mine = from_timer(mine, t, timer);

	del_timer_sync(&mine->timer);
	del_timer(&mine->timer);
}

static void old_timers(struct mine *mine)
{
	hrtimer_init(&mine->hrtimer, CLOCK_MONOTONIC, HRTIMER_MODE_REL);
}

static int old_proc(void)
{
	proc_create("old", 0444, NULL, &fops);
	proc_create_data("old", 0444, NULL, &fops, NULL);
	return PDE_DATA(NULL) != NULL;
}

static struct class *old_class(void)
{
	return class_create(THIS_MODULE, "old");
}

static int old_uaccess(void __user *at, long size)
{
	mm_segment_t fs = get_fs();

	set_fs(KERNEL_DS);
	return access_ok(VERIFY_READ, at, size);
}

static void *old_io(void)
{
	return ioremap_nocache(0, 4096);
}

static void old_mm(struct vm_area_struct *vma)
{
	down_read(&current->mm->mmap_sem);
	vma->vm_flags |= VM_IO;
	get_user_pages(0, 1, 0, NULL, NULL);
	get_user_pages_remote(current, current->mm, 0, 1, 0, NULL, NULL, NULL);
	__vmalloc(4096, GFP_KERNEL, PAGE_KERNEL);
	use_mm(current->mm);
	unuse_mm(current->mm);
	value = MAX_ORDER;
}

static int old_fault(struct vm_area_struct *vma, struct vm_fault *vmf)
{
	return 0;
}
static const struct vm_operations_struct vm_ops = {
	.fault = old_fault,
};

static void old_dma(struct pci_dev *dev, struct device *d)
{
	dma_addr_t at;

	dma_zalloc_coherent(d, 4096, &at, GFP_KERNEL);
	pci_set_dma_mask(dev, DMA_BIT_MASK(32));
	pci_alloc_consistent(dev, 4096, &at);
	pci_map_single(dev, NULL, 1, PCI_DMA_TODEVICE);
}

static int old_platform_remove(struct platform_device *dev)
{
	return 0;
}
static struct platform_driver platform = {
	.remove = old_platform_remove,
};
static struct platform_driver platform_new = {
	.remove_new = NULL,
};

static int old_i2c_probe(struct i2c_client *client, const struct i2c_device_id *id)
{
	return 0;
}
static int old_i2c_remove(struct i2c_client *client)
{
	return 0;
}
static struct i2c_driver i2c = {
	.probe = old_i2c_probe,
	.remove = old_i2c_remove,
};

static int old_spi_remove(struct spi_device *spi)
{
	return 0;
}
static struct spi_driver spi = {
	.remove = old_spi_remove,
};

static int old_match(struct device *dev, struct device_driver *drv)
{
	return 0;
}
static struct bus_type bus = {
	.match = old_match,
};

static char *old_devnode(struct device *dev, umode_t *mode)
{
	return NULL;
}
static struct class class = {
	.devnode = old_devnode,
};

static int old_handler(struct ctl_table *table, int write, void *buffer, size_t *size, loff_t *at)
{
	return proc_dointvec(table, write, buffer, size, at);
}
static struct ctl_table table = {
	.proc_handler = old_handler,
};

static int poll(struct napi_struct *napi, int budget)
{
	return 0;
}
static void old_net(struct net_device *dev, struct napi_struct *napi)
{
	netif_napi_add(dev, napi, poll, 64);
	dev->dev_addr[0] = 1;
}

static int old_open(struct block_device *bdev, fmode_t mode)
{
	return 0;
}
static void old_release(struct gendisk *disk, fmode_t mode)
{
}
static const struct block_device_operations bdops = {
	.open = old_open,
	.release = old_release,
};
static void old_block(struct request_queue *q)
{
	struct gendisk *disk = alloc_disk(1);

	blk_queue_make_request(q, NULL);
	q->make_request_fn = NULL;
	blk_cleanup_disk(disk);
	disk = blk_alloc_disk(NUMA_NO_NODE);
}

static void old_tty(void)
{
	struct tty_driver *driver = alloc_tty_driver(1);

	put_tty_driver(driver);
}

static struct kobj_type ktype = {
	.default_attrs = NULL,
};

static int old_readpage(struct file *file, struct page *page)
{
	return 0;
}
static const struct address_space_operations aops = {
	.readpage = old_readpage,
};
static int old_mkdir(struct user_namespace *ns, struct inode *dir, struct dentry *dentry, umode_t mode)
{
	return 0;
}
static const struct inode_operations iops = {
	.mkdir = old_mkdir,
};

static void old_inode(struct inode *inode)
{
	inode->i_ctime = current_time(inode);
	inode->i_mtime = current_time(inode);
	inode->i_atime = current_time(inode);
}

static void old_misc(char *to)
{
	strlcpy(to, "x", 1);
	value = ACCESS_ONCE(value);
	value = prandom_u32();
	complete_and_exit(NULL, 0);
}
MODULE_IMPORT_NS(OLD);
MODULE_LICENSE("GPL");
