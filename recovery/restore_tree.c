/*
 * Sessions, process groups, and the ends of those that are not to live: helpers and zombies.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "checkpointer/tracee/wait.h"
#include "recovery/batch.h"
#include "recovery/core_dump.h"
#include "store/base/log.h"

#define KERNEL_SIGSET_BYTES 8

int stub_found_session(struct stub *stub, struct err *err)
{
	return stub_call(stub, &stub->threads[0], NULL, err, "new session", SYS_setsid, ARGS(0));
}

int stub_set_group(struct stub *stub, int32_t group, struct err *err)
{
	char what[64];

	snprintf(what, sizeof(what), "process group %d", group);
	/* 0: whatever its own number is. */
	return stub_call(stub, &stub->threads[0], NULL, err, what, SYS_setpgid,
			 ARGS(0, group == stub->model->pid ? 0 : (uint64_t)group));
}

/* ---- ends ---------------------------------------------------------------------------------- */

/* Lets the thread run until its process has ended; signals are delivered. */
static int run_to_end(struct stub *stub, int *ret_status, struct err *err)
{
	struct tracee *t = &stub->threads[0];
	struct tracee_stop stop;
	int deliver = 0;

	for (;;) {
		/* SIGKILL may have come first. */
		if (tracee_resume(t, PTRACE_CONT, deliver, err) < 0 && err->kind != ERR_GONE)
			return -1;
		if (tracee_next_stop(t, &stop, err) < 0)
			break;
		deliver = stop.kind == STOP_SIGNAL ? stop.signo : 0;
	}
	if (err->kind != ERR_GONE || !t->exited_on_us)
		return -1;
	*ret_status = t->exit_status;
	return 0;
}

static int exit_with(struct stub *stub, int code, int *ret_status, struct err *err)
{
	struct tracee *t = &stub->threads[0];
	struct arch_regs regs;

	if (tracee_set_sigmask(t, UINT64_MAX, err) < 0 || tracee_get_regs(t, &regs, err) < 0)
		return -1;
	arch_set_call(&regs, stub->remote.syscall_insn, SYS_exit_group, ARGS((uint64_t)code));
	if (tracee_set_regs(t, &regs, err) < 0)
		return -1;
	return run_to_end(stub, ret_status, err);
}

/* No core file is left: there was one, once. */
static int die_of(struct stub *stub, int signo, bool core, int *ret_status, struct err *err)
{
	static const struct rlimit none;

	if ((!core && prlimit(stub->pid, RLIMIT_CORE, &none, NULL) < 0) ||
	    syscall(SYS_pidfd_send_signal, stub->pidfd, signo, NULL, 0) < 0)
		return err_sys(err, "process %d: signal %d", stub->model->pid, signo);
	if (tracee_set_sigmask(&stub->threads[0], ~(1ull << (signo - 1)), err) < 0 &&
	    err->kind != ERR_GONE)
		return -1;
	return run_to_end(stub, ret_status, err);
}

static int set_name(struct stub *stub, struct err *err)
{
	char name[16] = {0};
	struct batch b;

	if (!stub->model->comm)
		return 0;
	strncpy(name, stub->model->comm, sizeof(name) - 1);
	batch_begin(&b, stub, &stub->threads[0]);
	if (batch_call(&b, BATCH_WARN, err, SYS_prctl,
		       ARGS(PR_SET_NAME, batch_push(&b, name, sizeof(name))), "name") < 0)
		return -1;
	return batch_run(&b, err);
}

static int end_zombie(struct recovery *rec, struct stub *stub, struct err *err)
{
	int wanted = stub->model->exit_status, status = 0, result;
	struct core_dump core = {0};

	if (set_name(stub, err) < 0 || stub_set_zombie_credentials(rec, stub, err) < 0)
		return -1;
	if (WIFSIGNALED(wanted) && WCOREDUMP(wanted) && core_prepare(stub, &core, err) < 0)
		return -1;
	result = WIFSIGNALED(wanted) ? die_of(stub, WTERMSIG(wanted), core.ready, &status, err)
				     : exit_with(stub, WEXITSTATUS(wanted), &status, err);
	core_remove(&core);
	if (result < 0)
		return err_wrap(err, "process %d: ending it again", stub->model->pid);
	if (WCOREDUMP(wanted) && !WCOREDUMP(status))
		log_warn("process %d: that it had dumped core is not told again", stub->model->pid);
	if (WCOREDUMP(wanted))
		status |= 0x80;
	if (status != (wanted & 0xffff))
		return err_set(err, ERR_UNSUPPORTED,
			       "process %d: it ended with status %#x instead of %#x",
			       stub->model->pid, status, wanted);
	return 0;
}

static int set_heir(struct stub *heir, uint64_t on, struct err *err)
{
	return stub_call(heir, &heir->threads[0], NULL, err, "taking in orphans", SYS_prctl,
			 ARGS(PR_SET_CHILD_SUBREAPER, on));
}

/* Init waits for its own; another's helper is waited for here. */
static int wait_for_helper(struct stub *maker, struct stub *helper, struct err *err)
{
	return stub_call(maker, &maker->threads[0], NULL, err, "waiting for a helper", SYS_wait4,
			 ARGS((uint64_t)helper->model->pid, 0, __WALL, 0));
}

static int end_helper(struct recovery *rec, struct stub *helper, const struct birth *birth,
		      struct err *err)
{
	struct stub *heir = birth->heir == LINEAGE_INIT ? NULL : &rec->stubs[birth->heir];
	int status;

	if ((heir && set_heir(heir, 1, err) < 0) || exit_with(helper, 0, &status, err) < 0 ||
	    (heir && set_heir(heir, 0, err) < 0))
		return err_wrap(err, "helper %d", helper->model->pid);
	if (birth->by == LINEAGE_INIT)
		return 0;
	return wait_for_helper(&rec->stubs[birth->by], helper, err);
}

int stub_end(struct recovery *rec, size_t member, struct err *err)
{
	struct stub *stub = &rec->stubs[member];

	stub->memory->tenants--;
	stub->has_executor = false;
	if (stub->model->zombie)
		return end_zombie(rec, stub, err);
	return end_helper(rec, stub, &rec->plan.lineage.births[member], err);
}

/* ---- what parents have been told ----------------------------------------------------------- */

/* SIGCHLD, or what clone(2) was told: the signal was sent again, whatever became of the first one.
 */
static int queue_forget_signal(struct batch *b, int signo, struct err *err)
{
	static const struct timespec at_once;
	uint64_t mask = signo ? 1ull << (signo - 1) : 0;
	struct timespec time = at_once;

	if (!mask || batch_room(b, 1, sizeof(mask) + sizeof(time), err) < 0)
		return mask ? -1 : 0;
	return batch_call(b, BATCH_IGNORE, err, SYS_rt_sigtimedwait,
			  ARGS(batch_push(b, &mask, sizeof(mask)), 0,
			       batch_push(b, &time, sizeof(time)), KERNEL_SIGSET_BYTES),
			  "signal %d", signo);
}

static int queue_forget(struct batch *b, const Snap__Process *child, struct err *err)
{
	if (child->zombie)
		return queue_forget_signal(b, child->exit_signal, err);
	if (child->stop_reported &&
	    batch_call(b, BATCH_IGNORE, err, SYS_waitid,
		       ARGS(P_PID, (uint64_t)child->pid, 0, WSTOPPED | WNOHANG | __WALL, 0),
		       "stop of child %d", child->pid) < 0)
		return -1;
	return queue_forget_signal(b, SIGCHLD, err);
}

int stub_forget_children(struct recovery *rec, size_t process, struct err *err)
{
	struct stub *stub = &rec->stubs[process];
	struct batch b;

	batch_begin(&b, stub, stub_thread(stub));
	for (size_t i = process + 1; i < rec->model->n_processes; i++) {
		const Snap__Process *child = rec->model->processes[i];

		if (rec->plan.lineage.births[i].parent == process &&
		    (child->zombie || child->stopped) && queue_forget(&b, child, err) < 0)
			return -1;
	}
	return batch_run(&b, err);
}

/* ---- job control --------------------------------------------------------------------------- */

/* Has t, at the delivery of a SIGSTOP, act on signo instead. 1: the process is stopping, 0: signo
 * does not stop it (its group is orphaned): it waits for another interrupt. Either way it executes
 * nothing. */
static int act_on(struct tracee *t, int signo, struct err *err)
{
	struct tracee_stop stop;

	if (syscall(SYS_tkill, t->tid, SIGSTOP) < 0)
		return err_sys(err, "SIGSTOP");
	do {
		if (tracee_resume(t, PTRACE_CONT, 0, err) < 0 ||
		    tracee_next_stop(t, &stop, err) < 0)
			return -1;
	} while (stop.kind != STOP_SIGNAL || stop.signo != SIGSTOP);
	if (ptrace(PTRACE_INTERRUPT, t->tid, 0, 0) < 0)
		return err_sys(err, "interrupting");
	do {
		if (tracee_resume(t, PTRACE_CONT, stop.kind == STOP_SIGNAL ? signo : 0, err) < 0 ||
		    tracee_next_stop(t, &stop, err) < 0)
			return -1;
	} while (stop.kind != STOP_TRAP);
	return t->group_stopped;
}

/* Each of the other threads takes part as soon as it may run. */
static int join_stop(struct tracee *t, struct err *err)
{
	struct tracee_stop stop;

	do {
		if (tracee_resume(t, PTRACE_CONT, 0, err) < 0 ||
		    tracee_next_stop(t, &stop, err) < 0)
			return -1;
	} while (stop.kind != STOP_TRAP);
	return 0;
}

static int stop_threads(struct stub *stub, int signo, struct err *err)
{
	struct tracee *first = stub_thread(stub);
	int stopping = act_on(first, signo, err);

	if (stopping == 0)
		stopping = act_on(first, SIGSTOP, err);
	if (stopping <= 0)
		return stopping < 0 ? -1 : err_set(err, ERR_SYSTEM, "it does not stop");
	for (size_t i = 0; i < stub->n_threads; i++) {
		struct tracee *t = &stub->threads[i];

		if (t != first && t->state != TRACEE_GONE && join_stop(t, err) < 0)
			return -1;
	}
	return 0;
}

int stub_stop(struct stub *stub, struct err *err)
{
	int signo = stub->model->stop_signal;

	if (signo != SIGTSTP && signo != SIGTTIN && signo != SIGTTOU)
		signo = SIGSTOP;
	for (size_t i = 0; i < stub->n_threads; i++) {
		struct tracee *t = &stub->threads[i];

		if (t->state != TRACEE_GONE &&
		    tracee_set_sigmask(t, ~(1ull << (signo - 1)), err) < 0)
			return -1;
	}
	if (stop_threads(stub, signo, err) < 0)
		return err_wrap(err, "process %d: stopping it", stub->model->pid);
	return 0;
}
