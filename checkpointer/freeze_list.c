/*
 * Which processes belong to a job, as /proc tells.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "checkpointer/freeze.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

struct pid_list {
	pid_t *pids;
	size_t n, room;
};

static int pid_list_add(struct pid_list *list, pid_t pid, struct err *err)
{
	if (list->n == list->room) {
		size_t room = list->room ? list->room * 2 : 64;
		pid_t *more = reallocarray(list->pids, room, sizeof(*more));

		if (!more)
			return err_sys(err, "process list");
		list->pids = more;
		list->room = room;
	}
	list->pids[list->n++] = pid;
	return 0;
}

/* Children of one thread (/proc/PID/task/TID/children, Linux 3.5; CONFIG_PROC_CHILDREN). */
static int add_children_of_thread(pid_t pid, pid_t tid, struct pid_list *list, struct err *err)
{
	cleanup_free char *text = NULL;
	char path[64];
	char *p, *end;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, tid);
	if (read_text(AT_FDCWD, path, &text, NULL, err) < 0)
		return err->kind == ERR_NOT_FOUND || err->kind == ERR_GONE ? 0 : -1;
	for (p = text;; p = end) {
		long child = strtol(p, &end, 10);

		if (end == p)
			return 0;
		if (pid_list_add(list, (pid_t)child, err) < 0)
			return -1;
	}
}

static int add_children(pid_t pid, struct pid_list *list, struct err *err)
{
	cleanup_free int *tids = NULL;
	size_t n;

	if (proc_list_numbers(pid, "task", &tids, &n, err) < 0)
		return err->kind == ERR_NOT_FOUND || err->kind == ERR_GONE ? 0 : -1;
	for (size_t i = 0; i < n; i++)
		if (add_children_of_thread(pid, tids[i], list, err) < 0)
			return -1;
	return 0;
}

/* Nobody else has been given the pid of an attached root. */
static bool root_lives(const struct tree_root *root)
{
	struct proc_stat stat;
	struct err ignored;

	return proc_read_stat(root->pid, 0, &stat, &ignored) == 0 &&
	       stat.start_time == root->start_time;
}

static int add_root(const struct tree_root *root, struct pid_list *list, struct err *err)
{
	if (!root->attached)
		return add_children(root->pid, list, err);
	return root_lives(root) ? pid_list_add(list, root->pid, err) : 0;
}

int list_tree(const struct tree_root *root, pid_t **ret, size_t *ret_n, struct err *err)
{
	struct pid_list list = {0};
	int result = add_root(root, &list, err);

	for (size_t i = 0; result == 0 && i < list.n; i++)
		result = add_children(list.pids[i], &list, err);
	if (result < 0) {
		free(list.pids);
		return -1;
	}
	*ret = list.pids;
	*ret_n = list.n;
	return 0;
}
