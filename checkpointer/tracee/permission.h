/*
 * permission.h: whether we may trace a process, and what forbids it.
 */
#ifndef PAWL_CHECKPOINTER_TRACEE_PERMISSION_H
#define PAWL_CHECKPOINTER_TRACEE_PERMISSION_H

#include <stdbool.h>
#include <sys/types.h>

#include "store/base/err.h"

/* Looks without touching: opening /proc/PID/mem takes the same right as PTRACE_SEIZE
 * (PTRACE_MODE_ATTACH, security modules included). ERR_NOT_FOUND: there is no such process.
 * ERR_GONE: it has ended, its parent has not collected it yet. ERR_BUSY: another tracer has it.
 * ERR_DENIED names what forbids it: another user, a process that is not dumpable, Yama, a kernel
 * thread. */
int trace_permitted(pid_t pid, struct err *err);

/* What forbids to trace pid, after the kernel has said EPERM or EACCES. Always -1 with err filled.
 */
int trace_explain(pid_t pid, struct err *err);

/* Whether a and b are in the same namespace of a kind: "pid", "mnt", "user" … as in /proc/PID/ns;
 * one that the kernel does not have is shared by all. ERR_DENIED, ERR_GONE. */
int same_namespace(pid_t a, pid_t b, const char *kind, bool *ret, struct err *err);

#endif
