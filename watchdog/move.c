#include "watchdog/move.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/units.h"
#include "store/replica/ssh_connect.h"
#include "store/wire/ask.h"
#include "store/wire/wire.h"

#define UNREACHABLE_NS (30 * NSEC_PER_SEC) /* then the other machine is taken for dead */
#define ENDING_NS      (60 * NSEC_PER_SEC) /* what is not confirmed there ends within that */
#define LOOK_PAUSE_NS  500000000

struct move {
	struct store *store;
	struct job_info job;
	char destination[512];
	struct ssh_target target;
	struct ssh_connection connection;
	bool connected;
	uint8_t token[WIRE_TOKEN];
};

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

/* 1: *ret_version and *ret_runs say how it stands there; 0: it is not there; -1 */
static int look(struct move *m, uint64_t *ret_version, bool *ret_runs, struct err *err)
{
	const struct wire_request request = {.op = WIRE__REQUEST__OP__LOOK, .job = &m->job};
	Wire__Reply *reply;

	*ret_version = 0;
	*ret_runs = false;
	if (ask(m, &request, &reply, err) < 0)
		return err->kind == ERR_NOT_FOUND ? 0 : -1;
	*ret_version = reply->version;
	*ret_runs = reply->runs;
	wire__reply__free_unpacked(reply, NULL);
	return 1;
}

static int take(struct move *m, uint64_t version, struct err *err)
{
	char host[65] = "", holder[160];
	const struct wire_request request = {.op = WIRE__REQUEST__OP__TAKE,
					     .job = &m->job,
					     .version = version,
					     .holder = holder};
	Wire__Reply *reply;
	int rc = 0;

	gethostname(host, sizeof(host) - 1);
	snprintf(holder, sizeof(holder), "%s, process %d", host, (int)getpid());
	if (ask(m, &request, &reply, err) < 0)
		return -1;
	if (reply->token.len == WIRE_TOKEN)
		memcpy(m->token, reply->token.data, WIRE_TOKEN);
	else
		rc = err_set(err, ERR_CORRUPT, "the answer is incomplete");
	wire__reply__free_unpacked(reply, NULL);
	return rc;
}

static int begin(struct move *m, const char *job, struct err *err)
{
	uint64_t version;
	bool runs;

	if (strncmp(m->destination, "ssh://", 6) != 0)
		return err_set(err, ERR_INVALID,
			       "a job can be moved to ssh://[USER@]HOST[:PORT][/STORE] only");
	if (ssh_target_parse(m->destination + 6, &m->target, err) < 0 ||
	    store_job_get(m->store, job, &m->job, err) < 0 || look(m, &version, &runs, err) < 0)
		return -1;
	if (runs)
		return err_set(err, ERR_BUSY, "job '%s' runs there", job);
	return take(m, version, err);
}

int move_begin(struct move **ret, struct store *store, const char *job, const char *destination,
	       struct err *err)
{
	struct move *m = calloc(1, sizeof(*m));

	if (!m)
		return err_sys(err, "cannot move the job");
	m->store = store;
	snprintf(m->destination, sizeof(m->destination), "%s", destination);
	if (begin(m, job, err) < 0) {
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

/* In our own record, so that nobody resumes it here. Empty: it is not away. */
static int mark_moved(struct move *m, const char *destination, struct err *err)
{
	struct job_info job;
	int rc;

	if (store_job_get(m->store, m->job.name, &job, err) < 0)
		return -1;
	snprintf(job.moved_to, sizeof(job.moved_to), "%s", destination);
	rc = store_job_put(m->store, &job, err);
	job_info_clear(&job);
	return rc;
}

static int push(struct move *m, uint64_t seq, struct err *err)
{
	const struct wire_send_options options = {.token = m->token};
	struct wire_stats stats;

	if (wire_send_snapshot(&m->connection.ch, WIRE_NEGOTIATED, m->store, m->job.name, seq,
			       &options, &stats, err) == 0)
		return 0;
	ssh_explain(&m->connection, err);
	m->connected = false;
	return -1;
}

/* Looks again and again until it is clear where the job goes on. 0: there, -1: here. */
static int settle(struct move *m, struct err *err)
{
	const struct timespec pause = {.tv_nsec = LOOK_PAUSE_NS};
	uint64_t begun = clock_ns(CLOCK_MONOTONIC), answered = begun;
	uint64_t version, now = begun;
	bool runs = false;
	struct err why;

	while (now - begun < ENDING_NS && now - answered < UNREACHABLE_NS) {
		int rc = look(m, &version, &runs, &why);

		if (rc >= 0)
			answered = clock_ns(CLOCK_MONOTONIC);
		if (rc == 0 || (rc == 1 && !runs && take(m, version, &why) == 0))
			return -1;
		nanosleep(&pause, NULL);
		now = clock_ns(CLOCK_MONOTONIC);
	}
	if (now - answered < UNREACHABLE_NS && runs)
		return 0;
	log_warn("%s has not answered for %d s and is taken for dead: job %s goes on here",
		 m->destination, (int)(UNREACHABLE_NS / NSEC_PER_SEC), m->job.name);
	return -1;
}

static int hand_over(struct move *m, uint64_t seq, bool *ret_asked, struct err *err)
{
	struct wire_request request = {.op = WIRE__REQUEST__OP__START,
				       .job = &m->job,
				       .token = m->token,
				       .seq = seq};

	if (push(m, seq, err) < 0)
		return -1;
	*ret_asked = true;
	if (ask(m, &request, NULL, err) < 0 || mark_moved(m, m->destination, err) < 0)
		return -1;
	request.op = WIRE__REQUEST__OP__CONFIRM;
	/* A new connection would know of nothing to confirm. */
	if (!m->connected)
		return err_set(err, ERR_UNREACHABLE, "the connection has ended");
	return ask(m, &request, NULL, err);
}

int move_leave(struct move *m, uint64_t seq, struct err *err)
{
	struct err ignored;
	bool asked = false;

	if (hand_over(m, seq, &asked, err) == 0)
		return 0;
	disconnect(m);
	if (asked && settle(m, err) == 0)
		return mark_moved(m, m->destination, &ignored), 0;
	mark_moved(m, "", &ignored);
	/* Kinds that would have the snapshot repeated are none here. */
	if (err->kind == ERR_FULL || err->kind == ERR_GONE)
		err->kind = ERR_SYSTEM;
	return err_wrap(err, "%s", m->destination);
}
