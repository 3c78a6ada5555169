#include "watchdog/replicator.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/units.h"
#include "store/replica/ssh_connect.h"
#include "store/replicas.h"
#include "watchdog/policy.h"

#define RETRY_FIRST_NS NSEC_PER_SEC
#define RETRY_MOST_NS  (60 * NSEC_PER_SEC)
#define LOWEST_NICE    19
/* linux/ioprio.h */
#define IOPRIO_WHO_PROCESS 1
#define IOPRIO_LOWEST	   (2 << 13 | 7)

struct replicator {
	struct replicator_config config;
	struct destination *d;
	pthread_t thread;
	atomic_bool cancelled;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool nudged, ending, done, fenced, complete;
	struct job_info end_record; /* borrowed from replicator_end's caller */
	char **environment; /* that the next connection is made in; NULL: no other than so far */
	struct err failure; /* the last one; kind ERR_NONE: none */

	/* The thread's own. */
	bool held;
	struct replica_hold hold;
	char **in_environment;
	char said[sizeof(((struct err *)0)->msg)];
	uint64_t wait;
};

static void yield_to_the_job(void)
{
	pid_t tid = (pid_t)syscall(SYS_gettid);

	setpriority(PRIO_PROCESS, (id_t)tid, LOWEST_NICE);
	syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, IOPRIO_LOWEST);
}

/* ---- what is where ------------------------------------------------------------------------- */

static int find_state(struct replicator *r, struct replica_state *ret, struct err *err)
{
	struct replica_state *states;
	size_t n;

	*ret = (struct replica_state){0};
	if (store_replicas_get(r->config.store, r->config.job, &states, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (strcmp(states[i].destination, r->config.destination) == 0) {
			*ret = states[i];
			states[i] = (struct replica_state){0};
		}
	replica_states_free(states, n);
	if (!ret->destination && !(ret->destination = strdup(r->config.destination)))
		return err_sys(err, "the job's replicas");
	return 0;
}

static int set_marks(struct replica_state *state, const struct replica_job *seen, struct err *err)
{
	struct replica_mark *marks = calloc(seen->n_snapshots + 1, sizeof(*marks));

	if (!marks)
		return err_sys(err, "the job's replicas");
	for (size_t i = 0; i < seen->n_snapshots; i++)
		marks[i] = (struct replica_mark){seen->snapshots[i].seq,
						 seen->snapshots[i].generation,
						 seen->snapshots[i].time};
	free(state->marks);
	state->marks = marks;
	state->n_marks = seen->n_snapshots;
	return 0;
}

/* seen NULL: the attempt failed with why. That it cannot be noted is no reason to do anything else. */
static void note_state(struct replicator *r, const struct replica_job *seen, const struct err *why)
{
	struct replica_state state;
	struct err err;
	int rc = find_state(r, &state, &err);

	if (rc == 0) {
		state.tried = clock_ns(CLOCK_REALTIME);
		free(state.error);
		state.error = why ? strdup(why->msg) : NULL;
		if (!why)
			state.reached = state.tried;
		if (r->held) {
			memcpy(state.token, r->hold.token, sizeof(state.token));
			memset(state.taking, 0, sizeof(state.taking));
		}
		if (seen)
			rc = set_marks(&state, seen, &err);
	}
	if (rc == 0)
		rc = store_replica_put(r->config.store, r->config.job, &state, &err);
	if (rc < 0)
		log_debug("what is at %s is not noted: %s", r->config.destination, err.msg);
	replica_state_clear(&state);
}

/* ---- one attempt --------------------------------------------------------------------------- */

static bool is_anothers(const struct replicator *r, const struct replica_job *seen, const struct replica_state *known,
			const struct job_info *job)
{
	static const uint8_t nobody[REPLICA_TOKEN];

	if (memcmp(seen->token, nobody, REPLICA_TOKEN) == 0 || replica_state_owns(known, seen->token))
		return false;
	return !r->config.succeeds || seen->job.generation >= job->generation;
}

static int take_noted(struct replicator *r, const struct job_info *job, const struct replica_job *seen, struct err *err)
{
	uint8_t token[REPLICA_TOKEN];

	if (replica_token_make(token, err) < 0 ||
	    store_replica_taking(r->config.store, r->config.job, r->config.destination, token, err) < 0)
		return -1;
	return destination_take_as(r->d, job, seen, token, &r->hold, err);
}

/* The destination did not answer when the job began: only who still is what we knew may be followed. */
static int take_late(struct replicator *r, struct err *err)
{
	struct replica_state state;
	struct replica_job seen;
	struct job_info job;
	bool there;
	int rc;

	if (store_job_get(r->config.store, r->config.job, &job, err) < 0)
		return -1;
	there = destination_look(r->d, r->config.job, &seen, err) == 0;
	rc = there || err->kind == ERR_NOT_FOUND ? find_state(r, &state, err) : -1;
	if (rc == 0) {
		if (there && is_anothers(r, &seen, &state, &job))
			rc = err_set(err, ERR_FENCED, "%s: job '%s' was resumed by %s since",
				     r->config.destination, r->config.job, seen.holder);
		else
			rc = take_noted(r, &job, there ? &seen : NULL, err);
		replica_state_clear(&state);
	}
	r->held = rc == 0;
	if (there)
		replica_job_clear(&seen);
	job_info_clear(&job);
	return rc;
}

static long utc_offset(void)
{
	time_t now = time(NULL);
	struct tm local;

	return localtime_r(&now, &local) ? local.tm_gmtoff : 0;
}

/* Thins what is there by the rule that holds here. 1: something went. */
static int thin(struct replicator *r, const struct replica_job *seen, struct err *err)
{
	cleanup_free struct snapshot_info *infos = calloc(seen->n_snapshots + 1, sizeof(*infos));
	cleanup_free uint64_t *seqs = calloc(seen->n_snapshots + 1, sizeof(*seqs));
	cleanup_free bool *drop = calloc(seen->n_snapshots + 1, sizeof(*drop));
	size_t n = 0;

	if (!infos || !seqs || !drop)
		return err_sys(err, "thinning");
	for (size_t i = 0; i < seen->n_snapshots; i++) {
		infos[i].seq = seen->snapshots[i].seq;
		infos[i].time = seen->snapshots[i].time;
		infos[i].generation = seen->snapshots[i].generation;
	}
	if (r->config.retention.keep == 0 ||
	    policy_retention(infos, seen->n_snapshots, &r->config.retention, 0, utc_offset(),
			     drop) == 0)
		return 0;
	for (size_t i = 0; i < seen->n_snapshots; i++)
		if (drop[i])
			seqs[n++] = infos[i].seq;
	return destination_drop(r->d, &r->hold, seqs, n, err) < 0 ? -1 : 1;
}

/* The newest good one, 0: none. */
static int newest_here(struct replicator *r, uint64_t *ret, struct err *err)
{
	cleanup_free struct snapshot_info *infos = NULL;
	size_t n;

	*ret = 0;
	if (store_snapshot_list(r->config.store, r->config.job, &infos, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (infos[i].time)
			*ret = infos[i].seq;
	return 0;
}

static int look_and_thin(struct replicator *r, struct replica_job *ret, struct err *err)
{
	int rc = destination_look(r->d, r->config.job, ret, err);

	if (rc == 0 && (rc = thin(r, ret, err)) == 1) {
		replica_job_clear(ret);
		rc = destination_look(r->d, r->config.job, ret, err);
	}
	return rc;
}

/* A full destination is thinned, then it is tried once more. */
static int push_with_room(struct replicator *r, uint64_t seq, struct replica_stats *stats,
			  struct err *err)
{
	const struct replica_watch watch = {.cancelled = &r->cancelled};
	struct replica_job seen = {0};
	struct err ignored;

	if (destination_push(r->d, &r->hold, r->config.store, seq, &watch, stats, err) == 0)
		return 0;
	if (err->kind != ERR_FULL || look_and_thin(r, &seen, &ignored) < 0)
		return -1;
	replica_job_clear(&seen);
	return destination_push(r->d, &r->hold, r->config.store, seq, &watch, stats, err);
}

/* The newest; *ret_seq 0: there is none. While a connection is made, retention may drop what was the newest when that
 * began: then it is another's turn. */
static int push_newest(struct replicator *r, uint64_t *ret_seq, struct err *err)
{
	struct replica_stats stats;
	uint64_t seq, next;
	struct err ignored;

	if (newest_here(r, &next, err) < 0)
		return -1;
	do {
		seq = next;
		if (!seq || push_with_room(r, seq, &stats, err) == 0) {
			*ret_seq = seq;
			return 0;
		}
	} while (err->kind == ERR_NOT_FOUND && !atomic_load(&r->cancelled) &&
		 newest_here(r, &next, &ignored) == 0 && next > seq);
	return -1;
}

static int replicate(struct replicator *r, struct err *err)
{
	struct replica_job seen = {0};
	uint64_t seq;
	int rc;

	if ((!r->held && take_late(r, err) < 0) || push_newest(r, &seq, err) < 0)
		return -1;
	rc = look_and_thin(r, &seen, err);
	if (rc >= 0) {
		note_state(r, &seen, NULL);
		if (seq)
			log_debug("%s@%" PRIu64 " is at %s too", r->config.job, seq,
				  r->config.destination);
	}
	replica_job_clear(&seen);
	return rc < 0 ? -1 : 0;
}

/* ---- the thread ---------------------------------------------------------------------------- */

/* The same reason once in a row. */
static void report(struct replicator *r, const struct err *why)
{
	if (!why) {
		if (r->said[0])
			log_warn("replication to %s works again", r->config.destination);
		r->said[0] = '\0';
		return;
	}
	note_state(r, NULL, why);
	if (strcmp(r->said, why->msg) == 0 || why->kind == ERR_GONE)
		return;
	memcpy(r->said, why->msg, sizeof(r->said));
	log_warn("job %s is not replicated now (the job goes on, this is tried again): %s",
		 r->config.job, why->msg);
}

static void wait_until(struct replicator *r, uint64_t ns)
{
	uint64_t end = clock_ns(CLOCK_REALTIME) + ns;
	const struct timespec until = {(time_t)(end / NSEC_PER_SEC), (long)(end % NSEC_PER_SEC)};

	/* Who has asked for something may know a way there. */
	while (!r->ending && !r->environment && pthread_cond_timedwait(&r->changed, &r->lock, &until) == 0)
		;
}

/* Locked at entry and exit. False: over. */
static bool next_turn(struct replicator *r, bool failed)
{
	if (failed) {
		r->wait = r->wait == 0 ? RETRY_FIRST_NS : 2 * r->wait;
		if (r->wait > RETRY_MOST_NS)
			r->wait = RETRY_MOST_NS;
		wait_until(r, r->ending ? NSEC_PER_SEC / 2 : r->wait);
		if (r->ending)
			usleep(200000);
	} else {
		r->wait = 0;
		while (!r->nudged && !r->ending)
			pthread_cond_wait(&r->changed, &r->lock);
	}
	r->nudged = false;
	return !atomic_load(&r->cancelled);
}

static void adopt_environment(struct replicator *r)
{
	char **environment;

	pthread_mutex_lock(&r->lock);
	environment = steal_ptr(&r->environment);
	pthread_mutex_unlock(&r->lock);
	if (!environment)
		return;
	destination_environment(r->d, environment);
	free(r->in_environment);
	r->in_environment = environment;
}

static int attempt(struct replicator *r, bool ending, struct err *err)
{
	adopt_environment(r);
	if (replicate(r, err) < 0)
		return -1;
	return ending ? destination_put_job(r->d, &r->hold, &r->end_record, err) : 0;
}

static void *run(void *arg)
{
	struct replicator *r = arg;
	bool more = true;

	yield_to_the_job();
	pthread_mutex_lock(&r->lock);
	while (more) {
		bool ending = r->ending;
		struct err err = {0};
		int rc;

		pthread_mutex_unlock(&r->lock);
		rc = attempt(r, ending, &err);
		report(r, rc < 0 && err.kind != ERR_FENCED ? &err : rc < 0 ? &err : NULL);
		pthread_mutex_lock(&r->lock);
		r->failure = rc < 0 ? err : (struct err){0};
		r->fenced = rc < 0 && err.kind == ERR_FENCED;
		r->complete = rc == 0 && ending;
		if (r->fenced)
			eventfd_write(r->config.wake, 1);
		more = !r->fenced && !r->complete && next_turn(r, rc < 0);
	}
	r->done = true;
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

int replicator_start(struct replicator **ret, const struct replicator_config *config,
		     struct destination *d, const struct replica_hold *hold, struct err *err)
{
	struct replicator *r = calloc(1, sizeof(*r));
	int code;

	if (!r)
		return err_sys(err, "cannot start replication");
	r->config = *config;
	r->d = d;
	r->held = hold;
	if (hold)
		r->hold = *hold;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->changed, NULL);
	code = pthread_create(&r->thread, NULL, run, r);
	if (code) {
		free(r);
		return err_code(err, code, "cannot start replication");
	}
	*ret = r;
	return 0;
}

void replicator_environment(struct replicator *r, char *const *theirs)
{
	char **environment;
	struct err err;

	if (ssh_environment_as(theirs, &environment, &err) < 0)
		return;
	pthread_mutex_lock(&r->lock);
	free(r->environment);
	r->environment = environment;
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
}

void replicator_nudge(struct replicator *r)
{
	pthread_mutex_lock(&r->lock);
	r->nudged = true;
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
}

bool replicator_fenced(struct replicator *r, struct err *ret)
{
	bool fenced;

	pthread_mutex_lock(&r->lock);
	fenced = r->fenced;
	if (fenced)
		*ret = r->failure;
	pthread_mutex_unlock(&r->lock);
	return fenced;
}

const char *replicator_destination(const struct replicator *r)
{
	return r->config.destination;
}

void replicator_end(struct replicator *r, const struct job_info *job)
{
	pthread_mutex_lock(&r->lock);
	r->end_record = *job;
	r->ending = true;
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
}

static bool wait_done(struct replicator *r, uint64_t deadline)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC), end = clock_ns(CLOCK_REALTIME);
	struct timespec until;
	bool done;

	if (deadline > now)
		end += deadline - now;
	until = (struct timespec){(time_t)(end / NSEC_PER_SEC), (long)(end % NSEC_PER_SEC)};
	pthread_mutex_lock(&r->lock);
	while (!r->done && pthread_cond_timedwait(&r->changed, &r->lock, &until) == 0)
		;
	done = r->done;
	pthread_mutex_unlock(&r->lock);
	return done;
}

bool replicator_finish(struct replicator *r, uint64_t deadline, bool *ret_left, struct err *ret)
{
	bool complete;

	*ret_left = false;
	if (!wait_done(r, deadline)) {
		atomic_store(&r->cancelled, true);
		/* Most waits are short; a hung mount is left to the end of the process. */
		*ret_left = !wait_done(r, clock_ns(CLOCK_MONOTONIC) + 2 * NSEC_PER_SEC);
	}
	pthread_mutex_lock(&r->lock);
	complete = r->complete;
	if (!complete && r->failure.kind != ERR_NONE)
		*ret = r->failure;
	else if (!complete)
		err_set(ret, ERR_UNREACHABLE, "%s: it takes too long", r->config.destination);
	pthread_mutex_unlock(&r->lock);
	if (*ret_left)
		return complete;
	pthread_join(r->thread, NULL);
	destination_close(r->d);
	free(r->environment);
	free(r->in_environment);
	pthread_mutex_destroy(&r->lock);
	pthread_cond_destroy(&r->changed);
	free(r);
	return complete;
}
