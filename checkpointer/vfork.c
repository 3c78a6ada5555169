/*
 * Parents that wait in vfork(2). The kernel lets nothing interrupt them but SIGKILL (kernel/fork.c,
 * wait_for_vfork_done): one that has been seized could neither be stopped nor let go until its child executes a
 * program or ends. So they are looked for before anybody is seized.
 */
#include <linux/kcmp.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "checkpointer/freeze.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

#define MOMENT_NS   2000000
#define PATIENCE_NS 300000000ull

static bool has_waiting_thread(pid_t pid)
{
	cleanup_free int *tids = NULL;
	struct proc_stat stat;
	struct err ignored;
	size_t n;

	if (proc_list_numbers(pid, "task", &tids, &n, &ignored) < 0)
		return false;
	for (size_t i = 0; i < n; i++)
		if (proc_read_stat(pid, tids[i], &stat, &ignored) == 0 && stat.state == 'D')
			return true;
	return false;
}

static bool is_waited_for(pid_t child, pid_t *ret_parent)
{
	struct proc_stat stat;
	struct err ignored;

	if (proc_read_stat(child, 0, &stat, &ignored) < 0 || stat.state == 'Z' ||
	    syscall(SYS_kcmp, child, stat.ppid, KCMP_VM, 0, 0) != 0)
		return false;
	*ret_parent = stat.ppid;
	return has_waiting_thread(stat.ppid);
}

static pid_t number_in_capsule(pid_t pid)
{
	struct proc_status status;
	struct err ignored;
	pid_t number = pid;

	if (proc_read_status(pid, 0, &status, &ignored) == 0) {
		number = status.ns_pid;
		proc_status_clear(&status);
	}
	return number;
}

static bool any_waits(const struct tree_root *root, pid_t *ret_parent, pid_t *ret_child)
{
	cleanup_free pid_t *pids = NULL;
	struct err ignored;
	size_t n;

	if (list_tree(root, &pids, &n, &ignored) < 0)
		return false;
	for (size_t i = 0; i < n; i++)
		if (is_waited_for(pids[i], ret_parent)) {
			*ret_child = pids[i];
			return true;
		}
	return false;
}

int vfork_await(const struct tree_root *root, struct err *err)
{
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + PATIENCE_NS;
	const struct timespec moment = {0, MOMENT_NS};
	pid_t parent, child;

	while (any_waits(root, &parent, &child)) {
		if (clock_ns(CLOCK_MONOTONIC) > end)
			return err_set(err, ERR_BUSY,
				       "process %d waits in vfork for process %d, which has not executed a program yet",
				       number_in_capsule(parent), number_in_capsule(child));
		nanosleep(&moment, NULL);
	}
	return 0;
}
