/*
 * snapshot.h: the snapshot model, as plain values.
 *
 * The schema is store/snapshot.proto; protobuf-c's structs are the model itself. It holds page-table
 * roots, never page bytes, so its memory is bounded by the number of objects, not by their size.
 *
 * Ownership: everything in a model is malloc'ed (strings, byte fields and arrays too) and is freed by
 * snap__snapshot__free_unpacked(model, NULL), decoded and hand-built models alike.
 */
#ifndef PAWL_STORE_SNAPSHOT_H
#define PAWL_STORE_SNAPSHOT_H

#include <stdint.h>

#include "snapshot.pb-c.h"

/* Region.advice: what madvise(2) set, as VmFlags of /proc/PID/smaps shows it. */
enum region_advice {
	ADVICE_HUGEPAGE = 1u << 0,    /* hg */
	ADVICE_NOHUGEPAGE = 1u << 1,  /* nh */
	ADVICE_DONTFORK = 1u << 2,    /* dc */
	ADVICE_DONTDUMP = 1u << 3,    /* dd */
	ADVICE_WIPEONFORK = 1u << 4,  /* wf */
	ADVICE_MERGEABLE = 1u << 5,   /* mg */
	ADVICE_SEQUENTIAL = 1u << 6,  /* sr */
	ADVICE_RANDOM = 1u << 7,      /* rr */
	ADVICE_LOCKED = 1u << 8,      /* lo: mlock */
	ADVICE_LOCKONFAULT = 1u << 9, /* lf */
	ADVICE_SEALED = 1u << 10,     /* sl: mseal */
	ADVICE_DROPPABLE = 1u << 11,  /* dp */
};

/*
 * Appends a malloc'ed element to a repeated message field:
 *   Snap__Region *r = snap_append(&process->regions, &process->n_regions, Snap__Region,
 *                                 SNAP__REGION__INIT);
 * NULL when out of memory (the array is then unchanged).
 */
void *snap_append_raw(void ***array, size_t *n, size_t size, const void *init);
#define snap_append(array, n, type, init_value)                                             \
	({                                                                                  \
		static const type init_ = init_value;                                       \
		(type *)snap_append_raw((void ***)(array), (n), sizeof(type), &init_);      \
	})

/* Calls fn with every field of the model that is the root of a page table, 0 ones too, until it fails. */
struct err;
typedef int snap_root_fn(void *ctx, uint64_t *root, struct err *err);
int snap_each_root(Snap__Snapshot *model, snap_root_fn *fn, void *ctx, struct err *err);

/* strdup/memdup into a protobuf field; 0 or -1 (out of memory). The old value is freed. */
int snap_set_string(char **field, const char *text);
int snap_set_bytes(ProtobufCBinaryData *field, const void *data, size_t len);
/* Appends one byte string to a repeated bytes field. */
int snap_append_bytes(ProtobufCBinaryData **array, size_t *n, const void *data, size_t len);

#endif
