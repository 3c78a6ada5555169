#include "checkpointer/controls.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>

#include "checkpointer/tracee/filters.h"
#include "store/base/cleanup.h"

/* kernel/seccomp.c, MAX_INSNS_PER_PATH: 32768 instructions in all filters of a thread. */
#define FILTERS_MOST 4096u

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while describing filters");
}

/* Threads share filters, and children have those of their parents: each program is kept once. */
static int filter_id(Snap__Process *m, const void *program, size_t len, uint32_t flags, uint32_t *ret,
		     struct err *err)
{
	Snap__SeccompFilter *f;

	for (size_t i = 0; i < m->n_filters; i++)
		if (m->filters[i]->program.len == len && m->filters[i]->flags == flags &&
		    memcmp(m->filters[i]->program.data, program, len) == 0) {
			*ret = (uint32_t)i;
			return 0;
		}
	*ret = (uint32_t)m->n_filters;
	f = snap_append(&m->filters, &m->n_filters, Snap__SeccompFilter, SNAP__SECCOMP_FILTER__INIT);
	if (!f || snap_set_bytes(&f->program, program, len) < 0)
		return no_memory(err);
	f->flags = flags;
	return 0;
}

static int collect_filter(struct collected_process *p, struct frozen_thread *t, Snap__Thread *m,
			  bool *ret_more, struct err *err)
{
	cleanup_free void *program = NULL;
	uint32_t *more, id;
	unsigned flags;
	size_t len;

	*ret_more = true;
	if (tracee_seccomp_filter(&t->tracee, (unsigned)m->n_filters, &program, &len, &flags, err) < 0) {
		*ret_more = false;
		return err->sys_errno == ENOENT ? 0 : -1;
	}
	if (filter_id(p->model, program, len, flags, &id, err) < 0)
		return -1;
	more = reallocarray(m->filters, m->n_filters + 1, sizeof(*more));
	if (!more)
		return no_memory(err);
	m->filters = more;
	more[m->n_filters++] = id;
	return 0;
}

int collect_seccomp(struct collected_process *p, struct frozen_thread *t, Snap__Thread *m, struct err *err)
{
	bool more = true;

	m->seccomp = (uint32_t)frozen_status(p->frozen, t)->seccomp;
	while (m->seccomp == SECCOMP_MODE_FILTER && more) {
		if (m->n_filters >= FILTERS_MOST)
			return err_set(err, ERR_UNSUPPORTED, "more than %u seccomp filters", FILTERS_MOST);
		if (collect_filter(p, t, m, &more, err) < 0)
			return -1;
	}
	return 0;
}
