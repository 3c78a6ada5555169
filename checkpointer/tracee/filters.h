/*
 * filters.h: what stands between a thread and the system calls made in its name: seccomp(2) filters and
 * syscall user dispatch (prctl(2), PR_SET_SYSCALL_USER_DISPATCH).
 */
#ifndef PAWL_CHECKPOINTER_TRACEE_FILTERS_H
#define PAWL_CHECKPOINTER_TRACEE_FILTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "checkpointer/tracee/tracee.h"

/* Filters do not apply to the stopped thread from here on, until it is detached
 * (PTRACE_O_SUSPEND_SECCOMP, Linux 4.3). Needs CAP_SYS_ADMIN in the initial user namespace: ERR_DENIED. */
int tracee_suspend_seccomp(struct tracee *t, struct err *err);
/* The index-th filter of the thread, oldest first; *ret malloc'ed, *ret_len bytes of struct sock_filter.
 * err->sys_errno ENOENT behind the last one. Needs the same privilege (kernel/seccomp.c,
 * seccomp_get_filter). */
int tracee_seccomp_filter(struct tracee *t, unsigned index, void **ret, size_t *ret_len,
			  unsigned *ret_flags, struct err *err);

/* struct ptrace_sud_config (include/uapi/linux/ptrace.h, Linux 6.4). */
struct dispatch_config {
	uint64_t mode, selector, offset, len;
};

/* False where it is off, and on kernels that cannot tell. */
bool tracee_get_dispatch(struct tracee *t, struct dispatch_config *ret);
int tracee_set_dispatch(struct tracee *t, const struct dispatch_config *config, struct err *err);

#endif
