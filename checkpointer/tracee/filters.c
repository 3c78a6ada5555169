#include "checkpointer/tracee/filters.h"

#include <errno.h>
#include <linux/filter.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>

#include "store/base/cleanup.h"

#ifndef PTRACE_SECCOMP_GET_METADATA
#define PTRACE_SECCOMP_GET_METADATA 0x420d
#endif
/* include/uapi/linux/ptrace.h, Linux 6.4 */
#define SET_DISPATCH 0x4210
#define GET_DISPATCH 0x4211

_Static_assert(sizeof(struct dispatch_config) == 32, "struct ptrace_sud_config of the kernel");

int tracee_suspend_seccomp(struct tracee *t, struct err *err)
{
	if (ptrace(PTRACE_SETOPTIONS, t->tid, NULL,
		   (unsigned long)(TRACEE_OPTIONS | PTRACE_O_SUSPEND_SECCOMP)) < 0)
		return err_sys(err, "cannot suspend the system call filters of thread %d", t->tid);
	return 0;
}

int tracee_seccomp_filter(struct tracee *t, unsigned index, void **ret, size_t *ret_len,
			  unsigned *ret_flags, struct err *err)
{
	struct {
		uint64_t index, flags;
	} metadata = {.index = index};
	cleanup_free struct sock_filter *program = NULL;
	long n = ptrace(PTRACE_SECCOMP_GET_FILTER, t->tid, (unsigned long)index, NULL);

	if (n < 0)
		return err_sys(err, "filter %u of thread %d", index, t->tid);
	program = calloc((size_t)n, sizeof(*program));
	if (!program)
		return err_sys(err, "filter %u of thread %d", index, t->tid);
	if (ptrace(PTRACE_SECCOMP_GET_FILTER, t->tid, (unsigned long)index, program) != n)
		return err_sys(err, "filter %u of thread %d", index, t->tid);
	*ret_flags = 0;
	if (ptrace(PTRACE_SECCOMP_GET_METADATA, t->tid, sizeof(metadata), &metadata) > 0)
		*ret_flags = (unsigned)metadata.flags;
	*ret = steal_ptr(&program);
	*ret_len = (size_t)n * sizeof(*program);
	return 0;
}

bool tracee_get_dispatch(struct tracee *t, struct dispatch_config *ret)
{
	struct dispatch_config config = {0};

	if (ptrace(GET_DISPATCH, t->tid, sizeof(config), &config) < 0 || !config.mode)
		return false;
	*ret = config;
	return true;
}

int tracee_set_dispatch(struct tracee *t, const struct dispatch_config *config, struct err *err)
{
	if (ptrace(SET_DISPATCH, t->tid, sizeof(*config), config) < 0)
		return err_sys(err, "system call dispatch of thread %d", t->tid);
	return 0;
}
