/*
 * Which processes belong to a job, as /proc tells.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "checkpointer/freeze.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/parallel.h"

/* So many files of /proc, 5 to 15 us each, are worth a thread. */
#define PARALLEL_WORTH 64

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

/* Threads whose children are read at a time: a process with thousands has its lists read in parallel. */
struct reading {
	int dir; /* /proc/PID/task: a path from there is walked in half the time */
	const int *tids;
	char **texts; /* by thread; NULL: it has just ended */
	struct err *errs;
};

/* Children of one thread (/proc/PID/task/TID/children, Linux 3.5; CONFIG_PROC_CHILDREN). */
static void read_children(void *ctx, size_t i)
{
	struct reading *r = ctx;
	char path[32];

	snprintf(path, sizeof(path), "%d/children", r->tids[i]);
	if (read_text(r->dir, path, &r->texts[i], NULL, &r->errs[i]) < 0)
		r->texts[i] = NULL;
}

static int add_numbers(const char *text, struct pid_list *list, struct err *err)
{
	for (char *end;; text = end) {
		long child = strtol(text, &end, 10);

		if (end == text)
			return 0;
		if (pid_list_add(list, (pid_t)child, err) < 0)
			return -1;
	}
}

static int add_texts(struct reading *r, size_t n, struct pid_list *list, struct err *err)
{
	int result = 0;

	for (size_t i = 0; i < n; i++) {
		const struct err *e = &r->errs[i];

		if (result == 0 && r->texts[i])
			result = add_numbers(r->texts[i], list, err);
		else if (result == 0 && e->kind != ERR_NOT_FOUND && e->kind != ERR_GONE) {
			*err = *e;
			result = -1;
		}
		free(r->texts[i]);
	}
	return result;
}

static int add_children(pid_t pid, struct pid_list *list, struct err *err)
{
	cleanup_free int *tids = NULL;
	cleanup_free char **texts = NULL;
	cleanup_free struct err *errs = NULL;
	cleanup_fd int dir = proc_open_task_dir(pid);
	struct reading r;
	size_t n;

	if (dir < 0)
		return errno == EMFILE || errno == ENFILE ? err_sys(err, "process %d", pid) : 0;
	if (proc_list_numbers(pid, "task", &tids, &n, err) < 0)
		return err->kind == ERR_NOT_FOUND || err->kind == ERR_GONE ? 0 : -1;
	texts = calloc(n + 1, sizeof(*texts));
	errs = calloc(n + 1, sizeof(*errs));
	if (!texts || !errs)
		return err_sys(err, "process list");
	r = (struct reading){dir, tids, texts, errs};
	parallel_do(n, PARALLEL_WORTH, read_children, &r);
	return add_texts(&r, n, list, err);
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
