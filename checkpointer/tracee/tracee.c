#include "checkpointer/tracee/tracee.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpointer/tracee/permission.h"
#include "checkpointer/tracee/procfs.h"
#include "checkpointer/tracee/wait.h"
#include "store/base/cleanup.h"

#define XSTATE_ROOM (64u * 1024u) /* AMX makes it 11 KiB; the kernel says the true length */

/* A debugger of the job's own, or a kernel thread that works for one of its io_urings (io_uring/io-wq.c,
 * sqpoll.c): objects of the job, with the capsule's numbers. */
static int explain_object(const struct proc_status *status, pid_t tgid, pid_t tid, struct err *err)
{
	char tracer_name[64] = "a debugger";
	struct proc_status tracer;
	pid_t by = status->tracer;
	struct err ignored;

	if (strncmp(status->name, "iou-", 4) == 0 && proc_is_kernel_thread(tgid, tid))
		return err_set(err, ERR_UNSUPPORTED, "process %d: an io_uring instance is in use",
			       status->ns_pid);
	if (!by)
		return 0;
	if (proc_read_status(by, 0, &tracer, &ignored) == 0) {
		snprintf(tracer_name, sizeof(tracer_name), "%s", tracer.name);
		by = tracer.ns_pid;
		proc_status_clear(&tracer);
	}
	return err_set(err, ERR_UNSUPPORTED, "process %d (%s) is traced by process %d (%s)", status->ns_pid,
		       status->name, by, tracer_name);
}

/* ptrace says EPERM for a zombie, for a process of another tracer and for a forbidden one. */
static int explain_seize(pid_t tid, struct err *err)
{
	int code = errno, result = 0;
	struct proc_status status;

	if (code != EPERM && code != EACCES)
		return err_code(err, code, "process %d", tid);
	if (proc_read_status(tid, 0, &status, err) == 0) {
		if (status.state != 'Z' && status.state != 'X')
			result = explain_object(&status, status.tgid, tid, err);
		proc_status_clear(&status);
	}
	if (result == 0 && trace_explain(tid, err) < 0 && err->kind == ERR_NOT_FOUND)
		err->kind = ERR_GONE;
	return -1;
}

bool tracee_is_ours(pid_t tid)
{
	struct proc_status status;
	struct err ignored;
	bool ours;

	if (proc_read_status(tid, 0, &status, &ignored) < 0)
		return false;
	ours = status.tracer == gettid() && status.state != 'Z' && status.state != 'X';
	proc_status_clear(&status);
	return ours;
}

int tracee_seize(struct tracee *t, pid_t tgid, pid_t tid, struct err *err)
{
	memset(t, 0, sizeof(*t));
	t->tid = tid;
	t->tgid = tgid;
	t->state = TRACEE_GONE;
	if (ptrace(PTRACE_SEIZE, tid, NULL, TRACEE_OPTIONS) < 0) {
		int code = errno;

		if (code != EPERM || !tracee_is_ours(tid)) {
			errno = code;
			return explain_seize(tid, err);
		}
	}
	t->state = TRACEE_RUNNING;
	if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0)
		return err_sys(err, "cannot stop thread %d", tid);
	return 0;
}

static bool is_stop_signal(int signo)
{
	return signo == SIGSTOP || signo == SIGTSTP || signo == SIGTTIN || signo == SIGTTOU;
}

static void note_born(struct tracee *t)
{
	unsigned long child = 0;

	if (ptrace(PTRACE_GETEVENTMSG, t->tid, NULL, &child) == 0 && t->n_born < TRACEE_MAX_NEW)
		t->born[t->n_born++] = (pid_t)child;
}

/* 1: it has stopped, 0: with WNOHANG, not yet. */
static int wait_stop(struct tracee *t, int options, struct tracee_stop *ret, struct err *err)
{
	int status;
	pid_t got;

	do
		got = waitpid(t->tid, &status, __WALL | options);
	while (got < 0 && errno == EINTR);
	if (got == 0)
		return 0;
	if (got < 0 || !WIFSTOPPED(status)) {
		t->state = TRACEE_GONE;
		t->exited_on_us = got >= 0;
		t->exit_status = got >= 0 ? status : 0;
		return err_code(err, ESRCH, "thread %d", t->tid);
	}
	t->state = TRACEE_STOPPED;
	ret->event = status >> 16;
	ret->signo = WSTOPSIG(status);
	ret->kind = STOP_SIGNAL;
	if (ret->event == PTRACE_EVENT_STOP) {
		ret->kind = STOP_TRAP;
		t->group_stopped = is_stop_signal(ret->signo);
		t->stop_signal = t->group_stopped ? ret->signo : 0;
	} else if (ret->event == PTRACE_EVENT_CLONE || ret->event == PTRACE_EVENT_FORK ||
		   ret->event == PTRACE_EVENT_VFORK) {
		ret->kind = STOP_BORN;
		note_born(t);
	} else if (ret->event) {
		ret->kind = STOP_OTHER;
	} else if (ret->signo == (SIGTRAP | 0x80)) {
		ret->kind = STOP_SYSCALL;
	}
	return 1;
}

int tracee_next_stop(struct tracee *t, struct tracee_stop *ret, struct err *err)
{
	return wait_stop(t, 0, ret, err) < 0 ? -1 : 0;
}

int tracee_resume(struct tracee *t, int request, int signo, struct err *err)
{
	if (ptrace((enum __ptrace_request)request, t->tid, NULL, (unsigned long)signo) < 0)
		return err_sys(err, "cannot resume thread %d", t->tid);
	t->state = TRACEE_RUNNING;
	return 0;
}

static int run_to_trap_stop(struct tracee *t, int options, struct err *err)
{
	struct tracee_stop stop;

	while (t->state != TRACEE_STOPPED) {
		int stopped = wait_stop(t, options, &stop, err);

		if (stopped <= 0)
			return stopped;
		if (stop.kind == STOP_TRAP)
			break;
		/* Any stop takes away the request for this one (kernel/signal.c, ptrace_stop): it is made again.
		 * A signal that came first is delivered: its handler's frame is then part of the state. */
		ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL);
		if (tracee_resume(t, PTRACE_CONT, stop.kind == STOP_SIGNAL ? stop.signo : 0, err) < 0)
			return -1;
	}
	return 1;
}

int tracee_wait_stop(struct tracee *t, struct err *err)
{
	return run_to_trap_stop(t, 0, err) < 0 ? -1 : 0;
}

int tracee_poll_stop(struct tracee *t, struct err *err)
{
	return run_to_trap_stop(t, WNOHANG, err);
}

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

int tracee_pidfd(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	return fd < 0 && errno != ESRCH ? (int)syscall(SYS_pidfd_open, pid, PIDFD_THREAD) : fd;
}

bool tracee_is_stopped(const struct tracee *t)
{
	siginfo_t info = {0};
	unsigned long message;

	if (ptrace(PTRACE_GETEVENTMSG, t->tid, NULL, &message) < 0)
		return false;
	return waitid(P_PID, (id_t)t->tid, &info, WSTOPPED | WNOHANG | WNOWAIT | __WALL) < 0 ||
	       info.si_pid == 0;
}

/* A tracer is told of stops whatever it asks for (kernel/exit.c, wait_task_stopped), and each once only: that of
 * a thread which has not been seized yet must not be taken here, or it would be waited for in vain. So this
 * looks first. What has ended behind such a stop is met the next time, at the latest when all are let go. */
void tracee_reap_unknown(void)
{
	const int how = WEXITED | WNOHANG | __WALL | __WNOTHREAD;
	siginfo_t info;

	for (;;) {
		info.si_pid = 0;
		if (waitid(P_ALL, 0, &info, how | WNOWAIT) < 0 || !info.si_pid ||
		    (info.si_code != CLD_EXITED && info.si_code != CLD_KILLED &&
		     info.si_code != CLD_DUMPED))
			return;
		if (waitid(P_PID, (id_t)info.si_pid, &info, how) < 0)
			return;
	}
}

int tracee_adopt(struct tracee *t, pid_t tgid, pid_t tid, struct err *err)
{
	memset(t, 0, sizeof(*t));
	t->tid = tid;
	t->tgid = tgid;
	t->state = TRACEE_RUNNING;
	return tracee_wait_stop(t, err);
}

int tracee_continue(struct tracee *t, int signo, struct err *err)
{
	return tracee_resume(t, PTRACE_CONT, signo, err);
}

int tracee_interrupt(struct tracee *t, struct err *err)
{
	if (t->state != TRACEE_RUNNING)
		return 0;
	if (ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL) < 0)
		return err_sys(err, "cannot stop thread %d", t->tid);
	return tracee_wait_stop(t, err);
}

static void reap(struct tracee *t)
{
	int status = 0;
	pid_t got;

	do
		got = waitpid(t->tid, &status, __WALL);
	while ((got < 0 && errno == EINTR) || (got >= 0 && WIFSTOPPED(status)));
	t->exited_on_us = got >= 0;
	t->exit_status = status;
}

int tracee_detach(struct tracee *t, struct err *err)
{
	if (t->state == TRACEE_GONE)
		return 0;
	if (t->state == TRACEE_RUNNING && tracee_interrupt(t, err) < 0)
		return -1;
	t->state = TRACEE_GONE;
	if (ptrace(PTRACE_DETACH, t->tid, NULL, NULL) == 0)
		return 0;
	err_sys(err, "cannot release thread %d", t->tid);
	/* It is dying, ended by another thread of its process. It stays a zombie, and its process with it,
	 * until its tracer has seen it. */
	if (err->kind == ERR_GONE)
		reap(t);
	return -1;
}

static int get_regset(struct tracee *t, unsigned long type, struct iovec *iov, struct err *err)
{
	if (ptrace(PTRACE_GETREGSET, t->tid, type, iov) < 0)
		return err_sys(err, "cannot read registers of thread %d", t->tid);
	return 0;
}

static int set_regset(struct tracee *t, unsigned long type, struct iovec *iov, struct err *err)
{
	if (ptrace(PTRACE_SETREGSET, t->tid, type, iov) < 0)
		return err_sys(err, "cannot set registers of thread %d", t->tid);
	return 0;
}

int tracee_get_regs(struct tracee *t, struct arch_regs *ret, struct err *err)
{
	struct arch_regs regs;
	struct iovec iov = {&regs.raw, sizeof(regs.raw)};

	if (get_regset(t, NT_PRSTATUS, &iov, err) < 0)
		return -1;
	if (iov.iov_len != sizeof(regs.raw))
		return err_set(err, ERR_UNSUPPORTED, "thread %d runs 32-bit code", t->tid);
	*ret = regs;
	return 0;
}

int tracee_set_regs(struct tracee *t, const struct arch_regs *regs, struct err *err)
{
	struct iovec iov = {(void *)&regs->raw, sizeof(regs->raw)};

	return set_regset(t, NT_PRSTATUS, &iov, err);
}

int tracee_get_xstate(struct tracee *t, void **ret, size_t *ret_len, struct err *err)
{
	char room[XSTATE_ROOM];
	struct iovec iov = {room, sizeof(room)};
	void *copy;

	if (get_regset(t, NT_X86_XSTATE, &iov, err) < 0)
		return -1;
	copy = malloc(iov.iov_len);
	if (!copy)
		return err_sys(err, "registers of thread %d", t->tid);
	memcpy(copy, room, iov.iov_len);
	*ret = copy;
	*ret_len = iov.iov_len;
	return 0;
}

int tracee_set_xstate(struct tracee *t, const void *xstate, size_t len, struct err *err)
{
	struct iovec iov = {(void *)xstate, len};

	return set_regset(t, NT_X86_XSTATE, &iov, err);
}

int tracee_get_sigmask(struct tracee *t, uint64_t *ret, struct err *err)
{
	if (ptrace(PTRACE_GETSIGMASK, t->tid, sizeof(*ret), ret) < 0)
		return err_sys(err, "cannot read the signal mask of thread %d", t->tid);
	return 0;
}

int tracee_set_sigmask(struct tracee *t, uint64_t mask, struct err *err)
{
	if (ptrace(PTRACE_SETSIGMASK, t->tid, sizeof(mask), &mask) < 0)
		return err_sys(err, "cannot set the signal mask of thread %d", t->tid);
	return 0;
}

#define PEEK_AT_ONCE 32

int tracee_peek_pending(struct tracee *t, bool shared, void **ret, size_t *ret_n, struct err *err)
{
	struct __ptrace_peeksiginfo_args args = {
		.off = 0,
		.flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0,
		.nr = PEEK_AT_ONCE,
	};
	cleanup_free siginfo_t *list = NULL;
	size_t n = 0;

	for (;;) {
		siginfo_t *more = reallocarray(list, n + PEEK_AT_ONCE, sizeof(*list));
		long got;

		if (!more)
			return err_sys(err, "pending signals of thread %d", t->tid);
		list = more;
		args.off = n;
		got = ptrace(PTRACE_PEEKSIGINFO, t->tid, &args, list + n);
		if (got < 0)
			return err_sys(err, "cannot read pending signals of thread %d", t->tid);
		n += (size_t)got;
		if (got < PEEK_AT_ONCE)
			break;
	}
	*ret = steal_ptr(&list);
	*ret_n = n;
	return 0;
}

/* While we move a thread about, no signal but the trap that ends the move may be delivered. */
#define MASK_ALL_BUT_TRAP (~(1ull << (SIGTRAP - 1)))

int tracee_block(struct tracee *t, struct err *err)
{
	return tracee_set_sigmask(t, MASK_ALL_BUT_TRAP, err);
}

int tracee_hold_masked(struct tracee *t, uint64_t mask, struct tracee_held *ret, struct err *err)
{
	if (tracee_get_regs(t, &ret->regs, err) < 0 || tracee_get_sigmask(t, &ret->mask, err) < 0)
		return -1;
	return tracee_set_sigmask(t, mask, err);
}

int tracee_hold(struct tracee *t, struct tracee_held *ret, struct err *err)
{
	return tracee_hold_masked(t, MASK_ALL_BUT_TRAP, ret, err);
}

static int add_pending(struct tracee *t, bool shared, uint64_t *ret, struct err *err)
{
	cleanup_free siginfo_t *list = NULL;
	void *pending;
	size_t n;

	if (tracee_peek_pending(t, shared, &pending, &n, err) < 0)
		return -1;
	list = pending;
	for (size_t i = 0; i < n; i++)
		*ret |= 1ull << (list[i].si_signo - 1);
	return 0;
}

int tracee_pending_signals(struct tracee *t, uint64_t *ret, struct err *err)
{
	*ret = 0;
	return add_pending(t, false, ret, err) < 0 ? -1 : add_pending(t, true, ret, err);
}

int tracee_pending_trap(struct tracee *t, bool *ret, struct err *err)
{
	uint64_t pending;

	if (tracee_pending_signals(t, &pending, err) < 0)
		return -1;
	*ret = pending >> (SIGTRAP - 1) & 1;
	return 0;
}

int tracee_unhold(struct tracee *t, const struct tracee_held *held, struct err *err)
{
	if (tracee_set_regs(t, &held->regs, err) < 0)
		return -1;
	return tracee_set_sigmask(t, held->mask, err);
}

int tracee_step_out(struct tracee *t, uint64_t start, uint64_t end, unsigned most, struct err *err)
{
	struct tracee_stop stop;
	struct arch_regs regs;
	uint64_t mask;
	bool trap;

	if (tracee_get_regs(t, &regs, err) < 0)
		return -1;
	if (arch_ip(&regs) < start || arch_ip(&regs) >= end)
		return 0;
	if (tracee_pending_trap(t, &trap, err) < 0)
		return -1;
	if (trap)
		return err_set(err, ERR_BUSY, "thread %d is in the vdso with a SIGTRAP pending", t->tid);
	if (tracee_get_sigmask(t, &mask, err) < 0 ||
	    tracee_set_sigmask(t, MASK_ALL_BUT_TRAP, err) < 0)
		return -1;
	for (; most > 0; most--) {
		if (tracee_get_regs(t, &regs, err) < 0)
			return -1;
		if (arch_ip(&regs) < start || arch_ip(&regs) >= end)
			return tracee_set_sigmask(t, mask, err);
		do {
			if (tracee_resume(t, PTRACE_SINGLESTEP, 0, err) < 0 ||
			    tracee_next_stop(t, &stop, err) < 0)
				return -1;
		} while (stop.kind != STOP_SIGNAL || stop.signo != SIGTRAP);
	}
	if (tracee_set_sigmask(t, mask, err) < 0)
		return -1;
	return err_set(err, ERR_BUSY, "thread %d does not leave the vdso", t->tid);
}
