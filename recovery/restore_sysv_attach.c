/*
 * Attachments of System V segments. An attachment is whole at first; a process may then have
 * unmapped parts of it, moved them or changed their protection: one that is not just as shmat(2)
 * makes it is attached anywhere and its parts are moved to their places.
 */
#include "recovery/sysv.h"

#include <inttypes.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include "recovery/batch.h"

struct attaching {
	struct stub *stub;
	const Snap__SysvSegment *segment;
	uint64_t size; /* of an attachment */
	uint64_t base; /* where its first byte would be */
	bool read_only;
};

static bool is_part(const struct attaching *a, const Snap__Region *r)
{
	return r->kind == SNAP__REGION__KIND__SYSV_SHM && r->file == a->segment->file &&
	       r->start - r->offset == a->base && (bool)r->read_only == a->read_only;
}

static uint64_t attached_prot(const struct attaching *a)
{
	return PROT_READ | (a->read_only ? 0 : PROT_WRITE);
}

static int attach(const struct attaching *a, uint64_t where, uint64_t *ret, struct err *err)
{
	int32_t id = a->segment->object->id;
	long at;

	if (stub_call(a->stub, stub_thread(a->stub), &at, err, "shmat", SYS_shmat,
		      ARGS((uint64_t)id, where, a->read_only ? SHM_RDONLY : 0)) < 0)
		return -1;
	if (at < 0 && at >= -4095)
		return err_code(err, (int)-at,
				"process %d: attaching System V shared memory %d at %#" PRIx64,
				a->stub->model->pid, id, where);
	*ret = (uint64_t)at;
	return 0;
}

static int queue_prot(struct batch *b, const struct attaching *a, const Snap__Region *r,
		      struct err *err)
{
	if (r->prot == attached_prot(a))
		return 0;
	return batch_call(b, BATCH_MUST, err, SYS_mprotect,
			  ARGS(r->start, r->end - r->start, r->prot), "protect region %#" PRIx64,
			  r->start);
}

/* From the attachment at `from`, part by part; what is not the job's goes. */
static int queue_parts(struct batch *b, const struct attaching *a, uint64_t from, struct err *err)
{
	const Snap__Process *p = a->stub->model;
	uint64_t done = 0;

	for (size_t i = 0; i < p->n_regions; i++) {
		const Snap__Region *r = p->regions[i];
		uint64_t size = r->end - r->start;

		if (!is_part(a, r))
			continue;
		if (r->offset > done &&
		    batch_call(b, BATCH_MUST, err, SYS_munmap, ARGS(from + done, r->offset - done),
			       "unmap") < 0)
			return -1;
		if (batch_call(b, BATCH_MUST, err, SYS_mremap,
			       ARGS(from + r->offset, size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
				    r->start),
			       "move System V shared memory to %#" PRIx64, r->start) < 0 ||
		    queue_prot(b, a, r, err) < 0)
			return -1;
		done = r->offset + size;
	}
	return done >= a->size ? 0
			       : batch_call(b, BATCH_MUST, err, SYS_munmap,
					    ARGS(from + done, a->size - done), "unmap");
}

static int attach_all_of(const struct attaching *a, const Snap__Region *first, struct err *err)
{
	bool whole = first->offset == 0 && first->end - first->start == a->size;
	struct batch b;
	uint64_t at = 0;

	if (attach(a, whole ? first->start : 0, &at, err) < 0)
		return -1;
	batch_begin(&b, a->stub, stub_thread(a->stub));
	if ((whole ? queue_prot(&b, a, first, err) : queue_parts(&b, a, at, err)) < 0)
		return -1;
	return batch_run(&b, err);
}

static const Snap__SysvSegment *segment_of(const Snap__Snapshot *model, int32_t file)
{
	for (size_t i = 0; i < model->n_segments; i++)
		if (model->segments[i]->file == file)
			return model->segments[i];
	return NULL;
}

/* Regions before index i that are of the same attachment have taken this one with them. */
static bool is_done(const struct attaching *a, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (is_part(a, a->stub->model->regions[k]))
			return true;
	return false;
}

int stub_attach_segments(struct recovery *rec, struct stub *stub, struct err *err)
{
	const uint64_t mask = STORE_PAGE_SIZE - 1;

	for (size_t i = 0; i < stub->model->n_regions; i++) {
		const Snap__Region *r = stub->model->regions[i];
		struct attaching a = {
			.stub = stub, .base = r->start - r->offset, .read_only = r->read_only};

		if (r->kind != SNAP__REGION__KIND__SYSV_SHM)
			continue;
		a.segment = segment_of(rec->model, r->file);
		a.size = (a.segment->size + mask) & ~mask;
		if (!is_done(&a, i) && attach_all_of(&a, r, err) < 0)
			return -1;
	}
	return 0;
}
