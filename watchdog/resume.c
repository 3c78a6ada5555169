#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "recovery/ahead.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/units.h"
#include "watchdog/supervise.h"

/* ---- candidates ---------------------------------------------------------------------------- */

/* Another process may remove a snapshot at any time. */
static void say_skipped(struct watchdog *w, uint64_t seq, const struct err *why)
{
	const struct resume *r = &w->resume;
	const char *name = w->job.name;

	if (r->next == r->n)
		return;
	if (why->kind == ERR_NOT_FOUND)
		wd_notice(w, "snapshot %s@%" PRIu64 " has been removed meanwhile, taking %s@%" PRIu64, name, seq,
			  name, r->seqs[r->next]);
	else
		wd_notice(w, "snapshot %s@%" PRIu64 " is damaged (%s), taking %s@%" PRIu64, name, seq, why->msg,
			  name, r->seqs[r->next]);
}

static void drop_model(struct resume *r)
{
	if (r->model)
		snap__snapshot__free_unpacked(r->model, NULL);
	r->model = NULL;
}

/* The next candidate whose record is there and good. 1, 0: none left (err says why the last was not), -1. */
static int load_next(struct watchdog *w, struct err *err)
{
	struct resume *r = &w->resume;

	while (r->next < r->n) {
		r->seq = r->seqs[r->next++];
		drop_model(r);
		if (store_snapshot_load(w->store, w->job.name, r->seq, &r->info, &r->model, err) == 0) {
			if (r->model->capsule && r->model->clocks)
				return 1;
			err_set(err, ERR_CORRUPT, "it lacks the capsule or the clocks");
		}
		if (err->kind != ERR_CORRUPT && err->kind != ERR_NOT_FOUND)
			return -1;
		say_skipped(w, r->seq, err);
	}
	return 0;
}

/* Whatever was chosen before the present candidate could not be used. */
static bool was_tried(const struct resume *r, uint64_t seq)
{
	for (size_t i = 0; i + 1 < r->next; i++)
		if (r->seqs[i] == seq)
			return true;
	return false;
}

int wd_goes_on_from(const struct watchdog *w, struct snapshot_info *ret, struct err *err)
{
	cleanup_free struct snapshot_info *infos = NULL;
	size_t n;

	*ret = (struct snapshot_info){0};
	if (store_snapshot_list(w->store, w->job.name, &infos, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (infos[i].time && wd_may_use(w, &infos[i]) && !was_tried(&w->resume, infos[i].seq))
			*ret = infos[i];
	return 0;
}

bool wd_plan_roll_back(struct watchdog *w, const char *what)
{
	cleanup_free struct snapshot_info *infos = NULL;
	cleanup_free uint64_t *good = NULL;
	uint64_t now = clock_ns(CLOCK_MONOTONIC), seq;
	struct resume *r = &w->resume;
	size_t n, n_good = 0, i;
	struct err err;

	if (store_snapshot_list(w->store, w->job.name, &infos, &n, &err) < 0)
		return false;
	good = calloc(2 * n + 1, sizeof(*good));
	if (!good)
		return false;
	for (i = 0; i < n; i++)
		if (infos[i].time && infos[i].generation >= w->job.first_generation &&
		    (!w->damaged_seq || infos[i].seq < w->damaged_seq))
			good[n_good++] = infos[i].seq;
	seq = policy_roll_back(&w->retry, w->config->retries, now, w->interval.interval_ns, good,
			       n_good);
	if (seq == 0)
		return false;
	retry_note(&w->retry, seq, now);
	free(r->seqs);
	r->seqs = steal_ptr(&good);
	r->n = r->next = 0;
	for (i = n_good; i-- > 0;)
		if (r->seqs[i] <= seq)
			r->seqs[n_good + r->n++] = r->seqs[i];
	memmove(r->seqs, r->seqs + n_good, r->n * sizeof(*r->seqs));
	wd_notice(w, "job %s %s: going back to %s@%" PRIu64 " (retry %u of %u)", w->job.name, what, w->job.name, seq, w->retry.used, w->config->retries);
	return true;
}

int wd_dry_run(struct watchdog *w, struct err *err)
{
	const struct recovery_options options = {.dry_run = true, .plan_out = stdout};
	int found = load_next(w, err);

	if (found <= 0)
		return -1;
	if (recovery_check(w->resume.model, w->store, &options, err) < 0)
		return err_wrap(err, "snapshot %s@%" PRIu64, w->job.name, w->resume.seq);
	if (fflush(stdout) != 0)
		return err_sys(err, "cannot write the plan");
	return 0;
}

/* ---- rebuilding ---------------------------------------------------------------------------- */

/* 1: the one that has memory put up ahead; 0: it would not do. A controlling terminal is had by those only that are
 * born after it was given. */
static int take_capsule_ahead(struct watchdog *w, struct err *err)
{
	const Snap__Clocks *clocks = w->resume.model->clocks;

	if (!ahead_pays(w->ahead, w->resume.model) || w->streams.slave >= 0) {
		wd_drop_ahead(w);
		return 0;
	}
	w->capsule = steal_ptr(&w->capsule_ahead);
	return capsule_set_clocks(w->capsule, clocks->monotonic, clocks->boottime, err) < 0 ? -1 : 1;
}

static int make_capsule(struct watchdog *w, struct err *err)
{
	const Snap__Snapshot *model = w->resume.model;
	const struct capsule_config config = {
		.plain_root = true,
		.set_clocks = true,
		.monotonic = model->clocks->monotonic,
		.boottime = model->clocks->boottime,
		.terminal = w->streams.slave,
		.stream = {-1, -1, -1},
	};
	int taken = take_capsule_ahead(w, err);

	if (taken != 0)
		return taken < 0 ? -1 : 0;
	return capsule_create(&w->capsule, &config, err);
}

static void fill_host(struct watchdog *w)
{
	const struct streams *s = &w->streams;
	int i;

	w->resume.host = capsule_recovery_host(w->capsule);
	for (i = 0; i < 3; i++)
		if (s->kind[i] == STREAM_PUMPED)
			w->resume.host.stream[i] = s->job_end[i];
	w->resume.host.terminal = s->slave;
}

/* Numbers of sessions and groups that were led by others cannot be had without a capsule. */
static void forget_outside_ids(Snap__Snapshot *model)
{
	for (size_t i = 0; i < model->n_processes; i++) {
		Snap__Process *p = model->processes[i];

		p->sid = p->sid == p->pid ? p->pid : 1;
		p->pgid = p->pid;
	}
}

static bool may_fill_lazily(struct watchdog *w)
{
	const char *why;

	if (!w->config->lazy || w->lazy_refused)
		return false;
	if (lazy_is_possible(&why))
		return true;
	w->lazy_refused = true;
	wd_notice(w, "all memory of job %s is filled before it goes on, --lazy is not possible here: %s", w->job.name,
		  why);
	return false;
}

static int start_rebuild(struct watchdog *w, struct err *err)
{
	const struct recovery_options options = {0};
	struct snap_command command = {.op = SNAP_REBUILD,
				       .model = w->resume.model,
				       .host = &w->resume.host,
				       .fill_lazily = may_fill_lazily(w),
				       .seq = w->resume.seq};

	if (recovery_check(w->resume.model, w->store, &options, err) < 0)
		return -1;
	wd_retire_capsule(w);
	w->job.leader_pid = 0; /* it is no more, and its number may be another's */
	streams_from_model(&w->streams, w->resume.model);
	if (wd_open_logs(w, err) < 0 || streams_build(&w->streams, w->resume.model, err) < 0 ||
	    make_capsule(w, err) < 0 || wd_note_init(w, err) < 0 || wd_start_services(w, err) < 0)
		return -1;
	fill_host(w);
	if (w->capsule->plain)
		forget_outside_ids(w->resume.model);
	w->suspended = false;
	command.ahead = w->ahead;
	snapshotter_post(w->snapshotter, &command);
	return 0;
}

int wd_resume_next(struct watchdog *w, struct err *err)
{
	int found = load_next(w, err);

	if (found <= 0) {
		err_wrap(err, "snapshot %s@%" PRIu64, w->job.name, w->resume.seq);
		return found;
	}
	if (start_rebuild(w, err) < 0)
		return err_wrap(err, "cannot recover %s@%" PRIu64, w->job.name, w->resume.seq);
	return 1;
}

static bool is_removed(struct watchdog *w)
{
	struct snapshot_info ignored;
	struct err err;

	return store_snapshot_load(w->store, w->job.name, w->resume.seq, &ignored, NULL, &err) < 0 &&
	       err.kind == ERR_NOT_FOUND;
}

int wd_resume_failed(struct watchdog *w, const struct err *why)
{
	struct err err = *why;

	if ((why->kind == ERR_CORRUPT || (why->kind == ERR_NOT_FOUND && is_removed(w))) &&
	    w->resume.next < w->resume.n) {
		say_skipped(w, w->resume.seq, why);
		return 0;
	}
	err_wrap(&err, "cannot recover %s@%" PRIu64, w->job.name, w->resume.seq);
	wd_fail(w, &err);
	return -1;
}

/* ---- letting it go ------------------------------------------------------------------------- */

/* What the rolled-back job will write again its reader has already. A person at a terminal sees it
 * again, after the message that says why. */
static void skip_what_was_passed_on(struct watchdog *w)
{
	char path[PATH_MAX];
	uint64_t bytes[4];
	struct err err;
	size_t i;

	store_job_log_path(w->store, &w->job, path, sizeof(path));
	if (joblog_count(path, w->resume.model->capsule->log_bytes, bytes, &err) < 0) {
		log_warn("output since the snapshot will be repeated: %s", err.msg);
		return;
	}
	for (i = 0; i < 2; i++)
		w->streams.pump.out[i].skip += bytes[i + 1];
}

/* A `run` that resumes is given the same input again, from its beginning; a `recover` what follows.
 */
static uint64_t input_to_skip(const struct watchdog *w)
{
	if (w->config->mode != LAUNCH_RESUME_OR_START)
		return 0;
	return stdinlog_size(w->input) - stdinlog_start(w->input);
}

static int roll_back_logs(struct watchdog *w, struct err *err)
{
	const Snap__Capsule *capsule = w->resume.model->capsule;

	if (w->started)
		skip_what_was_passed_on(w);
	/* Shorter than the snapshot says: a crash has eaten of it. */
	if (joblog_bytes(w->log) < capsule->log_bytes && joblog_repair(w->log, err) < 0)
		return -1;
	if (joblog_truncate(w->log, capsule->log_bytes, err) < 0)
		return -1;
	if (!w->input)
		return 0;
	if (stdinlog_resume(w->input, capsule->stdin_bytes, err) < 0)
		return -1;
	if (stdinlog_size(w->input) < capsule->stdin_bytes)
		return err_set(err, ERR_CORRUPT,
			       "the job's kept input is shorter than the snapshot says");
	streams_open_input(&w->streams, capsule->stdin_bytes, input_to_skip(w));
	return 0;
}

static int note_generation(struct watchdog *w, const struct recovery_result *built, struct err *err)
{
	const struct snapshot_info *info = &w->resume.info;

	if (info->generation < w->job.first_generation)
		w->job.first_generation = info->generation;
	wd_account_restart(w, info);
	w->job.generation++;
	w->job.leader_pid = built->leader;
	w->job.attached = false;
	return wd_put_running(w, err);
}

static void restore_foreground(struct watchdog *w, pid_t leader)
{
	const Snap__Capsule *capsule = w->resume.model->capsule;
	pid_t group = capsule->foreground == capsule->leader ? leader : capsule->foreground;
	struct err err;

	if (w->streams.slave >= 0 && capsule->foreground > 0 &&
	    capsule_foreground(w->capsule, group, &err) < 0)
		log_warn("%s", err.msg);
}

int wd_release(struct watchdog *w, const struct recovery_result *built, struct err *err)
{
	const Snap__Capsule *capsule = w->resume.model->capsule;
	const struct snap_command command = {.op = SNAP_RELEASE,
					     .stopped = w->config->recover_stopped && !w->started};
	uint64_t now = clock_ns(CLOCK_MONOTONIC);
	struct checkpoint_config config;

	pid_t leader = w->capsule->plain ? built->leader : capsule->leader;

	if (capsule_watch(w->capsule, leader, err) < 0 || roll_back_logs(w, err) < 0 ||
	    note_generation(w, built, err) < 0)
		return -1;
	restore_foreground(w, leader);
	w->cpu_baseline = w->resume.model->host->cpu_baseline;
	config = wd_checkpoint_config(w, leader);
	snapshotter_attach(w->snapshotter, w->capsule, &config, w->resume.seq);
	streams_close_job_ends(&w->streams);
	if (capsule_close_streams(w->capsule, err) < 0)
		return -1;
	w->started = true;
	w->lazy = built->lazy;
	w->lazy_told = false;
	wd_schedule(w, now, now);
	hang_reset(&w->hang);
	wd_share_descriptions(built->leader);
	wd_tell_notices(w);
	if (!command.stopped)
		log_info("job %s goes on from %s@%" PRIu64, w->job.name, w->job.name, w->resume.seq);
	if (!command.stopped)
		streams_enter_terminal(&w->streams);
	snapshotter_post(w->snapshotter, &command);
	return 0;
}

static void print_pids(const struct watchdog *w)
{
	cleanup_free pid_t *pids = NULL;
	struct err err;
	size_t n, i;

	if (capsule_pids(w->capsule, &pids, &n, &err) < 0)
		return;
	for (i = 0; i < n; i++)
		printf("%d\n", pids[i]);
	fflush(stdout);
}

/* For the debugger: gdb would look for files in the capsule's mount namespace, which it may not enter. */
static void stand(struct watchdog *w)
{
	print_pids(w);
	log_info("job %s stands as it was at %s@%" PRIu64 ": look at it with gdb -iex 'set sysroot /' -p %d; "
		 "kill -CONT lets its processes go on, pawl stop ends it",
		 w->job.name, w->job.name, w->resume.seq, w->job.leader_pid);
	wd_handle(w, WE_STANDS);
}

void wd_resume_done(struct watchdog *w)
{
	drop_model(&w->resume);
	if (w->config->recover_stopped && w->retry.used == 0)
		stand(w);
}

/* ---- memory that comes later --------------------------------------------------------------- */

/* The newest good snapshot before it; 0: there is none. */
static uint64_t good_before(struct watchdog *w, uint64_t seq)
{
	cleanup_free struct snapshot_info *infos = NULL;
	uint64_t best = 0;
	struct err ignored;
	size_t n;

	if (store_snapshot_list(w->store, w->job.name, &infos, &n, &ignored) < 0)
		return 0;
	for (size_t i = 0; i < n && infos[i].seq < seq; i++)
		if (infos[i].time && infos[i].generation >= w->job.first_generation)
			best = infos[i].seq;
	return best;
}

/* Whoever needs what is missing waits; the rest of the job is stopped before it goes on alone. */
static void damaged(struct watchdog *w, const struct err *why)
{
	const char *name = w->job.name;
	uint64_t before;
	char what[224];
	struct err err;

	w->damaged_seq = w->resume.seq;
	before = good_before(w, w->damaged_seq);
	log_error("snapshot %s@%" PRIu64 ", whose memory was still being filled in, cannot be read: %s", name,
		  w->damaged_seq, why->msg);
	snprintf(what, sizeof(what), "lost the memory that was still to come from %s@%" PRIu64, name, w->damaged_seq);
	if ((w->state == WD_RUNNING || w->state == WD_SNAPSHOT) && wd_plan_roll_back(w, what)) {
		capsule_kill(w->capsule);
		wd_handle(w, WE_DIED);
		return;
	}
	err_set(&err, why->kind, "job %s had to be ended: %s", name, what);
	if (before)
		err_set(&err, why->kind, "job %s had to be ended, it %s: 'pawl recover %s@%" PRIu64
					 "' goes on from an earlier snapshot", name, what, name, before);
	wd_fail(w, &err);
	wd_handle(w, WE_DAMAGED);
}

void wd_look_at_lazy(struct watchdog *w)
{
	struct lazy_progress progress;
	char time[32];
	struct err why;

	if (!w->lazy || w->lazy_told || w->state == WD_RECOVERING)
		return;
	lazy_look(w->lazy, &progress, &why);
	if (progress.state == LAZY_FILLING)
		return;
	w->lazy_told = true;
	if (progress.state == LAZY_FAILED) {
		damaged(w, &why);
		return;
	}
	format_duration(progress.wall_us * 1000, time, sizeof(time));
	progress_clear(&w->progress);
	log_info("all memory of job %s is back, after %s (%" PRIu64 " pages were waited for)", w->job.name, time,
		 progress.faults);
}
