/*
 * tracee.h: one thread under ptrace.
 *
 * A tracee is always in one of the states of enum tracee_state; the functions here are the only ones
 * that move it. All calls for one tracee must come from the thread that seized it (ptrace(2): "a
 * tracee is attached to a thread"). Everything is seized with PTRACE_O_EXITKILL: if pawl dies while
 * a job is half-way through something, the job dies rather than run on in an unknown state.
 *
 * Errors: ERR_GONE when the thread has died, an ordinary result. ERR_UNSUPPORTED when another tracer has
 * it, or when it is a kernel thread of an io_uring.
 */
#ifndef PAWL_CHECKPOINTER_TRACEE_TRACEE_H
#define PAWL_CHECKPOINTER_TRACEE_TRACEE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "checkpointer/tracee/arch.h"
#include "store/base/err.h"

enum tracee_state {
	TRACEE_RUNNING, /* seized, running */
	TRACEE_STOPPED, /* in a ptrace-stop; registers and memory may be touched */
	TRACEE_GONE,    /* reaped or detached */
};

/* PTRACE_SEIZE options of all of them. */
#define TRACEE_OPTIONS                                                                          \
	(PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | \
	 PTRACE_O_TRACEVFORK)

#define TRACEE_MAX_NEW 64

struct tracee {
	pid_t tid;  /* in our pid namespace */
	pid_t tgid; /* in our pid namespace; another living thread's where the first has ended, as /proc and
		     * process_vm_readv show nothing of the process under that one's number then */
	enum tracee_state state;
	bool group_stopped;   /* a job-control stop was in force when it stopped */
	int stop_signal;      /* the signal of that stop */
	bool exited_on_us;    /* died while we held it */
	int exit_status;      /* wait status of that */
	/* Children and threads that appeared through remote calls (PTRACE_O_TRACECLONE/FORK/VFORK),
	 * in order; they are stopped or about to be and must be taken over with tracee_adopt. */
	pid_t born[TRACEE_MAX_NEW];
	size_t n_born;
};

/* Seizes tid and asks it to stop; does not wait. The struct is the caller's. Also one that the kernel
 * has attached to this thread at its birth already. */
int tracee_seize(struct tracee *t, pid_t tgid, pid_t tid, struct err *err);
/* Waits until it has stopped. Signals that arrive first are delivered to it, not lost. A tracee that
 * had stopped before, and only then, needs no wait. */
int tracee_wait_stop(struct tracee *t, struct err *err);
/* As tracee_wait_stop, but at once: 1 when it has stopped, 0 when not yet. */
int tracee_poll_stop(struct tracee *t, struct err *err);
/* Whether the thread now known by the tracee's tid stands still, and has no stop to be waited for. */
bool tracee_is_stopped(const struct tracee *t);
/* Waits for tracees of this thread that have died without anybody asking: threads and children that
 * the kernel had attached and that ended before they were found. Their parents hear of it only then. */
void tracee_reap_unknown(void);
/* Whether it lives and the calling thread traces it: the kernel attaches what a tracee creates, and that may be
 * all we know of it. */
bool tracee_is_ours(pid_t tid);
/* Takes over a thread or child that the kernel attached for us (from born[]), waits for its stop. */
int tracee_adopt(struct tracee *t, pid_t tgid, pid_t tid, struct err *err);
/* Lets it run on, delivering signo (0: none). */
int tracee_continue(struct tracee *t, int signo, struct err *err);
/* Asks a running one to stop again (PTRACE_INTERRUPT) and waits. */
int tracee_interrupt(struct tracee *t, struct err *err);
/* Detaches; it runs on (or stays in its job-control stop). ERR_GONE is reported, and harmless: a dying
 * thread is waited for. So detach a process's first thread last: its end comes after all others. */
int tracee_detach(struct tracee *t, struct err *err);

/* General registers and the whole XSAVE area. xstate: malloc'ed by get, owned by the caller. */
int tracee_get_regs(struct tracee *t, struct arch_regs *ret, struct err *err);
int tracee_set_regs(struct tracee *t, const struct arch_regs *regs, struct err *err);
int tracee_get_xstate(struct tracee *t, void **ret, size_t *ret_len, struct err *err);
int tracee_set_xstate(struct tracee *t, const void *xstate, size_t len, struct err *err);

/* The signal mask as sigprocmask(2) sees it, bit n-1 for signal n (PTRACE_GETSIGMASK, Linux 3.11). */
int tracee_get_sigmask(struct tracee *t, uint64_t *ret, struct err *err);
int tracee_set_sigmask(struct tracee *t, uint64_t mask, struct err *err);

/* Pending signals as siginfo_t records (PTRACE_PEEKSIGINFO, Linux 3.10), in queue order. *ret
 * malloc'ed array of n * sizeof(siginfo_t). shared: the process's queue, else the thread's own. */
int tracee_peek_pending(struct tracee *t, bool shared, void **ret, size_t *ret_n, struct err *err);

/* Those of both queues: bit n-1 for signal n. */
int tracee_pending_signals(struct tracee *t, uint64_t *ret, struct err *err);

/* Whether a SIGTRAP is among them: one that the job has blocked, and that a trap of ours would take. */
int tracee_pending_trap(struct tracee *t, bool *ret, struct err *err);

/* Steps single instructions until the instruction pointer has left [start, end), at most `most`. ERR_BUSY:
 * it does not, or a SIGTRAP is pending, which stepping would take. */
int tracee_step_out(struct tracee *t, uint64_t start, uint64_t end, unsigned most, struct err *err);

/* One system call of the thread from a `syscall` instruction at `insn`, with ptrace's syscall stops
 * (never a trap signal, so that even a process that ignores SIGTRAP keeps its dispositions). Registers
 * are put back. *ret is what the kernel returned (negative errno); the result says whether it ran. */
int tracee_syscall_at(struct tracee *t, uint64_t insn, long nr, const uint64_t arg[6], long *ret,
		      struct err *err);

/* The same with one stop instead of three, each of which costs tens of microseconds: by a single step. Only
 * where the process does not ignore SIGTRAP, has none pending (tracee_pending_trap), and for calls that
 * make no child. */
int tracee_step_call(struct tracee *t, uint64_t insn, long nr, const uint64_t arg[6], long *ret,
		     struct err *err);

/* pidfd_open(2); also by the number of any other thread (Linux 6.9), which stands for its process once the
 * first thread has ended. */
int tracee_pidfd(pid_t pid);

/* ---- memory of the process (tgid), the tracee need not be stopped -------------------------- */

/* process_vm_readv/writev, whole or error. */
int mem_read(pid_t pid, uint64_t addr, void *buf, size_t len, struct err *err);
int mem_write(pid_t pid, uint64_t addr, const void *buf, size_t len, struct err *err);
/* Through /proc/PID/mem: also into private mappings without PROT_WRITE/PROT_READ (FOLL_FORCE; the
 * tracer's right, mm/memory.c __access_remote_vm). */
int mem_write_forced(pid_t pid, uint64_t addr, const void *buf, size_t len, struct err *err);
int mem_read_forced(pid_t pid, uint64_t addr, void *buf, size_t len, struct err *err);

#endif
