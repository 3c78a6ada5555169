/*
 * Threads under their old ids, what is each thread's own, and in the end their registers.
 */
#include <linux/prctl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "checkpointer/tracee/controls.h"
#include "checkpointer/tracee/thread_id.h"
#include "recovery/batch.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

#define THREAD_FLAGS                                                                               \
	(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM)
#define IOPRIO_WHO_PROCESS 1
#define LEADER_END_NS	   5000000000ull

/* Threads first … first+n-1 of the model, n <= TRACEE_MAX_NEW. They are caught before their first
 * instruction, so that they need no stack. */
static int clone_some(struct recovery *rec, struct stub *stub, size_t first, size_t n,
		      struct err *err)
{
	struct tracee *leader = &stub->threads[0];
	struct batch b;

	batch_begin(&b, stub, leader);
	leader->n_born = 0;
	for (size_t i = first; i < first + n; i++) {
		int32_t tid = stub->model->threads[i]->tid;
		struct clone_args args = {.flags = THREAD_FLAGS};

		if (!rec->host->new_ids) {
			args.set_tid_size = 1;
			args.set_tid = batch_push(&b, &tid, sizeof(tid));
		}
		if (batch_call(&b, BATCH_MUST, err, SYS_clone3,
			       ARGS(batch_push(&b, &args, sizeof(args)), sizeof(args)),
			       "create thread %d", tid) < 0)
			return -1;
	}
	if (batch_run(&b, err) < 0)
		return -1;
	if (leader->n_born != n)
		return err_set(err, ERR_SYSTEM, "process %d: %zu threads appeared instead of %zu",
			       stub->model->pid, leader->n_born, n);
	for (size_t i = 0; i < n; i++) {
		if (tracee_adopt(&stub->threads[first + i], stub->pid, leader->born[i], err) < 0)
			return err_wrap(err, "thread %d", stub->model->threads[first + i]->tid);
		stub->n_threads = first + i + 1;
	}
	leader->n_born = 0;
	return 0;
}

static int queue_policy(struct batch *b, const Snap__Thread *t, struct err *err)
{
	const Snap__ThreadControl *c = t->control;
	struct sched_attributes a = {
		.size = sizeof(a),
		.policy = (uint32_t)t->policy,
		.nice = t->nice,
		.priority = (uint32_t)t->priority,
	};

	if (c && c->reset_on_fork)
		a.flags |= SCHED_FLAG_RESET_ON_FORK;
	if (c && c->has_util) {
		a.flags |= SCHED_FLAG_UTIL_CLAMP;
		a.util_min = c->util_min;
		a.util_max = c->util_max;
	}
	if (!a.flags && t->priority == 0 && t->policy == sched_getscheduler(b->thread->tid) &&
	    t->nice == getpriority(PRIO_PROCESS, (id_t)b->thread->tid))
		return 0;
	if (batch_room(b, 2, sizeof(a), err) < 0 ||
	    batch_call(b, BATCH_WARN, err, SYS_sched_setattr, ARGS(0, batch_push(b, &a, sizeof(a)), 0),
		       "thread %d: scheduling policy %d, priority %d", t->tid, t->policy, t->priority) < 0)
		return -1;
	/* Kept, though without effect, by policies for which sched_setattr(2) ignores it. */
	return batch_call(b, BATCH_WARN, err, SYS_setpriority, ARGS(PRIO_PROCESS, 0, (uint64_t)(int64_t)t->nice),
			  "thread %d: nice %d", t->tid, t->nice);
}

static int queue_scheduling(struct batch *b, const Snap__Thread *t, struct err *err)
{
	if (!t->affinity_all && t->affinity.len &&
	    (batch_room(b, 1, t->affinity.len, err) < 0 ||
	     batch_call(b, BATCH_WARN, err, SYS_sched_setaffinity,
			ARGS(0, t->affinity.len, batch_push(b, t->affinity.data, t->affinity.len)),
			"thread %d: CPU affinity", t->tid) < 0))
		return -1;
	if (queue_policy(b, t, err) < 0)
		return -1;
	if (t->io_priority)
		return batch_call(b, BATCH_WARN, err, SYS_ioprio_set,
				  ARGS(IOPRIO_WHO_PROCESS, 0, (uint64_t)t->io_priority),
				  "thread %d: I/O priority", t->tid);
	return 0;
}

static int queue_addresses(struct batch *b, const Snap__Thread *t, struct err *err)
{
	stack_t stack = {
		.ss_sp = (void *)(uintptr_t)t->altstack,
		.ss_flags = (int)t->altstack_flags,
		.ss_size = t->altstack_size,
	};

	if (!(t->altstack_flags & SS_DISABLE) && t->altstack_size) {
		/* SS_ONSTACK only says that the thread was on it. */
		stack.ss_flags &= ~SS_ONSTACK;
		if (batch_room(b, 1, sizeof(stack), err) < 0 ||
		    batch_call(b, BATCH_MUST, err, SYS_sigaltstack,
			       ARGS(batch_push(b, &stack, sizeof(stack))),
			       "thread %d: alternate stack", t->tid) < 0)
			return -1;
	}
	if (t->robust_list && batch_call(b, BATCH_MUST, err, SYS_set_robust_list,
					 ARGS(t->robust_list, t->robust_list_size),
					 "thread %d: robust list", t->tid) < 0)
		return -1;
	return batch_call(b, BATCH_MUST, err, SYS_set_tid_address, ARGS(t->clear_child_tid),
			  "thread %d: clear_child_tid", t->tid);
}

/* Of its own: as long as nothing has been unshared, it is that of the process. */
static int queue_directory(struct batch *b, const Snap__Thread *t, struct err *err)
{
	if (!t->cwd || !t->cwd[0])
		return 0;
	if (batch_room(b, 3, strlen(t->cwd) + 1, err) < 0 ||
	    batch_call(b, BATCH_MUST, err, SYS_unshare, ARGS(CLONE_FS), "thread %d: a working directory of its own",
		       t->tid) < 0 ||
	    batch_call(b, BATCH_MUST, err, SYS_chdir, ARGS(batch_push_string(b, t->cwd)),
		       "thread %d: working directory %s", t->tid, t->cwd) < 0)
		return -1;
	return batch_call(b, BATCH_MUST, err, SYS_umask, ARGS(t->umask), "thread %d: umask", t->tid);
}

static int set_thread(struct stub *stub, size_t index, struct err *err)
{
	const Snap__Thread *t = stub->model->threads[index];
	char comm[16] = {0};
	struct batch b;

	batch_begin(&b, stub, &stub->threads[index]);
	strncpy(comm, t->comm ? t->comm : "", sizeof(comm) - 1);
	if (queue_directory(&b, t, err) < 0 || queue_addresses(&b, t, err) < 0 || queue_scheduling(&b, t, err) < 0 ||
	    batch_room(&b, 1, sizeof(comm), err) < 0 ||
	    batch_call(&b, BATCH_MUST, err, SYS_prctl,
		       ARGS(PR_SET_NAME, batch_push(&b, comm, sizeof(comm))), "thread %d: name",
		       t->tid) < 0 ||
	    batch_call(&b, BATCH_WARN, err, SYS_prctl, ARGS(PR_SET_TIMERSLACK, t->timer_slack),
		       "thread %d: timer slack", t->tid) < 0)
		return -1;
	return batch_run(&b, err);
}

/* Threads know their numbers: they are given the new ones, before anything of theirs runs. */
static int tell_new_ids(struct stub *stub, struct err *err)
{
	for (size_t i = 0; i < stub->n_threads; i++) {
		const Snap__Thread *t = stub->model->threads[i];
		const struct thread_id id = {t->tid, t->clear_child_tid, t->robust_list};
		int32_t tid = stub->threads[i].tid;

		if (thread_id_check(stub->pid, &id, err) < 0 ||
		    mem_write(stub->pid, t->clear_child_tid, &tid, sizeof(tid), err) < 0)
			return err_wrap(err, "process %d, thread %d", stub->model->pid, t->tid);
	}
	return 0;
}

int stub_make_threads(struct recovery *rec, struct stub *stub, struct err *err)
{
	size_t total = stub->model->n_threads;

	while (stub->n_threads < total) {
		size_t n = total - stub->n_threads;

		if (clone_some(rec, stub, stub->n_threads, n < TRACEE_MAX_NEW ? n : TRACEE_MAX_NEW,
			       err) < 0)
			return -1;
	}
	for (size_t i = 0; i < total; i++) {
		if (set_thread(stub, i, err) < 0)
			return -1;
	}
	return rec->host->new_ids ? tell_new_ids(stub, err) : 0;
}

/* ---- the end ------------------------------------------------------------------------------- */

/* From here on the kernel may write into the thread's rseq area whenever it runs. */
static int set_last(struct stub *stub, size_t index, struct err *err)
{
	const Snap__Thread *t = stub->model->threads[index];
	struct batch b;

	batch_begin(&b, stub, &stub->threads[index]);
	if (t->parent_death_signal &&
	    batch_call(&b, BATCH_MUST, err, SYS_prctl,
		       ARGS(PR_SET_PDEATHSIG, (uint64_t)t->parent_death_signal),
		       "thread %d: parent death signal", t->tid) < 0)
		return -1;
	if (t->rseq && batch_call(&b, BATCH_MUST, err, SYS_rseq,
				  ARGS(t->rseq, t->rseq_size, 0, t->rseq_signature),
				  "thread %d: rseq", t->tid) < 0)
		return -1;
	return batch_run(&b, err);
}

static size_t saved_layout(const struct recovery *rec, struct arch_component *ret)
{
	const Snap__Host *host = rec->model->host;
	size_t n = host->n_state_layout < ARCH_COMPONENTS_MOST ? host->n_state_layout
							       : ARCH_COMPONENTS_MOST;

	/* An old snapshot does not tell: this machine's, then. */
	if (n == 0)
		return arch_xstate_layout(ret, ARCH_COMPONENTS_MOST);
	for (size_t i = 0; i < n; i++)
		ret[i] = (struct arch_component){host->state_layout[i]->number,
						 host->state_layout[i]->offset,
						 host->state_layout[i]->size};
	return n;
}

/* The kernel takes an area of exactly its own size and layout (arch/x86/kernel/fpu/regset.c
 * xstateregs_set); what only the CPU of the snapshot has is not in use (plan_check_machine). */
static int set_xstate(struct recovery *rec, struct stub *stub, size_t index, struct err *err)
{
	const ProtobufCBinaryData *saved = &stub->model->threads[index]->xstate;
	struct arch_component from[ARCH_COMPONENTS_MOST], to[ARCH_COMPONENTS_MOST];
	struct tracee *t = &stub->threads[index];
	cleanup_free void *area = NULL, *own = NULL;
	size_t len, n_from, n_to;

	if (saved->len == 0)
		return 0;
	if (arch_xstate_in_use(saved->data, saved->len) & native_dynamic_xstate() &&
	    remote_touch_xstate(&stub->remote, t, err) < 0)
		return -1;
	if (tracee_get_xstate(t, &own, &len, err) < 0)
		return -1;
	area = malloc(len);
	if (!area)
		return err_set(err, ERR_SYSTEM, "out of memory");
	n_from = saved_layout(rec, from);
	n_to = arch_xstate_layout(to, ARCH_COMPONENTS_MOST);
	if (arch_convert_xstate(saved->data, saved->len, from, n_from, to, n_to, area, len, err) < 0)
		return -1;
	return tracee_set_xstate(t, area, len, err);
}

/* What makes the process invisible to us comes after everything that looks into it, through
 * registers alone: from the vdso, as the executor is gone. */
static int set_undumpable(struct stub *stub, struct err *err)
{
	uint64_t vdso = stub->memory->vdso;
	size_t len = (size_t)(stub->memory->vdso_end - vdso);
	const uint64_t *arg = ARGS(PR_SET_DUMPABLE, 0);
	cleanup_free void *image = malloc(len ? len : 1);
	long at, ret;

	if (!image)
		return err_set(err, ERR_SYSTEM, "out of memory");
	if (mem_read(stub->pid, vdso, image, len, err) < 0)
		return -1;
	at = arch_find_syscall_insn(image, len);
	if (at < 0)
		return err_set(err, ERR_UNSUPPORTED, "it was not dumpable, and has no vdso");
	return tracee_syscall_at(stub_thread(stub), vdso + (uint64_t)at, SYS_prctl, arg, &ret, err);
}

static int set_registers(struct stub *stub, struct err *err)
{
	for (size_t i = stub->model->leader_exited; i < stub->n_threads; i++) {
		if (tracee_set_regs(&stub->threads[i], &stub->final[i], err) < 0)
			return err_wrap(err, "thread %d", stub->model->threads[i]->tid);
	}
	return stub->model->stopped ? stub_stop(stub, err) : 0;
}

static int set_sigmasks(struct stub *stub, struct err *err)
{
	for (size_t i = stub->model->leader_exited; i < stub->n_threads; i++) {
		const Snap__Thread *model = stub->model->threads[i];

		if (tracee_set_sigmask(&stub->threads[i], model->blocked, err) < 0)
			return err_wrap(err, "thread %d", model->tid);
	}
	return 0;
}

/* The first thread ends, and stays as a zombie while others run. Nobody may trace it then: its
 * process's end would wait for us. */
static int end_leader(struct stub *stub, struct err *err)
{
	uint64_t code = (uint64_t)stub->model->exit_status >> 8 & 0xff;
	uint64_t deadline = clock_ns(CLOCK_MONOTONIC) + LEADER_END_NS;
	struct tracee *t = &stub->threads[0];
	struct proc_stat stat;
	struct arch_regs regs;

	if (tracee_set_sigmask(t, UINT64_MAX, err) < 0 || tracee_get_regs(t, &regs, err) < 0)
		return -1;
	arch_set_call(&regs, stub->remote.syscall_insn, SYS_exit, ARGS(code));
	if (tracee_set_regs(t, &regs, err) < 0 || tracee_detach(t, err) < 0)
		return -1;
	do {
		usleep(100);
		if (proc_read_stat(stub->pid, stub->pid, &stat, err) < 0)
			return -1;
	} while (stat.state != 'Z' && clock_ns(CLOCK_MONOTONIC) < deadline);
	if (stat.state != 'Z')
		return err_set(err, ERR_SYSTEM, "it does not end");
	/* Its memory is reached by another's number from now on. */
	stub->pid = stub->remote.tgid = stub->threads[1].tid;
	for (size_t i = 1; i < stub->n_threads; i++)
		stub->threads[i].tgid = stub->pid;
	return 0;
}

/* The last to leave an address space takes the executor out of it. */
static int leave_executor(struct stub *stub, struct err *err)
{
	stub->has_executor = false;
	if (--stub->memory->tenants > 0) {
		remote_forget(&stub->remote);
		return 0;
	}
	if (remote_end(&stub->remote, stub_thread(stub), err) < 0)
		return -1;
	return stub->model->dumpable ? 0 : set_undumpable(stub, err);
}

int stub_set_registers(struct recovery *rec, struct stub *stub, struct err *err)
{
	if (stub->model->leader_exited && end_leader(stub, err) < 0)
		return err_wrap(err, "process %d: the end of its first thread", stub->model->pid);
	for (size_t i = stub->model->leader_exited; i < stub->n_threads; i++) {
		if (set_last(stub, i, err) < 0 || stub_set_controls(stub, i, err) < 0)
			return -1;
		if (set_xstate(rec, stub, i, err) < 0)
			return err_wrap(err, "thread %d: extended registers",
					stub->model->threads[i]->tid);
	}
	if (stub_set_policies(stub, err) < 0)
		return -1;
	if (leave_executor(stub, err) < 0)
		return err_wrap(err, "process %d", stub->model->pid);
	if (set_registers(stub, err) < 0 || set_sigmasks(stub, err) < 0)
		return -1;
	return stub_set_dispatch(stub, err);
}
