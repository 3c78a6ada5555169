#include "checkpointer/freeze.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "checkpointer/sleepnotes.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"

/* A fork storm that outruns this many passes is given up for this snapshot; the job runs on. */
#define MAX_PASSES 200

/* A capsule's init leads the session that its processes start in. */
#define CAPSULE_SESSION 1

/* ---- listing ---------------------------------------------------------------------------------- */

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

/* ---- the tree --------------------------------------------------------------------------------- */

static struct frozen_process *find_process(struct frozen_tree *tree, pid_t pid)
{
	for (size_t i = 0; i < tree->n; i++)
		if (tree->processes[i].pid == pid)
			return &tree->processes[i];
	return NULL;
}

static struct frozen_process *add_process(struct frozen_tree *tree, pid_t pid, struct err *err)
{
	struct frozen_process *more;

	if ((tree->n & (tree->n - 1)) == 0) {
		more = reallocarray(tree->processes, tree->n ? tree->n * 2 : 1, sizeof(*more));
		if (!more) {
			err_sys(err, "process list");
			return NULL;
		}
		tree->processes = more;
	}
	memset(&tree->processes[tree->n], 0, sizeof(*tree->processes));
	tree->processes[tree->n].pid = pid;
	return &tree->processes[tree->n++];
}

static struct frozen_thread *find_thread(struct frozen_process *p, pid_t tid)
{
	for (size_t i = 0; i < p->n_threads; i++)
		if (p->threads[i]->tracee.tid == tid)
			return p->threads[i];
	return NULL;
}

static struct frozen_thread *add_thread(struct frozen_process *p, struct err *err)
{
	struct frozen_thread **more;
	struct frozen_thread *t = calloc(1, sizeof(*t));

	if (t && (p->n_threads & (p->n_threads - 1)) == 0) {
		more = reallocarray(p->threads, p->n_threads ? p->n_threads * 2 : 1, sizeof(*more));
		if (!more) {
			free(t);
			t = NULL;
		} else {
			p->threads = more;
		}
	}
	if (!t) {
		err_sys(err, "thread list");
		return NULL;
	}
	p->threads[p->n_threads++] = t;
	return t;
}

static void drop_thread(struct frozen_process *p, size_t i)
{
	proc_status_clear(&p->threads[i]->status);
	free(p->threads[i]);
	memmove(&p->threads[i], &p->threads[i + 1], (p->n_threads - i - 1) * sizeof(p->threads[0]));
	p->n_threads--;
}

static void clear_process(struct frozen_process *p)
{
	for (size_t i = 0; i < p->n_threads; i++) {
		proc_status_clear(&p->threads[i]->status);
		free(p->threads[i]);
	}
	free(p->threads);
	proc_status_clear(&p->status);
	memset(p, 0, sizeof(*p));
}

/* ---- freezing --------------------------------------------------------------------------------- */

/* Threads that the kernel attached for us at their birth (PTRACE_O_TRACECLONE and its like). */
static bool was_born_traced(struct frozen_tree *tree, pid_t tid)
{
	for (size_t i = 0; i < tree->n; i++)
		for (size_t j = 0; j < tree->processes[i].n_threads; j++) {
			struct tracee *t = &tree->processes[i].threads[j]->tracee;

			for (size_t k = 0; k < t->n_born; k++)
				if (t->born[k] == tid)
					return true;
		}
	return false;
}

static int seize_thread(struct frozen_tree *tree, struct frozen_process *p, pid_t tid,
			const struct sleep_notes *notes, struct err *err)
{
	struct frozen_thread *t = add_thread(p, err);

	if (!t)
		return -1;
	if (was_born_traced(tree, tid)) {
		t->tracee = (struct tracee){.tid = tid, .tgid = p->pid, .state = TRACEE_RUNNING};
		return 0;
	}
	t->slept_since = sleep_notes_find(notes, tid);
	if (tracee_seize(&t->tracee, p->pid, tid, err) == 0)
		return 0;
	drop_thread(p, p->n_threads - 1);
	return err->kind == ERR_GONE ? 0 : -1;
}

/* Seizes threads we do not hold yet; 1 if there were any. */
static int seize_new_threads(struct frozen_tree *tree, struct frozen_process *p,
			     const struct sleep_notes *notes, struct err *err)
{
	cleanup_free int *tids = NULL;
	size_t n, before = p->n_threads;

	if (proc_list_numbers(p->pid, "task", &tids, &n, err) < 0)
		return err->kind == ERR_NOT_FOUND || err->kind == ERR_GONE ? 0 : -1;
	for (size_t i = 0; i < n; i++)
		if (!find_thread(p, tids[i]) &&
		    seize_thread(tree, p, tids[i], notes, err) < 0)
			return -1;
	return p->n_threads > before;
}

static int wait_process(struct frozen_process *p, struct err *err)
{
	for (size_t i = 0; i < p->n_threads;) {
		if (tracee_wait_stop(&p->threads[i]->tracee, err) == 0) {
			i++;
			continue;
		}
		if (err->kind != ERR_GONE)
			return -1;
		drop_thread(p, i);
	}
	return 0;
}

static int freeze_pass(struct frozen_tree *tree, const struct tree_root *root,
		       const struct sleep_notes *notes, struct err *err)
{
	cleanup_free pid_t *pids = NULL;
	size_t n;
	int fresh = 0;

	if (list_tree(root, &pids, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		struct frozen_process *p = find_process(tree, pids[i]);
		int got;

		if (!p && !(p = add_process(tree, pids[i], err)))
			return -1;
		got = seize_new_threads(tree, p, notes, err);
		if (got < 0)
			return -1;
		fresh += got;
	}
	for (size_t i = 0; i < tree->n; i++)
		if (wait_process(&tree->processes[i], err) < 0)
			return -1;
	return fresh;
}

static void put_leader_first(struct frozen_process *p)
{
	for (size_t i = 1; i < p->n_threads; i++)
		if (p->threads[i]->tracee.tid == p->pid) {
			struct frozen_thread *leader = p->threads[i];

			memmove(&p->threads[1], &p->threads[0], i * sizeof(p->threads[0]));
			p->threads[0] = leader;
			return;
		}
}

static int identify_thread(struct frozen_process *p, struct frozen_thread *t, struct err *err)
{
	if (t->tracee.tid == p->pid) {
		t->vtid = p->vpid;
		return 0;
	}
	if (proc_read_status(p->pid, t->tracee.tid, &t->status, err) < 0)
		return -1;
	t->vtid = t->status.ns_pid;
	return 0;
}

/* Ids inside the capsule. A process that has vanished is dropped by the caller (ERR_GONE). */
static int identify_process(struct frozen_process *p, struct err *err)
{
	if (proc_read_stat(p->pid, 0, &p->stat, err) < 0 ||
	    proc_read_status(p->pid, 0, &p->status, err) < 0) {
		if (err->kind == ERR_NOT_FOUND)
			err->kind = ERR_GONE;
		return -1;
	}
	p->vpid = p->status.ns_pid;
	p->vpgid = p->status.ns_pgid;
	p->vsid = p->status.ns_sid;
	p->zombie = p->stat.state == 'Z' && p->n_threads == 0;
	put_leader_first(p);
	if (!p->zombie && (p->n_threads == 0 || p->threads[0]->tracee.tid != p->pid))
		return err_set(err, ERR_UNSUPPORTED,
			       "process %d (%s): its first thread has exited while others run", p->vpid,
			       p->stat.comm);
	for (size_t i = 0; i < p->n_threads; i++)
		if (identify_thread(p, p->threads[i], err) < 0)
			return -1;
	return 0;
}

/* A session that init leads, under whatever number where there is no capsule. And that of an attached
 * root with a terminal: its leader, a shell outside the job, cannot be had again, the terminal only in the
 * session of a capsule's init. */
static void replace_outside_leaders(struct frozen_tree *tree, const struct tree_root *root)
{
	const struct frozen_process *first = find_process(tree, root->pid);
	pid_t session;

	for (size_t i = 0; !root->attached && i < tree->n; i++)
		if (tree->processes[i].stat.sid == root->pid)
			tree->processes[i].vsid = CAPSULE_SESSION;
	if (!root->attached || !first)
		return;
	session = first->stat.tty_nr && !find_process(tree, first->stat.sid) ? first->vsid : 0;
	for (size_t i = 0; i < tree->n; i++)
		if (session && tree->processes[i].vsid == session)
			tree->processes[i].vsid = CAPSULE_SESSION;
}

static int identify_tree(struct frozen_tree *tree, const struct tree_root *root, struct err *err)
{
	for (size_t i = 0; i < tree->n;) {
		struct frozen_process *p = &tree->processes[i];

		if (identify_process(p, err) == 0) {
			i++;
			continue;
		}
		if (err->kind != ERR_GONE || p->n_threads)
			return -1;
		clear_process(p);
		memmove(p, p + 1, (tree->n - i - 1) * sizeof(*p));
		tree->n--;
	}
	for (size_t i = 0; i < tree->n; i++) {
		struct frozen_process *p = &tree->processes[i];
		struct frozen_process *parent = find_process(tree, p->stat.ppid);

		p->vppid = parent ? parent->vpid : 1;
	}
	replace_outside_leaders(tree, root);
	return 0;
}

static void take_sleep_notes(struct sleep_notes *notes, const struct tree_root *root)
{
	cleanup_free pid_t *pids = NULL;
	struct err ignored;
	size_t n;

	notes->n = 0;
	if (list_tree(root, &pids, &n, &ignored) == 0)
		sleep_notes_take(notes, pids, n);
}

int freeze_tree(struct frozen_tree *ret, const struct tree_root *root, struct err *err)
{
	struct frozen_tree tree = {0};
	struct sleep_notes notes;
	int pass, fresh = 1;

	take_sleep_notes(&notes, root);
	tree.begin_ns = clock_ns(CLOCK_MONOTONIC);
	for (pass = 0; fresh > 0 && pass < MAX_PASSES; pass++)
		fresh = freeze_pass(&tree, root, &notes, err);
	if (fresh > 0)
		err_set(err, ERR_BUSY, "the job starts processes faster than they can be stopped");
	if (fresh != 0 || identify_tree(&tree, root, err) < 0) {
		thaw_tree(&tree);
		return -1;
	}
	if (tree.n == 0) {
		thaw_tree(&tree);
		return err_set(err, ERR_GONE, "the job has no process any more");
	}
	*ret = tree;
	return 0;
}

static void free_tree(struct frozen_tree *tree)
{
	for (size_t i = 0; i < tree->n; i++)
		clear_process(&tree->processes[i]);
	free(tree->processes);
	memset(tree, 0, sizeof(*tree));
}

void thaw_tree(struct frozen_tree *tree)
{
	struct err err;

	/* Children first: a parent may look at once what they do. */
	for (size_t i = tree->n; i-- > 0;)
		for (size_t j = tree->processes[i].n_threads; j-- > 0;) {
			struct tracee *t = &tree->processes[i].threads[j]->tracee;

			if (tracee_detach(t, &err) < 0 && err.kind != ERR_GONE)
				log_error("%s", err.msg);
		}
	free_tree(tree);
}

void kill_tree(struct frozen_tree *tree)
{
	struct err gone;

	/* Parents last: no child is reaped, and none restarts another, while its like is being ended. */
	for (size_t i = tree->n; i-- > 0;)
		kill(tree->processes[i].pid, SIGKILL);
	for (size_t i = 0; i < tree->n; i++) {
		/* The leader last: its end is reported only when all its other threads are reaped. */
		for (size_t j = tree->processes[i].n_threads; j-- > 0;) {
			struct tracee *t = &tree->processes[i].threads[j]->tracee;

			t->state = TRACEE_RUNNING;
			while (tracee_wait_stop(t, &gone) == 0)
				t->state = TRACEE_RUNNING;
		}
	}
	free_tree(tree);
}
