#include "checkpointer/collect.h"

#include <errno.h>
#include <fcntl.h>
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

static int collect_affinity(struct frozen_thread *t, Snap__Thread *m, struct err *err)
{
	unsigned char bits[MAX_CPU_BYTES] = {0};
	long n = syscall(SYS_sched_getaffinity, t->tracee.tid, sizeof(bits), bits);
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	long set = 0;

	if (n < 0)
		return err_sys(err, "cannot read the CPU affinity of thread %d", t->vtid);
	for (long i = 0; i < n * 8; i++)
		set += bits[i / 8] >> (i % 8) & 1;
	m->affinity_all = set >= cpus;
	return snap_set_bytes(&m->affinity, bits, (size_t)n) < 0 ? no_memory(err) : 0;
}

/* What other processes may ask about a thread, by its number. */
static int collect_from_outside(struct collected_process *p, struct frozen_thread *t, Snap__Thread *m,
				struct err *err)
{
	cleanup_free char *comm = NULL;
	char path[64];
	void *head = NULL;
	size_t len = 0;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/comm", p->frozen->pid, t->tracee.tid);
	if (read_text(AT_FDCWD, path, &comm, NULL, err) < 0)
		return -1;
	comm[strcspn(comm, "\n")] = '\0';
	if (snap_set_string(&m->comm, comm) < 0)
		return no_memory(err);
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
	return collect_affinity(t, m, err);
}

static int collect_from_inside(struct collected_process *p, struct frozen_thread *t, Snap__Thread *m,
			       struct err *err)
{
	struct remote *r = &p->remote;
	uint64_t stack_at, tid_at, death_at;
	stack_t *stack = remote_data(r, sizeof(*stack), &stack_at);
	uint64_t *tid_addr = remote_data(r, sizeof(*tid_addr), &tid_at);
	int *death = remote_data(r, sizeof(*death), &death_at);
	struct thread_queries controls;
	struct remote_call *slack;
	int result;

	remote_call(r, SYS_sigaltstack, 0, stack_at);
	remote_call(r, SYS_prctl, PR_GET_TID_ADDRESS, tid_at);
	remote_call(r, SYS_prctl, PR_GET_PDEATHSIG, death_at);
	slack = remote_call(r, SYS_prctl, PR_GET_TIMERSLACK);
	queue_thread_controls(r, &controls);
	result = remote_run(r, &t->tracee, err);
	if (result == 0) {
		m->altstack = (uint64_t)(uintptr_t)stack->ss_sp;
		m->altstack_size = stack->ss_size;
		m->altstack_flags = (uint32_t)stack->ss_flags;
		m->clear_child_tid = *tid_addr;
		m->parent_death_signal = *death;
		m->timer_slack = slack->ret > 0 ? (uint64_t)slack->ret : 0;
		result = take_thread_controls(p, t, &controls, m, err);
	}
	remote_reset(r);
	return result;
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

static int collect_registers(struct collection *c, struct collected_process *p,
			     struct frozen_thread *t, Snap__Thread *m, struct err *err)
{
	struct arch_regs live, saved;
	cleanup_free void *xstate = NULL;
	bool changed, restart;
	uint64_t elapsed;
	size_t len;

	if (tracee_get_regs(&t->tracee, &live, err) < 0 ||
	    sleeps_resolve(c->sleeps, p->frozen, t, &live, &changed, &saved, &restart, &elapsed,
			   err) < 0 ||
	    (changed && tracee_set_regs(&t->tracee, &live, err) < 0) ||
	    tracee_get_sigmask(&t->tracee, &m->blocked, err) < 0 ||
	    tracee_get_xstate(&t->tracee, &xstate, &len, err) < 0)
		return -1;
	m->restart = restart;
	m->restart_elapsed = elapsed;
	if (snap_set_bytes(&m->registers, &saved.raw, sizeof(saved.raw)) < 0 ||
	    snap_set_bytes(&m->xstate, xstate, len) < 0)
		return no_memory(err);
	return 0;
}

static int step_out_of_vdso(struct collected_process *p, struct frozen_thread *t, struct err *err)
{
	const Snap__Process *memory = p->memory->model;

	for (size_t i = 0; i < memory->n_regions; i++) {
		const Snap__Region *r = memory->regions[i];

		if (r->kind == SNAP__REGION__KIND__VDSO)
			return tracee_step_out(&t->tracee, r->start, r->end, VDSO_STEPS_MOST, err);
	}
	return 0;
}

static int collect_thread(struct collection *c, struct collected_process *p, struct frozen_thread *t,
			  struct err *err)
{
	Snap__Thread *m = snap_append(&p->model->threads, &p->model->n_threads, Snap__Thread,
				      SNAP__THREAD__INIT);

	if (!m)
		return no_memory(err);
	m->tid = t->vtid;
	if (collect_from_outside(p, t, m, err) < 0 ||
	    step_out_of_vdso(p, t, err) < 0 || collect_registers(c, p, t, m, err) < 0 ||
	    collect_from_inside(p, t, m, err) < 0 || collect_scheduling(p, t, m, err) < 0 ||
	    collect_dispatch(t, m, err) < 0 || collect_seccomp(p, t, m, err) < 0)
		return -1;
	return collect_pending(t, m, err);
}

static int check_new_id(const struct collected_process *p, struct err *err)
{
	const Snap__Thread *m = p->model->threads[p->model->n_threads - 1];
	const struct thread_id id = {m->tid, m->clear_child_tid, m->robust_list};

	return thread_id_check(p->frozen->pid, &id, err);
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
	if (p->frozen->leader_exited && collect_ended_leader(p, err) < 0)
		return -1;
	for (size_t i = 0; i < p->frozen->n_threads; i++) {
		int result = collect_thread(c, p, p->frozen->threads[i], err);

		if (result == 0 && c->config->new_ids)
			result = check_new_id(p, err);
		if (result < 0)
			err_wrap(err, "process %d, thread %d", p->frozen->vpid,
				 p->frozen->threads[i]->vtid);
		if (refusals_go_on(&c->refusals, result, err) < 0)
			return -1;
	}
	return 0;
}
