/*
 * What semop(SEM_UNDO) gives back when a process ends. The kernel shows it nowhere, but refuses to
 * let it grow out of range (ipc/sem.c, perform_atomic_semop_slow): an array of operations which
 * would take it beyond that fails with ERANGE, and one that would not fails with EAGAIN, because
 * its last operation is one that cannot be done. Either way nothing is changed, and the answers
 * tell the value.
 */
#include "checkpointer/sysv.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "store/base/cleanup.h"

#define LEAST	 (-32768) /* SEMAEM of include/uapi/linux/sem.h */
#define MOST	 32767
#define OPS_MOST 8u
#define AT_ONCE	 128u /* semaphores; two calls each */

struct probing {
	struct collection *c;
	struct collected_process *p;
	const Snap__SysvSemaphores *set;
};

/* Fails with ERANGE where the adjustment of semaphore `number` is below `limit`. */
static const struct remote_call *queue_test(const struct probing *probe, uint32_t number, int limit)
{
	struct sembuf ops[OPS_MOST];
	const unsigned short num = (unsigned short)number;
	short value = (short)probe->set->values[number];
	int left = limit - LEAST;
	size_t n = 0;

	if (value)
		ops[n++] = (struct sembuf){num, (short)-value, IPC_NOWAIT};
	while (left > 0) {
		short step = (short)(left < MOST ? left : MOST);

		ops[n++] = (struct sembuf){num, step, IPC_NOWAIT | SEM_UNDO};
		ops[n++] = (struct sembuf){num, (short)-step, IPC_NOWAIT};
		left -= step;
	}
	ops[n++] = (struct sembuf){num, -1, IPC_NOWAIT};
	return remote_call(&probe->p->remote, SYS_semop, (uint64_t)(int64_t)probe->set->object->id,
			   remote_push(&probe->p->remote, ops, n * sizeof(*ops)), n);
}

static int run(const struct probing *probe, struct err *err)
{
	return remote_run(&probe->p->remote, &probe->p->frozen->threads[0]->tracee, err);
}

/* The adjustment is at least LEAST and less than MOST + 1. */
static int find_adjustment(const struct probing *probe, uint32_t number, int *ret, struct err *err)
{
	int low = LEAST, high = MOST;

	while (low < high) {
		int middle = low + (high - low + 1) / 2;
		const struct remote_call *call;

		remote_reset(&probe->p->remote);
		call = queue_test(probe, number, middle);
		if (run(probe, err) < 0)
			return -1;
		if (call->ret == -ERANGE)
			high = middle - 1;
		else
			low = middle;
	}
	*ret = low;
	return 0;
}

static int add_undo(const struct probing *probe, uint32_t number, struct err *err)
{
	Snap__Process *m = probe->p->model;
	Snap__SemaphoreUndo *u;
	int adjustment;

	if (find_adjustment(probe, number, &adjustment, err) < 0)
		return -1;
	u = snap_append(&m->undos, &m->n_undos, Snap__SemaphoreUndo, SNAP__SEMAPHORE_UNDO__INIT);
	if (!u)
		return err_set(err, ERR_SYSTEM, "out of memory");
	u->id = probe->set->object->id;
	u->number = number;
	u->adjustment = adjustment;
	return 0;
}

/* Who may not change a semaphore (EACCES) has no adjustment of it either. */
static int probe_some(const struct probing *probe, uint32_t from, uint32_t to, struct err *err)
{
	bool set[AT_ONCE];
	const struct remote_call *below[AT_ONCE], *above[AT_ONCE];

	remote_reset(&probe->p->remote);
	for (uint32_t i = from; i < to; i++) {
		below[i - from] = queue_test(probe, i, 0);
		above[i - from] = queue_test(probe, i, 1);
	}
	if (run(probe, err) < 0)
		return -1;
	for (uint32_t i = from; i < to; i++)
		set[i - from] = below[i - from]->ret == -ERANGE || above[i - from]->ret == -EAGAIN;
	for (uint32_t i = from; i < to; i++)
		if (set[i - from] && add_undo(probe, i, err) < 0)
			return -1;
	return 0;
}

static int probe_process(struct probing *probe, struct err *err)
{
	const Snap__Snapshot *m = probe->c->model;

	for (size_t i = 0; i < m->n_semaphores; i++) {
		uint32_t n = (uint32_t)m->semaphores[i]->n_values;

		probe->set = m->semaphores[i];
		for (uint32_t at = 0; at < n; at += AT_ONCE)
			if (probe_some(probe, at, n - at < AT_ONCE ? n : at + AT_ONCE, err) < 0)
				return -1;
	}
	remote_reset(&probe->p->remote);
	return 0;
}

static bool same_list(pid_t a, pid_t b)
{
	return syscall(SYS_kcmp, a, b, KCMP_SYSVSEM, 0, 0) == 0;
}

/* The capsule's init never has a list: whoever compares equal with it has none either. */
static bool may_have_any(const struct collection *c, const struct collected_process *p)
{
	return c->config->root.attached || !same_list(c->config->root.pid, p->frozen->pid);
}

static int refuse_shared(const struct collection *c, const struct collected_process *p,
			 struct err *err)
{
	char label[96];

	for (size_t i = 0; i < c->n && &c->processes[i] != p; i++)
		if (c->processes[i].model->n_undos &&
		    same_list(c->processes[i].frozen->pid, p->frozen->pid))
			return err_set(
				err, ERR_UNSUPPORTED,
				"%s: it shares its undo of System V semaphores with process %d "
				"(CLONE_SYSVSEM)",
				process_label(p->frozen, label, sizeof(label)),
				c->processes[i].frozen->vpid);
	return 0;
}

int sysv_collect_undos(struct collection *c, struct err *err)
{
	for (size_t i = 0; i < c->n && c->model->n_semaphores; i++) {
		struct probing probe = {.c = c, .p = &c->processes[i]};

		if (!probe.p->remote.mirror || !may_have_any(c, probe.p))
			continue;
		if (probe_process(&probe, err) < 0)
			return -1;
		if (probe.p->model->n_undos &&
		    refusals_go_on(&c->refusals, refuse_shared(c, probe.p, err), err) < 0)
			return -1;
	}
	return 0;
}
