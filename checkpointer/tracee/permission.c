#include "checkpointer/tracee/permission.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpointer/tracee/procfs.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

#define PF_KTHREAD 0x00200000u /* include/linux/sched.h; field 9 of /proc/PID/stat */

static bool is_kernel_thread(pid_t pid)
{
	cleanup_free char *text = NULL;
	struct err ignored;
	unsigned flags;
	char path[64];
	char *at;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (read_text(AT_FDCWD, path, &text, NULL, &ignored) < 0 || !(at = strrchr(text, ')')))
		return false;
	return sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %u", &flags) == 1 && flags & PF_KTHREAD;
}

static int yama_scope(void)
{
	cleanup_free char *text = NULL;
	struct err ignored;

	if (read_text(AT_FDCWD, "/proc/sys/kernel/yama/ptrace_scope", &text, NULL, &ignored) < 0)
		return 0;
	return atoi(text);
}

static int explain_yama(pid_t pid, struct err *err)
{
	switch (yama_scope()) {
	case 1:
		return err_set(
			err, ERR_DENIED,
			"process %d: Yama lets a process be traced by its ancestors only (as root: "
			"sysctl kernel.yama.ptrace_scope=0; jobs under `pawl run` are not "
			"affected)",
			pid);
	case 2:
		return err_set(err, ERR_DENIED,
			       "process %d: Yama allows tracing to administrators only "
			       "(kernel.yama.ptrace_scope is 2)",
			       pid);
	case 3:
		return err_set(err, ERR_DENIED,
			       "process %d: Yama forbids all tracing until the next boot "
			       "(kernel.yama.ptrace_scope is 3)",
			       pid);
	default:
		return err_set(err, ERR_DENIED,
			       "process %d: tracing it is forbidden (it has more privileges than "
			       "we do, or "
			       "a security module or a seccomp filter is in the way)",
			       pid);
	}
}

/* The kernel gives /proc/PID of a process that is not dumpable to root (fs/proc/base.c,
 * task_dump_owner). */
static bool is_undumpable(pid_t pid, const struct proc_status *s)
{
	struct stat st;
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d", pid);
	return s->uid[1] != 0 && stat(path, &st) == 0 && st.st_uid != s->uid[1];
}

static int explain_status(pid_t pid, const struct proc_status *s, struct err *err)
{
	if (s->state == 'Z' || s->state == 'X')
		return err_code(err, ESRCH, "process %d has ended", pid);
	if (is_kernel_thread(pid))
		return err_set(err, ERR_DENIED, "process %d (%s) is a kernel thread", pid, s->name);
	if (s->tracer)
		return err_set(
			err, ERR_BUSY,
			"process %d (%s) is traced by process %d already: a debugger, strace, or "
			"another pawl at its work",
			pid, s->name, s->tracer);
	if (geteuid() != 0 &&
	    (s->uid[0] != geteuid() || s->uid[1] != geteuid() || s->uid[2] != geteuid()))
		return err_set(err, ERR_DENIED,
			       "process %d (%s) belongs to user %u, and we are user %u", pid,
			       s->name, s->uid[1], geteuid());
	if (geteuid() != 0 && is_undumpable(pid, s))
		return err_set(err, ERR_DENIED,
			       "process %d (%s) is not dumpable: its program is set-user-id, "
			       "unreadable, has "
			       "capabilities, or has asked for it (PR_SET_DUMPABLE)",
			       pid, s->name);
	return explain_yama(pid, err);
}

int trace_explain(pid_t pid, struct err *err)
{
	struct proc_status status;
	int result;

	if (proc_read_status(pid, 0, &status, err) < 0)
		return err->kind == ERR_NOT_FOUND || err->kind == ERR_GONE
			       ? err_set(err, ERR_NOT_FOUND, "there is no process %d", pid)
			       : -1;
	result = explain_status(pid, &status, err);
	proc_status_clear(&status);
	return result;
}

int trace_permitted(pid_t pid, struct err *err)
{
	cleanup_fd int fd = -1;
	struct proc_status status;
	char path[32], byte;
	bool plain;

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return trace_explain(pid, err);
	if (proc_read_status(pid, 0, &status, err) < 0)
		return err_set(err, ERR_NOT_FOUND, "there is no process %d", pid);
	plain = !status.tracer && status.state != 'Z' && status.state != 'X';
	proc_status_clear(&status);
	/* A process without memory of its own reads as empty: a kernel thread, or one that ends. */
	if (!plain || (pread(fd, &byte, 1, 0) == 0 && is_kernel_thread(pid)))
		return trace_explain(pid, err);
	return 0;
}

int same_namespace(pid_t a, pid_t b, const char *kind, bool *ret, struct err *err)
{
	const pid_t pids[2] = {a, b};
	char path[64], target[2][64];

	for (int i = 0; i < 2; i++) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/%d/ns/%s", pids[i], kind);
		n = readlink(path, target[i], sizeof(target[i]) - 1);
		if (n < 0 && errno == ENOENT) {
			*ret = true;
			return 0;
		}
		if (n < 0)
			return err_sys(err, "cannot read %s", path);
		target[i][n] = '\0';
	}
	*ret = strcmp(target[0], target[1]) == 0;
	return 0;
}
