/*
 * Timed waits. The kernel keeps what is left of a sleep, a poll or a futex wait in the thread's
 * restart_block, which nothing can read or set. So the call is made once more, with the time that
 * was left, and interrupted at once: then a restart_block as before exists, with the job's own
 * pointers, and the saved registers are made to go on with it.
 */
#include <linux/futex.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <time.h>

#include "checkpointer/tracee/wait.h"
#include "recovery/batch.h"
#include "store/base/log.h"
#include "store/base/units.h"

#define NO_TIME	 UINT_MAX
#define ABSOLUTE (UINT_MAX - 1)

/* Which argument of a call points to the relative time it waits. ABSOLUTE: it waits for a point in
 * time, and is simply made again. NO_TIME: it is no timed wait that we know. */
static unsigned timespec_argument(const struct arch_regs *regs)
{
	switch (arch_call_nr(regs)) {
	case SYS_nanosleep:
		return 0;
	case SYS_clock_nanosleep:
		return arch_call_arg(regs, 1) & TIMER_ABSTIME ? ABSOLUTE : 2;
	case SYS_futex:
		return (arch_call_arg(regs, 1) & FUTEX_CMD_MASK) == FUTEX_WAIT ? 3 : ABSOLUTE;
	default:
		return NO_TIME;
	}
}

/* Puts the shortened time into the executor's data area, which the call reads it from. */
static int place_time(struct stub *stub, uint64_t from, uint64_t elapsed, uint64_t *ret_addr,
		      struct err *err)
{
	struct timespec time;
	uint64_t ns;

	if (mem_read(stub->pid, from, &time, sizeof(time), err) < 0)
		return -1;
	if (time.tv_sec < 0 || time.tv_nsec < 0)
		return err_set(err, ERR_CORRUPT, "it waits for a negative time");
	/* 1 ns: what is due ends by itself, with the result it would have had. */
	if ((uint64_t)time.tv_sec < UINT64_MAX / NSEC_PER_SEC - 1) {
		ns = (uint64_t)time.tv_sec * NSEC_PER_SEC + (uint64_t)time.tv_nsec;
		ns = ns > elapsed ? ns - elapsed : 1;
		time = (struct timespec){(time_t)(ns / NSEC_PER_SEC), (long)(ns % NSEC_PER_SEC)};
	}
	remote_reset(&stub->remote);
	if (!remote_data(&stub->remote, sizeof(time), ret_addr))
		return err_set(err, ERR_SYSTEM, "no room");
	return mem_write(stub->pid, *ret_addr, &time, sizeof(time), err);
}

/* A negative timeout of poll has no end. */
static uint64_t remaining_ms(uint64_t ms, uint64_t elapsed)
{
	uint64_t passed = elapsed / 1000000u;

	if ((int32_t)ms < 0)
		return ms;
	return ms > passed ? ms - passed : 0;
}

/* 1: arg[] is the shortened call, 0: the call is made again as it was, -1. */
static int shorten(struct stub *stub, const struct arch_regs *regs, uint64_t elapsed,
		   uint64_t arg[6], struct err *err)
{
	unsigned time = timespec_argument(regs);

	for (unsigned i = 0; i < 6; i++)
		arg[i] = arch_call_arg(regs, i);
#ifdef SYS_poll
	if (arch_call_nr(regs) == SYS_poll) {
		arg[2] = remaining_ms(arg[2], elapsed);
		return 1;
	}
#endif
	if (time == NO_TIME)
		log_warn("a wait (call %ld) starts anew, with its whole time", arch_call_nr(regs));
	if (time == NO_TIME || time == ABSOLUTE || arg[time] == 0)
		return 0;
	return place_time(stub, arg[time], elapsed, &arg[time], err) < 0 ? -1 : 1;
}

static int wait_for(struct tracee *t, enum stop_kind kind, struct err *err)
{
	struct tracee_stop stop;

	if (tracee_next_stop(t, &stop, err) < 0)
		return -1;
	if (stop.kind != kind)
		return err_set(err, ERR_SYSTEM, "an unexpected stop (%d, signal %d)", stop.kind,
			       stop.signo);
	return 0;
}

static int interrupt(struct tracee *t, struct err *err)
{
	return ptrace(PTRACE_INTERRUPT, t->tid, 0, 0) < 0 ? err_sys(err, "interrupting") : 0;
}

/* Between its entry and its exit the call is interrupted, and at its exit once more (each stop uses
 * an interrupt up, kernel/signal.c ptrace_stop), so that the thread executes nothing behind the
 * call. *ret: the registers at the exit. */
static int call_and_interrupt(struct tracee *t, const struct arch_regs *regs, struct arch_regs *ret,
			      struct err *err)
{
	if (tracee_set_regs(t, regs, err) < 0 || tracee_resume(t, PTRACE_SYSCALL, 0, err) < 0 ||
	    wait_for(t, STOP_SYSCALL, err) < 0)
		return -1;
	if (interrupt(t, err) < 0 || tracee_resume(t, PTRACE_SYSCALL, 0, err) < 0 ||
	    wait_for(t, STOP_SYSCALL, err) < 0 || tracee_get_regs(t, ret, err) < 0)
		return -1;
	if (interrupt(t, err) < 0 || tracee_resume(t, PTRACE_CONT, 0, err) < 0)
		return -1;
	return wait_for(t, STOP_TRAP, err);
}

static int restart(struct recovery *rec, struct stub *stub, size_t index, struct err *err)
{
	const Snap__Thread *model = stub->model->threads[index];
	struct arch_regs *saved = &stub->final[index];
	struct arch_regs regs = *saved, result;
	uint64_t arg[6];
	uint64_t elapsed = model->restart_elapsed + recovery_time_passed(rec);
	int known = shorten(stub, saved, elapsed, arg, err);

	if (known < 0)
		return -1;
	if (known == 0) {
		arch_unrewind(saved, ARCH_ERESTARTNOHAND);
		return 0;
	}
	arch_set_call(&regs, stub->remote.syscall_insn, arch_call_nr(saved), arg);
	if (call_and_interrupt(&stub->threads[index], &regs, &result, err) < 0)
		return -1;
	if (arch_restart_kind(&result) == ARCH_RESTART_BLOCK)
		arch_unrewind(saved, ARCH_ERESTART_RESTARTBLOCK);
	else if (arch_restart_kind(&result) == ARCH_NOT_IN_CALL)
		arch_set_returned(saved, arch_return_value(&result));
	return 0;
}

int stub_restart(struct recovery *rec, struct stub *stub, size_t index, struct err *err)
{
	if (restart(rec, stub, index, err) < 0)
		return err_wrap(err, "thread %d: going back to its wait",
				stub->model->threads[index]->tid);
	return 0;
}
