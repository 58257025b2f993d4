// SPDX-License-Identifier: GPL-2.0
/*
 * Gives a program in the guest access to an mdma device, by UIO.
 *
 * The program drives the device. This driver does what needs the kernel: it
 * enables the device, handles its interrupts, and allocates memory for its DMA.
 *
 *   map 0  registers   BAR 0
 *   map 1  device      BAR 2, the device memory
 *   map 2  memory      for DMA: blocks of pages from all over RAM, contiguous
 *                      here, far apart on the bus
 *   map 3  blocks      the bus address of each block, as a u64
 *
 * Writing the number of a block to the attribute "remap" maps it for DMA once more, at
 * another bus address if the device is behind an IOMMU, and unmaps it where it was.
 *
 * An interrupt clears its causes and is counted: a read() of /dev/uioN returns
 * when there was one since the last read().
 */

#include <linux/dma-mapping.h>
#include <linux/interrupt.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/uio_driver.h>
#include <linux/vmalloc.h>

#define MDMA_VENDOR		0x4d44
#define MDMA_DEVICE		0x0001
#define MDMA_BAR_REGISTERS	0
#define MDMA_BAR_MEMORY		2
#define MDMA_ID			0x000
#define MDMA_ID_VALUE		0x414d444d
#define MDMA_CONTROL		0x018
#define MDMA_INT_CAUSE		0x028
#define MDMA_INT_MASK		0x02c
#define MDMA_VECTORS		4

static char *irq = "msix";
module_param(irq, charp, 0444);
MODULE_PARM_DESC(irq, "Kind of interrupt: intx, msi or msix");

static unsigned int memory_kib = 16384;
module_param(memory_kib, uint, 0444);
MODULE_PARM_DESC(memory_kib, "DMA memory of each device, in KiB");

static unsigned int block_order = 6;
module_param(block_order, uint, 0444);
MODULE_PARM_DESC(block_order, "Order of each block of this memory, in pages");

static unsigned int spread = 4;
module_param(spread, uint, 0444);
MODULE_PARM_DESC(spread, "Use one block of this many allocated ones, so that blocks lie apart");

struct uio_mdma {
	struct pci_dev *pdev;
	void __iomem *registers;
	struct uio_info info;
	struct page **pages;
	unsigned int blocks;
	void *memory;
	u64 *addresses;
};

static irqreturn_t uio_mdma_interrupt(int line, void *data)
{
	struct uio_mdma *mdma = data;
	u32 cause = readl(mdma->registers + MDMA_INT_CAUSE);

	if (cause)
		writel(cause, mdma->registers + MDMA_INT_CAUSE);
	else if (!pci_dev_msi_enabled(mdma->pdev))
		return IRQ_NONE;

	/* A message counts even if an earlier one has reported its cause. */
	uio_event_notify(&mdma->info);
	return IRQ_HANDLED;
}

static void uio_mdma_free_vectors(void *data)
{
	pci_free_irq_vectors(data);
}

static int uio_mdma_interrupts(struct uio_mdma *mdma)
{
	struct device *dev = &mdma->pdev->dev;
	unsigned int kind;
	int count, i, ret;

	if (!strcmp(irq, "intx"))
		kind = PCI_IRQ_INTX;
	else if (!strcmp(irq, "msi"))
		kind = PCI_IRQ_MSI;
	else if (!strcmp(irq, "msix"))
		kind = PCI_IRQ_MSIX;
	else
		return dev_err_probe(dev, -EINVAL, "irq=%s is not intx, msi or msix\n", irq);

	count = pci_alloc_irq_vectors(mdma->pdev, 1, MDMA_VECTORS, kind);
	if (count < 0)
		return dev_err_probe(dev, count, "the device has no %s interrupts\n", irq);
	ret = devm_add_action_or_reset(dev, uio_mdma_free_vectors, mdma->pdev);
	if (ret)
		return ret;

	for (i = 0; i < count; i++) {
		ret = devm_request_irq(dev, pci_irq_vector(mdma->pdev, i), uio_mdma_interrupt,
				       kind == PCI_IRQ_INTX ? IRQF_SHARED : 0, "uio_mdma", mdma);
		if (ret)
			return dev_err_probe(dev, ret, "interrupt %d\n", i);
	}
	dev_info(dev, "%s, %d vectors\n", irq, count);
	return 0;
}

static void uio_mdma_free_memory(void *data)
{
	struct uio_mdma *mdma = data;
	unsigned int i;

	vunmap(mdma->memory);
	for (i = 0; i < mdma->blocks << block_order; i++) {
		if (i % (1 << block_order) == 0 && mdma->addresses[i >> block_order])
			dma_unmap_page(&mdma->pdev->dev, mdma->addresses[i >> block_order],
				       PAGE_SIZE << block_order, DMA_BIDIRECTIONAL);
		if (mdma->pages[i])
			__free_page(mdma->pages[i]);
	}
	vfree(mdma->addresses);
	kvfree(mdma->pages);
}

/*
 * Before its memory is freed, the device must not use it any more. Nor may it interrupt
 * when it is bound again, for what was before.
 */
static void uio_mdma_stop(void *data)
{
	struct uio_mdma *mdma = data;

	writel(0, mdma->registers + MDMA_CONTROL);
	writel(0, mdma->registers + MDMA_INT_MASK);
	writel(readl(mdma->registers + MDMA_INT_CAUSE), mdma->registers + MDMA_INT_CAUSE);
}

/* Allocates many blocks and frees most of them: the remaining ones lie apart. */
static int uio_mdma_blocks(struct uio_mdma *mdma)
{
	gfp_t gfp = GFP_KERNEL | __GFP_ZERO | __GFP_NORETRY | __GFP_NOWARN;
	unsigned int order = block_order, i, j, got, want = mdma->blocks * max(spread, 1u);
	struct page **taken;

	taken = kvcalloc(want, sizeof(*taken), GFP_KERNEL);
	if (!taken)
		return -ENOMEM;
	for (got = 0; got < want; got++) {
		taken[got] = alloc_pages(gfp, order);
		if (!taken[got])
			break;
	}
	for (i = 0; i < mdma->blocks && got >= mdma->blocks; i++) {
		struct page **block = &taken[(u64)i * got / mdma->blocks];

		split_page(*block, order);
		for (j = 0; j < 1 << order; j++)
			mdma->pages[(i << order) + j] = *block + j;
		*block = NULL;
	}
	for (i = 0; i < got; i++)
		if (taken[i])
			__free_pages(taken[i], order);
	kvfree(taken);
	return got < mdma->blocks ? -ENOMEM : 0;
}

static int uio_mdma_memory(struct uio_mdma *mdma)
{
	struct device *dev = &mdma->pdev->dev;
	unsigned int i, pages;
	int ret;

	if (block_order > MAX_PAGE_ORDER || !memory_kib || memory_kib >> 20)
		return dev_err_probe(dev, -EINVAL, "memory_kib or block_order is out of range\n");
	mdma->blocks = DIV_ROUND_UP(memory_kib, PAGE_SIZE >> 10 << block_order);
	pages = mdma->blocks << block_order;
	mdma->pages = kvcalloc(pages, sizeof(*mdma->pages), GFP_KERNEL);
	mdma->addresses = vmalloc_user(PAGE_ALIGN(mdma->blocks * sizeof(u64)));
	if (!mdma->pages || !mdma->addresses) {
		kvfree(mdma->pages);
		vfree(mdma->addresses);
		return -ENOMEM;
	}
	ret = devm_add_action_or_reset(dev, uio_mdma_free_memory, mdma);
	if (ret)
		return ret;

	ret = uio_mdma_blocks(mdma);
	if (ret)
		return dev_err_probe(dev, ret, "%u KiB of memory\n", memory_kib);
	for (i = 0; i < mdma->blocks; i++) {
		dma_addr_t at = dma_map_page(dev, mdma->pages[i << block_order], 0,
					     PAGE_SIZE << block_order, DMA_BIDIRECTIONAL);

		if (dma_mapping_error(dev, at))
			return -ENOMEM;
		mdma->addresses[i] = at;
	}
	mdma->memory = vmap(mdma->pages, pages, VM_MAP, PAGE_KERNEL);
	return mdma->memory ? 0 : -ENOMEM;
}

static ssize_t remap_store(struct device *dev, struct device_attribute *attr, const char *buf,
			   size_t count)
{
	struct uio_mdma *mdma = dev_get_drvdata(dev);
	size_t size = PAGE_SIZE << block_order;
	dma_addr_t at, before;
	unsigned int i;
	int ret;

	ret = kstrtouint(buf, 0, &i);
	if (ret)
		return ret;
	if (i >= mdma->blocks)
		return -ERANGE;
	/* Before it is unmapped, so that it gets another address. */
	at = dma_map_page(dev, mdma->pages[i << block_order], 0, size, DMA_BIDIRECTIONAL);
	if (dma_mapping_error(dev, at))
		return -ENOMEM;
	before = xchg(&mdma->addresses[i], at);
	dma_unmap_page(dev, before, size, DMA_BIDIRECTIONAL);
	return count;
}
static DEVICE_ATTR_WO(remap);

static struct attribute *uio_mdma_attrs[] = {
	&dev_attr_remap.attr,
	NULL
};
ATTRIBUTE_GROUPS(uio_mdma);

static void uio_mdma_map(struct uio_mdma *mdma, unsigned int i, const char *name, int type,
			 phys_addr_t addr, resource_size_t size)
{
	mdma->info.mem[i].name = name;
	mdma->info.mem[i].memtype = type;
	mdma->info.mem[i].addr = addr;
	mdma->info.mem[i].size = size;
}

static int uio_mdma_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct device *dev = &pdev->dev;
	struct uio_mdma *mdma;
	int ret;

	mdma = devm_kzalloc(dev, sizeof(*mdma), GFP_KERNEL);
	if (!mdma)
		return -ENOMEM;
	mdma->pdev = pdev;
	pci_set_drvdata(pdev, mdma);

	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	ret = dma_set_mask_and_coherent(dev, DMA_BIT_MASK(64));
	if (ret)
		return ret;
	mdma->registers = pcim_iomap(pdev, MDMA_BAR_REGISTERS, 0);
	if (!mdma->registers)
		return -ENOMEM;
	if (readl(mdma->registers + MDMA_ID) != MDMA_ID_VALUE)
		return dev_err_probe(dev, -ENODEV, "not an mdma device\n");
	ret = uio_mdma_memory(mdma);
	if (ret)
		return ret;
	ret = devm_add_action_or_reset(dev, uio_mdma_stop, mdma);
	if (ret)
		return ret;

	uio_mdma_map(mdma, 0, "registers", UIO_MEM_PHYS,
		     pci_resource_start(pdev, MDMA_BAR_REGISTERS),
		     pci_resource_len(pdev, MDMA_BAR_REGISTERS));
	uio_mdma_map(mdma, 1, "device", UIO_MEM_PHYS,
		     pci_resource_start(pdev, MDMA_BAR_MEMORY),
		     pci_resource_len(pdev, MDMA_BAR_MEMORY));
	uio_mdma_map(mdma, 2, "memory", UIO_MEM_VIRTUAL, (uintptr_t)mdma->memory,
		     (resource_size_t)mdma->blocks * (PAGE_SIZE << block_order));
	uio_mdma_map(mdma, 3, "blocks", UIO_MEM_VIRTUAL, (uintptr_t)mdma->addresses,
		     PAGE_ALIGN(mdma->blocks * sizeof(u64)));
	mdma->info.name = "mdma";
	mdma->info.version = "1";
	mdma->info.irq = UIO_IRQ_CUSTOM;
	pci_set_master(pdev);
	ret = devm_uio_register_device(dev, &mdma->info);
	if (ret)
		return dev_err_probe(dev, ret, "uio\n");
	/* Last: interrupts are delivered to the device just registered. */
	return uio_mdma_interrupts(mdma);
}

static const struct pci_device_id uio_mdma_ids[] = {
	{ PCI_DEVICE(MDMA_VENDOR, MDMA_DEVICE) },
	{ }
};
MODULE_DEVICE_TABLE(pci, uio_mdma_ids);

static struct pci_driver uio_mdma_driver = {
	.name = "uio_mdma",
	.id_table = uio_mdma_ids,
	.probe = uio_mdma_probe,
	.dev_groups = uio_mdma_groups,
};
module_pci_driver(uio_mdma_driver);

MODULE_AUTHOR("vfio-mdev-rs authors");
MODULE_DESCRIPTION("Gives a program access to an mdma device, by UIO");
MODULE_LICENSE("GPL");
