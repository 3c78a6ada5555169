#include "checkpointer/tracee/waits.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "checkpointer/tracee/procfs.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

/* The thread that it is blocked in wait4(2) for, as /proc/PID/syscall (proc(5)) has it; 0: it is not. */
static pid_t waited_for(pid_t tracer)
{
	cleanup_free char *text = NULL;
	unsigned long tid = 0;
	struct err ignored;
	char path[64];
	long nr;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", tracer);
	if (read_text(AT_FDCWD, path, &text, NULL, &ignored) < 0 || sscanf(text, "%ld %lx", &nr, &tid) != 2 ||
	    nr != SYS_wait4)
		return 0;
	return (int)tid > 0 ? (pid_t)tid : 0;
}

void tracee_end_vain_wait(pid_t tracer)
{
	cleanup_free int *tids = NULL;
	pid_t first = waited_for(tracer);
	struct proc_stat stat;
	struct err ignored;
	siginfo_t info;
	size_t n;

	if (!first || proc_read_stat(first, first, &stat, &ignored) < 0 || stat.state != 'Z' ||
	    proc_list_numbers(first, "task", &tids, &n, &ignored) < 0)
		return;
	for (size_t i = 0; i < n; i++)
		if (tids[i] != first)
			waitid(P_PID, (id_t)tids[i], &info, WEXITED | WNOHANG | __WALL);
}
