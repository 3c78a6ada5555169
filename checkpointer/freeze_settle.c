/*
 * Waiting for threads to stop. Most have by the time they are asked about; the rest are asked again
 * and again, so that one which cannot stop is noticed and named.
 */
#include <linux/kcmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "checkpointer/freeze.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

#define MOMENT_NS   50000u	  /* between two looks */
#define VFORK_NS    1000000u	  /* so long without a stop: is it vfork? */
#define PATIENCE_NS 300000000ull /* the job stands still meanwhile */

/* A process that was let run on because its parent waits in vfork for it. */
struct let_go {
	pid_t parent, child; /* host tgid */
};

struct settling {
	struct frozen_tree *tree;
	struct let_go *gone; /* let run on, and not stopped again yet */
	size_t n_gone;
	bool *ran;
};

/* A thread that vanishes without an end has become its process's leader by executing a program:
 * what we hold under the leader's number is another thread now, which has not stopped for us yet.
 */
static void distrust_leader(struct frozen_process *p)
{
	for (size_t i = 0; i < p->n_threads; i++) {
		struct tracee *t = &p->threads[i]->tracee;

		if (t->tid == p->tgid && t->state == TRACEE_STOPPED && !tracee_is_stopped(t))
			t->state = TRACEE_RUNNING;
	}
}

/* Drops the dead; counts those that are still on their way. */
static int poll_process(struct frozen_process *p, size_t *waiting, struct err *err)
{
	for (size_t i = 0; i < p->n_threads;) {
		struct tracee *t = &p->threads[i]->tracee;
		int stopped = t->state == TRACEE_STOPPED ? 1 : tracee_poll_stop(t, err);

		if (stopped < 0 && err->kind != ERR_GONE)
			return -1;
		if (stopped < 0) {
			bool vanished = !t->exited_on_us;

			frozen_drop_thread(p, i);
			if (vanished)
				distrust_leader(p);
			continue;
		}
		*waiting += !stopped;
		i++;
	}
	return 0;
}

static bool is_running(const struct frozen_process *p)
{
	for (size_t i = 0; i < p->n_threads; i++)
		if (p->threads[i]->tracee.state == TRACEE_RUNNING)
			return true;
	return false;
}

static struct frozen_process *find(struct frozen_tree *tree, pid_t tgid)
{
	for (size_t i = 0; i < tree->n; i++)
		if (tree->processes[i].tgid == tgid)
			return &tree->processes[i];
	return NULL;
}

static bool shares_memory(pid_t a, pid_t b)
{
	return syscall(SYS_kcmp, a, b, KCMP_VM, 0, 0) == 0;
}

static int let_run(struct settling *s, struct frozen_process *parent, struct frozen_process *child,
		   struct err *err)
{
	struct let_go *more = reallocarray(s->gone, s->n_gone + 1, sizeof(*more));

	if (!more)
		return err_sys(err, "process list");
	s->gone = more;
	more[s->n_gone++] = (struct let_go){parent->tgid, child->tgid};
	*s->ran = true;
	for (size_t i = 0; i < child->n_threads; i++) {
		struct tracee *t = &child->threads[i]->tracee;

		if (t->state == TRACEE_STOPPED && tracee_continue(t, 0, err) < 0 &&
		    err->kind != ERR_GONE)
			return -1;
	}
	return 0;
}

/* Children that stand still with their parent's memory while that has a thread on the way. */
static int help_vforks(struct settling *s, struct frozen_process *parent, struct err *err)
{
	for (size_t i = 0; i < s->tree->n; i++) {
		struct frozen_process *child = &s->tree->processes[i];
		struct proc_stat stat;

		if (child == parent || child->n_threads == 0 || is_running(child) ||
		    !shares_memory(parent->tgid, child->tgid))
			continue;
		if (proc_read_stat(child->tgid, 0, &stat, err) < 0 || stat.ppid != parent->tgid)
			continue;
		if (let_run(s, parent, child, err) < 0)
			return -1;
	}
	return 0;
}

/* Those whose parents have come out of vfork are asked to stop again. */
static void call_back(struct settling *s)
{
	for (size_t i = 0; i < s->n_gone;) {
		struct frozen_process *parent = find(s->tree, s->gone[i].parent);
		struct frozen_process *child = find(s->tree, s->gone[i].child);

		if (parent && is_running(parent)) {
			i++;
			continue;
		}
		for (size_t j = 0; child && j < child->n_threads; j++)
			if (child->threads[j]->tracee.state == TRACEE_RUNNING)
				ptrace(PTRACE_INTERRUPT, child->threads[j]->tracee.tid, NULL, NULL);
		s->gone[i] = s->gone[--s->n_gone];
	}
}

static int name_the_slow(const struct settling *s, struct err *err)
{
	for (size_t i = 0; i < s->tree->n; i++) {
		const struct frozen_process *p = &s->tree->processes[i];

		for (size_t j = 0; j < p->n_threads; j++) {
			pid_t tid = p->threads[j]->tracee.tid;
			struct proc_stat stat;

			if (p->threads[j]->tracee.state != TRACEE_RUNNING ||
			    proc_read_stat(p->tgid, tid, &stat, err) < 0)
				continue;
			for (size_t k = 0; k < s->n_gone; k++)
				if (s->gone[k].parent == p->tgid)
					return err_set(
						err, ERR_BUSY,
						"process %d (%s) waits in vfork for process %d, "
						"which has not executed a program yet",
						p->tgid, stat.comm, s->gone[k].child);
			return err_set(err, ERR_BUSY,
				       "thread %d (%s) of process %d cannot be stopped: it is "
				       "in state %c",
				       tid, stat.comm, p->tgid, stat.state);
		}
	}
	return err_set(err, ERR_BUSY, "the job's threads do not stop");
}

/* One look at everybody. */
static int look(struct settling *s, size_t *waiting, struct err *err)
{
	*waiting = 0;
	for (size_t i = 0; i < s->tree->n; i++)
		if (poll_process(&s->tree->processes[i], waiting, err) < 0)
			return -1;
	call_back(s);
	return 0;
}

/* A first thread that ends while others run tells its tracer only when they have ended too. */
static void drop_ended_leader(struct frozen_process *p)
{
	struct proc_stat stat;
	struct err ignored;

	for (size_t i = 0; i < p->n_threads; i++)
		if (p->threads[i]->tracee.tid == p->tgid &&
		    p->threads[i]->tracee.state == TRACEE_RUNNING &&
		    proc_read_stat(p->tgid, p->tgid, &stat, &ignored) == 0 && stat.state == 'Z') {
			frozen_drop_thread(p, i);
			return;
		}
}

static int look_closer(struct settling *s, struct err *err)
{
	for (size_t i = 0; i < s->tree->n; i++) {
		struct frozen_process *p = &s->tree->processes[i];

		drop_ended_leader(p);
		if (is_running(p) && help_vforks(s, p, err) < 0)
			return -1;
	}
	return 0;
}

static int settle(struct settling *s, struct err *err)
{
	const struct timespec moment = {0, MOMENT_NS};
	uint64_t begin = clock_ns(CLOCK_MONOTONIC), helped = begin, now;
	size_t waiting;

	for (;;) {
		if (look(s, &waiting, err) < 0)
			return -1;
		if (waiting == 0)
			return 0;
		now = clock_ns(CLOCK_MONOTONIC);
		if (now - begin > PATIENCE_NS)
			return name_the_slow(s, err);
		if (now - helped > VFORK_NS) {
			if (look_closer(s, err) < 0)
				return -1;
			helped = now;
		}
		nanosleep(&moment, NULL);
	}
}

int freeze_settle(struct frozen_tree *tree, bool *ran, struct err *err)
{
	struct settling s = {.tree = tree, .ran = ran};
	int result = settle(&s, err);

	/* One that is still let run must stop before it can be released. */
	while (result < 0 && s.n_gone > 0) {
		struct frozen_process *child = find(tree, s.gone[--s.n_gone].child);

		for (size_t j = 0; child && j < child->n_threads; j++)
			if (child->threads[j]->tracee.state == TRACEE_RUNNING)
				ptrace(PTRACE_INTERRUPT, child->threads[j]->tracee.tid, NULL, NULL);
	}
	free(s.gone);
	tracee_reap_unknown();
	return result;
}
