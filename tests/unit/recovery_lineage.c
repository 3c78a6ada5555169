/*
 * Lineage: random lives of process trees, played by a small model of the kernel's rules, and
 * whether the plan made from how they ended leads to the same parents, sessions and groups under
 * the same rules.
 */
#include "unit.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "recovery/lineage.h"

#define MAX_PIDS  400
#define HISTORIES 4000

/* ---- the kernel ---------------------------------------------------------------------------- */

struct proc {
	bool used, zombie, subreaper;
	int parent, sid, pgid;
};

struct kernel {
	struct proc p[MAX_PIDS]; /* by pid; 1 is init */
};

static void boot(struct kernel *k)
{
	memset(k, 0, sizeof(*k));
	k->p[1] = (struct proc){.used = true, .sid = 1, .pgid = 1};
}

/* A pid stays taken while a session or a group bears it (kernel/pid.c, free_pid). */
static bool pid_is_free(const struct kernel *k, int pid)
{
	for (int i = 1; i < MAX_PIDS; i++) {
		if (k->p[i].used && (i == pid || k->p[i].sid == pid || k->p[i].pgid == pid))
			return false;
	}
	return true;
}

static int do_fork(struct kernel *k, int by, int pid)
{
	if (!k->p[by].used || k->p[by].zombie || k->p[pid].used)
		return -1;
	k->p[pid] = k->p[by];
	k->p[pid].parent = by;
	k->p[pid].subreaper = false;
	return 0;
}

static bool group_exists(const struct kernel *k, int pgid)
{
	for (int i = 1; i < MAX_PIDS; i++) {
		if (k->p[i].used && k->p[i].pgid == pgid)
			return true;
	}
	return false;
}

static int do_setsid(struct kernel *k, int pid)
{
	if (group_exists(k, pid))
		return -1;
	k->p[pid].sid = k->p[pid].pgid = pid;
	return 0;
}

static int do_setpgid(struct kernel *k, int pid, int pgid)
{
	bool found = pid == pgid;

	for (int i = 1; i < MAX_PIDS; i++)
		found |= k->p[i].used && k->p[i].pgid == pgid && k->p[i].sid == k->p[pid].sid;
	if (!found || k->p[pid].sid == pid)
		return -1;
	k->p[pid].pgid = pgid;
	return 0;
}

/* kernel/exit.c, find_new_reaper and forget_original_parent. Init waits for everybody. */
static void do_exit(struct kernel *k, int pid)
{
	int reaper = k->p[pid].parent;

	while (reaper != 1 && !k->p[reaper].subreaper)
		reaper = k->p[reaper].parent;
	k->p[pid].zombie = true;
	for (int i = 1; i < MAX_PIDS; i++) {
		if (!k->p[i].used || k->p[i].parent != pid)
			continue;
		k->p[i].parent = reaper;
		if (k->p[i].zombie && reaper == 1)
			k->p[i].used = false;
	}
	if (k->p[pid].parent == 1)
		k->p[pid].used = false;
}

/* ---- lives --------------------------------------------------------------------------------- */

struct history {
	struct kernel k;
	uint64_t random;
};

static unsigned roll(struct history *h, unsigned n)
{
	h->random = h->random * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)(h->random >> 33) % n;
}

static int pick(struct history *h)
{
	int pids[MAX_PIDS], n = 0;

	for (int i = 2; i < MAX_PIDS; i++) {
		if (h->k.p[i].used && !h->k.p[i].zombie)
			pids[n++] = i;
	}
	return n ? pids[roll(h, (unsigned)n)] : 1;
}

static void wait_for_a_child(struct history *h, int pid)
{
	for (int i = 2; i < MAX_PIDS; i++) {
		if (h->k.p[i].used && h->k.p[i].zombie && h->k.p[i].parent == pid) {
			h->k.p[i].used = false;
			return;
		}
	}
}

static void step(struct history *h)
{
	int pid = pick(h), other = pick(h), fresh = 2 + (int)roll(h, MAX_PIDS - 2);

	switch (roll(h, 10)) {
	case 0:
		if (pid != 1)
			do_setsid(&h->k, pid);
		break;
	case 1:
		if (pid != 1)
			do_setpgid(&h->k, pid, pid);
		break;
	case 2:
		if (pid != 1)
			do_setpgid(&h->k, pid, h->k.p[other].pgid);
		break;
	case 3:
		if (pid != 1)
			h->k.p[pid].subreaper = roll(h, 2);
		break;
	case 4:
	case 5:
		if (pid != 1)
			do_exit(&h->k, pid);
		break;
	case 6:
		wait_for_a_child(h, pid);
		break;
	default:
		if (pid_is_free(&h->k, fresh))
			do_fork(&h->k, roll(h, 8) ? pid : 1, fresh);
		break;
	}
}

/* ---- how they ended ------------------------------------------------------------------------ */

static void add_to_model(Snap__Snapshot *m, const struct kernel *k, int pid)
{
	Snap__Process *p =
		snap_append(&m->processes, &m->n_processes, Snap__Process, SNAP__PROCESS__INIT);

	p->pid = pid;
	p->ppid = k->p[pid].parent;
	p->sid = k->p[pid].sid;
	p->pgid = k->p[pid].pgid;
	p->zombie = k->p[pid].zombie;
	p->exit_signal = SIGCHLD;
}

/* Parents before children. */
static Snap__Snapshot *make_model(const struct kernel *k)
{
	Snap__Snapshot *m = malloc(sizeof(*m));
	int parent = 1;

	snap__snapshot__init(m);
	for (size_t done = 0;; done++) {
		for (int i = 2; i < MAX_PIDS; i++) {
			if (k->p[i].used && k->p[i].parent == parent)
				add_to_model(m, k, i);
		}
		if (done == m->n_processes)
			return m;
		parent = m->processes[done]->pid;
	}
}

/* ---- born again ---------------------------------------------------------------------------- */

struct rebirth {
	struct kernel k;
	const struct lineage *l;
	const Snap__Snapshot *m;
};

static int pid_of(const struct rebirth *r, size_t i)
{
	return i == LINEAGE_INIT ? 1 : lineage_member(r->l, r->m, i)->pid;
}

static int end_member(struct rebirth *r, size_t i)
{
	const struct birth *birth = &r->l->births[i];
	int pid = pid_of(r, i), heir = pid_of(r, birth->heir);

	if (i >= r->l->n_model && heir != 1)
		r->k.p[heir].subreaper = true;
	do_exit(&r->k, pid);
	if (i < r->l->n_model)
		return 0;
	r->k.p[heir].subreaper = false;
	r->k.p[pid].used = false;
	return 0;
}

static int play(void *ctx, enum lineage_act act, size_t i, struct err *err)
{
	struct rebirth *r = ctx;
	int pid = pid_of(r, i), result = 0;

	switch (act) {
	case LINEAGE_SPAWN:
		result = do_fork(&r->k, pid_of(r, r->l->births[i].by), pid);
		break;
	case LINEAGE_SESSION:
		result = do_setsid(&r->k, pid);
		break;
	case LINEAGE_FOUND:
		result = do_setpgid(&r->k, pid, pid);
		break;
	case LINEAGE_JOIN:
		result = do_setpgid(&r->k, pid, lineage_member(r->l, r->m, i)->pgid);
		break;
	case LINEAGE_END:
		result = end_member(r, i);
		break;
	}
	return result < 0 ? err_set(err, ERR_INVALID, "act %d of %d is not allowed", act, pid) : 0;
}

static bool same_tree(const struct kernel *a, const struct kernel *b)
{
	for (int i = 2; i < MAX_PIDS; i++) {
		const struct proc *x = &a->p[i], *y = &b->p[i];

		if (!x->used && !y->used)
			continue;
		if (x->used == y->used && x->zombie == y->zombie && x->parent == y->parent &&
		    x->sid == y->sid && x->pgid == y->pgid)
			continue;
		print_message("%d: used %d/%d, zombie %d/%d, parent %d/%d, sid %d/%d, pgid %d/%d\n",
			      i, x->used, y->used, x->zombie, y->zombie, x->parent, y->parent,
			      x->sid, y->sid, x->pgid, y->pgid);
		return false;
	}
	return true;
}

/* Two founders that have changed groups with each other: nothing founds both again. */
static bool groups_are_crossed(const Snap__Snapshot *m)
{
	for (size_t i = 0; i < m->n_processes; i++) {
		const Snap__Process *p = m->processes[i];

		for (size_t j = 0; j < m->n_processes; j++) {
			const Snap__Process *q = m->processes[j];

			if (p->pgid != p->pid && q->pid == p->pgid && q->pgid != q->pid)
				return true;
		}
	}
	return false;
}

struct tally {
	unsigned refused, helped, early;
};

/* Whether what became of one history is rebuilt. */
static void rebuild(const struct kernel *end, unsigned n, struct tally *tally)
{
	Snap__Snapshot *m = make_model(end);
	struct rebirth r = {.m = m};
	struct lineage l;
	struct err err = {0};
	int result = lineage_make(&l, m, &err);

	if (result == 0) {
		r.l = &l;
		boot(&r.k);
		result = lineage_walk(&l, m, play, &r, &err);
		assert_true(result < 0 || same_tree(end, &r.k));
		tally->helped += l.n_helpers > 0;
		for (size_t i = 0; i < l.n_model; i++)
			tally->early += l.births[i].early;
		lineage_clear(&l);
	}
	if (result < 0 && !groups_are_crossed(m)) {
		if (err.kind != ERR_UNSUPPORTED)
			fail_msg("history %u: %s", n, err.msg);
		tally->refused++;
	}
	snap__snapshot__free_unpacked(m, NULL);
}

static void test_any_history(void **state)
{
	struct history *h = calloc(1, sizeof(*h));
	struct tally tally = {0};

	for (unsigned n = 0; n < HISTORIES; n++) {
		h->random = n * 7919 + 1;
		boot(&h->k);
		for (unsigned steps = 20 + roll(h, 400); steps > 0; steps--)
			step(h);
		rebuild(&h->k, n, &tally);
	}
	print_message("%u histories: %u with helpers, %u children before a session, %u refused\n",
		      HISTORIES, tally.helped, tally.early, tally.refused);
	/* What is refused leaves open in which of several dead sessions a subreaper was born. */
	assert_true(tally.refused < HISTORIES / 100);
	/* The histories are worth it. */
	assert_true(tally.helped > HISTORIES / 10 && tally.early > HISTORIES / 20);
	free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_any_history),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
