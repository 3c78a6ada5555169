#include "store/wire/pages.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "store/bytes.h"

int wire_batch_init(struct wire_batch *batch, bool stored, struct err *err)
{
	*batch = (struct wire_batch){
		.runs = calloc(WIRE_BATCH_RUNS, sizeof(*batch->runs)),
		.pages = malloc((size_t)WIRE_BATCH_PAGES * STORE_PAGE_SIZE),
		.hashes = calloc(WIRE_BATCH_PAGES, sizeof(*batch->hashes)),
	};
	if (stored) {
		batch->stored = calloc(WIRE_BATCH_PAGES, sizeof(*batch->stored));
		batch->bytes = malloc((size_t)WIRE_BATCH_PAGES * STORE_PAGE_SIZE);
	}
	if (batch->runs && batch->pages && batch->hashes && (!stored || (batch->stored && batch->bytes)))
		return 0;
	wire_batch_clear(batch);
	return err_sys(err, "cannot send");
}

void wire_batch_clear(struct wire_batch *batch)
{
	free(batch->runs);
	free(batch->pages);
	free(batch->hashes);
	free(batch->stored);
	free(batch->bytes);
	*batch = (struct wire_batch){0};
}

/* Each page with content may become a run of its own. */
bool wire_batch_has_room(const struct wire_batch *batch, size_t pages)
{
	return batch->n_pages + pages <= WIRE_BATCH_PAGES &&
	       batch->n_runs + WIRE_BATCH_PAGES + 1 <= WIRE_BATCH_RUNS;
}

void wire_batch_add(struct wire_batch *batch, uint64_t first, uint32_t n, enum wire_run_kind kind)
{
	batch->runs[batch->n_runs++] = (struct wire_run){first, n, kind};
	if (kind == WIRE_DATA)
		batch->n_pages += n;
}

static void append(struct wire_run *runs, size_t *n, struct wire_run run)
{
	struct wire_run *last = *n ? &runs[*n - 1] : NULL;

	if (last && last->kind == run.kind && last->first + last->n == run.first &&
	    last->n + run.n <= WIRE_RUN_MOST)
		last->n += run.n;
	else
		runs[(*n)++] = run;
}

static void keep_page(struct wire_batch *batch, size_t from, size_t to)
{
	memmove(batch->pages + to * STORE_PAGE_SIZE, batch->pages + from * STORE_PAGE_SIZE,
		STORE_PAGE_SIZE);
	if (batch->stored)
		batch->stored[to] = batch->stored[from];
}

void wire_batch_drop_known(struct wire_batch *batch, const uint8_t *have)
{
	struct wire_run runs[WIRE_BATCH_RUNS];
	struct page_hash known[WIRE_BATCH_PAGES];
	size_t n = 0, page = 0, kept = 0, n_known = 0;

	for (size_t i = 0; i < batch->n_runs; i++) {
		struct wire_run run = batch->runs[i];

		if (run.kind != WIRE_DATA) {
			append(runs, &n, run);
			continue;
		}
		for (uint32_t j = 0; j < run.n; j++, page++) {
			bool has = have[page / 8] >> (page % 8) & 1;

			append(runs, &n,
			       (struct wire_run){run.first + j, 1, has ? WIRE_KNOWN : WIRE_DATA});
			if (has)
				known[n_known++] = batch->hashes[page];
			else
				keep_page(batch, page, kept++);
		}
	}
	memcpy(batch->runs, runs, n * sizeof(*runs));
	memcpy(batch->hashes, known, n_known * sizeof(*known));
	batch->n_runs = n;
	batch->n_pages = kept;
}

size_t wire_batch_most(void)
{
	return 8 + WIRE_BATCH_RUNS * WIRE_RUN + WIRE_BATCH_PAGES * (16 + WIRE_STORED_HEAD) +
	       ZSTD_compressBound((size_t)WIRE_BATCH_PAGES * STORE_PAGE_SIZE);
}

/* *p: where it goes, and ends. */
static int encode_compressed(const struct wire_batch *batch, void *cctx, int level, uint8_t **p,
			     struct err *err)
{
	size_t raw = batch->n_pages * STORE_PAGE_SIZE;
	size_t n = ZSTD_compressCCtx(cctx, *p, ZSTD_compressBound(raw), batch->pages, raw, level);

	if (ZSTD_isError(n))
		return err_set(err, ERR_SYSTEM, "cannot compress pages: %s", ZSTD_getErrorName(n));
	*p += n;
	return 0;
}

static uint8_t *encode_stored(const struct wire_batch *batch, uint8_t *p)
{
	uint8_t *bytes = p + batch->n_pages * WIRE_STORED_HEAD;

	for (size_t i = 0; i < batch->n_pages; i++, p += WIRE_STORED_HEAD) {
		const struct stored_page *page = &batch->stored[i];

		put_le16(p, page->len);
		p[2] = page->codec;
		p[3] = 0;
		memcpy(bytes, page->data, page->len);
		bytes += page->len;
	}
	return bytes;
}

int wire_batch_encode(struct wire_batch *batch, void *cctx, int level, uint8_t *buf, size_t *ret_len,
		      struct err *err)
{
	uint8_t *p = buf + 8;
	size_t known = 0;

	put_le32(buf, (uint32_t)batch->n_runs);
	put_le32(buf + 4, (uint32_t)batch->n_pages);
	for (size_t i = 0; i < batch->n_runs; i++, p += WIRE_RUN) {
		put_le64(p, batch->runs[i].first);
		put_le32(p + 8, batch->runs[i].n);
		put_le32(p + 12, (uint32_t)batch->runs[i].kind);
		known += batch->runs[i].kind == WIRE_KNOWN ? batch->runs[i].n : 0;
	}
	for (size_t i = 0; i < known; i++, p += 16) {
		put_le64(p, batch->hashes[i].lo);
		put_le64(p + 8, batch->hashes[i].hi);
	}
	if (!cctx)
		p = encode_stored(batch, p);
	else if (batch->n_pages && encode_compressed(batch, cctx, level, &p, err) < 0)
		return -1;
	batch->n_runs = batch->n_pages = batch->n_bytes = 0;
	*ret_len = (size_t)(p - buf);
	return 0;
}

/* ---- reading ------------------------------------------------------------------------------- */

struct wire_run wire_pages_run(const struct wire_pages *pages, size_t i)
{
	const uint8_t *p = pages->runs + i * WIRE_RUN;

	return (struct wire_run){get_le64(p), get_le32(p + 8), (enum wire_run_kind)get_le32(p + 12)};
}

static int bad(struct err *err, const char *what)
{
	return err_set(err, ERR_CORRUPT, "the stream's pages: %s", what);
}

static int check_runs(struct wire_pages *pages, struct err *err)
{
	size_t data = 0;

	for (size_t i = 0; i < pages->n_runs; i++) {
		struct wire_run run = wire_pages_run(pages, i);

		if (run.n < 1 || run.n > WIRE_RUN_MOST || run.first > UINT64_MAX - run.n ||
		    (uint32_t)run.kind > WIRE_KNOWN)
			return bad(err, "an impossible run");
		data += run.kind == WIRE_DATA ? run.n : 0;
		pages->n_hashes += run.kind == WIRE_KNOWN ? run.n : 0;
	}
	return data == pages->n_pages ? 0 : bad(err, "runs and content do not match");
}

/* All of rest is one frame, of these pages. */
static int open_compressed(size_t n_pages, const uint8_t *rest, size_t len, void *dctx,
			   uint8_t *content, struct err *err)
{
	size_t raw = n_pages * STORE_PAGE_SIZE, n;

	if (raw == 0)
		return len ? bad(err, "content where there is none") : 0;
	n = ZSTD_decompressDCtx(dctx, content, raw, rest, len);
	if (ZSTD_isError(n) || n != raw)
		return bad(err, "the content does not decompress");
	return 0;
}

/* Heads and bytes of these pages, and nothing else. */
static int open_stored(size_t n_pages, const uint8_t *rest, size_t len, void *dctx, uint8_t *content,
		       struct stored_page *stored, struct err *err)
{
	size_t at = n_pages * WIRE_STORED_HEAD;

	if (len < at)
		return bad(err, "too short");
	for (size_t i = 0; i < n_pages; i++) {
		const uint8_t *head = rest + i * WIRE_STORED_HEAD;

		stored[i] = (struct stored_page){rest + at, get_le16(head), head[2]};
		if (stored[i].len > STORE_PAGE_SIZE || stored[i].len > len - at)
			return bad(err, "a stored page is too long");
		if (page_decode(&stored[i], dctx, content + i * STORE_PAGE_SIZE) < 0)
			return bad(err, "a stored page does not decompress");
		at += stored[i].len;
	}
	return at == len ? 0 : bad(err, "content where there is none");
}

int wire_pages_open(struct wire_pages *ret, const uint8_t *payload, size_t len, void *dctx,
		    uint8_t *content, struct stored_page *stored, struct err *err)
{
	struct wire_pages pages = {0};
	size_t at;
	int rc;

	if (len < 8)
		return bad(err, "too short");
	pages.n_runs = get_le32(payload);
	pages.n_pages = get_le32(payload + 4);
	if (pages.n_runs > WIRE_BATCH_RUNS || pages.n_pages > WIRE_BATCH_PAGES ||
	    len - 8 < pages.n_runs * WIRE_RUN)
		return bad(err, "impossible counts");
	pages.runs = payload + 8;
	if (check_runs(&pages, err) < 0)
		return -1;
	at = 8 + pages.n_runs * WIRE_RUN;
	if (pages.n_hashes > (len - at) / 16)
		return bad(err, "too short");
	pages.hashes = payload + at;
	at += pages.n_hashes * 16;
	rc = stored ? open_stored(pages.n_pages, payload + at, len - at, dctx, content, stored, err)
		    : open_compressed(pages.n_pages, payload + at, len - at, dctx, content, err);
	if (rc < 0)
		return -1;
	*ret = pages;
	return 0;
}
