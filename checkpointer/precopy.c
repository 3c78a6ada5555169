/*
 * What is done before the pause, so that little is left for it.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "checkpointer/sleeps.h"
#include "checkpointer/taking.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"

/* Pre-copy goes on while rounds find clearly less than those before (one may be slow by chance: the
 * first time, buffers are fresh memory), and stops when what is left takes about as long to copy as
 * the freeze itself (a few milliseconds at 5 GB/s). */
#define PRECOPY_ROUNDS_MOST 12
#define PRECOPY_VAIN_ROUNDS 2
#define PRECOPY_ENOUGH	    (1ull << 20)
/* A process smaller than this is copied whole faster than it is stopped twice. */
#define ARM_AT_LEAST (32ull << 20)
/* The flags of the mappings of a process at least this big are read outside the pause: 14 ms/GiB, and 3 us
 * a mapping.
 */
#define NOTE_AT_LEAST	       (64ull << 20)
#define NOTE_AT_LEAST_MAPPINGS 500

static const Snap__Process *last_process(const struct checkpointer *c, pid_t vpid)
{
	for (size_t i = 0; c->last && i < c->last->n_processes; i++)
		if (c->last->processes[i]->pid == vpid)
			return c->last->processes[i];
	return NULL;
}

static uint64_t parent_root(const struct checkpointer *c, pid_t vpid)
{
	const Snap__Process *p = last_process(c, vpid);

	return p ? p->pages_root : 0;
}

int taking_open_table(struct taking *t, struct tracked *p, struct err *err)
{
	if (p->table)
		return 0;
	return page_table_edit(&p->table, t->session, parent_root(t->c, p->vpid), err);
}

/* While the job runs: pages written since the last snapshot, round by round, and changed files. */
static int precopy_process(struct taking *t, struct tracked *p, struct err *err)
{
	uint64_t last = TRACKED_FIRST, found = 0, begin = 0;
	int vain = 0;

	if (!p->tracker || !tracker_can_precopy(p->tracker))
		return 0;
	if (taking_open_table(t, p, err) < 0)
		return -1;
	for (int round = 0; round < PRECOPY_ROUNDS_MOST; round++) {
		int64_t pages;

		begin = clock_ns(CLOCK_MONOTONIC);
		pages = tracked_precopy(p, &t->c->copies, last, &t->info.pages_candidate, err);
		if (pages < 0)
			return err->kind == ERR_GONE || err->kind == ERR_NOT_FOUND ? 0 : -1;
		found = (uint64_t)pages * STORE_PAGE_SIZE;
		vain = found > last - last / 4 ? vain + 1 : 0;
		if (found < PRECOPY_ENOUGH || vain == PRECOPY_VAIN_ROUNDS)
			break;
		last = found;
	}
	t->last_rounds.found += found;
	t->last_rounds.ns += clock_ns(CLOCK_MONOTONIC) - begin;
	return 0;
}

/* 0 where that cannot be told. */
static uint64_t resident_bytes(pid_t pid)
{
	cleanup_free char *text = NULL;
	unsigned long size, resident;
	struct err ignored;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/statm", pid);
	if (read_text(AT_FDCWD, path, &text, NULL, &ignored) < 0 ||
	    sscanf(text, "%lu %lu", &size, &resident) != 2)
		return 0;
	return (uint64_t)resident * STORE_PAGE_SIZE;
}

uint64_t tracked_resident_bytes(const struct checkpointer *c)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < c->tracked.n; i++)
		sum += resident_bytes(c->tracked.list[i].pid);
	return sum;
}

static bool wants_arming(struct checkpointer *c, const struct frozen_process *p)
{
	struct tracked *k = tracked_find(&c->tracked, p->pid, p->stat.start_time);

	return !p->zombie && (!k || !k->tracker) && resident_bytes(p->pid) >= ARM_AT_LEAST;
}

static int arm_process(struct taking *t, struct frozen_process *p, struct err *err)
{
	struct tracked *k = tracked_find(&t->c->tracked, p->pid, p->stat.start_time);

	if (!k && !(k = tracked_add(&t->c->tracked, p->pid, p->stat.start_time, p->vpid, err)))
		return -1;
	return tracked_arm(k, p, t->c->tracker, &t->c->config.root, err);
}

static bool anything_to_arm(struct checkpointer *c)
{
	cleanup_free pid_t *pids = NULL;
	struct err ignored;
	size_t n;

	if (list_tree(&c->config.root, &pids, &n, &ignored) < 0)
		return false;
	for (size_t i = 0; i < n; i++) {
		bool known = false;

		for (size_t j = 0; j < c->tracked.n; j++)
			known |= c->tracked.list[j].pid == pids[i] && c->tracked.list[j].tracker;
		if (!known && resident_bytes(pids[i]) >= ARM_AT_LEAST)
			return true;
	}
	return false;
}

/* Big processes that are not tracked yet are stopped for the moment that arming takes, so that
 * their first copy, too, can be made while they run. */
static int stop_and_arm(struct taking *t, struct err *err)
{
	struct frozen_tree tree;
	int result = 0;

	if (freeze_tree(&tree, &t->c->config.root, err) < 0)
		return -1;
	pausing_begin(&t->pausing, tree.begin_ns);
	for (size_t i = 0; result == 0 && i < tree.n; i++)
		if (wants_arming(t->c, &tree.processes[i]))
			result = arm_process(t, &tree.processes[i], err);
	sleeps_note(t->c->sleeps, &tree);
	thaw_tree(&tree);
	pausing_end(&t->pausing, PAUSE_ARM);
	return result;
}

static int arm_new_processes(struct taking *t, struct err *err)
{
	int result;

	if (t->c->tracker != TRACKER_PAGEMAP || !anything_to_arm(t->c))
		return 0;
	brake_lift(t->c->brake);
	result = stop_and_arm(t, err);
	brake_apply(t->c->brake);
	return result;
}

static bool is_worth_notes(const struct checkpointer *c, const struct tracked *k)
{
	const Snap__Process *last = last_process(c, k->vpid);

	return resident_bytes(k->pid) >= NOTE_AT_LEAST ||
	       (last && last->n_regions >= NOTE_AT_LEAST_MAPPINGS);
}

int take_notes(struct taking *t, struct err *err)
{
	struct checkpointer *c = t->c;

	for (size_t i = 0; !c->notes_failed && i < c->tracked.n; i++)
		if (is_worth_notes(c, &c->tracked.list[i]) &&
		    map_notes_take(&t->notes, c->notes_age ? NULL : &c->notes, c->tracked.list[i].pid, err) < 0)
			return -1;
	return 0;
}

int check_notes(struct taking *t, struct err *err)
{
	if (map_notes_hold(&t->notes)) {
		map_notes_pass(&t->notes, &t->c->notes);
		return 0;
	}
	t->again = true;
	if (map_notes_are_old(&t->notes))
		t->c->notes_age = true;
	else
		t->c->notes_failed = true;
	return err_set(err, ERR_BUSY, "the job has changed the advice of its mappings meanwhile");
}

static int precopy_all(struct taking *t, struct err *err)
{
	t->last_rounds = (struct last_rounds){0};
	for (size_t i = 0; i < t->c->tracked.n; i++)
		if (precopy_process(t, &t->c->tracked.list[i], err) < 0)
			return -1;
	t->last_rounds.end_ns = clock_ns(CLOCK_MONOTONIC);
	return 0;
}

/* Whether what may be left for the pause has room. */
static bool has_room(const struct taking *t)
{
	const struct page_copies *copies = &t->c->copies;
	uint64_t left = page_copies_left(copies);

	return left >= copies->budget / 2 || (left >= copies->budget / 8 && left / 4 >= t->last_rounds.found);
}

static int make_room(struct taking *t, struct err *err)
{
	if (page_copies_compact(&t->c->copies, err) < 0)
		return -1;
	return has_room(t) ? 0 : page_copies_put_gently(&t->c->copies, err);
}

static int precopy_with_room(struct taking *t, struct err *err)
{
	if (precopy_all(t, err) < 0)
		return -1;
	if (has_room(t))
		return 0;
	return make_room(t, err) < 0 ? -1 : precopy_all(t, err);
}

/* What other processes have bounds what can be shared with them, and what it costs if it is unshared (reading.h). */
#define SHARED_LITTLE	(32ull << 20)
#define SHARED_LOOKED_AT 16 /* processes: to ask more of them takes as long as to look at their pages */

static void look_who_is_alone(struct checkpointer *c)
{
	cleanup_free pid_t *pids = NULL;
	uint64_t all = 0;
	struct err ignored;
	size_t n;
	bool few = list_tree(&c->config.root, &pids, &n, &ignored) == 0 && n <= SHARED_LOOKED_AT;

	for (size_t i = 0; few && i < n; i++)
		all += resident_bytes(pids[i]);
	for (size_t i = 0; i < c->tracked.n; i++) {
		struct tracked *k = &c->tracked.list[i];
		uint64_t own = few ? resident_bytes(k->pid) : 0;

		k->alone = few && own + SHARED_LITTLE > all;
	}
}

/* About so many; the pause tells exactly. */
static void expect_pages(struct taking *t)
{
	uint64_t resident = tracked_resident_bytes(t->c);

	if (resident)
		session_expect(t->session, resident / STORE_PAGE_SIZE);
}

int precopy(struct taking *t, struct err *err)
{
	if (arm_new_processes(t, err) < 0)
		return -1;
	expect_pages(t);
	look_who_is_alone(t->c);
	if (precopy_with_room(t, err) < 0)
		return -1;
	contents_read_ahead(&t->known, t->session, &t->c->config.root);
	return 0;
}

/* The job has written on while files and flags were read: more than it does during a round, or it is not worth one. */
int precopy_last(struct taking *t, struct err *err)
{
	if (clock_ns(CLOCK_MONOTONIC) - t->last_rounds.end_ns < t->last_rounds.ns / 2)
		return 0;
	return precopy_with_room(t, err);
}
