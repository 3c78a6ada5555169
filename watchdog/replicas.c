#include "watchdog/replicas.h"

#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/units.h"
#include "store/replicas.h"
#include "watchdog/supervise.h"

#define TAKE_ROUNDS 8
/* Long enough for a last snapshot over a slow network, short enough for a batch system's grace. */
#define FINISH_STOPPED_NS (45 * NSEC_PER_SEC)
#define FINISH_ENDED_NS	  (10 * NSEC_PER_SEC)

/* ---- looking ------------------------------------------------------------------------------- */

/* Whether it is this store that has taken the job there, or nobody has yet. */
static bool is_ours(struct watchdog *w, const char *destination, const uint8_t token[REPLICA_TOKEN])
{
	static const uint8_t nobody[REPLICA_TOKEN];
	bool ours = memcmp(token, nobody, REPLICA_TOKEN) == 0;
	struct replica_state *states;
	struct err ignored;
	size_t n;

	if (store_replicas_get(w->store, w->job.name, &states, &n, &ignored) < 0)
		return false;
	for (size_t i = 0; i < n; i++)
		if (strcmp(states[i].destination, destination) == 0)
			ours = memcmp(token, states[i].token, REPLICA_TOKEN) == 0 ||
			       replica_state_owns(&states[i], token);
	replica_states_free(states, n);
	return ours;
}

static bool has_local_state(const struct watchdog *w)
{
	return w->job.state != JOB_NEW || w->job.last_seq > 0;
}

/* 1: seen, 0: the destination does not know the job, or does not answer and need not, -1. */
static int look(struct watchdog *w, struct wd_replica *r, struct err *err)
{
	bool needed = r->source || (w->config->mode != LAUNCH_FRESH && !has_local_state(w) &&
				    !w->config->attach_pid);

	if (destination_look(r->d, w->job.name, &r->seen, err) == 0) {
		r->reached = r->has_seen = true;
		return 1;
	}
	if (err->kind == ERR_NOT_FOUND && !r->source) {
		r->reached = true;
		return 0;
	}
	if (err->kind == ERR_NOT_FOUND)
		return -1;
	if (needed || (err->kind != ERR_UNREACHABLE && err->kind != ERR_FULL))
		return err_wrap(err, "cannot tell whether job '%s' is to go on from there",
				w->job.name);
	log_warn("job %s is not replicated now, this is tried again: %s", w->job.name, err->msg);
	return 0;
}

/* ---- fetching ------------------------------------------------------------------------------ */

static const struct replica_snapshot *newest_there(const struct wd_replica *r)
{
	const struct replica_snapshot *newest = NULL;

	for (size_t i = 0; i < r->seen.n_snapshots; i++)
		if (r->seen.snapshots[i].generation >= r->seen.job.first_generation)
			newest = &r->seen.snapshots[i];
	return newest;
}

/* Whether what is there is to be gone on from, and not what is here. A job that was resumed from there by
 * somebody else is as that one left it, however new what is here may be. */
static bool is_ahead(struct watchdog *w, const struct wd_replica *r,
		     const struct snapshot_info *here)
{
	const struct replica_snapshot *there = newest_there(r);

	if (!there || (there->time == here->time && there->generation == here->generation))
		return false;
	if (!here->time)
		return true;
	if (!is_ours(w, destination_text(r->d), r->seen.token))
		return there->generation >= here->generation;
	return there->generation > here->generation ||
	       (there->generation == here->generation && there->time > here->time);
}

/* Nothing of the job is there yet: a signal may end us as it ends any command. */
static int pull(struct watchdog *w, struct wd_replica *r, uint64_t seq, struct replica_stats *ret,
		struct err *err)
{
	sigset_t mask, old;
	int rc;

	sigemptyset(&mask);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGHUP);
	sigprocmask(SIG_UNBLOCK, &mask, &old);
	rc = destination_pull(r->d, w->job.name, seq, w->store, NULL, ret, err);
	sigprocmask(SIG_SETMASK, &old, NULL);
	return rc;
}

/* The newest that is good, from `newest` (an index) downwards. */
static int pull_good(struct watchdog *w, struct wd_replica *r, struct err *err)
{
	struct replica_stats stats;

	for (size_t i = r->seen.n_snapshots; i-- > 0;) {
		uint64_t seq = r->seen.snapshots[i].seq;

		if (pull(w, r, seq, &stats, err) == 0) {
			log_info("fetched %s@%" PRIu64 " from %s", w->job.name, seq,
				 destination_text(r->d));
			w->job_is_new = false;
			return 0;
		}
		if (err->kind != ERR_CORRUPT || i == 0)
			return -1;
		wd_notice(w, "snapshot %s@%" PRIu64 " is damaged there (%s), taking the one before",
			  w->job.name, seq, err->msg);
	}
	return err_set(err, ERR_NOT_FOUND, "%s: job '%s' has no snapshot", destination_text(r->d),
		       w->job.name);
}

static int pull_one(struct watchdog *w, struct wd_replica *r, struct err *err)
{
	struct replica_stats stats;

	if (pull(w, r, w->config->recover_seq, &stats, err) < 0)
		return -1;
	w->recover_seq = stats.seq;
	w->job_is_new = false;
	return 0;
}

static int reload_job(struct watchdog *w, struct err *err)
{
	char name[sizeof(w->job.name)];

	memcpy(name, w->job.name, sizeof(name));
	job_info_clear(&w->job);
	return store_job_get(w->store, name, &w->job, err);
}

/* Looks once; 1: something was fetched, so look again (it may have gone on meanwhile). */
static int fetch(struct watchdog *w, struct wd_replica *r, struct err *err)
{
	struct snapshot_info here;
	int rc;

	replica_job_clear(&r->seen);
	r->has_seen = r->reached = false;
	rc = look(w, r, err);
	if (rc <= 0)
		return rc;
	if (w->config->mode == LAUNCH_FRESH || w->config->attach_pid)
		return store_job_import(w->store, &r->seen.job, err) < 0 ? -1 : reload_job(w, err);
	if (r->source && w->config->recover_seq && !w->recover_seq)
		return pull_one(w, r, err) < 0 || reload_job(w, err) < 0 ? -1 : 1;
	if (wd_newest_of_run(w, &here, NULL, err) < 0)
		return -1;
	if (!is_ahead(w, r, &here) || (w->recover_seq && !r->source))
		return store_job_import(w->store, &r->seen.job, err) < 0 ? -1 : reload_job(w, err);
	if (w->recover_seq)
		return 0;
	return pull_good(w, r, err) < 0 || reload_job(w, err) < 0 ? -1 : 1;
}

/* ---- taking -------------------------------------------------------------------------------- */

static int note_token(struct watchdog *w, const struct wd_replica *r, struct err *err)
{
	struct replica_state state = {.destination = (char *)destination_text(r->d)};
	cleanup_free struct replica_mark *marks = calloc(r->seen.n_snapshots + 1, sizeof(*marks));

	if (!marks)
		return err_sys(err, "the job's replicas");
	for (size_t i = 0; i < r->seen.n_snapshots; i++)
		marks[i] = (struct replica_mark){r->seen.snapshots[i].seq,
						 r->seen.snapshots[i].generation,
						 r->seen.snapshots[i].time};
	state.marks = marks;
	state.n_marks = r->seen.n_snapshots;
	memcpy(state.token, r->hold.token, sizeof(state.token));
	state.tried = state.reached = clock_ns(CLOCK_REALTIME);
	return store_replica_put(w->store, w->job.name, &state, err);
}

/* The record as it will be: the generation that is about to begin. */
static int take_as_seen(struct watchdog *w, struct wd_replica *r, struct err *err)
{
	struct job_info next = w->job;
	uint8_t token[REPLICA_TOKEN];

	next.state = JOB_RUNNING;
	next.generation++;
	if (w->config->options) {
		next.options = (char **)w->config->options;
		for (next.n_options = 0; next.options[next.n_options]; next.n_options++)
			;
	}
	if (replica_token_make(token, err) < 0 ||
	    store_replica_taking(w->store, w->job.name, destination_text(r->d), token, err) < 0 ||
	    destination_take_as(r->d, &next, r->has_seen ? &r->seen : NULL, token, &r->hold, err) < 0)
		return -1;
	r->held = true;
	return note_token(w, r, err);
}

/* Who was there when we looked may have saved meanwhile: then look again. Somebody new in its place has won. */
static int take(struct watchdog *w, struct wd_replica *r, struct err *err)
{
	uint8_t holder[REPLICA_TOKEN] = {0};

	for (int round = 0; round < TAKE_ROUNDS; round++) {
		int again = fetch(w, r, err);

		if (again < 0)
			return -1;
		if (again)
			continue;
		if (!r->reached)
			return 0;
		if (round > 0 && r->has_seen && r->tried &&
		    memcmp(holder, r->seen.token, REPLICA_TOKEN) != 0)
			return err_set(err, ERR_FENCED,
				       "%s: job '%s' was resumed at this moment by %s",
				       destination_text(r->d), w->job.name, r->seen.holder);
		if (r->has_seen)
			memcpy(holder, r->seen.token, REPLICA_TOKEN);
		r->tried = true;
		if (take_as_seen(w, r, err) == 0)
			return 0;
		if (err->kind != ERR_FENCED)
			return -1;
	}
	return -1;
}

/* ---- the beginning ------------------------------------------------------------------------- */

static int open_all(struct watchdog *w, struct err *err)
{
	const struct watchdog_config *config = w->config;

	w->replicas = calloc(config->n_replicas + 1, sizeof(*w->replicas));
	w->replica_wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!w->replicas || w->replica_wake < 0)
		return err_sys(err, "replicas");
	for (size_t i = 0; i < config->n_replicas; i++) {
		struct wd_replica *r = &w->replicas[w->n_replicas];

		if (destination_open(&r->d, config->replicas[i], err) < 0)
			return -1;
		r->source = config->from && strcmp(config->replicas[i], config->from) == 0;
		w->n_replicas++;
	}
	return 0;
}

int wd_replicas_begin(struct watchdog *w, struct err *err)
{
	if (w->config->n_replicas == 0 || w->config->dry_run)
		return 0;
	if (open_all(w, err) < 0)
		return -1;
	/* A destination that was taken would end the job on the machine that hands it over. */
	if (wd_is_offer(w))
		return 0;
	for (size_t i = 0; i < w->n_replicas; i++)
		if (take(w, &w->replicas[i], err) < 0)
			return -1;
	return 0;
}

int wd_replicas_start(struct watchdog *w, struct err *err)
{
	if (wd_is_offer(w))
		return 0;
	for (size_t i = 0; i < w->n_replicas; i++) {
		struct wd_replica *r = &w->replicas[i];
		const struct replicator_config config = {
			.store = w->store,
			.job = w->job.name,
			.destination = w->config->replicas[i],
			.retention = w->config->retention,
			.wake = w->replica_wake,
			.succeeds = w->config->hold != NULL,
		};

		if (r->replicator)
			continue;
		if (replicator_start(&r->replicator, &config, r->d, r->held ? &r->hold : NULL, err) <
		    0)
			return -1;
		r->d = NULL;
	}
	return 0;
}

void wd_replicas_nudge(struct watchdog *w)
{
	for (size_t i = 0; i < w->n_replicas; i++)
		if (w->replicas[i].replicator)
			replicator_nudge(w->replicas[i].replicator);
}

void wd_replicas_environment(struct watchdog *w, char *const *theirs)
{
	for (size_t i = 0; i < w->n_replicas; i++)
		if (w->replicas[i].replicator)
			replicator_environment(w->replicas[i].replicator, theirs);
}

void wd_replicas_look(struct watchdog *w)
{
	eventfd_t count;
	struct err why;

	if (w->n_replicas == 0)
		return;
	eventfd_read(w->replica_wake, &count);
	for (size_t i = 0; i < w->n_replicas; i++) {
		struct wd_replica *r = &w->replicas[i];

		/* What is being rebuilt is ended once it stands. */
		if (!r->replicator || r->told || w->state == WD_RECOVERING ||
		    !replicator_fenced(r->replicator, &why))
			continue;
		r->told = true;
		log_error("job %s goes on elsewhere: %s", w->job.name, why.msg);
		if (w->config->fenced_warns)
			continue;
		err_wrap(&why, "job %s is ended here, for it goes on elsewhere", w->job.name);
		wd_fail(w, &why);
		wd_handle(w, WE_REFUSED);
	}
}

/* ---- the end ------------------------------------------------------------------------------- */

static void say(const struct watchdog *w, const struct wd_replica *r, const char *where,
		bool complete, const struct err *why)
{
	if (r->told)
		return;
	if (!complete)
		log_warn("what is last of job %s is not at %s, but here only: %s", w->job.name, where,
			 why->msg);
	else if (w->stopped && w->final.seq)
		log_info("%s@%" PRIu64 " is at %s too", w->job.name, w->final.seq, where);
}

bool wd_replicas_finish(struct watchdog *w)
{
	uint64_t deadline = clock_ns(CLOCK_MONOTONIC) +
			    (w->stopped ? FINISH_STOPPED_NS : FINISH_ENDED_NS);
	bool left = false;

	for (size_t i = 0; i < w->n_replicas; i++)
		if (w->replicas[i].replicator)
			replicator_end(w->replicas[i].replicator, &w->job);
	for (size_t i = 0; i < w->n_replicas; i++) {
		struct wd_replica *r = &w->replicas[i];
		struct err why = {0};
		bool complete, stays = false;

		if (!r->replicator)
			continue;
		complete = replicator_finish(r->replicator, deadline, &stays, &why);
		say(w, r, w->config->replicas[i], complete, &why);
		left |= stays;
	}
	for (size_t i = 0; i < w->n_replicas && !left; i++) {
		destination_close(w->replicas[i].d);
		replica_job_clear(&w->replicas[i].seen);
	}
	return left;
}
