/*
 * One system call of a thread, without anything of ours in its process.
 */
#include <signal.h>
#include <stdint.h>
#include <sys/ptrace.h>

#include "checkpointer/tracee/tracee.h"
#include "checkpointer/tracee/wait.h"

static int run_to_syscall_stop(struct tracee *t, struct err *err)
{
	struct tracee_stop stop = {.kind = STOP_OTHER};
	int deliver = 0;

	do {
		if (tracee_resume(t, PTRACE_SYSCALL, deliver, err) < 0 ||
		    tracee_next_stop(t, &stop, err) < 0)
			return -1;
		/* It cannot be blocked; the job-control stop that it begins is run through. */
		deliver = stop.kind == STOP_SIGNAL && stop.signo == SIGSTOP ? SIGSTOP : 0;
	} while (stop.kind != STOP_SYSCALL);
	return 0;
}

/*
 * From a syscall-exit-stop the kernel returns to user code without looking at an interrupted call
 * (kernel/entry/common.c: the restart logic runs only with signal work pending). So the thread is
 * led into a trap stop, behind which restored registers are treated as the original ones were.
 */
static int leave_syscall_stop(struct tracee *t, struct err *err)
{
	if (tracee_resume(t, PTRACE_CONT, 0, err) < 0)
		return -1;
	return tracee_wait_stop(t, err);
}

int tracee_syscall_at(struct tracee *t, uint64_t insn, long nr, const uint64_t arg[6], long *ret,
		      struct err *err)
{
	struct tracee_held held;
	struct arch_regs regs;
	long value;

	/* These stops are no signals: even a SIGTRAP of the job's own stays where it is. */
	if (tracee_hold_masked(t, UINT64_MAX, &held, err) < 0)
		return -1;
	regs = held.regs;
	arch_set_call(&regs, insn, nr, arg);
	if (tracee_set_regs(t, &regs, err) < 0 || run_to_syscall_stop(t, err) < 0 ||
	    run_to_syscall_stop(t, err) < 0 || tracee_get_regs(t, &regs, err) < 0)
		return -1;
	value = arch_return_value(&regs);
	if (ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL) < 0)
		return err_sys(err, "cannot stop thread %d", t->tid);
	if (leave_syscall_stop(t, err) < 0 || tracee_unhold(t, &held, err) < 0)
		return -1;
	*ret = value;
	return 0;
}

/* Until it stands behind the instruction. */
static int step_over(struct tracee *t, uint64_t behind, struct arch_regs *ret, struct err *err)
{
	struct tracee_stop stop = {.kind = STOP_OTHER};
	int deliver = 0;

	for (;;) {
		if (tracee_resume(t, PTRACE_SINGLESTEP, deliver, err) < 0 ||
		    tracee_next_stop(t, &stop, err) < 0)
			return -1;
		/* It cannot be blocked; the job-control stop that it begins is run through. */
		deliver = stop.kind == STOP_SIGNAL && stop.signo == SIGSTOP ? SIGSTOP : 0;
		if (stop.kind != STOP_SIGNAL || stop.signo != SIGTRAP)
			continue;
		if (tracee_get_regs(t, ret, err) < 0)
			return -1;
		if (arch_ip(ret) == behind)
			return 0;
	}
}

int tracee_step_call(struct tracee *t, uint64_t insn, long nr, const uint64_t arg[6], long *ret,
		     struct err *err)
{
	struct tracee_held held;
	struct arch_regs regs;
	long value;

	if (tracee_hold(t, &held, err) < 0)
		return -1;
	regs = held.regs;
	arch_set_call(&regs, insn, nr, arg);
	if (tracee_set_regs(t, &regs, err) < 0 ||
	    step_over(t, insn + arch_syscall_len(), &regs, err) < 0)
		return -1;
	value = arch_return_value(&regs);
	if (tracee_unhold(t, &held, err) < 0)
		return -1;
	*ret = value;
	return 0;
}
