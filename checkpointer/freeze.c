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
#define MAX_PASSES	 200
#define WARN_AFTER_TRIES 50000 /* of 0.2 ms */

/* A capsule's init leads the session that its processes start in. */
#define CAPSULE_SESSION 1

/* ---- the tree ------------------------------------------------------------------------------ */

static struct frozen_process *find_process(struct frozen_tree *tree, pid_t pid)
{
	for (size_t i = 0; i < tree->n; i++)
		if (tree->processes[i].tgid == pid)
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
	tree->processes[tree->n].pid = tree->processes[tree->n].tgid = pid;
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

/* ---- freezing ------------------------------------------------------------------------------ */

static int seize_thread(struct frozen_process *p, pid_t tid, const struct sleep_notes *notes,
			struct err *err)
{
	struct frozen_thread *t = add_thread(p, err);

	if (!t)
		return -1;
	t->slept_since = sleep_notes_find(notes, tid);
	if (tracee_seize(&t->tracee, p->tgid, tid, err) == 0)
		return 0;
	drop_thread(p, p->n_threads - 1);
	return err->kind == ERR_GONE ? 0 : -1;
}

/* Seizes threads we do not hold yet; 1 if there were any. Both lists ascend but for late arrivals.
 */
static int seize_new_threads(struct frozen_process *p, const struct sleep_notes *notes,
			     struct err *err)
{
	cleanup_free int *tids = NULL;
	size_t n, before = p->n_threads;

	if (proc_list_numbers(p->tgid, "task", &tids, &n, err) < 0)
		return err->kind == ERR_NOT_FOUND || err->kind == ERR_GONE ? 0 : -1;
	for (size_t i = 0; i < n; i++) {
		if (i < before && p->threads[i]->tracee.tid == tids[i])
			continue;
		if (!find_thread(p, tids[i]) && seize_thread(p, tids[i], notes, err) < 0)
			return -1;
	}
	return p->n_threads > before;
}

/* All that there is now is asked to stop, then all is waited for. 1: something was new, or ran. */
static int freeze_pass(struct frozen_tree *tree, const struct tree_root *root,
		       const struct sleep_notes *notes, struct err *err)
{
	cleanup_free pid_t *pids = NULL;
	bool fresh = false;
	size_t n;

	if (list_tree(root, &pids, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		struct frozen_process *p = find_process(tree, pids[i]);
		int got;

		if (!p && !(p = add_process(tree, pids[i], err)))
			return -1;
		got = seize_new_threads(p, notes, err);
		if (got < 0)
			return -1;
		fresh |= got > 0;
	}
	if (freeze_settle(tree, &fresh, err) < 0)
		return -1;
	return fresh;
}

static void put_leader_first(struct frozen_process *p)
{
	for (size_t i = 1; i < p->n_threads; i++)
		if (p->threads[i]->tracee.tid == p->tgid) {
			struct frozen_thread *leader = p->threads[i];

			memmove(&p->threads[1], &p->threads[0], i * sizeof(p->threads[0]));
			p->threads[0] = leader;
			return;
		}
}

static int identify_thread(struct frozen_process *p, struct frozen_thread *t, struct err *err)
{
	if (t->tracee.tid == p->tgid) {
		t->vtid = p->vpid;
		return 0;
	}
	if (proc_read_status(p->tgid, t->tracee.tid, &t->status, err) < 0)
		return -1;
	t->vtid = t->status.ns_pid;
	return 0;
}

/* The first thread has ended, and is a zombie while others run: /proc shows nothing of the process
 * under its own pid, but all of it under that of another thread. */
static int take_leaders_place(struct frozen_process *p, struct err *err)
{
	struct frozen_thread *first = p->threads[0];
	struct proc_stat leader = p->stat;

	if (leader.state != 'Z')
		return err_set(err, ERR_BUSY, "process %d is about to end or to execute a program",
			       p->vpid);
	p->leader_exited = true;
	p->pid = first->tracee.tid;
	for (size_t i = 0; i < p->n_threads; i++)
		p->threads[i]->tracee.tgid = p->pid;
	if (proc_read_stat(p->tgid, p->pid, &p->stat, err) < 0)
		return -1;
	p->stat.exit_signal = leader.exit_signal;
	p->stat.exit_code = leader.exit_code;
	proc_status_clear(&p->status);
	return proc_read_status(p->tgid, p->pid, &p->status, err);
}

/* Ids inside the capsule. A process that has vanished is dropped by the caller (ERR_GONE). */
static int identify_process(struct frozen_process *p, struct err *err)
{
	if (proc_read_stat(p->tgid, 0, &p->stat, err) < 0 ||
	    proc_read_status(p->tgid, 0, &p->status, err) < 0) {
		if (err->kind == ERR_NOT_FOUND)
			err->kind = ERR_GONE;
		return -1;
	}
	p->vpid = p->status.ns_pid;
	p->vpgid = p->status.ns_pgid;
	p->vsid = p->status.ns_sid;
	p->zombie = p->stat.state == 'Z' && p->n_threads == 0;
	put_leader_first(p);
	if (!p->zombie && p->n_threads == 0)
		return err_set(err, ERR_BUSY, "process %d has no thread that can be stopped",
			       p->vpid);
	for (size_t i = 0; i < p->n_threads; i++)
		if (identify_thread(p, p->threads[i], err) < 0)
			return -1;
	if (!p->zombie && p->threads[0]->tracee.tid != p->tgid)
		return take_leaders_place(p, err);
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

static void drop_process(struct frozen_tree *tree, struct frozen_process *p)
{
	clear_process(p);
	memmove(p, p + 1, (size_t)(tree->processes + tree->n - p - 1) * sizeof(*p));
	tree->n--;
}

static int identify_tree(struct frozen_tree *tree, const struct tree_root *root, struct err *err)
{
	for (size_t i = 0; i < tree->n;) {
		struct frozen_process *p = &tree->processes[i];

		if (identify_process(p, err) < 0) {
			if (err->kind != ERR_GONE || p->n_threads)
				return -1;
			drop_process(tree, p);
		} else if (p->zombie && p->stat.ppid == root->pid && !root->attached) {
			drop_process(tree, p); /* init is about to wait for it */
		} else {
			i++;
		}
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

	tracee_reap_unknown();
	if (vfork_await(root, err) < 0)
		return -1;
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

/* Releases what has stopped; says whether there is something that has not. */
static bool release_stopped(struct frozen_tree *tree)
{
	bool left = false;
	struct err err;

	/* Children first: a parent may look at once what they do. */
	for (size_t i = tree->n; i-- > 0;)
		for (size_t j = tree->processes[i].n_threads; j-- > 0;) {
			struct tracee *t = &tree->processes[i].threads[j]->tracee;

			if (t->state == TRACEE_RUNNING && tracee_poll_stop(t, &err) == 0)
				left = true;
			else if (tracee_detach(t, &err) < 0 && err.kind != ERR_GONE)
				log_error("%s", err.msg);
		}
	return left;
}

void thaw_tree(struct frozen_tree *tree)
{
	const struct timespec moment = {0, 200000};
	unsigned tries = 0;

	/* The kernel lets go only of what has stopped, so one that is still on its way is waited
	 * for: it would stand still for ever once it gets there. */
	while (release_stopped(tree)) {
		if (++tries == WARN_AFTER_TRIES)
			log_warn("a thread of the job does not come out of a system call: waiting "
				 "for it");
		nanosleep(&moment, NULL);
	}
	free_tree(tree);
	tracee_reap_unknown();
}

void kill_tree(struct frozen_tree *tree)
{
	struct err gone;

	/* Parents last: no child is reaped, and none restarts another, while its like is being
	 * ended. */
	for (size_t i = tree->n; i-- > 0;)
		kill(tree->processes[i].tgid, SIGKILL);
	for (size_t i = 0; i < tree->n; i++) {
		/* The leader last: its end is reported only when all its other threads are reaped.
		 */
		for (size_t j = tree->processes[i].n_threads; j-- > 0;) {
			struct tracee *t = &tree->processes[i].threads[j]->tracee;

			t->state = TRACEE_RUNNING;
			while (tracee_wait_stop(t, &gone) == 0)
				t->state = TRACEE_RUNNING;
		}
	}
	free_tree(tree);
}
