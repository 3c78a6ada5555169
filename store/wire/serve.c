#include "store/wire/serve.h"

#include <stdlib.h>
#include <string.h>

#include "store/base/cleanup.h"
#include "store/hold.h"
#include "store/wire/convert.h"

#define CONFIRM_MS 30000   /* a job that stands here and is not confirmed is given up */
#define AHEAD_MS   3600000 /* so is memory put up for one of which nothing more is heard */

struct server {
	struct wire_channel *ch;
	uint32_t flags;
	struct store *store;
	const struct wire_receive_options *options;
	const struct wire_starter *starter;
	bool started; /* a job stands and waits to be confirmed */
};

static int reply(struct server *s, const Wire__Reply *message, struct err *err)
{
	if (wire_send_message(s->ch, WIRE_REPLY, &message->base, err) < 0)
		return -1;
	return wire_flush(s->ch, err);
}

/* The outcome of something that has no more to tell. */
static int reply_outcome(struct server *s, int rc, const struct err *failure, struct err *err)
{
	Wire__Reply message = WIRE__REPLY__INIT;

	if (rc < 0) {
		message.error_kind = (uint32_t)failure->kind;
		message.error = wire_text(failure->msg);
	}
	return reply(s, &message, err);
}

/* ---- looking ------------------------------------------------------------------------------- */

static int send_view(struct server *s, const struct hold_view *view,
		     const struct snapshot_info *infos, size_t n, struct err *err)
{
	cleanup_free Wire__Head *heads = calloc(n + 1, sizeof(*heads));
	cleanup_free Wire__Head **list = calloc(n + 1, sizeof(*list));
	Wire__Reply message = WIRE__REPLY__INIT;
	struct wire_job_message job;
	int rc;

	if (!heads || !list)
		return err_sys(err, "job '%s'", view->job.name);
	for (size_t i = 0; i < n; i++) {
		heads[i] = wire_head_pack(&infos[i]);
		list[i] = &heads[i];
	}
	if (wire_job_pack(&view->job, &job, err) < 0)
		return -1;
	message.job = &job.job;
	message.snapshots = list;
	message.n_snapshots = n;
	message.version = view->version;
	message.token = (ProtobufCBinaryData){HOLD_TOKEN, (uint8_t *)view->token};
	message.holder = wire_text(view->holder);
	message.taken = view->taken;
	message.runs = store_job_is_locked(s->store, &view->job);
	rc = reply(s, &message, err);
	free(job.texts);
	return rc;
}

static int look(struct server *s, const struct job_info *job, struct err *err)
{
	cleanup_free struct snapshot_info *infos = NULL;
	struct hold_view view;
	struct err failure;
	size_t n;
	int rc;

	if (store_hold_look(s->store, job->name, &view, &failure) < 0)
		return reply_outcome(s, -1, &failure, err);
	if (store_snapshot_list(s->store, job->name, &infos, &n, &failure) < 0)
		rc = reply_outcome(s, -1, &failure, err);
	else
		rc = send_view(s, &view, infos, n, err);
	job_info_clear(&view.job);
	return rc;
}

/* ---- the rest ------------------------------------------------------------------------------ */

static int take(struct server *s, const struct job_info *job, const Wire__Request *request,
		struct err *err)
{
	Wire__Reply message = WIRE__REPLY__INIT;
	uint8_t token[HOLD_TOKEN] = {0};
	struct err failure;
	char holder[160];

	snprintf(holder, sizeof(holder), "%.*s", (int)request->holder.len,
		 request->holder.len ? (const char *)request->holder.data : "");
	if (request->token.len == HOLD_TOKEN)
		memcpy(token, request->token.data, HOLD_TOKEN);
	if (store_hold_take(s->store, job, request->version, holder, token, &failure) < 0)
		return reply_outcome(s, -1, &failure, err);
	message.token = (ProtobufCBinaryData){HOLD_TOKEN, token};
	return reply(s, &message, err);
}

static int drop(struct server *s, const struct job_info *job, const Wire__Request *request,
		struct err *err)
{
	struct err failure = {0};
	int rc = store_hold_drop(s->store, request->token.data, job->name, request->seqs,
				 request->n_seqs, &failure);

	if (rc == 0)
		rc = store_gc(s->store, 0, &(struct gc_stats){0}, &failure);
	return reply_outcome(s, rc, &failure, err);
}

/* Here we are the sender. */
static int pull(struct server *s, const struct job_info *job, uint64_t seq, struct err *err)
{
	const struct wire_send_options options = {0};
	struct snapshot_info info;
	struct wire_stats stats;
	struct err failure = {0};
	int rc = store_snapshot_load(s->store, job->name, seq, &info, NULL, &failure);

	if (reply_outcome(s, rc, &failure, err) < 0 || rc < 0)
		return rc < 0 ? 0 : -1;
	return wire_send_snapshot(s->ch, s->flags, s->store, job->name, info.seq, &options, &stats,
				  err);
}

static int check_bearer(struct server *s, const struct job_info *job, const Wire__Request *request, struct err *err)
{
	struct hold_view view;
	int rc = 0;

	if (store_hold_look(s->store, job->name, &view, err) < 0)
		return -1;
	if (memcmp(view.token, request->token.data, HOLD_TOKEN) != 0)
		rc = err_set(err, ERR_FENCED, "job '%s' has been taken by %s", job->name, view.holder);
	job_info_clear(&view.job);
	return rc;
}

static int start(struct server *s, const struct job_info *job, const Wire__Request *request, bool ahead,
		 struct err *err)
{
	struct err failure = {0};
	int rc = check_bearer(s, job, request, &failure);

	if (rc == 0 && !s->starter)
		rc = err_set(&failure, ERR_UNSUPPORTED, "this end starts no jobs");
	if (rc == 0)
		rc = (ahead ? s->starter->ahead : s->starter->start)(s->starter->ctx, job->name, request->seq,
								     request->token.data, &failure);
	if (rc == 0) {
		s->started = !ahead;
		s->ch->patience_ms = ahead ? AHEAD_MS : CONFIRM_MS;
	}
	return reply_outcome(s, rc, &failure, err);
}

static int confirm(struct server *s, struct err *err)
{
	struct err failure = {0};
	int rc = s->started ? s->starter->confirm(s->starter->ctx, &failure)
			    : err_set(&failure, ERR_INVALID, "nothing was started");

	s->started = false;
	s->ch->patience_ms = -1;
	return reply_outcome(s, rc, &failure, err);
}

static int put(struct server *s, const struct job_info *job, const Wire__Request *request,
	       struct err *err)
{
	struct err failure = {0};
	int rc = store_hold_put(s->store, request->token.data, job, &failure);

	return reply_outcome(s, rc, &failure, err);
}

static bool needs_token(Wire__Request__Op op)
{
	return op == WIRE__REQUEST__OP__PUT || op == WIRE__REQUEST__OP__DROP ||
	       op == WIRE__REQUEST__OP__START || op == WIRE__REQUEST__OP__AHEAD;
}

static int carry_out(struct server *s, const struct job_info *job, const Wire__Request *request,
		     struct err *err)
{
	if (needs_token(request->op) && request->token.len != HOLD_TOKEN)
		return err_set(err, ERR_CORRUPT, "the stream's request is malformed");
	switch (request->op) {
	case WIRE__REQUEST__OP__LOOK:
		return look(s, job, err);
	case WIRE__REQUEST__OP__TAKE:
		return take(s, job, request, err);
	case WIRE__REQUEST__OP__PUT:
		return put(s, job, request, err);
	case WIRE__REQUEST__OP__DROP:
		return drop(s, job, request, err);
	case WIRE__REQUEST__OP__PULL:
		return pull(s, job, request->seq, err);
	case WIRE__REQUEST__OP__START:
	case WIRE__REQUEST__OP__AHEAD:
		return start(s, job, request, request->op == WIRE__REQUEST__OP__AHEAD, err);
	case WIRE__REQUEST__OP__CONFIRM:
		return confirm(s, err);
	default:
		return err_set(err, ERR_VERSION, "the other side asks for what this pawl does not know");
	}
}

static int answer(struct server *s, const struct wire_frame *frame, struct err *err)
{
	struct job_info job;
	Wire__Request *request;
	int rc;

	if (wire_message_of(frame, &wire__request__descriptor, &request, err) < 0)
		return -1;
	if (!request->job)
		rc = err_set(err, ERR_CORRUPT, "the stream's request is malformed");
	else
		rc = wire_job_unpack(request->job, &job, err);
	if (rc == 0) {
		rc = carry_out(s, &job, request, err);
		job_info_clear(&job);
	}
	wire__request__free_unpacked(request, NULL);
	return rc;
}

static int serve(struct server *s, struct err *err)
{
	struct wire_frame frame;
	struct wire_stats stats;
	int rc;

	while ((rc = wire_receive(s->ch, &frame, err)) == 1) {
		if (frame.type == WIRE_ANNOUNCE)
			rc = wire_receive_snapshot(s->ch, s->flags, &frame, s->store, s->options,
						   &stats, err);
		else if (frame.type == WIRE_REQUEST)
			rc = answer(s, &frame, err);
		else
			rc = err_set(err, ERR_CORRUPT, "the stream has %s where a request belongs",
				     wire_type_name(frame.type));
		if (rc < 0)
			return -1;
	}
	return rc;
}

int wire_serve(struct wire_channel *ch, uint32_t flags, struct store *store,
	       const struct wire_receive_options *options, const struct wire_starter *starter,
	       struct err *err)
{
	struct server server = {
		.ch = ch, .flags = flags, .store = store, .options = options, .starter = starter};
	int rc = serve(&server, err);

	/* Whoever asked for it has gone, and may have gone on with the job himself. */
	if (starter)
		starter->stop(starter->ctx);
	return rc;
}
