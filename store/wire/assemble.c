#include "store/wire/assemble.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "store/base/cleanup.h"
#include "store/bytes.h"
#include "store/sessionkeep.h"
#include "store/storedpages.h"
#include "wire.pb-c.h"

#define TABLES_MOST  (1u << 24)
#define MODEL_MOST   (256u << 20) /* serialised; compressed: a quarter */
#define PROMISES     2048u        /* pages that were said to be known, newest last: several questions */

struct promise {
	struct page_hash hash;
	uint64_t id;
};

struct wire_assembly {
	struct wire_assembly_source source;
	Snap__Snapshot *base, *model;
	struct wire_roots base_roots, roots;
	uint8_t *packed; /* the model, as far as it has come */
	size_t n_packed;
	uint64_t *root;     /* of the tables that are finished */
	uint32_t n_tables;  /* begun */
	struct page_table *table;
	uint8_t *content;
	ZSTD_DCtx *dctx;
	struct promise *promises; /* a ring */
	size_t promised;
	uint64_t populated, clears;
};

static int malformed(struct err *err, const char *what)
{
	return err_set(err, ERR_CORRUPT, "the stream's %s", what);
}

int wire_assembly_new(struct wire_assembly **ret, const struct wire_assembly_source *source,
		      struct err *err)
{
	struct wire_assembly *a = calloc(1, sizeof(*a));

	if (!a)
		return err_sys(err, "cannot receive");
	a->source = *source;
	a->content = malloc((size_t)WIRE_BATCH_PAGES * STORE_PAGE_SIZE);
	a->promises = calloc(PROMISES, sizeof(*a->promises));
	a->dctx = ZSTD_createDCtx();
	if (!a->content || !a->dctx || !a->promises)
		err_sys(err, "cannot receive");
	else if (source->tables > TABLES_MOST || source->model_bytes > MODEL_MOST)
		malformed(err, "model is too large");
	else if (source->base == 0 ||
		 (store_snapshot_load(source->store, source->job, source->base, NULL, &a->base,
				      err) == 0 &&
		  wire_roots_find(&a->base_roots, a->base, err) == 0)) {
		*ret = a;
		return 0;
	}
	wire_assembly_free(a);
	return -1;
}

void wire_assembly_free(struct wire_assembly *a)
{
	if (!a)
		return;
	page_table_free(a->table);
	wire_roots_clear(&a->roots);
	wire_roots_clear(&a->base_roots);
	if (a->base)
		snap__snapshot__free_unpacked(a->base, NULL);
	if (a->model)
		snap__snapshot__free_unpacked(a->model, NULL);
	free(a->packed);
	free(a->root);
	free(a->content);
	free(a->promises);
	ZSTD_freeDCtx(a->dctx);
	free(a);
}

const Snap__Snapshot *wire_assembly_snapshot(const struct wire_assembly *a)
{
	return a->model;
}

/* ---- the model ----------------------------------------------------------------------------- */

int wire_assembly_model(struct wire_assembly *a, const uint8_t *payload, size_t len,
			struct err *err)
{
	uint8_t *more;

	if (a->model || len == 0)
		return malformed(err, "model does not end");
	if (a->n_packed + len > ZSTD_compressBound(a->source.model_bytes))
		return malformed(err, "model is too long");
	more = realloc(a->packed, a->n_packed + len);
	if (!more)
		return err_sys(err, "cannot receive the model");
	memcpy(more + a->n_packed, payload, len);
	a->packed = more;
	a->n_packed += len;
	return 0;
}

static int check_fields(const struct wire_assembly *a, struct err *err)
{
	for (size_t i = 0; i < a->roots.n; i++)
		if (*a->roots.field[i] > a->source.tables)
			return malformed(err, "model names a table that does not come");
	return a->source.tables <= a->roots.n ? 0 : malformed(err, "tables are too many");
}

/* Once all of it is there: at the first table, or at the end. */
static int open_model(struct wire_assembly *a, struct err *err)
{
	size_t len = (size_t)a->source.model_bytes, n;
	cleanup_free uint8_t *raw = NULL;

	if (a->model)
		return 0;
	if (ZSTD_getFrameContentSize(a->packed, a->n_packed) != len)
		return malformed(err, "model has another length");
	raw = malloc(len + 1);
	if (!raw)
		return err_sys(err, "a model of %zu bytes", len);
	n = ZSTD_decompress(raw, len, a->packed, a->n_packed);
	if (ZSTD_isError(n) || n != len)
		return malformed(err, "model does not decompress");
	a->model = snap__snapshot__unpack(NULL, len, raw);
	if (!a->model)
		return malformed(err, "model does not decode");
	if (wire_roots_find(&a->roots, a->model, err) < 0 || check_fields(a, err) < 0)
		return -1;
	a->root = calloc(a->source.tables + 1u, sizeof(*a->root));
	return a->root ? 0 : err_sys(err, "cannot receive");
}

/* ---- tables -------------------------------------------------------------------------------- */

static int finish_table(struct wire_assembly *a, struct err *err)
{
	if (!a->table)
		return 0;
	return page_table_finish(steal_ptr(&a->table), &a->root[a->n_tables - 1], err);
}

int wire_assembly_table(struct wire_assembly *a, const uint8_t *payload, size_t len,
			struct err *err)
{
	uint32_t place;

	if (len != 8 || open_model(a, err) < 0)
		return len == 8 ? -1 : malformed(err, "table is malformed");
	place = get_le32(payload + 4);
	if (get_le32(payload) != a->n_tables + 1 || a->n_tables == a->source.tables ||
	    place > a->base_roots.n)
		return malformed(err, "tables are out of order");
	if (finish_table(a, err) < 0)
		return -1;
	a->n_tables++;
	return page_table_edit(&a->table, a->source.session,
			       place ? *a->base_roots.field[place - 1] : 0, err);
}

static uint64_t find_promised(const struct wire_assembly *a, struct page_hash hash)
{
	for (size_t i = 0; i < PROMISES; i++)
		if (a->promises[i].id && hash_equal(a->promises[i].hash, hash))
			return a->promises[i].id;
	return 0;
}

static struct page_hash hash_at(const uint8_t *p)
{
	return (struct page_hash){get_le64(p), get_le64(p + 8)};
}

static int put_known(struct wire_assembly *a, const struct wire_run *run, const uint8_t *hashes,
		     struct err *err)
{
	for (uint32_t i = 0; i < run->n; i++) {
		struct page_hash hash = hash_at(hashes + (size_t)i * 16);
		uint64_t id = session_find_page(a->source.session, hash);

		if (!id)
			id = find_promised(a, hash);
		if (!id)
			return malformed(err, "pages refer to one that is not here");
		if (page_table_put_id(a->table, run->first + i, id, err) < 0)
			return -1;
	}
	return 0;
}

/* What of a frame was put already. */
struct progress {
	const uint8_t *content, *hashes;
	const struct stored_page *stored; /* NULL: the frame has them compressed together */
};

static int put_content(struct wire_assembly *a, const struct wire_run *run, struct progress *at,
		       struct err *err)
{
	int rc = at->stored ? page_table_put_stored(a->table, run->first, at->content, at->stored, run->n, err)
			    : page_table_put(a->table, run->first, at->content, run->n, NULL, err);

	at->content += (size_t)run->n * STORE_PAGE_SIZE;
	at->stored += at->stored ? run->n : 0;
	return rc;
}

static int put_run(struct wire_assembly *a, const struct wire_run *run, struct progress *at,
		   struct err *err)
{
	static const uint8_t zeroes[16 * STORE_PAGE_SIZE];
	int rc = 0;

	a->populated += run->kind == WIRE_CLEAR ? 0 : run->n;
	switch (run->kind) {
	case WIRE_CLEAR:
		a->clears++;
		return page_table_clear(a->table, run->first, run->n, err);
	case WIRE_ZERO:
		for (uint32_t i = 0; i < run->n && rc == 0; i += 16)
			rc = page_table_put(a->table, run->first + i, zeroes,
					    run->n - i < 16 ? run->n - i : 16, NULL, err);
		return rc;
	case WIRE_DATA:
		return put_content(a, run, at, err);
	case WIRE_KNOWN:
		rc = put_known(a, run, at->hashes, err);
		at->hashes += (size_t)run->n * 16;
		return rc;
	}
	return malformed(err, "pages are of an unknown kind");
}

int wire_assembly_pages(struct wire_assembly *a, const struct wire_frame *frame, struct err *err)
{
	struct stored_page stored[WIRE_BATCH_PAGES];
	struct progress at = {a->content, NULL, frame->type == WIRE_STORED ? stored : NULL};
	struct wire_pages pages;

	if (!a->table)
		return malformed(err, "pages belong to no table");
	if (wire_pages_open(&pages, frame->payload, frame->len, a->dctx, a->content,
			    frame->type == WIRE_STORED ? stored : NULL, err) < 0)
		return -1;
	at.hashes = pages.hashes;
	for (size_t i = 0; i < pages.n_runs; i++) {
		struct wire_run run = wire_pages_run(&pages, i);

		if (put_run(a, &run, &at, err) < 0)
			return -1;
	}
	return 0;
}

void wire_assembly_answer(struct wire_assembly *a, const uint8_t *hashes, size_t n, uint8_t *bits)
{
	for (size_t i = 0; i < n; i++) {
		struct page_hash hash = hash_at(hashes + i * 16);
		uint64_t id = session_find_page(a->source.session, hash);

		if (!id)
			continue;
		bits[i / 8] |= (uint8_t)(1u << (i % 8));
		/* What is known may be forgotten before it is used: the index is bounded. */
		a->promises[a->promised++ % PROMISES] = (struct promise){hash, id};
	}
}

/* ---- the end ------------------------------------------------------------------------------- */

int wire_assembly_end(struct wire_assembly *a, const struct wire_frame *frame, struct err *err)
{
	Wire__End *end;
	bool same;

	if (wire_message_of(frame, &wire__end__descriptor, &end, err) < 0)
		return -1;
	same = end->pages == a->populated && end->clears == a->clears;
	wire__end__free_unpacked(end, NULL);
	if (!same)
		return malformed(err, "pages are not all there");
	if (open_model(a, err) < 0 || finish_table(a, err) < 0)
		return -1;
	if (a->n_tables != a->source.tables)
		return malformed(err, "tables are not all there");
	for (size_t i = 0; i < a->roots.n; i++) {
		uint64_t number = *a->roots.field[i];

		*a->roots.field[i] = number ? a->root[number - 1] : 0;
	}
	return 0;
}

int wire_skip_body(struct wire_channel *ch, struct err *err)
{
	struct wire_frame frame;
	int rc;

	while ((rc = wire_receive(ch, &frame, err)) == 1)
		if (frame.type == WIRE_END)
			return 0;
	return rc < 0 ? -1 : err_set(err, ERR_UNREACHABLE, "the stream ends early");
}
