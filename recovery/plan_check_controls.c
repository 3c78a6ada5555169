/*
 * What a model must be before anything is built from it: filters, controls, guards, keys.
 */
#include <inttypes.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>

#include "checkpointer/tracee/filters.h"
#include "recovery/plan.h"
#include "store/store.h"

static int corrupt(struct err *err, const char *what, long id)
{
	return err_set(err, ERR_CORRUPT, "the snapshot contradicts itself: %s %ld", what, id);
}

static int check_filters(const Snap__Process *p, struct err *err)
{
	for (size_t i = 0; i < p->n_filters; i++) {
		size_t len = p->filters[i]->program.len;

		if (len == 0 || len % sizeof(struct sock_filter) ||
		    len / sizeof(struct sock_filter) > BPF_MAXINSNS)
			return corrupt(err, "seccomp filter of process", p->pid);
	}
	return 0;
}

static int check_thread(const Snap__Process *p, const Snap__Thread *t, struct err *err)
{
	const Snap__ThreadControl *c = t->control;

	if (t->seccomp > SECCOMP_MODE_FILTER || (t->n_filters && t->seccomp != SECCOMP_MODE_FILTER))
		return corrupt(err, "seccomp mode of thread", t->tid);
	for (size_t i = 0; i < t->n_filters; i++)
		if (t->filters[i] >= p->n_filters)
			return corrupt(err, "seccomp filter of thread", t->tid);
	if (t->credentials && (t->credentials->n_uid != 4 || t->credentials->n_gid != 4))
		return corrupt(err, "credentials of thread", t->tid);
	if (c && c->dispatch.len && c->dispatch.len != sizeof(struct dispatch_config))
		return corrupt(err, "system call dispatch of thread", t->tid);
	return 0;
}

static bool lies_in_region(const Snap__Process *p, size_t *region, uint64_t start, uint64_t end)
{
	while (*region < p->n_regions && p->regions[*region]->end <= start)
		++*region;
	return *region < p->n_regions && p->regions[*region]->start <= start &&
	       p->regions[*region]->end >= end;
}

static int check_guards(const Snap__Process *p, struct err *err)
{
	uint64_t last = 0;
	size_t region = 0;

	if (p->n_guards % 2)
		return corrupt(err, "guard regions of process", p->pid);
	for (size_t i = 0; i < p->n_guards; i += 2) {
		uint64_t start = p->guards[i], end = p->guards[i + 1];

		if (start < last || end <= start || (start | end) % STORE_PAGE_SIZE ||
		    !lies_in_region(p, &region, start, end))
			return err_set(err, ERR_CORRUPT,
				       "process %d: guard region %#" PRIx64 "-%#" PRIx64 " is in no region",
				       p->pid, start, end);
		last = end;
	}
	return 0;
}

int plan_check_controls(const Snap__Process *p, struct err *err)
{
	uint32_t keys = p->control ? p->control->protection_keys : 0;

	if (check_filters(p, err) < 0 || check_guards(p, err) < 0)
		return -1;
	for (size_t i = 0; i < p->n_threads; i++)
		if (check_thread(p, p->threads[i], err) < 0)
			return -1;
	for (size_t i = 0; i < p->n_regions; i++) {
		const Snap__Region *r = p->regions[i];

		if (r->protection_key < 0 || r->protection_key > 15 ||
		    (r->protection_key && r->prot != PROT_EXEC && !(keys >> r->protection_key & 1)))
			return corrupt(err, "protection key of region", (long)i);
	}
	if (p->lock_future & ~(unsigned)(MCL_FUTURE | MCL_ONFAULT))
		return corrupt(err, "memory attributes of process", p->pid);
	return 0;
}
