/*
 * wait.h: the stops of a tracee, for the engine's own files (tracee.c, remote.c).
 */
#ifndef PAWL_CHECKPOINTER_TRACEE_WAIT_H
#define PAWL_CHECKPOINTER_TRACEE_WAIT_H

#include "checkpointer/tracee/tracee.h"

enum stop_kind {
	STOP_TRAP,    /* PTRACE_EVENT_STOP: our interrupt, a new tracee's first stop, a group stop */
	STOP_SIGNAL,  /* signal-delivery-stop of signo */
	STOP_SYSCALL, /* syscall-enter or -exit stop */
	STOP_BORN,    /* clone, fork, vfork: the child is in t->born */
	STOP_OTHER,
};

struct tracee_stop {
	enum stop_kind kind;
	int signo;
	int event;
};

/* Waits for the next stop of whatever kind. ERR_GONE at its death. */
int tracee_next_stop(struct tracee *t, struct tracee_stop *ret, struct err *err);
/* request: PTRACE_CONT, PTRACE_SYSCALL, PTRACE_SINGLESTEP. */
int tracee_resume(struct tracee *t, int request, int signo, struct err *err);

/* Registers and mask aside, all signals but SIGTRAP blocked; and back. */
struct tracee_held {
	struct arch_regs regs;
	uint64_t mask;
};
/* The blocking alone, where registers and mask are known. */
int tracee_block(struct tracee *t, struct err *err);
int tracee_hold_masked(struct tracee *t, uint64_t mask, struct tracee_held *ret, struct err *err);
int tracee_hold(struct tracee *t, struct tracee_held *ret, struct err *err);
int tracee_unhold(struct tracee *t, const struct tracee_held *held, struct err *err);

#endif
