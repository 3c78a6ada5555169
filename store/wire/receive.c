#include "store/wire/wire.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/sessionkeep.h"
#include "store/txn.h"
#include "store/wire/assemble.h"
#include "store/wire/convert.h"
#include "store/wire/files.h"

#define LOCK_PATIENCE_NS 10000000000ull
#define NUMBER_MOST      (1ull << 48) /* of snapshots and generations */
#define LOCK_PAUSE_NS    50000000

struct receiver {
	struct wire_channel *ch;
	bool answers;
	struct store *store;
	const struct wire_receive_options *options;
	const struct wire_frame *first; /* the announcement, where it has come already */
	Wire__Announce *announce;
	struct job_info job;   /* as announced, under the name it has here */
	struct job_info here;  /* id 0: the job is not here */
	struct snapshot_info info;
	uint64_t parent;       /* the snapshot here that is the base, or that has content; 0: none */
	bool based;
	uint64_t base_digest;
	struct store_session *session;
	struct wire_stage *stage;
	struct wire_assembly *assembly;
	bool present;
	uint64_t seq;
};

static void receiver_clear(struct receiver *r)
{
	wire_assembly_free(r->assembly);
	wire_stage_free(r->stage);
	session_keep(r->session);
	if (r->announce)
		wire__announce__free_unpacked(r->announce, NULL);
	job_info_clear(&r->job);
	job_info_clear(&r->here);
}

/* ---- the announcement ---------------------------------------------------------------------- */

static int read_announcement(struct receiver *r, struct err *err)
{
	const struct wire_receive_options *o = r->options;

	if (r->first ? wire_message_of(r->first, &wire__announce__descriptor, &r->announce, err) < 0
		     : wire_expect_message(r->ch, WIRE_ANNOUNCE, &wire__announce__descriptor,
					   &r->announce, err) < 0)
		return -1;
	if (!r->announce->job || !r->announce->head || r->announce->head->time == 0)
		return err_set(err, ERR_CORRUPT, "the stream's announcement is incomplete");
	if (wire_job_unpack(r->announce->job, &r->job, err) < 0)
		return -1;
	wire_head_unpack(r->announce->head, &r->info);
	store_stay_in_page_cache(r->store, r->announce->soon);
	if (r->info.seq > NUMBER_MOST || r->info.generation > r->job.generation ||
	    r->job.generation > NUMBER_MOST)
		return err_set(err, ERR_CORRUPT, "the stream's announcement has impossible numbers");
	if (o->expect && strcmp(o->expect, r->job.name) != 0)
		return err_set(err, ERR_CORRUPT, "the stream has job '%s', not '%s'", r->job.name,
			       o->expect);
	if (o->name)
		snprintf(r->job.name, sizeof(r->job.name), "%s", o->name);
	return job_name_check(r->job.name, err);
}

/* Whether it may come here at all. */
static int check_admission(struct receiver *r, struct err *err)
{
	if (!r->options->locked && store_job_is_locked(r->store, &r->here))
		return err_set(err, ERR_BUSY, "job '%s' runs there", r->job.name);
	if (r->announce->token.len && r->announce->token.len != HOLD_TOKEN)
		return err_set(err, ERR_CORRUPT, "the stream's token is malformed");
	if (r->job.generation < r->here.generation)
		return err_set(err, ERR_FENCED,
			       "job '%s' was resumed there since (generation %" PRIu64
			       ", not %" PRIu64 ")",
			       r->job.name, r->here.generation, r->job.generation);
	return 0;
}

static int look_at_job(struct receiver *r, struct err *err)
{
	int same;

	if (store_job_get(r->store, r->job.name, &r->here, err) < 0)
		return err->kind == ERR_NOT_FOUND ? 0 : -1;
	same = store_snapshot_same(r->store, r->job.name, r->info.time, r->info.generation, &r->seq,
				   err);
	if (same < 0)
		return -1;
	r->present = same;
	return same ? 0 : check_admission(r, err);
}

/* 1: it is here as number *ret_seq, and good; 0. */
static int find_base(struct receiver *r, const Wire__Name *name, uint64_t *ret_seq,
		     uint64_t *ret_digest, struct err *err)
{
	Snap__Snapshot *model;
	int rc = r->here.id ? store_snapshot_same(r->store, r->job.name, name->time,
						  name->generation, ret_seq, err)
			    : 0;

	if (rc <= 0)
		return rc;
	if (store_snapshot_load(r->store, r->job.name, *ret_seq, NULL, &model, err) < 0)
		return err->kind == ERR_CORRUPT || err->kind == ERR_NOT_FOUND ? 0 : -1;
	rc = wire_model_digest(model, ret_digest, err);
	snap__snapshot__free_unpacked(model, NULL);
	return rc < 0 ? -1 : 1;
}

/* The newest that both have; else our newest, for its content. */
static int choose_parent(struct receiver *r, struct err *err)
{
	cleanup_free struct snapshot_info *infos = NULL;
	size_t n = 0;

	for (size_t i = 0; i < r->announce->n_have && !r->based; i++) {
		int rc = find_base(r, r->announce->have[i], &r->parent, &r->base_digest, err);

		if (rc < 0)
			return -1;
		r->based = rc == 1;
		if (r->based) {
			r->announce->have[i]->model = r->base_digest;
			return (int)i;
		}
	}
	r->parent = 0;
	if (!r->here.id)
		return 0;
	if (store_snapshot_list(r->store, r->job.name, &infos, &n, err) < 0)
		return -1;
	while (n > 0 && infos[n - 1].time == 0)
		n--;
	r->parent = n > 0 ? infos[n - 1].seq : 0;
	return 0;
}

/* ---- the offer ----------------------------------------------------------------------------- */

static int begin_session(struct receiver *r, struct err *err)
{
	const struct session_key key = {r->info.time, r->info.generation};

	return session_begin_kept(&r->session, r->store, r->here.id ? r->job.name : NULL, r->parent,
				  r->options->codec, &key, err);
}

static int send_offer(struct receiver *r, size_t base, struct err *err)
{
	Wire__Offer offer = WIRE__OFFER__INIT;
	Wire__File log = WIRE__FILE__INIT;
	int rc;

	offer.present = r->present;
	offer.seq = r->seq;
	if (!r->present) {
		if (r->based)
			offer.against = r->announce->have[base];
		offer.ask = session_known_pages(r->session) > 0;
		offer.secret = (ProtobufCBinaryData){sizeof(r->store->secret.bytes),
						     r->store->secret.bytes};
		if (r->here.id && wire_log_sums(r->store, &r->here, &log, err) < 0)
			return -1;
		offer.log = &log;
		offer.stored = true;
	}
	rc = wire_send_message(r->ch, WIRE_OFFER, &offer.base, err);
	free(log.sums);
	return rc < 0 ? -1 : wire_flush(r->ch, err);
}

/* Content of a snapshot here that is not the base: known by its hashes. */
static int know_content(struct receiver *r, struct err *err)
{
	Snap__Snapshot *model;
	int rc;

	if (r->based || !r->parent || !r->answers)
		return 0;
	if (store_snapshot_load(r->store, r->job.name, r->parent, NULL, &model, err) < 0)
		return err->kind == ERR_CORRUPT || err->kind == ERR_NOT_FOUND ? 0 : -1;
	rc = session_know_snapshot(r->session, model, err);
	snap__snapshot__free_unpacked(model, NULL);
	return rc;
}

static int negotiate(struct receiver *r, struct err *err)
{
	int base = 0;

	if (read_announcement(r, err) < 0 || look_at_job(r, err) < 0)
		return -1;
	if (!r->present) {
		base = r->answers ? choose_parent(r, err) : 0;
		if (base < 0 || begin_session(r, err) < 0 || know_content(r, err) < 0)
			return -1;
	}
	return r->answers ? send_offer(r, (size_t)base, err) : 0;
}

/* ---- the body ------------------------------------------------------------------------------ */

/* One-way: the base that the stream names. */
static int take_base(struct receiver *r, const Wire__Name *name, struct err *err)
{
	int rc = r->based ? 1 : find_base(r, name, &r->parent, &r->base_digest, err);

	if (rc < 0)
		return -1;
	if (rc == 0 || (name->model && name->model != r->base_digest))
		return err_set(err, ERR_NOT_FOUND,
			       "the snapshot of job '%s' that this stream builds on is not here: "
			       "receive that first, or send without a base",
			       r->job.name);
	if (r->based)
		return 0;
	r->based = true;
	session_keep(steal_ptr(&r->session));
	return begin_session(r, err);
}

static int receive_start(struct receiver *r, struct err *err)
{
	struct wire_assembly_source source = {0};
	Wire__Start *start;
	int rc = 0;

	if (wire_expect_message(r->ch, WIRE_START, &wire__start__descriptor, &start, err) < 0)
		return -1;
	if (start->against)
		rc = take_base(r, start->against, err);
	if (rc == 0)
		rc = wire_stage_open(&r->stage, r->store, start->log_bytes, start->input_bytes, err);
	source = (struct wire_assembly_source){.store = r->store,
					       .session = r->session,
					       .job = r->job.name,
					       .base = start->against ? r->parent : 0,
					       .tables = start->tables,
					       .model_bytes = start->model_bytes};
	if (rc == 0)
		rc = wire_assembly_new(&r->assembly, &source, err);
	wire__start__free_unpacked(start, NULL);
	return rc;
}

static int answer_question(struct receiver *r, const struct wire_frame *frame, struct err *err)
{
	uint8_t bits[WIRE_FRAME_MOST / 16 / 8 + 1];
	size_t n = frame->len / 16;

	if (!r->answers || frame->len % 16 || n > WIRE_BATCH_PAGES)
		return err_set(err, ERR_CORRUPT, "the stream's question is malformed");
	memset(bits, 0, sizeof(bits));
	wire_assembly_answer(r->assembly, frame->payload, n, bits);
	if (wire_send(r->ch, WIRE_HAVE, bits, (n + 7) / 8, err) < 0)
		return -1;
	return wire_flush(r->ch, err);
}

/* 1: that was the last. */
static int receive_one(struct receiver *r, struct err *err)
{
	struct wire_frame frame;
	int rc = wire_receive(r->ch, &frame, err);

	if (rc < 0)
		return -1;
	if (rc == 0)
		return err_set(err, ERR_UNREACHABLE, "the stream ends early, at byte %" PRIu64,
			       r->ch->bytes_in);
	switch (frame.type) {
	case WIRE_LOG:
	case WIRE_INPUT:
		return wire_stage_add(r->stage, &frame, err);
	case WIRE_MODEL:
		return wire_assembly_model(r->assembly, frame.payload, frame.len, err);
	case WIRE_TABLE:
		return wire_assembly_table(r->assembly, frame.payload, frame.len, err);
	case WIRE_PAGES:
	case WIRE_STORED:
		return wire_assembly_pages(r->assembly, &frame, err);
	case WIRE_ASK:
		return answer_question(r, &frame, err);
	case WIRE_END:
		return wire_assembly_end(r->assembly, &frame, err) < 0 ? -1 : 1;
	default:
		return err_set(err, ERR_CORRUPT, "the stream has %s (%u) among its pages",
			       wire_type_name(frame.type), (unsigned)frame.type);
	}
}

/* ---- letting it appear --------------------------------------------------------------------- */

/* Another transfer of the job may be at the same point. */
static int lock_job(struct receiver *r, int *ret, struct err *err)
{
	const struct timespec pause = {.tv_nsec = LOCK_PAUSE_NS};
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + LOCK_PATIENCE_NS;

	*ret = -1;
	if (r->options->locked)
		return 0;
	while (store_job_lock(r->store, r->job.name, ret, err) < 0) {
		if (err->kind != ERR_BUSY || clock_ns(CLOCK_MONOTONIC) > end)
			return -1;
		nanosleep(&pause, NULL);
	}
	return 0;
}

static int publish_locked(struct receiver *r, struct wire_stats *stats, struct err *err)
{
	const struct session_hold hold = {
		.token = r->announce->token.len ? r->announce->token.data : NULL,
		.generation = r->job.generation,
	};
	struct session_counts counts;
	struct job_info job;

	if (store_job_import(r->store, &r->job, err) < 0 ||
	    store_job_get(r->store, r->job.name, &job, err) < 0)
		return -1;
	if (wire_stage_apply(r->stage, r->store, &job, err) < 0) {
		job_info_clear(&job);
		return -1;
	}
	job_info_clear(&job);
	session_counts(r->session, &counts);
	stats->pages = counts.pages_stored;
	stats->bytes = counts.bytes_stored;
	if (session_publish_received(&r->session, r->job.name, wire_assembly_snapshot(r->assembly), &r->info,
				     &hold, err) < 0)
		return -1;
	r->seq = r->info.seq;
	return 0;
}

static int publish(struct receiver *r, struct wire_stats *stats, struct err *err)
{
	bool made = !r->here.id;
	struct err ignored;
	int lock, rc;

	if (lock_job(r, &lock, err) < 0)
		return -1;
	rc = publish_locked(r, stats, err);
	store_job_unlock(lock);
	/* A job that came with this snapshot does not stay without it. */
	if (rc < 0 && made && lock >= 0)
		store_job_drop(r->store, r->job.name, &ignored);
	return rc;
}

static int receive(struct receiver *r, struct wire_stats *stats, struct err *err)
{
	int rc = 0;

	if (negotiate(r, err) < 0)
		return -1;
	if (r->present && r->answers)
		return 0;
	if (r->present)
		return wire_skip_body(r->ch, err);
	if (receive_start(r, err) < 0)
		return -1;
	while (rc == 0)
		rc = receive_one(r, err);
	return rc < 0 ? -1 : publish(r, stats, err);
}

/* ---- the receipt --------------------------------------------------------------------------- */

/* An error before the offer is told in it, a later one in the receipt. */
static void tell(struct receiver *r, bool offered, const struct wire_stats *stats,
		 const struct err *failure)
{
	Wire__Offer offer = WIRE__OFFER__INIT;
	Wire__Done done = WIRE__DONE__INIT;
	struct err ignored;

	if (!r->answers || (r->present && !failure))
		return;
	done.seq = r->seq;
	done.pages_stored = stats->pages;
	done.bytes_stored = stats->bytes;
	if (failure) {
		offer.error_kind = done.error_kind = (uint32_t)failure->kind;
		offer.error = done.error = wire_text(failure->msg);
	}
	if ((offered ? wire_send_message(r->ch, WIRE_DONE, &done.base, &ignored)
		     : wire_send_message(r->ch, WIRE_OFFER, &offer.base, &ignored)) == 0)
		wire_flush(r->ch, &ignored);
}

int wire_receive_snapshot(struct wire_channel *ch, uint32_t flags, const struct wire_frame *first,
			  struct store *store, const struct wire_receive_options *options,
			  struct wire_stats *ret, struct err *err)
{
	struct receiver r = {.ch = ch,
			     .answers = flags & WIRE_NEGOTIATED,
			     .store = store,
			     .options = options,
			     .first = first};
	uint64_t frames = ch->number_out, bytes = ch->bytes_in;
	struct wire_stats stats = {0};
	int rc = receive(&r, &stats, err);

	if (rc < 0 && r.job.name[0])
		err_wrap(err, "%s@%" PRIu64, r.job.name, r.info.seq);
	tell(&r, ch->number_out > frames, &stats, rc < 0 ? err : NULL);
	snprintf(stats.job, sizeof(stats.job), "%s", r.job.name);
	stats.seq = r.seq;
	stats.time = r.info.time;
	stats.generation = r.info.generation;
	stats.present = r.present;
	stats.bytes = ch->bytes_in - bytes;
	receiver_clear(&r);
	if (rc == 0)
		*ret = stats;
	return rc;
}
