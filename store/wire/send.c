#include "store/wire/wire.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "store/base/cleanup.h"
#include "store/wire/convert.h"
#include "store/wire/files.h"
#include "store/wire/queue.h"
#include "store/wire/roots.h"

#define HAVE_MOST   64u /* snapshots that are offered as base */
#define MODEL_PIECE (1u << 20)

struct sender {
	struct wire_channel *ch;
	bool answers;
	struct store *store;
	const struct wire_send_options *options;
	struct job_info job;
	struct snapshot_info info;
	Snap__Snapshot *model, *base;
	struct wire_roots roots, base_roots;
	struct wire_tables tables;
	uint64_t base_seq;
	Wire__Offer *offer;
	struct wire_queue queue;
	uint64_t bytes_all;
};

static void sender_clear(struct sender *s)
{
	wire_queue_clear(&s->queue);
	wire_tables_clear(&s->tables);
	wire_roots_clear(&s->roots);
	wire_roots_clear(&s->base_roots);
	if (s->model)
		snap__snapshot__free_unpacked(s->model, NULL);
	if (s->base)
		snap__snapshot__free_unpacked(s->base, NULL);
	if (s->offer)
		wire__offer__free_unpacked(s->offer, NULL);
	job_info_clear(&s->job);
}

/* ---- what is to be sent, and against what -------------------------------------------------- */

/* The digest is worked out for the one that is chosen only. */
static int name_bases(struct sender *s, Wire__Name *names, Wire__Name **list, size_t *ret_n,
		      struct err *err)
{
	cleanup_free struct snapshot_info *infos = NULL;
	size_t n;

	*ret_n = 0;
	if (store_snapshot_list(s->store, s->job.name, &infos, &n, err) < 0)
		return -1;
	while (n-- > 0 && *ret_n < HAVE_MOST) {
		if (infos[n].time == 0 || infos[n].seq == s->info.seq)
			continue;
		names[*ret_n] = (Wire__Name)WIRE__NAME__INIT;
		names[*ret_n].time = infos[n].time;
		names[*ret_n].generation = infos[n].generation;
		list[*ret_n] = &names[*ret_n];
		(*ret_n)++;
	}
	return 0;
}

static int announce(struct sender *s, struct err *err)
{
	Wire__Announce message = WIRE__ANNOUNCE__INIT;
	Wire__Name names[HAVE_MOST], *list[HAVE_MOST];
	Wire__Head head = wire_head_pack(&s->info);
	struct wire_job_message job;
	int rc;

	if (s->answers && name_bases(s, names, list, &message.n_have, err) < 0)
		return -1;
	if (wire_job_pack(&s->job, &job, err) < 0)
		return -1;
	message.job = &job.job;
	message.head = &head;
	message.have = list;
	message.soon = s->options->soon;
	if (s->options->token)
		message.token = (ProtobufCBinaryData){WIRE_TOKEN, (uint8_t *)s->options->token};
	rc = wire_send_message(s->ch, WIRE_ANNOUNCE, &message.base, err);
	free(job.texts);
	return rc < 0 ? -1 : wire_flush(s->ch, err);
}

/* Loads it as base. 1, 0: it is not what the other side calls so. */
static int take_base(struct sender *s, uint64_t seq, uint64_t digest, struct err *err)
{
	uint64_t ours;

	if (store_snapshot_load(s->store, s->job.name, seq, NULL, &s->base, err) < 0 ||
	    wire_model_digest(s->base, &ours, err) < 0)
		return -1;
	if (digest && ours != digest) {
		snap__snapshot__free_unpacked(s->base, NULL);
		s->base = NULL;
		return 0;
	}
	s->base_seq = seq;
	return wire_roots_find(&s->base_roots, s->base, err) < 0 ? -1 : 1;
}

static int read_offer(struct sender *s, struct err *err)
{
	const Wire__Name *name;
	uint64_t seq;
	int same;

	if (wire_expect_message(s->ch, WIRE_OFFER, &wire__offer__descriptor, &s->offer, err) < 0)
		return -1;
	if (s->offer->error_kind)
		return wire_error_unpack(s->offer->error_kind, &s->offer->error, err);
	name = s->offer->against;
	if (s->offer->present || !name)
		return 0;
	same = store_snapshot_same(s->store, s->job.name, name->time, name->generation, &seq, err);
	/* What is damaged here, or gone by now, is no base. */
	if (same == 1 && take_base(s, seq, name->model, err) < 0 && err->kind != ERR_CORRUPT &&
	    err->kind != ERR_NOT_FOUND)
		return -1;
	return same < 0 ? -1 : 0;
}

static int load(struct sender *s, const char *job, uint64_t seq, struct err *err)
{
	if (store_job_get(s->store, job, &s->job, err) < 0 ||
	    store_snapshot_load(s->store, job, seq, &s->info, &s->model, err) < 0)
		return -1;
	return wire_roots_find(&s->roots, s->model, err);
}

/* ---- tables -------------------------------------------------------------------------------- */

static int send_run(struct sender *s, struct page_reader *reader,
		    const struct page_difference *diff, struct err *err)
{
	static const enum wire_run_kind kinds[] = {
		[PAGE_ABSENT] = WIRE_CLEAR, [PAGE_ZERO] = WIRE_ZERO, [PAGE_DATA] = WIRE_DATA};
	uint64_t at = diff->first, end = diff->first + diff->n;

	while (at < end) {
		uint32_t n = end - at < WIRE_BATCH_PAGES ? (uint32_t)(end - at) : WIRE_BATCH_PAGES;

		if (wire_queue_add(&s->queue, reader, at, n, kinds[diff->b], err) < 0)
			return -1;
		at += n;
	}
	if (s->options->progress)
		s->options->progress(s->options->ctx, s->queue.pages * STORE_PAGE_SIZE, s->bytes_all);
	return 0;
}

static int send_differences(struct sender *s, struct page_reader *base, struct page_reader *reader,
			    struct err *err)
{
	struct page_difference diff = {0};
	uint64_t from = 0;
	int rc;

	while ((rc = page_readers_compare(base, reader, from, UINT64_MAX, &diff, err)) == 1) {
		if (send_run(s, reader, &diff, err) < 0)
			return -1;
		from = diff.first + diff.n;
	}
	return rc;
}

static int send_table(struct sender *s, size_t i, struct err *err)
{
	const uint64_t *field = s->roots.field[s->tables.place[i]];
	size_t place = s->base ? wire_base_place(s->model, field, s->base, &s->base_roots) : 0;
	struct page_reader *base = NULL, *reader = NULL;
	uint8_t head[8];
	int rc = -1;

	put_le32(head, (uint32_t)(i + 1));
	put_le32(head + 4, (uint32_t)place);
	if (page_reader_open(&base, s->store, place ? *s->base_roots.field[place - 1] : 0, err) == 0 &&
	    page_reader_open(&reader, s->store, s->tables.root[i], err) == 0 &&
	    wire_send(s->ch, WIRE_TABLE, head, sizeof(head), err) == 0 &&
	    send_differences(s, base, reader, err) == 0)
		rc = wire_queue_drain(&s->queue, err);
	page_reader_close(base);
	page_reader_close(reader);
	return rc;
}

/* ---- the rest ------------------------------------------------------------------------------ */

static int send_model(struct sender *s, const uint8_t *packed, size_t len, struct err *err)
{
	for (size_t at = 0; at < len; at += MODEL_PIECE) {
		size_t n = len - at < MODEL_PIECE ? len - at : MODEL_PIECE;

		if (wire_send(s->ch, WIRE_MODEL, packed + at, n, err) < 0)
			return -1;
	}
	return 0;
}

static int send_start(struct sender *s, size_t model_bytes, const struct wire_files *files,
		      struct err *err)
{
	Wire__Start start = WIRE__START__INIT;
	Wire__Name name = WIRE__NAME__INIT;
	struct snapshot_info base;

	if (s->base) {
		if (store_snapshot_load(s->store, s->job.name, s->base_seq, &base, NULL, err) < 0 ||
		    wire_model_digest(s->base, &name.model, err) < 0)
			return -1;
		name.time = base.time;
		name.generation = base.generation;
		start.against = &name;
	}
	start.tables = (uint32_t)s->tables.n;
	start.model_bytes = model_bytes;
	start.log_bytes = files->log_bytes;
	start.input_bytes = files->input_bytes;
	return wire_send_message(s->ch, WIRE_START, &start.base, err);
}

static int send_body(struct sender *s, struct err *err)
{
	const Wire__File *have = s->offer ? s->offer->log : NULL;
	cleanup_free uint8_t *raw = NULL, *packed = NULL;
	struct wire_files files;
	size_t len, n;

	wire_files_look(&files, s->store, &s->job, s->model);
	if (wire_tables_number(&s->tables, &s->roots, err) < 0)
		return -1;
	len = snap__snapshot__get_packed_size(s->model);
	raw = malloc(len + 1);
	packed = malloc(ZSTD_compressBound(len));
	if (!raw || !packed)
		return err_sys(err, "cannot send a model of %zu bytes", len);
	snap__snapshot__pack(s->model, raw);
	n = ZSTD_compress(packed, ZSTD_compressBound(len), raw, len, 3);
	if (ZSTD_isError(n))
		return err_set(err, ERR_SYSTEM, "cannot compress the model");
	if (send_start(s, len, &files, err) < 0 || wire_files_send(&files, s->ch, have, err) < 0)
		return -1;
	return send_model(s, packed, n, err);
}

static int send_end(struct sender *s, struct wire_stats *stats, struct err *err)
{
	Wire__End end = WIRE__END__INIT;
	Wire__Done *done;
	int rc = 0;

	end.pages = s->queue.populated;
	end.clears = s->queue.clears;
	if (wire_send_message(s->ch, WIRE_END, &end.base, err) < 0 || wire_flush(s->ch, err) < 0)
		return -1;
	stats->seq = s->info.seq;
	if (!s->answers)
		return 0;
	if (wire_expect_message(s->ch, WIRE_DONE, &wire__done__descriptor, &done, err) < 0)
		return -1;
	if (done->error_kind)
		rc = wire_error_unpack(done->error_kind, &done->error, err);
	stats->seq = done->seq;
	wire__done__free_unpacked(done, NULL);
	return rc;
}

static int send_all(struct sender *s, struct wire_stats *stats, struct err *err)
{
	bool ask = s->offer && s->offer->ask && s->offer->secret.len == sizeof(struct store_secret);

	s->bytes_all = s->info.pages_resident * STORE_PAGE_SIZE;
	if (wire_queue_init(&s->queue, s->ch, ask ? s->offer->secret.data : NULL,
			    s->offer && s->offer->stored, err) < 0 ||
	    send_body(s, err) < 0)
		return -1;
	for (size_t i = 0; i < s->tables.n; i++)
		if (send_table(s, i, err) < 0)
			return -1;
	return send_end(s, stats, err);
}

/* The other side may have said why it does not listen any more. */
static void prefer_their_error(struct sender *s, struct err *err)
{
	struct err ignored;
	Wire__Done *done;

	if (!s->answers || err->kind != ERR_UNREACHABLE)
		return;
	if (wire_expect_message(s->ch, WIRE_DONE, &wire__done__descriptor, &done, &ignored) < 0)
		return;
	if (done->error_kind)
		wire_error_unpack(done->error_kind, &done->error, err);
	wire__done__free_unpacked(done, NULL);
}

static int send_snapshot(struct sender *s, struct wire_stats *stats, struct err *err)
{
	int based = 1;

	if (announce(s, err) < 0 || (s->answers && read_offer(s, err) < 0))
		return -1;
	if (s->offer && s->offer->present) {
		stats->present = true;
		stats->seq = s->offer->seq;
		return 0;
	}
	if (!s->answers && s->options->base)
		based = take_base(s, s->options->base, 0, err);
	if (based < 0)
		return -1;
	if (send_all(s, stats, err) < 0) {
		prefer_their_error(s, err);
		return -1;
	}
	return 0;
}

int wire_send_snapshot(struct wire_channel *ch, uint32_t flags, struct store *store, const char *job,
		       uint64_t seq, const struct wire_send_options *options,
		       struct wire_stats *ret, struct err *err)
{
	struct sender s = {
		.ch = ch, .answers = flags & WIRE_NEGOTIATED, .store = store, .options = options};
	uint64_t bytes = ch->bytes_out;
	struct wire_stats stats = {0};
	int rc = load(&s, job, seq, err);

	if (rc == 0)
		rc = send_snapshot(&s, &stats, err);
	if (rc < 0)
		err_wrap(err, "%s@%" PRIu64, job, seq ? seq : s.info.seq);
	snprintf(stats.job, sizeof(stats.job), "%s", job);
	stats.time = s.info.time;
	stats.generation = s.info.generation;
	stats.pages = s.queue.pages;
	stats.bytes = ch->bytes_out - bytes;
	sender_clear(&s);
	if (rc == 0)
		*ret = stats;
	return rc;
}
