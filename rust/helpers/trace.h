/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The trace events. Each module that the framework is linked into has them, in a
 * trace system with the name of the module: mdma:vfio_mig_state. So two modules
 * that are loaded at the same time do not have events of the same name.
 *
 * The fields and their units are an interface: Documentation/debugging.rst lists
 * them.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM vfio_mdev_rs

#if !defined(VFIO_RS_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define VFIO_RS_TRACE_H

#include <linux/device.h>
#include <linux/module.h>
#include <linux/tracepoint.h>

/*
 * trace_events.h has the name of the system in this macro, as a string of the
 * object file. The object is linked into several modules, so the name is not known
 * here; but each module has its name in its own __this_module, which is a constant
 * address.
 */
#if defined(TRACE_SYSTEM_STRING) && defined(MODULE)
#undef TRACE_SYSTEM_STRING
#define TRACE_SYSTEM_STRING (THIS_MODULE->name)
#endif

/* The numbers of enum vfio_device_mig_state. */
#define vfio_rs_show_state(state)		\
	__print_symbolic(state,			\
		{ 0, "ERROR" },			\
		{ 1, "STOP" },			\
		{ 2, "RUNNING" },		\
		{ 3, "STOP_COPY" },		\
		{ 4, "RESUMING" },		\
		{ 5, "RUNNING_P2P" },		\
		{ 6, "PRE_COPY" },		\
		{ 7, "PRE_COPY_P2P" })

/* The numbers of Cause in rust/vfio/trace.rs. */
#define vfio_rs_show_cause(cause)		\
	__print_symbolic(cause,			\
		{ 0, "open" },			\
		{ 1, "reset" },			\
		{ 2, "failure" },		\
		{ 3, "v1" },			\
		{ 4, "v7" },			\
		{ 5, "2018" },			\
		{ 6, "v2" })

/* The numbers of Kind in rust/migration/format.rs. */
#define vfio_rs_show_kind(kind)			\
	__print_symbolic(kind,			\
		{ 1, "IDENTITY" },		\
		{ 2, "MEMORY" },		\
		{ 3, "ZERO" },			\
		{ 4, "DEVICE" },		\
		{ 5, "END" },			\
		{ 6, "PART" })

/* The migration state of a device has changed. */
TRACE_EVENT(vfio_mig_state,

	TP_PROTO(const struct device *dev, u32 from, u32 to, u32 cause),

	TP_ARGS(dev, from, to, cause),

	TP_STRUCT__entry(
		__string(name, dev_name(dev))
		__field(u32, from)
		__field(u32, to)
		__field(u32, cause)
	),

	TP_fast_assign(
		__assign_str(name);
		__entry->from = from;
		__entry->to = to;
		__entry->cause = cause;
	),

	TP_printk("%s: %s -> %s by %s", __get_str(name),
		  vfio_rs_show_state(__entry->from),
		  vfio_rs_show_state(__entry->to),
		  vfio_rs_show_cause(__entry->cause))
);

/*
 * A record of a stream. position and length are those of what it describes: for
 * MEMORY and ZERO a range of device memory. bytes is its size in the stream.
 */
DECLARE_EVENT_CLASS(vfio_mig_record,

	TP_PROTO(const struct device *dev, u32 kind, u64 sequence, u64 position,
		 u64 length, u64 bytes),

	TP_ARGS(dev, kind, sequence, position, length, bytes),

	TP_STRUCT__entry(
		__string(name, dev_name(dev))
		__field(u32, kind)
		__field(u64, sequence)
		__field(u64, position)
		__field(u64, length)
		__field(u64, bytes)
	),

	TP_fast_assign(
		__assign_str(name);
		__entry->kind = kind;
		__entry->sequence = sequence;
		__entry->position = position;
		__entry->length = length;
		__entry->bytes = bytes;
	),

	TP_printk("%s: %llu %s position=%#llx length=%#llx bytes=%llu",
		  __get_str(name), __entry->sequence,
		  vfio_rs_show_kind(__entry->kind), __entry->position,
		  __entry->length, __entry->bytes)
);

/* A save has put a record into the buffer that the user reads. */
DEFINE_EVENT(vfio_mig_record, vfio_mig_save_record,

	TP_PROTO(const struct device *dev, u32 kind, u64 sequence, u64 position,
		 u64 length, u64 bytes),

	TP_ARGS(dev, kind, sequence, position, length, bytes)
);

/* A load has checked a record and applied it. */
DEFINE_EVENT(vfio_mig_record, vfio_mig_load_record,

	TP_PROTO(const struct device *dev, u32 kind, u64 sequence, u64 position,
		 u64 length, u64 bytes),

	TP_ARGS(dev, kind, sequence, position, length, bytes)
);

/* A pass of a save over device memory. */
DECLARE_EVENT_CLASS(vfio_mig_pass,

	TP_PROTO(const struct device *dev, u64 pass, u64 pages),

	TP_ARGS(dev, pass, pages),

	TP_STRUCT__entry(
		__string(name, dev_name(dev))
		__field(u64, pass)
		__field(u64, pages)
	),

	TP_fast_assign(
		__assign_str(name);
		__entry->pass = pass;
		__entry->pages = pages;
	),

	TP_printk("%s: pass=%llu pages=%llu", __get_str(name), __entry->pass,
		  __entry->pages)
);

/* A pass begins. pages are dirty. */
DEFINE_EVENT(vfio_mig_pass, vfio_mig_pass_start,

	TP_PROTO(const struct device *dev, u64 pass, u64 pages),

	TP_ARGS(dev, pass, pages)
);

/* A pass has ended. It has sent pages, each of them once. */
DEFINE_EVENT(vfio_mig_pass, vfio_mig_pass_end,

	TP_PROTO(const struct device *dev, u64 pass, u64 pages),

	TP_ARGS(dev, pass, pages)
);

/* Pinned pages of guest memory, or tried to. ret is the number of pages or an errno. */
TRACE_EVENT(vfio_pin_pages,

	TP_PROTO(const struct device *dev, u64 iova, u32 npages, bool writable,
		 int ret),

	TP_ARGS(dev, iova, npages, writable, ret),

	TP_STRUCT__entry(
		__string(name, dev_name(dev))
		__field(u64, iova)
		__field(u32, npages)
		__field(bool, writable)
		__field(int, ret)
	),

	TP_fast_assign(
		__assign_str(name);
		__entry->iova = iova;
		__entry->npages = npages;
		__entry->writable = writable;
		__entry->ret = ret;
	),

	TP_printk("%s: iova=%#llx npages=%u writable=%d ret=%d", __get_str(name),
		  __entry->iova, __entry->npages, __entry->writable,
		  __entry->ret)
);

/* Unpinned pages of guest memory. */
TRACE_EVENT(vfio_unpin_pages,

	TP_PROTO(const struct device *dev, u64 iova, u32 npages),

	TP_ARGS(dev, iova, npages),

	TP_STRUCT__entry(
		__string(name, dev_name(dev))
		__field(u64, iova)
		__field(u32, npages)
	),

	TP_fast_assign(
		__assign_str(name);
		__entry->iova = iova;
		__entry->npages = npages;
	),

	TP_printk("%s: iova=%#llx npages=%u", __get_str(name), __entry->iova,
		  __entry->npages)
);

/* The user unmaps guest memory in which the device may have pages pinned. */
TRACE_EVENT(vfio_dma_unmap,

	TP_PROTO(const struct device *dev, u64 iova, u64 size),

	TP_ARGS(dev, iova, size),

	TP_STRUCT__entry(
		__string(name, dev_name(dev))
		__field(u64, iova)
		__field(u64, size)
	),

	TP_fast_assign(
		__assign_str(name);
		__entry->iova = iova;
		__entry->size = size;
	),

	TP_printk("%s: iova=%#llx size=%#llx", __get_str(name), __entry->iova,
		  __entry->size)
);

#endif /* VFIO_RS_TRACE_H */

/* This part must be outside protection */
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
