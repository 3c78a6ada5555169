/*
 * remote.h: system calls executed by another process, in batches.
 *
 * One ptrace round trip costs tens of microseconds on a virtual machine, so a batch executor (a few
 * dozen bytes of position-independent code, arch.h) is mapped into the target once, runs an array of
 * calls in one go and is taken away again with everything else that was put there.
 *
 * The mapping has a data area mirrored here: remote_data() hands out a piece as a pair of local
 * pointer and remote address; remote_run() copies the mirror there, runs, and copies it back. So
 * strings, structs and result buffers are plain local memory.
 *
 *   struct remote r;
 *   remote_begin(&r, leader, 0, REMOTE_ROOM, err);
 *   struct sigaction *sa = remote_data(&r, sizeof(*sa), &addr);
 *   struct remote_call *c = remote_call(&r, SYS_rt_sigaction, SIGINT, 0, addr, 8);
 *   remote_run(&r, leader, err);            did it run?
 *   if (c->ret < 0) …                       what did the kernel say?
 *   remote_reset(&r);                       forget calls and data, keep the executor
 *   remote_end(&r, leader, err);
 */
#ifndef PAWL_CHECKPOINTER_TRACEE_REMOTE_H
#define PAWL_CHECKPOINTER_TRACEE_REMOTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "checkpointer/tracee/tracee.h"

#define REMOTE_ROOM      (256u * 1024u) /* bytes of mapping, executor included */
#define REMOTE_MAX_CALLS 1024u

/* Mirrors the layout that the executor in arch's assembler reads: 64 bytes each. */
struct remote_call {
	int64_t nr;
	uint64_t arg[6];
	int64_t ret; /* as the kernel returned it: negative errno on failure */
};

struct remote {
	pid_t tgid;         /* whose address space */
	uint64_t syscall_insn; /* address of a `syscall` instruction in it */
	uint64_t base;      /* remote address of the mapping */
	size_t size;
	char *mirror;       /* local copy: executor, calls, data */
	size_t n_calls;
	size_t data_used;
	bool undumpable;    /* it was not dumpable: made so while the executor is there, or an ordinary
	                     * user could not open its /proc files (proc(5), /proc/PID ownership) */
	bool code_apart;    /* its first page is a mapping of its own, not writable */
	bool one_by_one;    /* calls are made without the executor, slowly: none of them may be met by its trap */
	bool trap_ignored;  /* the process ignores SIGTRAP: its disposition is put back at the end */
};

/* Maps the executor through `t` (any stopped thread of the process). at: a free page-aligned address
 * to use, 0: the kernel chooses. On failure nothing is left in the target. */
int remote_begin(struct remote *r, struct tracee *t, uint64_t at, size_t size, struct err *err);
/* Attaches to an executor that a fork or a clone(CLONE_VM) has inherited: same base, other process. */
int remote_inherit(struct remote *r, const struct remote *from, pid_t tgid, struct err *err);
/* Unmaps the executor and frees the mirror. Also right after failures; takes a zeroed struct. */
int remote_end(struct remote *r, struct tracee *t, struct err *err);
/* Frees the local side only (the target is gone or keeps it). */
void remote_forget(struct remote *r);

/* Room in the mirrored data area, zeroed, 16-byte aligned. NULL when it is full (remote_run and
 * remote_reset, then go on). */
void *remote_data(struct remote *r, size_t len, uint64_t *ret_addr);
/* Copies in; 0 when full. */
uint64_t remote_push(struct remote *r, const void *data, size_t len);
uint64_t remote_push_string(struct remote *r, const char *text);
size_t remote_data_left(const struct remote *r);
/* Adds a call. NULL when REMOTE_MAX_CALLS are queued. Arguments beyond those given are 0. */
struct remote_call *remote_call_add(struct remote *r, long nr, const uint64_t *arg, size_t n_args);
#define remote_call(r, nr, ...)                                                              \
	({                                                                                   \
		const uint64_t args_[] = {__VA_ARGS__};                                      \
		remote_call_add((r), (nr), args_, sizeof(args_) / sizeof(args_[0]));         \
	})
void remote_reset(struct remote *r);

/* Runs all queued calls in thread t (stopped; its registers, mask and interrupted call are as before
 * afterwards). Children born by clone or fork calls are put in t->born[]. 0: all have run. */
int remote_run(struct remote *r, struct tracee *t, struct err *err);

/* Some of the queued calls, for one thread. */
struct remote_part {
	struct tracee *thread;   /* stopped */
	size_t first, n;         /* of the calls, by the order in which they were queued */
	struct arch_regs regs;   /* as the thread's are now, … */
	uint64_t mask;           /* … and its signal mask */
	bool one_by_one;         /* without the executor: a SIGTRAP is pending, which its trap would take */
	bool running;            /* for remote_run_parts */
};

/* As remote_run, for many threads at a time, whose switches then overlap: one of the process after another
 * costs 50 to 100 us each, so 10 to 20. All threads have stopped again when this returns. Where one of them
 * could not run its calls, the first error is returned and no result holds. */
int remote_run_parts(struct remote *r, struct remote_part *parts, size_t n, struct err *err);
size_t remote_calls_left(const struct remote *r);

/* One call at once: queue, run, reset. *ret as the kernel returned it. */
int remote_one(struct remote *r, struct tracee *t, long *ret, long nr, const uint64_t *arg,
	       size_t n_args, struct err *err);

/* Lets the thread touch state components that the kernel enables at first use (AMX tiles), so that
 * tracee_set_xstate can restore them. Needs the permission (ARCH_REQ_XCOMP_PERM) first. */
int remote_touch_xstate(struct remote *r, struct tracee *t, struct err *err);

#endif
