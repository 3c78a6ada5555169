/*
 * What processes have in common since clone(2), and threads no more since unshare(2).
 *
 * kcmp(2) tells an order of the kernel's objects, so that they can be sorted, and equal ones are
 * neighbours: n log n questions for n processes.
 */
#include <linux/kcmp.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "checkpointer/collect.h"
#include "store/base/cleanup.h"

struct comparison {
	const struct collection *c;
	int type;
};

static long compare_pids(pid_t a, pid_t b, int type)
{
	return syscall(SYS_kcmp, a, b, type, 0, 0);
}

static int compare(const void *a, const void *b, void *context)
{
	const struct comparison *k = context;
	size_t x = *(const size_t *)a, y = *(const size_t *)b;
	long order = compare_pids(k->c->processes[x].frozen->pid, k->c->processes[y].frozen->pid,
				  k->type);

	if (order == 0)
		return (x > y) - (x < y);
	return order == 1 ? -1 : 1;
}

static struct collected_process **common(struct collected_process *p, int type)
{
	switch (type) {
	case KCMP_VM:
		return &p->memory;
	case KCMP_FILES:
		return &p->files;
	case KCMP_FS:
		return &p->fs;
	default:
		return &p->handlers;
	}
}

/* list: the living processes. The first of equal ones, in the tree's order, owns what they share.
 */
static void find_owners(struct collection *c, size_t *list, size_t n, int type)
{
	struct comparison k = {c, type};

	qsort_r(list, n, sizeof(*list), compare, &k);
	for (size_t i = 1; i < n; i++) {
		struct collected_process *before = &c->processes[list[i - 1]];
		struct collected_process *p = &c->processes[list[i]];

		if (compare_pids(before->frozen->pid, p->frozen->pid, type) == 0)
			*common(p, type) = *common(before, type);
	}
}

static int refuse_thread(const struct collected_process *p, const struct frozen_thread *t, const char *what,
			 struct err *err)
{
	char label[96];

	return err_set(err, ERR_UNSUPPORTED, "%s: thread %d %s (unshare or clone)",
		       process_label(p->frozen, label, sizeof(label)), t->vtid, what);
}

/* pthreads share both. Raw clone(2) and unshare(2) can make others. */
static int check_threads(struct collected_process *p, struct err *err)
{
	struct frozen_process *f = p->frozen;

	for (size_t i = 1; i < f->n_threads; i++) {
		struct frozen_thread *t = f->threads[i];

		if (compare_pids(f->pid, t->tracee.tid, KCMP_FILES) > 0)
			return refuse_thread(p, t, "has descriptors of its own", err);
		t->own_fs = compare_pids(f->pid, t->tracee.tid, KCMP_FS) > 0;
		for (size_t j = 1; t->own_fs && j < i; j++)
			if (f->threads[j]->own_fs &&
			    compare_pids(f->threads[j]->tracee.tid, t->tracee.tid, KCMP_FS) == 0)
				return refuse_thread(p, t, "shares a working directory with some threads only", err);
	}
	return 0;
}

int collect_sharing(struct collection *c, struct err *err)
{
	static const int types[] = {KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND};
	cleanup_free size_t *list = calloc(c->n + 1, sizeof(*list));
	size_t n = 0;

	if (!list)
		return err_set(err, ERR_SYSTEM, "out of memory while describing the job");
	for (size_t i = 0; i < c->n; i++) {
		struct collected_process *p = &c->processes[i];

		p->memory = p->files = p->fs = p->handlers = p;
		if (p->frozen->zombie)
			continue;
		list[n++] = i;
		if (refusals_go_on(&c->refusals, check_threads(p, err), err) < 0)
			return -1;
	}
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		find_owners(c, list, n, types[i]);
	return 0;
}
