#include "watchdog/move.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/units.h"
#include "store/replicas.h"
#include "store/replica/destination.h"
#include "store/replica/ssh_connect.h"
#include "store/wire/ask.h"
#include "store/wire/wire.h"

/* How long the destination may be silent while the job stands still. */
#define PUSH_MS	      30000
#define START_MS      600000 /* it rebuilds the job */
#define CONFIRM_MS    10000
#define LOOK_PAUSE_NS 500000000
#define REMIND_NS     (600 * NSEC_PER_SEC)

struct move {
	struct store *store;
	struct job_info job;
	char destination[JOB_DESTINATION];
	struct ssh_target target;
	struct ssh_connection connection;
	bool connected;
	bool fills_ahead; /* there */
	uint8_t token[WIRE_TOKEN];
	const atomic_bool *cancelled;
};

enum outcome { STAYED, MOVED };

static void disconnect(struct move *m)
{
	if (m->connected)
		ssh_disconnect(&m->connection);
	m->connected = false;
}

/* One request; after an error that was not answered the connection is closed. */
static int ask(struct move *m, const struct wire_request *request, Wire__Reply **ret,
	       struct err *err)
{
	struct wire_channel *ch = &m->connection.ch;
	uint64_t frames;

	if (!m->connected && ssh_connect(&m->connection, &m->target, err) < 0)
		return -1;
	m->connected = true;
	frames = ch->number_in;
	if (wire_ask(ch, request, ret, err) == 0)
		return 0;
	if (ch->number_in == frames) {
		ssh_explain(&m->connection, err);
		m->connected = false;
	}
	return -1;
}

/* How it stands there. */
struct view {
	bool there; /* the job is known */
	bool runs;  /* a watchdog has it */
	bool ended; /* … had it, and has saved or finished it */
	uint64_t version, generation;
};

static int look(struct move *m, struct view *ret, struct err *err)
{
	const struct wire_request request = {.op = WIRE__REQUEST__OP__LOOK, .job = &m->job};
	Wire__Reply *reply;

	*ret = (struct view){0};
	if (ask(m, &request, &reply, err) < 0)
		return err->kind == ERR_NOT_FOUND ? 0 : -1;
	ret->there = true;
	ret->version = reply->version;
	ret->runs = reply->runs;
	if (reply->job) {
		ret->generation = reply->job->generation;
		ret->ended = reply->job->state == JOB_FINISHED || reply->job->state == JOB_STOPPED;
	}
	for (size_t i = 0; i < reply->n_snapshots; i++)
		ret->ended |= reply->snapshots[i]->generation > m->job.generation;
	wire__reply__free_unpacked(reply, NULL);
	return 0;
}

/* That it may be held by this store is noted first: where it stays here, it can still be copied there. */
static int take(struct move *m, uint64_t version, struct err *err)
{
	char host[65] = "", holder[160];
	uint8_t token[WIRE_TOKEN];
	const struct wire_request request = {.op = WIRE__REQUEST__OP__TAKE,
					     .job = &m->job,
					     .version = version,
					     .token = token,
					     .holder = holder};
	Wire__Reply *reply;
	int rc = 0;

	gethostname(host, sizeof(host) - 1);
	snprintf(holder, sizeof(holder), "%s, process %d", host, (int)getpid());
	if (replica_token_make(token, err) < 0 ||
	    store_replica_taking(m->store, m->job.name, m->destination, token, err) < 0 ||
	    ask(m, &request, &reply, err) < 0)
		return -1;
	if (reply->token.len == WIRE_TOKEN)
		memcpy(m->token, reply->token.data, WIRE_TOKEN);
	else
		rc = err_set(err, ERR_CORRUPT, "the answer is incomplete");
	wire__reply__free_unpacked(reply, NULL);
	return rc;
}

/* It has gone on there where the record there is of a later generation than ours. Where it has not, or died there
 * before anything came of that, it is taken, and cannot any more. An outcome, or -1: it cannot be told yet. */
static int ask_where(struct move *m, struct err *err)
{
	struct view view;

	if (look(m, &view, err) < 0)
		return -1;
	if (!view.there)
		return STAYED;
	if (view.generation > m->job.generation && (view.runs || view.ended))
		return MOVED;
	if (view.runs)
		return err_set(err, ERR_BUSY, "it is about to be given up there");
	return take(m, view.version, err) < 0 ? -1 : STAYED;
}

static int move_new(struct move **ret, struct store *store, const char *job, const char *destination,
		    struct err *err)
{
	struct move *m = calloc(1, sizeof(*m));

	if (!m)
		return err_sys(err, "cannot move the job");
	m->store = store;
	snprintf(m->destination, sizeof(m->destination), "%s", destination);
	if (strncmp(destination, "ssh://", 6) != 0)
		err_set(err, ERR_INVALID, "a job can be moved to ssh://[USER@]HOST[:PORT][/STORE] only");
	else if (ssh_target_parse(destination + 6, &m->target, err) == 0 &&
		 store_job_get(store, job, &m->job, err) == 0) {
		*ret = m;
		return 0;
	}
	move_end(m);
	return -1;
}

static int begin(struct move *m, struct err *err)
{
	struct view view;

	if (look(m, &view, err) < 0)
		return -1;
	if (view.runs)
		return err_set(err, ERR_BUSY, "job '%s' runs there", m->job.name);
	return take(m, view.version, err);
}

int move_begin(struct move **ret, struct store *store, const char *job, const char *destination,
	       char **environment, const atomic_bool *cancelled, struct err *err)
{
	struct move *m;

	if (move_new(&m, store, job, destination, err) < 0)
		return err_wrap(err, "%s", destination);
	m->cancelled = cancelled;
	m->fills_ahead = true;
	m->target.environment = environment;
	if (begin(m, err) < 0) {
		move_end(m);
		return err_wrap(err, "%s", destination);
	}
	*ret = m;
	return 0;
}

void move_end(struct move *m)
{
	if (!m)
		return;
	disconnect(m);
	job_info_clear(&m->job);
	free(m);
}

/* ---- leaving ------------------------------------------------------------------------------- */

/* In our own record, so that nobody resumes it here unasked. destination "": it is not away. */
static int mark(struct move *m, const char *destination, bool moving, struct err *err)
{
	struct job_info job;
	int rc;

	if (store_job_get(m->store, m->job.name, &job, err) < 0)
		return -1;
	snprintf(job.moved_to, sizeof(job.moved_to), "%s", destination);
	job.moving = moving;
	rc = store_job_put(m->store, &job, err);
	job_info_clear(&job);
	return rc;
}

/* Where it goes on there, the copy there is ours no longer: what we have is of an older run. */
static int note(struct move *m, enum outcome outcome, struct err *err)
{
	static const uint8_t nobody[WIRE_TOKEN];

	if (outcome == STAYED)
		return mark(m, "", false, err);
	if (store_replica_taking(m->store, m->job.name, m->destination, nobody, err) < 0)
		return -1;
	return mark(m, m->destination, false, err);
}

static uint64_t since_ms(uint64_t begin)
{
	return (clock_ns(CLOCK_MONOTONIC) - begin) / 1000000;
}

static int push(struct move *m, uint64_t seq, uint64_t *ret_pages, struct err *err)
{
	const struct wire_send_options options = {.token = m->token, .soon = true};
	uint64_t begin = clock_ns(CLOCK_MONOTONIC);
	struct wire_stats stats;

	m->connection.ch.patience_ms = PUSH_MS;
	if (wire_send_snapshot(&m->connection.ch, WIRE_NEGOTIATED, m->store, m->job.name, seq,
			       &options, &stats, err) == 0) {
		log_debug("move: %" PRIu64 " pages sent in %" PRIu64 " ms", stats.pages, since_ms(begin));
		*ret_pages = stats.pages;
		return 0;
	}
	ssh_explain(&m->connection, err);
	m->connected = false;
	return -1;
}

/* What has come is put into memory there: that much less is left to do while the job stands still. Where that is not
 * possible, or not known there, the move does without. */
static int fill_ahead(struct move *m, uint64_t seq, struct err *err)
{
	const struct wire_request request = {.op = WIRE__REQUEST__OP__AHEAD,
					     .job = &m->job,
					     .token = m->token,
					     .seq = seq};
	uint64_t begin = clock_ns(CLOCK_MONOTONIC);
	struct view view;
	struct err why;

	if (!m->fills_ahead)
		return 0;
	m->connection.ch.patience_ms = START_MS;
	if (ask(m, &request, NULL, &why) == 0) {
		log_debug("move: memory filled there in %" PRIu64 " ms", since_ms(begin));
		return 0;
	}
	m->fills_ahead = false;
	log_debug("move: memory is not filled ahead there: %s", why.msg);
	return m->connected ? 0 : look(m, &view, err);
}

int move_ahead(struct move *m, uint64_t seq, uint64_t *ret_pages, struct err *err)
{
	int rc;

	m->connection.ch.cancelled = m->cancelled;
	rc = push(m, seq, ret_pages, err);
	if (rc == 0)
		rc = fill_ahead(m, seq, err);
	m->connection.ch.cancelled = NULL;
	return rc < 0 ? err_wrap(err, "%s", m->destination) : 0;
}

/* From *ret_doubt on an error does not tell where the job goes on. */
static int hand_over(struct move *m, uint64_t seq, bool *ret_doubt, struct err *err)
{
	struct wire_request request = {.op = WIRE__REQUEST__OP__START,
				       .job = &m->job,
				       .token = m->token,
				       .seq = seq};
	uint64_t pages, begin;

	if (push(m, seq, &pages, err) < 0)
		return -1;
	m->connection.ch.patience_ms = START_MS;
	begin = clock_ns(CLOCK_MONOTONIC);
	if (ask(m, &request, NULL, err) < 0)
		return -1;
	log_debug("move: rebuilt there in %" PRIu64 " ms", since_ms(begin));
	if (mark(m, m->destination, true, err) < 0)
		return -1;
	request.op = WIRE__REQUEST__OP__CONFIRM;
	/* A new connection would know of nothing to confirm. */
	if (!m->connected)
		return err_set(err, ERR_UNREACHABLE, "the connection has ended");
	*ret_doubt = true;
	m->connection.ch.patience_ms = CONFIRM_MS;
	return ask(m, &request, NULL, err);
}

/* Until the destination has told. 0: it goes on there, -1: here, or the job's end is awaited no longer. */
static int settle(struct move *m, const struct err *why)
{
	const struct timespec pause = {.tv_nsec = LOOK_PAUSE_NS};
	uint64_t told = 0, now;
	struct err err = *why;
	int outcome;

	while ((outcome = ask_where(m, &err)) < 0 && !(m->cancelled && atomic_load(m->cancelled))) {
		now = clock_ns(CLOCK_MONOTONIC);
		if (!told || now - told > REMIND_NS) {
			log_warn("job %s stands still until %s says whether it goes on there: %s", m->job.name,
				 m->destination, err.msg);
			told = now;
		}
		nanosleep(&pause, NULL);
	}
	return outcome == MOVED ? 0 : -1;
}

int move_leave(struct move *m, uint64_t seq, struct err *err)
{
	struct err ignored;
	bool doubt = false;

	if (hand_over(m, seq, &doubt, err) == 0)
		return note(m, MOVED, &ignored), 0;
	disconnect(m);
	if (doubt && settle(m, err) == 0)
		return note(m, MOVED, &ignored), 0;
	/* Given up without an answer: the mark stays for whoever resumes it. */
	if (!m->cancelled || !atomic_load(m->cancelled))
		note(m, STAYED, &ignored);
	/* Kinds that would have the snapshot repeated are none here. */
	if (err->kind == ERR_FULL || err->kind == ERR_GONE)
		err->kind = ERR_SYSTEM;
	return err_wrap(err, "%s", m->destination);
}

/* ---- later --------------------------------------------------------------------------------- */

int move_settle(struct store *store, struct job_info *job, struct err *err)
{
	struct move *m = NULL;
	int outcome;

	if (move_new(&m, store, job->name, job->moved_to, err) < 0)
		return -1;
	outcome = ask_where(m, err);
	if (outcome < 0 || note(m, (enum outcome)outcome, err) < 0) {
		err_wrap(err, "%s", m->destination);
		move_end(m);
		return -1;
	}
	if (outcome == STAYED)
		job->moved_to[0] = '\0';
	job->moving = false;
	move_end(m);
	return 0;
}
