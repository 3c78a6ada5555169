#include "checkpointer/collect.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "checkpointer/controls.h"
#include "checkpointer/tracee/thread_id.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

#define MAX_CPU_BYTES 1024 /* 8192 CPUs */
#define COMM_ROOM     16   /* TASK_COMM_LEN (include/linux/sched.h) */

/* Seqlock loops and clock reads leave the vdso within a few hundred instructions. */
#define VDSO_STEPS_MOST 20000

#ifndef IOPRIO_WHO_PROCESS
#define IOPRIO_WHO_PROCESS 1
#endif

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while describing threads");
}

/* struct rseq as registered (include/uapi/linux/rseq.h): the field that matters, and a section. */
#define RSEQ_CS_OFFSET 8
struct rseq_section {
	uint32_t version, flags;
	uint64_t start_ip, post_commit_offset, abort_ip;
};

/* Linux 5.13; where it is missing there is no way to know, and glibc registers again at will. */
static bool read_rseq(const struct frozen_thread *t, struct __ptrace_rseq_configuration *ret)
{
	return ptrace(PTRACE_GET_RSEQ_CONFIGURATION, t->tracee.tid, sizeof(*ret), ret) == (long)sizeof(*ret);
}

/*
 * A thread stopped inside an rseq critical section has been preempted there, so it must go to the abort
 * handler. The kernel would do that by itself, but not after we have made calls in the thread's name
 * (it then finds the instruction pointer outside and clears the section), so it is done here for good.
 */
static int leave_rseq_section(struct collected_process *p, struct frozen_thread *t, struct err *err)
{
	struct __ptrace_rseq_configuration conf;
	struct rseq_section section;
	struct arch_regs regs;
	uint64_t pointer, zero = 0, rseq;
	struct err ignored;

	if (!read_rseq(t, &conf) || !conf.rseq_abi_pointer)
		return 0;
	rseq = conf.rseq_abi_pointer;
	if (mem_read(p->frozen->pid, rseq + RSEQ_CS_OFFSET, &pointer, sizeof(pointer), &ignored) < 0 ||
	    pointer == 0 ||
	    mem_read(p->frozen->pid, pointer, &section, sizeof(section), &ignored) < 0)
		return 0;
	if (tracee_get_regs(&t->tracee, &regs, err) < 0)
		return -1;
	if (arch_ip(&regs) - section.start_ip >= section.post_commit_offset)
		return 0;
	arch_set_ip(&regs, section.abort_ip);
	if (tracee_set_regs(&t->tracee, &regs, err) < 0)
		return -1;
	return mem_write(p->frozen->pid, rseq + RSEQ_CS_OFFSET, &zero, sizeof(zero), err);
}

int collect_leave_rseq(struct collected_process *p, struct err *err)
{
	for (size_t i = 0; i < p->frozen->n_threads; i++)
		if (leave_rseq_section(p, p->frozen->threads[i], err) < 0)
			return -1;
	return 0;
}

static void collect_rseq(struct frozen_thread *t, Snap__Thread *m)
{
	struct __ptrace_rseq_configuration conf;

	if (!read_rseq(t, &conf))
		return;
	m->rseq = conf.rseq_abi_pointer;
	m->rseq_size = conf.rseq_abi_size;
	m->rseq_signature = conf.signature;
	m->rseq_flags = conf.flags;
}

static int collect_affinity(struct frozen_thread *t, long cpus, Snap__Thread *m, struct err *err)
{
	unsigned char bits[MAX_CPU_BYTES] = {0};
	long n = syscall(SYS_sched_getaffinity, t->tracee.tid, sizeof(bits), bits);
	long set = 0;

	if (n < 0)
		return err_sys(err, "cannot read the CPU affinity of thread %d", t->vtid);
	for (long i = 0; i < n * 8; i++)
		set += bits[i / 8] >> (i % 8) & 1;
	m->affinity_all = set >= cpus;
	return snap_set_bytes(&m->affinity, bits, (size_t)n) < 0 ? no_memory(err) : 0;
}

/* What other processes may ask about a thread, by its number. */
static int collect_from_outside(struct frozen_thread *t, long cpus, Snap__Thread *m, struct err *err)
{
	void *head = NULL;
	size_t len = 0;

	if (syscall(SYS_get_robust_list, t->tracee.tid, &head, &len) == 0) {
		m->robust_list = (uint64_t)(uintptr_t)head;
		m->robust_list_size = len;
	}
	errno = 0;
	m->nice = getpriority(PRIO_PROCESS, (id_t)t->tracee.tid);
	m->io_priority = (int32_t)syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, t->tracee.tid);
	if (m->io_priority < 0)
		m->io_priority = 0;
	collect_rseq(t, m);
	return collect_affinity(t, cpus, m, err);
}

static int collect_pending(struct frozen_thread *t, Snap__Thread *m, struct err *err)
{
	cleanup_free void *list = NULL;
	size_t n;

	if (tracee_peek_pending(&t->tracee, false, &list, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (snap_append_bytes(&m->pending, &m->n_pending, (siginfo_t *)list + i,
				      sizeof(siginfo_t)) < 0)
			return no_memory(err);
	return 0;
}

/* ---- asking many at a time ----------------------------------------------------------------- */

/* One group: what their calls and answers take fits into the executor. */
#define ASKED_MOST  48
#define ASKED_CALLS 32
#define ASKED_DATA  2048

struct asked {
	struct frozen_thread *thread;
	Snap__Thread *m;
	stack_t *stack;
	uint64_t *tid_addr;
	int *death;
	char *name;
	struct remote_call *slack;
	struct thread_queries controls;
};

struct asking {
	struct collection *c;
	struct collected_process *p;
	uint64_t vdso_start, vdso_end; /* 0, 0: none */
	long cpus;
	struct asked list[ASKED_MOST];
	struct remote_part parts[ASKED_MOST];
	size_t n;
};

static void queue_thread(struct remote *r, const struct proc_status *status, struct asked *a,
			 struct remote_part *part)
{
	uint64_t at;

	part->thread = &a->thread->tracee;
	part->one_by_one = (status->sig_pending | status->shared_pending) >> (SIGTRAP - 1) & 1;
	part->first = r->n_calls;
	a->stack = remote_data(r, sizeof(*a->stack), &at);
	remote_call(r, SYS_sigaltstack, 0, at);
	a->tid_addr = remote_data(r, sizeof(*a->tid_addr), &at);
	remote_call(r, SYS_prctl, PR_GET_TID_ADDRESS, at);
	a->death = remote_data(r, sizeof(*a->death), &at);
	remote_call(r, SYS_prctl, PR_GET_PDEATHSIG, at);
	a->name = remote_data(r, COMM_ROOM, &at);
	remote_call(r, SYS_prctl, PR_GET_NAME, at);
	a->slack = remote_call(r, SYS_prctl, PR_GET_TIMERSLACK);
	queue_thread_controls(r, &a->controls);
	part->n = r->n_calls - part->first;
}

static int take_answers(struct asking *k, struct asked *a, struct err *err)
{
	Snap__Thread *m = a->m;

	m->altstack = (uint64_t)(uintptr_t)a->stack->ss_sp;
	m->altstack_size = a->stack->ss_size;
	m->altstack_flags = (uint32_t)a->stack->ss_flags;
	m->clear_child_tid = *a->tid_addr;
	m->parent_death_signal = *a->death;
	m->timer_slack = a->slack->ret > 0 ? (uint64_t)a->slack->ret : 0;
	a->name[COMM_ROOM - 1] = '\0';
	if (snap_set_string(&m->comm, a->name) < 0)
		return no_memory(err);
	return take_thread_controls(k->p, a->thread, &a->controls, m, err);
}

static int check_new_id(const struct collected_process *p, const Snap__Thread *m, struct err *err)
{
	const struct thread_id id = {m->tid, m->clear_child_tid, m->robust_list};

	return thread_id_check(p->frozen->pid, &id, err);
}

static int end_thread(struct asking *k, struct asked *a, struct err *err)
{
	struct collected_process *p = k->p;

	if (take_answers(k, a, err) < 0 || collect_scheduling(p, a->thread, a->m, err) < 0 ||
	    collect_dispatch(a->thread, a->m, err) < 0 || collect_seccomp(p, a->thread, a->m, err) < 0 ||
	    collect_pending(a->thread, a->m, err) < 0)
		return -1;
	return k->c->config->new_ids ? check_new_id(p, a->m, err) : 0;
}

static int go_on(struct asking *k, const struct frozen_thread *t, int result, struct err *err)
{
	if (result < 0)
		err_wrap(err, "process %d, thread %d", k->p->frozen->vpid, t->vtid);
	return refusals_go_on(&k->c->refusals, result, err);
}

/* All that have been queued. */
static int ask(struct asking *k, struct err *err)
{
	size_t n = k->n;

	k->n = 0;
	if (n > 0 && remote_run_parts(&k->p->remote, k->parts, n, err) < 0)
		return err_wrap(err, "process %d", k->p->frozen->vpid);
	for (size_t i = 0; i < n; i++)
		if (go_on(k, k->list[i].thread, end_thread(k, &k->list[i], err), err) < 0)
			return -1;
	remote_reset(&k->p->remote);
	return 0;
}

/* ---- one thread ---------------------------------------------------------------------------- */

static int get_regs_outside_vdso(struct asking *k, struct frozen_thread *t, struct arch_regs *ret,
				 struct err *err)
{
	if (tracee_get_regs(&t->tracee, ret, err) < 0)
		return -1;
	if (arch_ip(ret) < k->vdso_start || arch_ip(ret) >= k->vdso_end)
		return 0;
	if (tracee_step_out(&t->tracee, k->vdso_start, k->vdso_end, VDSO_STEPS_MOST, err) < 0)
		return -1;
	return tracee_get_regs(&t->tracee, ret, err);
}

/* part: given what the thread goes on with. */
static int collect_registers(struct asking *k, struct frozen_thread *t, Snap__Thread *m,
			     struct remote_part *part, struct err *err)
{
	struct arch_regs *live = &part->regs;
	cleanup_free void *xstate = NULL;
	struct resumption how;
	size_t len;

	if (get_regs_outside_vdso(k, t, live, err) < 0 ||
	    sleeps_resolve(k->c->sleeps, k->p->frozen, t, live, &how, err) < 0 ||
	    (how.live_changed && tracee_set_regs(&t->tracee, live, err) < 0) ||
	    tracee_get_sigmask(&t->tracee, &m->blocked, err) < 0 ||
	    tracee_get_xstate(&t->tracee, &xstate, &len, err) < 0)
		return -1;
	part->mask = m->blocked;
	m->restart = how.restart;
	m->restart_elapsed = how.elapsed;
	m->restart_code = how.code;
	if (snap_set_bytes(&m->registers, &how.saved.raw, sizeof(how.saved.raw)) < 0 ||
	    snap_set_bytes(&m->xstate, xstate, len) < 0)
		return no_memory(err);
	return 0;
}

static int read_thread_link(const struct collected_process *p, const struct frozen_thread *t, const char *name,
			    char *target, size_t len, struct err *err)
{
	char path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", p->frozen->pid, t->tracee.tid, name);
	n = readlink(path, target, len - 1);
	if (n < 0)
		return err_sys(err, "cannot read %s", path);
	target[n] = '\0';
	return 0;
}

/* Since unshare(2) or clone(2). */
static int collect_directory(const struct collected_process *p, const struct frozen_thread *t, Snap__Thread *m,
			     struct err *err)
{
	char target[PATH_MAX + 16];
	size_t n;

	if (!t->own_fs)
		return 0;
	if (read_thread_link(p, t, "root", target, sizeof(target), err) < 0)
		return -1;
	if (strcmp(target, "/") != 0)
		return err_set(err, ERR_UNSUPPORTED, "its root directory is %s", target);
	if (read_thread_link(p, t, "cwd", target, sizeof(target), err) < 0)
		return -1;
	n = strlen(target);
	if (n > 10 && strcmp(target + n - 10, " (deleted)") == 0)
		return err_set(err, ERR_UNSUPPORTED, "its own working directory %s has been removed", target);
	m->umask = frozen_status(p->frozen, t)->umask;
	return snap_set_string(&m->cwd, target) < 0 ? no_memory(err) : 0;
}

/* All that need not be asked from within, and the rest queued. */
static int begin_thread(struct asking *k, struct frozen_thread *t, struct err *err)
{
	Snap__Process *model = k->p->model;
	Snap__Thread *m = snap_append(&model->threads, &model->n_threads, Snap__Thread, SNAP__THREAD__INIT);

	if (!m)
		return no_memory(err);
	m->tid = t->vtid;
	if (collect_from_outside(t, k->cpus, m, err) < 0 || collect_directory(k->p, t, m, err) < 0 ||
	    collect_registers(k, t, m, &k->parts[k->n], err) < 0)
		return -1;
	k->list[k->n] = (struct asked){.thread = t, .m = m};
	queue_thread(&k->p->remote, frozen_status(k->p->frozen, t), &k->list[k->n], &k->parts[k->n]);
	k->n++;
	return 0;
}

static bool is_full(const struct asking *k)
{
	return k->n == ASKED_MOST || remote_calls_left(&k->p->remote) < ASKED_CALLS ||
	       remote_data_left(&k->p->remote) < ASKED_DATA;
}

static void find_vdso(struct asking *k)
{
	const Snap__Process *memory = k->p->memory->model;

	for (size_t i = 0; i < memory->n_regions; i++)
		if (memory->regions[i]->kind == SNAP__REGION__KIND__VDSO) {
			k->vdso_start = memory->regions[i]->start;
			k->vdso_end = memory->regions[i]->end;
		}
}

/* A first thread that is a zombie while others run. */
static int collect_ended_leader(struct collected_process *p, struct err *err)
{
	Snap__Thread *m = snap_append(&p->model->threads, &p->model->n_threads, Snap__Thread,
				      SNAP__THREAD__INIT);
	cleanup_free char *comm = NULL;
	char path[64];

	if (!m)
		return no_memory(err);
	m->tid = p->frozen->vpid;
	p->model->leader_exited = true;
	p->model->exit_status = p->frozen->stat.exit_code;
	snprintf(path, sizeof(path), "/proc/%d/comm", p->frozen->tgid);
	if (read_text(AT_FDCWD, path, &comm, NULL, err) < 0)
		return -1;
	comm[strcspn(comm, "\n")] = '\0';
	return snap_set_string(&m->comm, comm) < 0 ? no_memory(err) : 0;
}

int collect_threads(struct collection *c, struct collected_process *p, struct err *err)
{
	cleanup_free struct asking *k = calloc(1, sizeof(*k));

	if (!k)
		return no_memory(err);
	k->c = c;
	k->p = p;
	k->cpus = sysconf(_SC_NPROCESSORS_ONLN);
	find_vdso(k);
	remote_reset(&p->remote);
	if (p->frozen->leader_exited && collect_ended_leader(p, err) < 0)
		return -1;
	for (size_t i = 0; i < p->frozen->n_threads; i++) {
		struct frozen_thread *t = p->frozen->threads[i];

		if (go_on(k, t, begin_thread(k, t, err), err) < 0 || (is_full(k) && ask(k, err) < 0))
			return -1;
	}
	return ask(k, err);
}
