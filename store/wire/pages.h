/*
 * pages.h: the payload of a frame of pages (FORMAT.md, "Pages on the wire"). Pure.
 *
 *   0   u32  count of runs
 *   4   u32  count of pages with content here
 *   8        runs: u64 first page, u32 pages, u32 kind
 *            then 16 bytes a page of known runs: its hash with the receiver's secret
 *            then the pages of data runs, in order; nothing where there are none. WIRE_PAGES: one zstd frame.
 *            WIRE_STORED: u16 length, u8 codec, u8 0 of each page, then each as it is stored
 */
#ifndef PAWL_STORE_WIRE_PAGES_H
#define PAWL_STORE_WIRE_PAGES_H

#include "store/hash.h"
#include "store/pack.h"
#include "store/store.h"

#define WIRE_RUN         16u
#define WIRE_STORED_HEAD 4u   /* of a stored page */
#define WIRE_BATCH_PAGES 256u /* with content, in one frame */
#define WIRE_BATCH_RUNS  1024u
#define WIRE_RUN_MOST    512u /* pages in a run: a leaf */

enum wire_run_kind { WIRE_CLEAR, WIRE_ZERO, WIRE_DATA, WIRE_KNOWN };

struct wire_run {
	uint64_t first;
	uint32_t n;
	enum wire_run_kind kind;
};

/* What is gathered for a frame. */
struct wire_batch {
	struct wire_run *runs; /* WIRE_BATCH_RUNS */
	size_t n_runs;
	uint8_t *pages;        /* WIRE_BATCH_PAGES */
	size_t n_pages;
	struct page_hash *hashes; /* of the pages, where they are asked for */
	struct stored_page *stored; /* the pages as they are stored; NULL: they are compressed for the wire */
	uint8_t *bytes;             /* … of the stored ones, WIRE_BATCH_PAGES */
	size_t n_bytes;
};

/* stored: as they are stored they are wanted too. */
int wire_batch_init(struct wire_batch *batch, bool stored, struct err *err);
void wire_batch_clear(struct wire_batch *batch);
/* Room for a run of so many pages with content, however many of the receiver's it is split into. */
bool wire_batch_has_room(const struct wire_batch *batch, size_t pages);
void wire_batch_add(struct wire_batch *batch, uint64_t first, uint32_t n, enum wire_run_kind kind);
/* The receiver has pages whose bit is set: their runs become known ones. */
void wire_batch_drop_known(struct wire_batch *batch, const uint8_t *have);

/* Encodes everything. buf of wire_batch_most() bytes. cctx: a ZSTD_CCtx, NULL: pages go as they are stored, in a
 * frame WIRE_STORED. Empties the batch. */
size_t wire_batch_most(void);
int wire_batch_encode(struct wire_batch *batch, void *cctx, int level, uint8_t *buf, size_t *ret_len,
		      struct err *err);

/* A received payload, checked. */
struct wire_pages {
	const uint8_t *runs;
	size_t n_runs;
	const uint8_t *hashes;
	size_t n_hashes;
	size_t n_pages;
};
struct wire_run wire_pages_run(const struct wire_pages *pages, size_t i);
/* Decompresses the content into `content` (WIRE_BATCH_PAGES pages). dctx: a ZSTD_DCtx. stored: NULL for
 * WIRE_PAGES; for WIRE_STORED as many, which point into the payload. ERR_CORRUPT. */
int wire_pages_open(struct wire_pages *ret, const uint8_t *payload, size_t len, void *dctx,
		    uint8_t *content, struct stored_page *stored, struct err *err);

#endif
