#include "checkpointer/checkpointer.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "checkpointer/pages.h"
#include "checkpointer/taking.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/units.h"

/* Without a budget from the user: a quarter of the memory that is free, within these bounds. */
#define BUDGET_LEAST (64ull << 20)
#define BUDGET_MOST  (4ull << 30)
/* Packs that gather or are on their way into the store, and LMDB's copy of those that are written. */
#define ON_ITS_WAY (SESSION_PACKS_BYTES + SESSION_BATCH_BYTES)

/* What is mostly over in a moment is tried again after 5, 10, 15... ms, for a third of a second. */
#define ATTEMPTS	 12
#define ATTEMPT_PAUSE_NS 5000000

int checkpointer_new(struct checkpointer **ret, const struct checkpoint_config *config,
		     struct err *err)
{
	struct checkpointer *c = calloc(1, sizeof(*c));
	const char *why;

	if (!c)
		return err_sys(err, "checkpointer");
	c->config = *config;
	c->tracker = checkpointer_probe_tracker(config->tracker, &why);
	log_debug("tracker %s: %s", tracker_name(c->tracker), why);
	if (sleeps_new(&c->sleeps, err) < 0) {
		checkpointer_free(c);
		return -1;
	}
	*ret = c;
	return 0;
}

void checkpointer_free(struct checkpointer *c)
{
	if (!c)
		return;
	brake_free(c->brake);
	tracked_set_free(&c->tracked);
	page_copies_free(&c->copies);
	saved_trees_free(c->trees);
	sleeps_free(c->sleeps);
	map_notes_free(&c->notes);
	empty_messages_clear(&c->empties);
	refusals_clear(&c->refusals);
	if (c->last)
		snap__snapshot__free_unpacked(c->last, NULL);
	free(c);
}

void checkpointer_hurry(struct checkpointer *c, bool hurry)
{
	c->hurry = hurry;
}

int checkpointer_slow_down(struct checkpointer *c, unsigned percent, struct err *err)
{
	if (!c->brake && percent > 0 && brake_new(&c->brake, &c->config.root, c->sleeps, err) < 0)
		return -1;
	if (c->brake)
		brake_set(c->brake, percent);
	return 0;
}

uint64_t checkpointer_slowed_ns(const struct checkpointer *c)
{
	return c->brake ? brake_held(c->brake) : 0;
}

const struct refusals *checkpointer_refusals(const struct checkpointer *c)
{
	return &c->refusals;
}

/* ---- one snapshot -------------------------------------------------------------------------- */

static void forget_last(struct checkpointer *c)
{
	if (c->last)
		snap__snapshot__free_unpacked(c->last, NULL);
	c->last = NULL;
	c->last_seq = 0;
}

/* The parent's model: what we published last, or (after a recovery) what the store has. */
static int load_parent(struct checkpointer *c, struct store *store, const char *name,
		       uint64_t parent, struct err *err)
{
	if (c->last && c->last_seq == parent)
		return 0;
	forget_last(c);
	/* Against another parent, nothing known about populated pages holds. */
	for (size_t i = 0; i < c->tracked.n; i++) {
		c->tracked.list[i].known = false;
		c->tracked.list[i].distrust = true;
	}
	if (!parent)
		return 0;
	if (store_snapshot_load(store, name, parent, NULL, &c->last, err) < 0)
		return -1;
	c->last_seq = parent;
	sleeps_seed(c->sleeps, c->last, proc_clock_lead(c->config.root.pid));
	return 0;
}

static int scan_process(struct taking *t, struct collected_process *p, struct err *err)
{
	struct checkpointer *c = t->c;
	uint64_t start_time = p->frozen->stat.start_time;
	struct tracked *k = tracked_find(&c->tracked, p->frozen->pid, start_time);

	if (!k && !(k = tracked_add(&c->tracked, p->frozen->pid, start_time, p->frozen->vpid, err)))
		return -1;
	k->alive = true;
	if (taking_open_table(t, k, err) < 0 ||
	    tracked_scan_frozen(k, p, c->tracker, err) < 0)
		return err_wrap(err, "memory of process %d", p->frozen->vpid);
	t->info.pages_resident += scan_result_pages(&k->now);
	return 0;
}

static int scan_memory(struct taking *t, struct err *err)
{
	for (size_t i = 0; i < t->tree.n; i++)
		if (!t->tree.processes[i].zombie && collected_own_memory(&t->collection.processes[i]) &&
		    scan_process(t, &t->collection.processes[i], err) < 0)
			return -1;
	session_expect(t->session, t->info.pages_resident);
	return 0;
}

static int copy_memory(struct taking *t, struct err *err)
{
	struct checkpointer *c = t->c;

	for (size_t i = 0; i < c->tracked.n; i++)
		if (c->tracked.list[i].alive &&
		    tracked_copy_frozen(&c->tracked.list[i], &c->copies, &t->info.pages_candidate, err) < 0)
			return err_wrap(err, "memory of process %d", c->tracked.list[i].vpid);
	return 0;
}

static int run_frozen_hook(struct taking *t, struct err *err)
{
	return t->hooks->frozen ? t->hooks->frozen(t->hooks->ctx, t->collection.model, err) : 0;
}

static int describe_frozen(struct taking *t, struct err *err)
{
	struct pausing *p = &t->pausing;

	pausing_end(p, PAUSE_FREEZE);
	if (collect_begin(&t->collection, &t->config, &t->tree, t->c->sleeps, &t->notes, &t->c->empties,
			  err) < 0)
		return -1;
	pausing_end(p, PAUSE_DESCRIBE);
	if (scan_memory(t, err) < 0)
		return -1;
	pausing_end(p, PAUSE_SCAN);
	if (copy_memory(t, err) < 0)
		return -1;
	pausing_end(p, PAUSE_COPY);
	if (contents_capture_job_files(&t->collection, t->session, &t->known, err) < 0 ||
	    saved_trees_frozen(t->c->trees, &t->collection, t->store, err) < 0)
		return -1;
	pausing_end(p, PAUSE_FILES);
	if (run_frozen_hook(t, err) < 0)
		return -1;
	pausing_end(p, PAUSE_STREAMS);
	return 0;
}

static void resume(struct taking *t)
{
	if (!t->frozen)
		return;
	thaw_tree(&t->tree);
	t->frozen = false;
	brake_apply(t->c->brake);
	pausing_end(&t->pausing, PAUSE_RELEASE);
	t->pause_ns = t->pausing.mark - t->pause_ns + t->pausing.ns[PAUSE_ARM];
}

/* Freezes, describes, and (unless the job is to end) lets it run again. */
static int take_frozen(struct taking *t, bool end, struct err *err)
{
	struct err end_err;
	int result;

	brake_lift(t->c->brake);
	if (freeze_tree(&t->tree, &t->c->config.root, err) < 0) {
		brake_apply(t->c->brake);
		return -1;
	}
	t->frozen = true;
	t->pause_ns = t->tree.begin_ns;
	pausing_begin(&t->pausing, t->pause_ns);
	t->info.time = clock_ns(CLOCK_REALTIME);
	t->info.processes = (uint32_t)t->tree.n;
	for (size_t i = 0; i < t->tree.n; i++)
		t->info.threads += (uint32_t)t->tree.processes[i].n_threads;
	result = describe_frozen(t, err);
	if (collect_end(&t->collection, &end_err) < 0 && result == 0) {
		*err = end_err;
		result = -1;
	}
	if (result < 0 || !end)
		resume(t);
	if (result == 0 && !end && t->hooks->resumed)
		t->hooks->resumed(t->hooks->ctx, t->pause_ns / 1000);
	return result;
}

static int finish_process(struct taking *t, struct tracked *k, Snap__Process *model,
			  struct err *err)
{
	struct scan_result before = {0};
	int result = 0;

	if (!k->known)
		result = pages_of_table(k->table, &before, err);
	if (result == 0)
		result = pages_clear_gone(k->table, k->known ? &k->populated : &before, &k->now,
					  err);
	if (result == 0 && k->known)
		result = pages_clear_gone(k->table, &k->precopied, &k->now, err);
	scan_result_free(&before);
	if (result < 0)
		return -1;
	return page_table_finish(steal_ptr(&k->table), &model->pages_root, err);
}

static int finish_pages(struct taking *t, struct err *err)
{
	if (page_copies_put_gently(&t->c->copies, err) < 0)
		return -1;
	for (size_t i = 0; i < t->collection.model->n_processes; i++) {
		Snap__Process *m = t->collection.model->processes[i];

		for (size_t j = 0; j < t->c->tracked.n; j++) {
			struct tracked *k = &t->c->tracked.list[j];

			if (k->alive && k->vpid == m->pid && finish_process(t, k, m, err) < 0)
				return -1;
		}
	}
	if (saved_trees_finish(t->c->trees, t->session, t->collection.model, err) < 0)
		return -1;
	return contents_capture_programs(&t->collection, t->session, &t->known, err);
}

static int publish(void *arg, struct err *err)
{
	struct taking *t = arg;
	bool end = t->end;
	struct session_counts counts;

	if (finish_pages(t, err) < 0)
		return -1;
	if (t->hooks->publish && t->hooks->publish(t->hooks->ctx, err) < 0)
		return -1;
	if (pausing_note(&t->pausing, t->collection.model, err) < 0)
		return -1;
	session_counts(t->session, &counts);
	t->info.pages_changed = counts.pages_changed;
	t->info.bytes_raw = counts.bytes_raw;
	t->info.final = end;
	t->info.pause_us = (end ? clock_ns(CLOCK_MONOTONIC) - t->pause_ns : t->pause_ns) / 1000;
	t->info.wall_us = (clock_ns(CLOCK_MONOTONIC) - t->begin_ns) / 1000;
	snprintf(t->info.tracker, sizeof(t->info.tracker), "%s", tracker_name(t->c->tracker));
	return session_publish(steal_ptr(&t->session), t->collection.model, &t->info, err);
}

static int begin_trees(struct taking *t, struct err *err)
{
	t->config = t->c->config;
	t->config.last = t->c->last;
	t->config.job_start = t->c->last ? t->c->last->clocks->job_start : 0;
	if (saved_trees_begin(&t->c->trees, &t->config, t->store, t->session, t->c->last, err) < 0)
		return err_wrap(err, "--save-dir");
	t->config.save_dirs = saved_trees_paths(t->c->trees, &t->config.n_save_dirs);
	return 0;
}

static int take_all(struct taking *t, bool end, struct err *err)
{
	if ((t->c->last && known_contents_from(&t->known, t->c->last, err) < 0) ||
	    precopy(t, err) < 0 || begin_trees(t, err) < 0)
		return -1;
	/* A job that is about to end would not be there to be asked again. */
	if (!end && take_notes(t, err) < 0)
		return -1;
	if (precopy_last(t, err) < 0 || take_frozen(t, end, err) < 0 || check_notes(t, err) < 0)
		return -1;
	return yield_run(&t->c->copies.yielding, publish, t, err);
}

static uint64_t free_memory_budget(void)
{
	cleanup_free char *text = NULL;
	unsigned long kib = 0;
	struct err ignored;
	uint64_t budget;
	char *line;

	if (read_text(AT_FDCWD, "/proc/meminfo", &text, NULL, &ignored) == 0 &&
	    (line = strstr(text, "MemAvailable:")))
		sscanf(line, "MemAvailable: %lu", &kib);
	budget = (uint64_t)kib * 1024 / 4;
	if (budget < BUDGET_LEAST)
		return BUDGET_LEAST;
	return budget > BUDGET_MOST ? BUDGET_MOST : budget;
}

/* What is left for copies: what is on its way to the store takes memory too. */
static uint64_t copies_budget(uint64_t memory)
{
	return memory / 2 > ON_ITS_WAY ? memory - ON_ITS_WAY : memory - memory / 2;
}

static void keep_as_last(struct taking *t)
{
	forget_last(t->c);
	t->c->last = steal_ptr(&t->collection.model);
	t->c->last_seq = t->info.seq;
}

/* About what is still to be written, compressed as what was written so far. */
static uint64_t bytes_to_come(const struct taking *t)
{
	uint64_t raw = t->c->copies.used, whole = tracked_resident_bytes(t->c);
	struct session_counts counts;

	session_counts(t->session, &counts);
	if (!t->c->last && whole > counts.pages_in * STORE_PAGE_SIZE)
		raw = whole - counts.pages_in * STORE_PAGE_SIZE;
	if (counts.bytes_raw == 0)
		return raw;
	return (uint64_t)((double)raw * (double)counts.bytes_stored / (double)counts.bytes_raw);
}

static void say_what_is_missing(const struct taking *t, struct err *err)
{
	char size[32];

	if (!t->session)
		return;
	format_size(bytes_to_come(t), size, sizeof(size));
	err_wrap(err, "about %s more to write", size);
}

static void clear_taking(struct taking *t)
{
	refusals_clear(&t->c->refusals);
	t->c->refusals = t->collection.refusals;
	t->collection.refusals = (struct refusals){0};
	page_copies_rest(&t->c->copies);
	known_contents_free(&t->known);
	map_notes_free(&t->notes);
	collection_clear(&t->collection);
	session_abort(t->session);
}

/* *ret_again: nothing was wrong but what is mostly over at the next attempt. */
static int take_once(struct checkpointer *c, struct store *store, const char *name, uint64_t parent,
		     bool end, const struct checkpoint_hooks *hooks, struct snapshot_info *ret_info,
		     bool *ret_again, struct err *err)
{
	struct taking t = {
		.c = c, .end = end, .hooks = hooks, .store = store, .begin_ns = clock_ns(CLOCK_MONOTONIC)};
	int result;

	/* Nobody is there to give way to when the job waits for its end. */
	if (!end && !c->hurry)
		c->copies.yielding = (struct yielding){.nice = c->config.nice, .rate = c->config.rate};
	else
		c->copies.yielding = (struct yielding){0};
	c->copies.budget = copies_budget(c->config.memory_budget ? c->config.memory_budget : free_memory_budget());
	if (load_parent(c, store, name, parent, err) < 0 ||
	    session_begin(&t.session, store, name, parent, c->config.codec, err) < 0)
		return -1;
	result = take_all(&t, end, err);
	if (result == 0 && end && hooks->leave && hooks->leave(hooks->ctx, &t.info, err) < 0)
		result = -1;
	if (result == 0) {
		keep_as_last(&t);
		if (end)
			kill_tree(&t.tree);
		t.frozen = false;
		*ret_info = t.info;
	}
	resume(&t);
	pausing_log(&t.pausing);
	if (result < 0 && err->kind == ERR_FULL)
		say_what_is_missing(&t, err);
	tracked_set_done(&c->tracked, result == 0);
	saved_trees_done(c->trees, result == 0);
	*ret_again = t.again || (result < 0 && t.collection.passing);
	clear_taking(&t);
	return result;
}

/* Processes may die, or be where they cannot be stopped, at the wrong moment. */
static bool worth_another_try(const struct checkpointer *c, const struct err *err)
{
	cleanup_free pid_t *pids = NULL;
	struct err ignored;
	size_t n;

	if (err->kind != ERR_BUSY && err->kind != ERR_GONE && err->kind != ERR_NOT_FOUND)
		return false;
	return list_tree(&c->config.root, &pids, &n, &ignored) == 0 && n > 0;
}

/* Removed, or damaged: no reason not to save the job. */
static bool parent_is_lost(struct store *store, const char *name, uint64_t parent, const struct err *err)
{
	struct err why;

	if (!parent)
		return false;
	if (err->kind == ERR_CORRUPT)
		return true;
	return store_snapshot_load(store, name, parent, NULL, NULL, &why) < 0 && why.kind == ERR_NOT_FOUND;
}

int checkpointer_take(struct checkpointer *c, struct store *store, const char *name,
		      uint64_t parent, bool end, const struct checkpoint_hooks *hooks,
		      struct snapshot_info *ret_info, struct err *err)
{
	struct timespec pause = {.tv_nsec = ATTEMPT_PAUSE_NS};

	for (int attempt = 1;; attempt++) {
		bool again = false;

		if (take_once(c, store, name, parent, end, hooks, ret_info, &again, err) == 0)
			return 0;
		if (parent_is_lost(store, name, parent, err)) {
			log_debug("without its parent: %s", err->msg);
			parent = 0;
			again = true;
		}
		if (attempt == ATTEMPTS || (!again && !worth_another_try(c, err)))
			return -1;
		log_debug("another try: %s", err->msg);
		nanosleep(&pause, NULL);
		pause.tv_nsec += ATTEMPT_PAUSE_NS;
	}
}
