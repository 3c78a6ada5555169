/* Destinations over ssh: store/wire's requests, to a store on another machine. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/replica/destination.h"
#include "store/replica/ssh_connect.h"
#include "store/wire/ask.h"
#include "store/wire/convert.h"
#include "store/wire/wire.h"

struct ssh_destination {
	struct ssh_target target;
	struct ssh_connection connection;
	bool connected;
};

static int connected(struct ssh_destination *d, struct err *err)
{
	if (d->connected)
		return 0;
	if (ssh_connect(&d->connection, &d->target, err) < 0)
		return err_wrap(err, "%s", d->target.host);
	d->connected = true;
	return 0;
}

/* What the other side answered with leaves the connection as it is; anything else ends it. */
static int ended(struct ssh_destination *d, bool answered, struct err *err)
{
	if (answered)
		return err_wrap(err, "%s", d->target.host);
	d->connected = false;
	ssh_explain(&d->connection, err);
	return err_wrap(err, "%s", d->target.host);
}

/* The connection of an earlier operation may have ended unnoticed: then once more. */
static int ask(struct ssh_destination *d, const struct wire_request *request, Wire__Reply **ret,
	       struct err *err)
{
	for (int attempt = 0;; attempt++) {
		bool fresh = !d->connected;
		uint64_t frames;

		if (connected(d, err) < 0)
			return -1;
		frames = d->connection.ch.number_in;
		if (wire_ask(&d->connection.ch, request, ret, err) == 0)
			return 0;
		ended(d, d->connection.ch.number_in > frames, err);
		if (fresh || attempt > 0 || err->kind != ERR_UNREACHABLE)
			return -1;
	}
}

static struct job_info named(const char *job)
{
	struct job_info info = {0};

	snprintf(info.name, sizeof(info.name), "%s", job);
	return info;
}

/* ---- looking ------------------------------------------------------------------------------- */

static int read_reply(const Wire__Reply *reply, struct replica_job *ret, struct err *err)
{
	struct replica_job job = {.version = reply->version, .taken = reply->taken};

	if (!reply->job || wire_job_unpack(reply->job, &job.job, err) < 0)
		return reply->job ? -1 : err_set(err, ERR_CORRUPT, "the answer is incomplete");
	if (reply->token.len == REPLICA_TOKEN)
		memcpy(job.token, reply->token.data, REPLICA_TOKEN);
	snprintf(job.holder, sizeof(job.holder), "%.*s", (int)reply->holder.len,
		 reply->holder.len ? (const char *)reply->holder.data : "");
	job.snapshots = calloc(reply->n_snapshots + 1, sizeof(*job.snapshots));
	if (!job.snapshots) {
		replica_job_clear(&job);
		return err_sys(err, "cannot list snapshots");
	}
	for (; job.n_snapshots < reply->n_snapshots; job.n_snapshots++) {
		const Wire__Head *head = reply->snapshots[job.n_snapshots];

		job.snapshots[job.n_snapshots] = (struct replica_snapshot){.seq = head->seq,
									    .generation = head->generation,
									    .time = head->time,
									    .bytes = head->bytes_stored,
									    .final = head->final};
	}
	*ret = job;
	return 0;
}

static int ssh_look(void *self, const char *job, struct replica_job *ret, struct err *err)
{
	const struct job_info info = named(job);
	const struct wire_request request = {.op = WIRE__REQUEST__OP__LOOK, .job = &info};
	Wire__Reply *reply;
	int rc;

	if (ask(self, &request, &reply, err) < 0)
		return -1;
	rc = read_reply(reply, ret, err);
	wire__reply__free_unpacked(reply, NULL);
	return rc;
}

/* ---- changing ------------------------------------------------------------------------------ */

static void name_us(char *buf, size_t len)
{
	char host[65] = "";

	gethostname(host, sizeof(host) - 1);
	snprintf(buf, len, "%s, process %d", host, (int)getpid());
}

static int ssh_take(void *self, const struct job_info *job, const struct replica_job *seen,
		    struct replica_hold *hold, struct err *err)
{
	char holder[160];
	const struct wire_request request = {.op = WIRE__REQUEST__OP__TAKE,
					     .job = job,
					     .version = seen ? seen->version : 0,
					     .token = hold->token,
					     .holder = holder};
	Wire__Reply *reply;
	int rc = 0;

	name_us(holder, sizeof(holder));
	if (ask(self, &request, &reply, err) < 0)
		return -1;
	if (reply->token.len != REPLICA_TOKEN)
		rc = err_set(err, ERR_CORRUPT, "the answer is incomplete");
	else
		memcpy(hold->token, reply->token.data, REPLICA_TOKEN);
	wire__reply__free_unpacked(reply, NULL);
	return rc;
}

static int ssh_put_job(void *self, const struct replica_hold *hold, const struct job_info *job,
		       struct err *err)
{
	const struct wire_request request = {
		.op = WIRE__REQUEST__OP__PUT, .job = job, .token = hold->token};

	return ask(self, &request, NULL, err);
}

static int ssh_drop(void *self, const struct replica_hold *hold, const uint64_t *seqs, size_t n,
		    struct err *err)
{
	const struct job_info info = named(hold->job);
	const struct wire_request request = {.op = WIRE__REQUEST__OP__DROP,
					     .job = &info,
					     .token = hold->token,
					     .seqs = seqs,
					     .n_seqs = n};

	return ask(self, &request, NULL, err);
}

/* ---- snapshots ----------------------------------------------------------------------------- */

static void fill_stats(const struct wire_stats *from, struct replica_stats *ret)
{
	*ret = (struct replica_stats){.pages = from->pages, .bytes = from->bytes, .seq = from->seq};
}

static int ssh_push(void *self, const struct replica_hold *hold, struct store *store, uint64_t seq,
		    const struct replica_watch *watch, struct replica_stats *ret, struct err *err)
{
	const struct wire_send_options options = {.token = hold->token,
						  .progress = watch ? watch->progress : NULL,
						  .ctx = watch ? watch->ctx : NULL};
	struct ssh_destination *d = self;
	struct wire_stats stats;
	int rc;

	if (connected(d, err) < 0)
		return -1;
	d->connection.ch.cancelled = watch ? watch->cancelled : NULL;
	rc = wire_send_snapshot(&d->connection.ch, WIRE_NEGOTIATED, store, hold->job, seq, &options,
				&stats, err);
	d->connection.ch.cancelled = NULL;
	/* The other side ends after a transfer that failed. */
	if (rc < 0)
		return ended(d, false, err);
	fill_stats(&stats, ret);
	return 0;
}

static int ssh_pull(void *self, const char *job, uint64_t seq, struct store *store,
		    const struct replica_watch *watch, struct replica_stats *ret, struct err *err)
{
	const struct job_info info = named(job);
	const struct wire_request request = {
		.op = WIRE__REQUEST__OP__PULL, .job = &info, .seq = seq};
	const struct wire_receive_options options = {
		.expect = job, .locked = true, .codec = CODEC_LZ4};
	struct ssh_destination *d = self;
	struct wire_stats stats;
	int rc;

	if (ask(d, &request, NULL, err) < 0)
		return -1;
	d->connection.ch.cancelled = watch ? watch->cancelled : NULL;
	rc = wire_receive_snapshot(&d->connection.ch, WIRE_NEGOTIATED, NULL, store, &options, &stats,
				   err);
	d->connection.ch.cancelled = NULL;
	if (rc < 0)
		return ended(d, false, err);
	fill_stats(&stats, ret);
	return 0;
}

static void ssh_environment(void *self, char **environment)
{
	struct ssh_destination *d = self;

	d->target.environment = environment;
}

static void ssh_close(void *self)
{
	struct ssh_destination *d = self;

	if (d->connected)
		ssh_disconnect(&d->connection);
	free(d);
}

int ssh_destination_open(void **ret_self, const struct destination_ops **ret_ops, const char *rest,
			 struct err *err)
{
	static const struct destination_ops ops = {
		.look = ssh_look,
		.take = ssh_take,
		.push = ssh_push,
		.put_job = ssh_put_job,
		.drop = ssh_drop,
		.pull = ssh_pull,
		.environment = ssh_environment,
		.close = ssh_close,
	};
	struct ssh_destination *d = calloc(1, sizeof(*d));

	if (!d)
		return err_sys(err, "ssh://%s", rest);
	if (ssh_target_parse(rest, &d->target, err) < 0) {
		free(d);
		return -1;
	}
	*ret_self = d;
	*ret_ops = &ops;
	return 0;
}
