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

#include "checkpointer/interrupted.h"
#include "checkpointer/sleepnotes.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/parallel.h"

/* A fork storm that outruns this many passes is given up for this snapshot; the job runs on. */
#define MAX_PASSES	 200
#define THAW_SOON_NS	 200000u   /* between two looks, at first */
#define THAW_LATER_NS	 50000000u /* and when it takes long */
#define THAW_WARN_NS	 10000000000ull

/* So many looks at /proc, 15 us each, are worth a thread. */
#define GLANCES_WORTH 32

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

void frozen_drop_thread(struct frozen_process *p, size_t i)
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
	frozen_drop_thread(p, p->n_threads - 1);
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

/* The processes pids[] are asked to stop, then all is waited for. 1: something was new, or ran. */
static int freeze_listed(struct frozen_tree *tree, const pid_t *pids, size_t n,
			 const struct sleep_notes *notes, struct err *err)
{
	bool fresh = false;

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

static int freeze_pass(struct frozen_tree *tree, const struct tree_root *root,
		       const struct sleep_notes *notes, struct err *err)
{
	cleanup_free pid_t *pids = NULL;
	size_t n;

	return list_tree(root, &pids, &n, err) < 0 ? -1 : freeze_listed(tree, pids, n, notes, err);
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

/* What /proc tells of one thread, or (thread NULL) of a process as a whole. */
struct glance {
	struct frozen_process *process;
	struct frozen_thread *thread;
	int task_dir; /* of the process; owned by its first glance */
	int result;
	struct err err;
};

static void take_glance(void *ctx, size_t i)
{
	struct glance *g = &((struct glance *)ctx)[i];
	struct frozen_process *p = g->process;

	if (g->thread && g->task_dir < 0) /* too many are open */
		g->result = proc_read_status(p->tgid, g->thread->tracee.tid, &g->thread->status, &g->err);
	else if (g->thread)
		g->result = proc_read_thread_status(g->task_dir, g->thread->tracee.tid,
						    &g->thread->status, &g->err);
	else
		g->result = proc_read_stat(p->tgid, 0, &p->stat, &g->err) < 0
				    ? -1
				    : proc_read_status(p->tgid, 0, &p->status, &g->err);
}

static void identify_thread(struct frozen_process *p, struct frozen_thread *t)
{
	t->vtid = t->tracee.tid == p->tgid ? p->vpid : t->status.ns_pid;
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
static int identify_process(struct frozen_process *p, const struct glance *seen, struct err *err)
{
	for (const struct glance *g = seen; g->process == p; g++) {
		if (g->result == 0)
			continue;
		*err = g->err;
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
		identify_thread(p, p->threads[i]);
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

/* All processes with their threads behind them, ended by one without a process. *ret malloc'ed. */
static int glance_at_all(struct frozen_tree *tree, struct glance **ret, struct err *err)
{
	size_t n = tree->n, k = 0;
	struct glance *all;
	int dir;

	for (size_t i = 0; i < tree->n; i++)
		n += tree->processes[i].n_threads;
	all = calloc(n + 1, sizeof(*all));
	if (!all)
		return err_sys(err, "process list");
	for (size_t i = 0; i < tree->n; i++) {
		struct frozen_process *p = &tree->processes[i];

		all[k] = (struct glance){.process = p, .task_dir = -1};
		if (p->n_threads > 1)
			all[k].task_dir = proc_open_task_dir(p->tgid);
		dir = all[k++].task_dir;
		for (size_t j = 0; j < p->n_threads; j++)
			if (p->threads[j]->tracee.tid != p->tgid)
				all[k++] = (struct glance){p, p->threads[j], .task_dir = dir};
	}
	parallel_do(k, GLANCES_WORTH, take_glance, all);
	for (size_t i = 0; i < k; i++)
		if (!all[i].thread && all[i].task_dir >= 0)
			close(all[i].task_dir);
	*ret = all;
	return 0;
}

/* Drops what has ended, and what init is about to wait for. */
static int identify_processes(struct frozen_tree *tree, const struct tree_root *root,
			      const struct glance *seen, struct err *err)
{
	size_t kept = 0;
	int result = 0;

	for (size_t i = 0; i < tree->n; i++) {
		struct frozen_process *p = &tree->processes[i];
		const struct glance *own = seen;
		bool keep = true;

		while (seen->process == p)
			seen++;
		if (result == 0 && identify_process(p, own, err) < 0) {
			keep = err->kind != ERR_GONE || p->n_threads;
			result = keep ? -1 : 0;
		} else if (result == 0) {
			keep = !p->zombie || p->stat.ppid != root->pid || root->attached;
		}
		if (!keep)
			clear_process(p);
		else
			tree->processes[kept++] = *p;
	}
	tree->n = kept;
	return result;
}

static int identify_tree(struct frozen_tree *tree, const struct tree_root *root, struct err *err)
{
	cleanup_free struct glance *seen = NULL;

	if (glance_at_all(tree, &seen, err) < 0 || identify_processes(tree, root, seen, err) < 0)
		return -1;
	for (size_t i = 0; i < tree->n; i++) {
		struct frozen_process *p = &tree->processes[i];
		struct frozen_process *parent = find_process(tree, p->stat.ppid);

		p->vppid = parent ? parent->vpid : 1;
	}
	replace_outside_leaders(tree, root);
	return 0;
}

/* ---- letting go ---------------------------------------------------------------------------- */

static void free_tree(struct frozen_tree *tree)
{
	for (size_t i = 0; i < tree->n; i++)
		clear_process(&tree->processes[i]);
	free(tree->processes);
	memset(tree, 0, sizeof(*tree));
}

static void release_thread(struct frozen_process *p, struct frozen_thread *t)
{
	struct err err;

	if (interrupted_settle(p, t, &err) < 0 && err.kind != ERR_GONE)
		log_warn("thread %d may see a system call end early: %s", t->vtid, err.msg);
	if (tracee_detach(&t->tracee, &err) < 0 && err.kind != ERR_GONE)
		log_error("%s", err.msg);
}

/* Releases what has stopped; says whether there is something that has not. */
static bool release_stopped(struct frozen_tree *tree)
{
	bool left = false;
	struct err err;

	/* Children first: a parent may look at once what they do. */
	for (size_t i = tree->n; i-- > 0;)
		for (size_t j = tree->processes[i].n_threads; j-- > 0;) {
			struct frozen_thread *t = tree->processes[i].threads[j];

			if (t->tracee.state == TRACEE_RUNNING && tracee_poll_stop(&t->tracee, &err) == 0)
				left = true;
			else
				release_thread(&tree->processes[i], t);
		}
	return left;
}

static bool adopt_strangers_of(struct frozen_tree *tree, pid_t pid)
{
	struct frozen_process *p = find_process(tree, pid);
	cleanup_free int *tids = NULL;
	bool found = false;
	struct err ignored;
	size_t n;

	if (proc_list_numbers(pid, "task", &tids, &n, &ignored) < 0)
		return false;
	for (size_t i = 0; i < n; i++) {
		struct frozen_thread *t;

		if ((p && find_thread(p, tids[i])) || !tracee_is_ours(tids[i]))
			continue;
		if ((!p && !(p = add_process(tree, pid, &ignored))) || !(t = add_thread(p, &ignored)))
			return found;
		t->tracee = (struct tracee){.tid = tids[i], .tgid = pid, .state = TRACEE_RUNNING};
		found = true;
	}
	return found;
}

/* A freeze that was given up half-way has not looked yet for what its last threads have created: the kernel
 * has attached that for us, and it would stand still for ever. */
static bool adopt_strangers(struct frozen_tree *tree, const struct tree_root *root)
{
	cleanup_free pid_t *pids = NULL;
	bool found = false;
	struct err ignored;
	size_t n;

	if (!root || list_tree(root, &pids, &n, &ignored) < 0)
		return false;
	for (size_t i = 0; i < n; i++)
		found |= adopt_strangers_of(tree, pids[i]);
	return found;
}

/* Says whether there is something that still has to be let go. Whoever has not stopped may wait for a child that
 * we do not know of yet (vfork(2)), and that for us: so strangers are looked for whatever else is left. */
static bool release_some(struct frozen_tree *tree, const struct tree_root *root)
{
	bool left = release_stopped(tree);

	return adopt_strangers(tree, root) || left;
}

/* root: NULL where the tree is known to be whole. */
static void release_all(struct frozen_tree *tree, const struct tree_root *root)
{
	uint64_t begin = clock_ns(CLOCK_MONOTONIC);
	struct timespec moment = {0, THAW_SOON_NS};
	bool warned = false;

	/* The kernel lets go only of what has stopped, so one that is still on its way is waited
	 * for: it would stand still for ever once it gets there. */
	while (release_some(tree, root)) {
		uint64_t waited = clock_ns(CLOCK_MONOTONIC) - begin;

		if (waited > THAW_WARN_NS && !warned)
			log_warn("a thread of the job does not come out of a system call: waiting "
				 "for it");
		warned = waited > THAW_WARN_NS;
		moment.tv_nsec = waited / 16 > THAW_LATER_NS ? THAW_LATER_NS : THAW_SOON_NS;
		nanosleep(&moment, NULL);
	}
	free_tree(tree);
	tracee_reap_unknown();
}

void thaw_tree(struct frozen_tree *tree)
{
	release_all(tree, NULL);
}

/* An attached root stays a zombie until its parent has waited for it. */
static bool anybody_lives(const struct frozen_tree *tree)
{
	for (size_t i = 0; i < tree->n; i++)
		if (!tree->processes[i].zombie)
			return true;
	return false;
}

int freeze_tree(struct frozen_tree *ret, const struct tree_root *root, struct err *err)
{
	cleanup_free pid_t *pids = NULL;
	struct frozen_tree tree = {0};
	struct sleep_notes notes;
	int pass, fresh;
	size_t n;

	tracee_reap_unknown();
	if (vfork_await(root, err) < 0 || list_tree(root, &pids, &n, err) < 0)
		return -1;
	sleep_notes_take(&notes, pids, n);
	tree.begin_ns = clock_ns(CLOCK_MONOTONIC);
	/* Those that are known already stop first; then whoever has come since is looked for. */
	fresh = freeze_listed(&tree, pids, n, &notes, err) < 0 ? -1 : 1;
	for (pass = 0; fresh > 0 && pass < MAX_PASSES; pass++)
		fresh = freeze_pass(&tree, root, &notes, err);
	if (fresh > 0)
		err_set(err, ERR_BUSY, "the job starts processes faster than they can be stopped");
	if (fresh != 0 || identify_tree(&tree, root, err) < 0) {
		release_all(&tree, root);
		return -1;
	}
	if (!anybody_lives(&tree)) {
		release_all(&tree, root);
		return err_set(err, ERR_GONE, "the job has no process any more");
	}
	*ret = tree;
	return 0;
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
