/*
 * What would hinder us, and so is set when everything else is done: the process's memory policy and limits,
 * the controls of each thread, its system call filters (which do not count while we trace it), and in the very end
 * its dispatch.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "checkpointer/tracee/controls.h"
#include "checkpointer/tracee/filters.h"
#include "recovery/batch.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"

/* ---- limits -------------------------------------------------------------------------------- */

static rlim_t to_rlim(uint64_t value)
{
	return value == UINT64_MAX ? RLIM_INFINITY : (rlim_t)value;
}

/* prlimit(2) takes CAP_SYS_RESOURCE where a process has another uid than root by now; its /proc file does not. */
static int read_limits(pid_t pid, struct proc_limit ret[PROC_N_LIMITS], struct err *err)
{
	cleanup_free char *text = NULL;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/limits", pid);
	return read_text(AT_FDCWD, path, &text, NULL, err) < 0 ? -1 : proc_parse_limits(text, ret, err);
}

/* Nobody may raise a hard limit without CAP_SYS_RESOURCE outside the capsule: then it stays lower. */
static int queue_limits(struct batch *b, const Snap__Process *p, struct err *err)
{
	struct proc_limit now[PROC_N_LIMITS];

	if (read_limits(b->stub->pid, now, err) < 0)
		return err_wrap(err, "process %d: limits", p->pid);
	for (size_t i = 0; i < p->n_limits && i < PROC_N_LIMITS; i++) {
		struct rlimit limit = {to_rlim(p->limits[i]->soft), to_rlim(p->limits[i]->hard)};

		if (limit.rlim_max > to_rlim(now[i].hard)) {
			limit.rlim_max = to_rlim(now[i].hard);
			if (limit.rlim_cur > limit.rlim_max) {
				log_warn("process %d: limit %zu was higher than it can be here", p->pid, i);
				limit.rlim_cur = limit.rlim_max;
			}
		}
		if (batch_room(b, 1, sizeof(limit), err) < 0 ||
		    batch_call(b, BATCH_WARN, err, SYS_prlimit64,
			       ARGS(0, i, batch_push(b, &limit, sizeof(limit))), "limit %zu", i) < 0)
			return -1;
	}
	return 0;
}

/* ---- controls ------------------------------------------------------------------------------ */

/* PR_SPEC_PRCTL: it can be set. What the kernel starts with is not set: it may forbid even that. */
static int queue_speculation(struct batch *b, const Snap__ThreadControl *c, struct err *err)
{
	for (size_t i = 0; i < c->n_speculation && i < N_SPECULATION; i++) {
		uint32_t state = c->speculation[i] & ~(uint32_t)PR_SPEC_PRCTL;
		uint32_t usual = i == PR_SPEC_L1D_FLUSH ? PR_SPEC_DISABLE : PR_SPEC_ENABLE;

		if (c->speculation[i] & PR_SPEC_PRCTL && state != usual &&
		    batch_call(b, BATCH_WARN, err, SYS_prctl, ARGS(PR_SET_SPECULATION_CTRL, i, state),
			       "speculation control %zu", i) < 0)
			return -1;
	}
	return 0;
}

static int queue_controls(struct batch *b, const Snap__Thread *t, struct err *err)
{
	const Snap__ThreadControl *c = t->control;

	if (!c)
		return 0;
	if (c->mce_kill != PR_MCE_KILL_DEFAULT &&
	    batch_call(b, BATCH_WARN, err, SYS_prctl,
		       ARGS(PR_MCE_KILL, PR_MCE_KILL_SET, (uint64_t)c->mce_kill),
		       "thread %d: machine check policy", t->tid) < 0)
		return -1;
	if (c->io_flusher && batch_call(b, BATCH_WARN, err, SYS_prctl, ARGS(PR_SET_IO_FLUSHER, 1),
					"thread %d: PR_SET_IO_FLUSHER", t->tid) < 0)
		return -1;
	if (queue_speculation(b, c, err) < 0)
		return -1;
	if (c->tsc == PR_TSC_SIGSEGV && batch_call(b, BATCH_MUST, err, SYS_prctl,
						   ARGS(PR_SET_TSC, PR_TSC_SIGSEGV),
						   "thread %d: PR_SET_TSC", t->tid) < 0)
		return -1;
	if (c->cpuid_faults)
		return batch_call(b, BATCH_MUST, err, SYS_arch_prctl, ARGS(ARCH_SET_CPUID, 0),
				  "thread %d: CPUID faulting", t->tid);
	return 0;
}

int stub_set_controls(struct stub *stub, size_t thread, struct err *err)
{
	struct batch b;

	batch_begin(&b, stub, &stub->threads[thread]);
	if (queue_controls(&b, stub->model->threads[thread], err) < 0)
		return -1;
	return batch_run(&b, err);
}

static int queue_policies(struct batch *b, const Snap__Process *p, struct err *err)
{
	const Snap__ProcessControl *c = p->control;

	if (c && c->memory_merge && batch_call(b, BATCH_WARN, err, SYS_prctl, ARGS(PR_SET_MEMORY_MERGE, 1),
					       "PR_SET_MEMORY_MERGE") < 0)
		return -1;
	if (p->lock_future && batch_call(b, BATCH_WARN, err, SYS_mlockall, ARGS(p->lock_future),
					 "locking future memory") < 0)
		return -1;
	if (c && c->deny_write_execute)
		return batch_call(b, BATCH_MUST, err, SYS_prctl, ARGS(PR_SET_MDWE, c->deny_write_execute),
				  "PR_SET_MDWE");
	return 0;
}

int stub_set_policies(struct stub *stub, struct err *err)
{
	struct batch b;

	batch_begin(&b, stub, stub_thread(stub));
	if (queue_policies(&b, stub->model, err) < 0 || queue_limits(&b, stub->model, err) < 0)
		return -1;
	return batch_run(&b, err);
}

/* ---- filters ------------------------------------------------------------------------------- */

/* How many of the oldest filters all threads have. Those are installed for all at once, so that a later
 * SECCOMP_FILTER_FLAG_TSYNC finds them related (kernel/seccomp.c, is_ancestor). */
static size_t shared_filters(const Snap__Process *p)
{
	const Snap__Thread *first = p->threads[0];
	size_t n = first->n_filters;

	for (size_t i = 1; i < p->n_threads; i++) {
		const Snap__Thread *t = p->threads[i];
		size_t k = 0;

		while (k < n && k < t->n_filters && t->filters[k] == first->filters[k])
			k++;
		n = k;
	}
	return n;
}

static int install(struct stub *stub, size_t thread, const Snap__SeccompFilter *filter, uint32_t more_flags,
		   struct err *err)
{
	struct sock_fprog program = {.len = (unsigned short)(filter->program.len / sizeof(struct sock_filter))};
	const Snap__Thread *t = stub->model->threads[thread];
	struct batch b;

	batch_begin(&b, stub, &stub->threads[thread]);
	program.filter = (void *)(uintptr_t)batch_push(&b, filter->program.data, filter->program.len);
	if (!program.filter)
		return err_set(err, ERR_UNSUPPORTED, "thread %d: a seccomp filter of %zu bytes", t->tid,
			       filter->program.len);
	if (batch_call(&b, BATCH_MUST, err, SYS_seccomp,
		       ARGS(SECCOMP_SET_MODE_FILTER, filter->flags | more_flags,
			    batch_push(&b, &program, sizeof(program))),
		       "thread %d: seccomp filter", t->tid) < 0)
		return -1;
	return batch_run(&b, err);
}

static int suspend_all(struct stub *stub, struct err *err)
{
	for (size_t i = 0; i < stub->n_threads; i++)
		if (tracee_suspend_seccomp(&stub->threads[i], err) < 0)
			return err_wrap(err, "only root can recover a process with seccomp filters");
	return 0;
}

static int set_own_filters(struct stub *stub, size_t thread, size_t shared, struct err *err)
{
	const Snap__Process *p = stub->model;
	const Snap__Thread *t = p->threads[thread];

	for (size_t i = shared; i < t->n_filters; i++)
		if (install(stub, thread, p->filters[t->filters[i]], 0, err) < 0)
			return -1;
	if (t->seccomp != SECCOMP_MODE_STRICT)
		return 0;
	return stub_call(stub, &stub->threads[thread], NULL, err, "strict mode of seccomp", SYS_seccomp,
			 ARGS(SECCOMP_SET_MODE_STRICT, 0, 0));
}

int stub_set_filters(struct stub *stub, struct err *err)
{
	const Snap__Process *p = stub->model;
	size_t shared = shared_filters(p);
	bool any = false;

	for (size_t i = 0; i < p->n_threads; i++)
		any |= p->threads[i]->seccomp != 0;
	if (!any)
		return 0;
	if (suspend_all(stub, err) < 0)
		return -1;
	for (size_t i = 0; i < shared; i++)
		if (install(stub, 0, p->filters[p->threads[0]->filters[i]],
			    p->n_threads > 1 ? SECCOMP_FILTER_FLAG_TSYNC : 0, err) < 0)
			return -1;
	for (size_t i = 0; i < p->n_threads; i++)
		if (set_own_filters(stub, i, shared, err) < 0)
			return -1;
	return 0;
}

int stub_set_dispatch(struct stub *stub, struct err *err)
{
	for (size_t i = 0; i < stub->n_threads; i++) {
		const Snap__Thread *t = stub->model->threads[i];
		struct dispatch_config config;

		if (!t->control || !t->control->dispatch.len)
			continue;
		memcpy(&config, t->control->dispatch.data, sizeof(config));
		if (tracee_set_dispatch(&stub->threads[i], &config, err) < 0)
			return err_wrap(err, "process %d", stub->model->pid);
	}
	return 0;
}
