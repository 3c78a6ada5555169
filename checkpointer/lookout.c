#include "checkpointer/lookout.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "checkpointer/freeze.h"
#include "checkpointer/tracee/procfs.h"
#include "store/base/cleanup.h"

static const struct {
	const char *link, *name;
} looked_for[] = {
	{"anon_inode:[io_uring]", "an io_uring instance"},
	{"anon_inode:[userfaultfd]", "a userfaultfd"},
};

static int report(pid_t pid, int fd, const char *what, struct err *err)
{
	struct proc_status status;
	struct err gone;

	if (proc_read_status(pid, 0, &status, &gone) < 0)
		return 0;
	err_set(err, ERR_UNSUPPORTED, "process %d (%s): fd %d: %s", status.ns_pid, status.name, fd, what);
	proc_status_clear(&status);
	return -1;
}

static int look_at_fd(pid_t pid, int fd, struct err *err)
{
	char path[64], link[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		return 0;
	link[n] = '\0';
	for (size_t i = 0; i < sizeof(looked_for) / sizeof(looked_for[0]); i++)
		if (strcmp(link, looked_for[i].link) == 0)
			return report(pid, fd, looked_for[i].name, err);
	return 0;
}

static int look_at_process(pid_t pid, struct err *err)
{
	cleanup_free int *fds = NULL;
	struct err ignored;
	size_t n;

	if (proc_list_numbers(pid, "fd", &fds, &n, &ignored) < 0)
		return 0;
	for (size_t i = 0; i < n; i++)
		if (look_at_fd(pid, fds[i], err) < 0)
			return -1;
	return 0;
}

int lookout(const struct tree_root *root, struct err *err)
{
	cleanup_free pid_t *pids = NULL;
	struct err ignored;
	size_t n;

	if (list_tree(root, &pids, &n, &ignored) < 0)
		return 0;
	for (size_t i = 0; i < n; i++)
		if (look_at_process(pids[i], err) < 0)
			return -1;
	return 0;
}
