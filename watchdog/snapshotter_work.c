#include "watchdog/snapshotter_work.h"

#include <inttypes.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/statvfs.h>
#include <time.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/units.h"
#include "recovery/lazy.h"
#include "watchdog/policy.h"

#define APPROACHES_MOST 12 /* rounds of a move after those that brought most of the job */

/* ---- hooks of the checkpointer ------------------------------------------------------------- */

static int ensure_capsule(Snap__Snapshot *model, struct err *err)
{
	if (model->capsule)
		return 0;
	model->capsule = malloc(sizeof(*model->capsule));
	if (!model->capsule)
		return err_sys(err, "the snapshot's capsule");
	snap__capsule__init(model->capsule);
	return 0;
}

static int check_cancelled(struct snap_work *w, struct err *err)
{
	return atomic_load(&w->cancelled) ? err_set(err, ERR_GONE, "the snapshot was given up") : 0;
}

static int on_frozen(void *ctx, Snap__Snapshot *model, struct err *err)
{
	struct snap_work *w = ctx;

	if (check_cancelled(w, err) < 0 || ensure_capsule(model, err) < 0)
		return -1;
	model->capsule->user_namespace = w->target.config.user_namespace;
	model->capsule->leader = w->target.config.leader_vpid;
	return pump_freeze(w->config.pump, w->target.capsule, model->capsule, err);
}

/* What the freeze has drained is the main thread's to pass on. */
static void on_resumed(void *ctx, uint64_t pause_us)
{
	struct snap_work *w = ctx;

	eventfd_write(w->wake, 1);
}

static int on_publish(void *ctx, struct err *err)
{
	struct snap_work *w = ctx;

	return check_cancelled(w, err) < 0 ? -1 : pump_sync(w->config.pump, err);
}

/* ---- retention ----------------------------------------------------------------------------- */

static long utc_offset(void)
{
	time_t now = time(NULL);
	struct tm local;

	return localtime_r(&now, &local) ? local.tm_gmtoff : 0;
}

static void drop_marked(struct snap_work *w, const struct snapshot_info *infos, size_t n,
			const bool *drop)
{
	struct err err;
	size_t i;

	for (i = 0; i < n; i++) {
		if (!drop[i])
			continue;
		if (store_snapshot_drop(w->config.store, w->config.job, infos[i].seq, &err) < 0)
			log_warn("cannot drop %s@%" PRIu64 ": %s", w->config.job, infos[i].seq,
				 err.msg);
		w->garbage += infos[i].bytes_stored;
	}
}

static int free_space(struct snap_work *w, int flags, struct err *err)
{
	w->freed = true;
	w->garbage = 0;
	return store_gc(w->config.store, flags, NULL, err);
}

/* What was dropped before this watchdog came is not known. */
static void free_space_in_time(struct snap_work *w, const struct snapshot_info *infos, size_t n)
{
	struct err err;

	if (w->freed && !policy_frees_now(infos, n, w->garbage))
		return;
	if (free_space(w, 0, &err) < 0)
		log_warn("cannot free the space of dropped snapshots: %s", err.msg);
}

/* Input before the position of the oldest snapshot left is not needed any more. */
static void forget_input(struct snap_work *w)
{
	cleanup_free struct snapshot_info *infos = NULL;
	Snap__Snapshot *model;
	struct err err;
	size_t n;

	if (!w->config.pump->input ||
	    store_snapshot_list(w->config.store, w->config.job, &infos, &n, &err) < 0 || n == 0 ||
	    store_snapshot_load(w->config.store, w->config.job, infos[0].seq, NULL, &model, &err) <
		    0)
		return;
	if (model->capsule) {
		pthread_mutex_lock(&w->config.pump->lock);
		stdinlog_forget(w->config.pump->input, model->capsule->stdin_bytes);
		pthread_mutex_unlock(&w->config.pump->lock);
	}
	snap__snapshot__free_unpacked(model, NULL);
}

void snap_work_thin(struct snap_work *w, uint64_t protect)
{
	cleanup_free struct snapshot_info *infos = NULL;
	cleanup_free bool *drop = NULL;
	struct err err;
	size_t n;

	if (w->config.options->retention.keep == 0)
		return;
	if (store_snapshot_list(w->config.store, w->config.job, &infos, &n, &err) < 0) {
		log_warn("cannot thin the snapshots: %s", err.msg);
		return;
	}
	drop = calloc(n + 1, sizeof(*drop));
	if (!drop || policy_retention(infos, n, &w->config.options->retention, protect,
				      utc_offset(), drop) == 0)
		return;
	drop_marked(w, infos, n, drop);
	free_space_in_time(w, infos, n);
	forget_input(w);
}

/* ---- snapshots ----------------------------------------------------------------------------- */

static int adopt_target(struct snap_work *w, struct err *err)
{
	if (w->next.fresh) {
		checkpointer_free(w->checkpointer);
		w->checkpointer = NULL;
		w->target = w->next;
		w->next.fresh = false;
	}
	if (w->checkpointer)
		return 0;
	return checkpointer_new(&w->checkpointer, &w->target.config, err);
}

/* How long it stood still is told by the clock that goes on there. */
static int on_leave(void *ctx, struct snapshot_info *info, struct err *err)
{
	struct snap_work *w = ctx;

	if (!w->move)
		return 0;
	if (move_leave(w->move, info->seq, err) < 0)
		return -1;
	info->pause_us = (clock_ns(CLOCK_REALTIME) - info->time) / 1000;
	return 0;
}

static int take(struct snap_work *w, bool end, struct snapshot_info *ret, struct err *err)
{
	const struct checkpoint_hooks hooks = {w, on_frozen, on_resumed, on_publish, on_leave};

	return checkpointer_take(w->checkpointer, w->config.store, w->config.job, w->target.parent,
				 end, &hooks, ret, err);
}

static void say_how_much_is_left(const struct snap_work *w, struct err *err)
{
	struct statvfs fs;
	char size[32];

	if (statvfs(store_dir(w->config.store), &fs) < 0)
		return;
	format_size((uint64_t)fs.f_bavail * fs.f_frsize, size, sizeof(size));
	err_wrap(err, "the store has no room (%s left on its file system)", size);
}

/* A full store is thinned first, then it is tried once more. */
static int take_with_room(struct snap_work *w, bool end, struct snapshot_info *ret, struct err *err)
{
	struct err ignored;

	if (take(w, end, ret, err) == 0)
		return 0;
	if (err->kind != ERR_FULL)
		return -1;
	snap_work_thin(w, w->target.parent);
	free_space(w, STORE_GC_THOROUGH, &ignored);
	if (take(w, end, ret, err) == 0)
		return 0;
	if (err->kind == ERR_FULL)
		say_how_much_is_left(w, err);
	return -1;
}

static int before_hook(const struct snap_work *w, bool end, struct err *err)
{
	const char *command = w->config.options->before_snapshot;
	int status;

	if (!command)
		return 0;
	status = run_hook(command, w->config.job, 0, w->config.hook_mask);
	if (status == 0)
		return 0;
	err_set(err, ERR_INVALID,
		"the command before the snapshot ('%.200s') failed with status %d", command,
		status);
	if (!end)
		return -1;
	/* The last chance to save the job is not given up for that. */
	log_warn("%s", err->msg);
	return 0;
}

static void after_hook(const struct snap_work *w, uint64_t seq)
{
	const char *command = w->config.options->after_snapshot;
	int status;

	if (!command)
		return;
	status = run_hook(command, w->config.job, seq, w->config.hook_mask);
	if (status != 0)
		log_warn("the command after the snapshot ('%.200s') failed with status %d", command,
			 status);
}

/* A page that has not come yet is not a page of zeroes. */
static int await_memory(const struct snap_work *w, struct lazy *lazy, struct err *err)
{
	struct lazy_progress progress;

	if (!lazy)
		return 0;
	lazy_look(lazy, &progress, NULL);
	if (progress.state == LAZY_FILLING)
		log_info("job %s is saved as soon as all of its memory is back", w->config.job);
	return lazy_wait(lazy, err);
}

/* What is to be sent at once neither gives way to the job nor is read back from the disk. */
static int take_as_wanted(struct snap_work *w, bool end, bool urgent, struct snapshot_info *ret,
			  struct err *err)
{
	int rc;

	checkpointer_hurry(w->checkpointer, urgent);
	store_stay_in_page_cache(w->config.store, urgent);
	rc = take_with_room(w, end, ret, err);
	store_stay_in_page_cache(w->config.store, false);
	return rc;
}

static int do_take(struct snap_work *w, bool end, bool urgent, struct snap_result *result)
{
	if (before_hook(w, end, &result->err) < 0 || adopt_target(w, &result->err) < 0)
		return -1;
	if (take_as_wanted(w, end, urgent, &result->info, &result->err) < 0) {
		refusals_copy(&result->refused, checkpointer_refusals(w->checkpointer));
		return -1;
	}
	log_debug("%s@%" PRIu64 " took %" PRIu64 " ms, %" PRIu64 " pages changed%s", w->config.job, result->info.seq,
		  result->info.wall_us / 1000, result->info.pages_changed, w->move ? " (move)" : "");
	w->target.parent = result->info.seq;
	after_hook(w, result->info.seq);
	return 0;
}

/* Whether the job is saved and sent once more while it runs. One that gets ahead is slowed down for it. */
static bool another_round(struct snap_work *w, uint64_t last, uint64_t pages, uint64_t round_ns, unsigned *percent)
{
	unsigned more;
	struct err err;

	if (policy_another_round(last, pages))
		return true;
	more = policy_slow_down(round_ns, *percent);
	if (!more)
		return false;
	if (checkpointer_slow_down(w->checkpointer, more, &err) < 0) {
		log_warn("%s", err.msg);
		return false;
	}
	if (*percent == 0)
		log_info("job %s writes memory faster than it is sent: it is slowed down until it has moved", w->config.job);
	log_debug("move: the job stands still for %u %% of the time", more);
	*percent = more;
	return true;
}

/* What the job has written since the last round, until that does not get less: so that little is left to do while it
 * stands still. */
static int approach(struct snap_work *w, struct snap_result *result)
{
	uint64_t last, began, pages = UINT64_MAX;
	unsigned percent = 0;
	int rounds = 0;

	do {
		last = pages;
		began = clock_ns(CLOCK_MONOTONIC);
		if (do_take(w, false, true, result) < 0 ||
		    move_ahead(w->move, result->info.seq, &pages, &result->err) < 0)
			return -1;
	} while (++rounds < APPROACHES_MOST &&
		 another_round(w, last, pages, clock_ns(CLOCK_MONOTONIC) - began, &percent));
	return 0;
}

static void end_of_slowness(struct snap_work *w)
{
	uint64_t ns = checkpointer_slowed_ns(w->checkpointer);
	struct err ignored;

	checkpointer_slow_down(w->checkpointer, 0, &ignored);
	if (ns > 0)
		log_debug("move: the job has stood still for %" PRIu64 " ms in moments, to be slowed down", ns / 1000000);
}

/* The final snapshot of a job that goes on elsewhere. */
static int do_move(struct snap_work *w, const struct snap_command *command, struct snap_result *result)
{
	int rc = move_begin(&w->move, w->config.store, w->config.job, command->move_to, command->environment,
			    &w->cancelled, &result->err);

	if (rc == 0)
		rc = approach(w, result);
	if (rc == 0)
		rc = do_take(w, true, true, result);
	if (w->checkpointer)
		end_of_slowness(w);
	move_end(w->move);
	w->move = NULL;
	return rc;
}

/* ---- recovery ------------------------------------------------------------------------------ */

static int do_rebuild(struct snap_work *w, const struct snap_command *command,
		      struct snap_result *result)
{
	const struct recovery_options options = {
		.lazy = command->fill_lazily,
		.ahead = command->ahead,
		.job = w->config.job,
		.seq = command->seq,
	};

	/* Trackers of a dead capsule hold descriptors of it. */
	checkpointer_free(w->checkpointer);
	w->checkpointer = NULL;
	return recovery_rebuild(&w->recovery, w->config.store, command->model, command->host,
				&options, &result->built, &result->err);
}

static int do_release(struct snap_work *w, const struct snap_command *command,
		      struct snap_result *result)
{
	return recovery_release(steal_ptr(&w->recovery), command->stopped, &result->err);
}

void snap_work_do(struct snap_work *w, const struct snap_command *command,
		  struct snap_result *result)
{
	uint64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	int done = -1;

	result->started = clock_ns(CLOCK_MONOTONIC);
	switch (command->op) {
	case SNAP_TAKE:
		done = await_memory(w, command->lazy, &result->err);
		if (done == 0)
			done = command->move_to ? do_move(w, command, result)
					: do_take(w, command->end, command->urgent, result);
		break;
	case SNAP_REBUILD:
		done = do_rebuild(w, command, result);
		break;
	case SNAP_RELEASE:
		done = do_release(w, command, result);
		break;
	}
	result->finished = clock_ns(CLOCK_MONOTONIC);
	result->cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	result->ok = done == 0;
}

void snap_work_end(struct snap_work *w)
{
	recovery_free(w->recovery);
	checkpointer_free(w->checkpointer);
}
