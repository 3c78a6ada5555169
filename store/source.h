/*
 * source.h: finding stored pages and nodes by id.
 *
 * A page is in the pack with the greatest first id not above its own. A source keeps one read
 * transaction for reuse; between source_begin and source_end the last pack's view stays valid.
 */
#ifndef PAWL_STORE_SOURCE_H
#define PAWL_STORE_SOURCE_H

#include "store/pack.h"
#include "store/node.h"
#include "store/txn.h"

/* Neighbours in memory that were stored in several passes are read from as many packs in turns. */
#define SOURCE_AHEAD 16u

struct page_source { /* starts as {0} */
	struct store *store;
	MDB_txn *txn;
	MDB_cursor *cursor;
	bool active;
	bool has_view;
	struct pack_view view; /* checked */
	void *dctx;
	uint64_t ahead[SOURCE_AHEAD]; /* packs that were read ahead from, newest last: a ring */
	unsigned n_ahead;
};

int source_open(struct page_source *source, struct store *store, struct err *err);
void source_close(struct page_source *source); /* also of {0} */
int source_begin(struct page_source *source, struct err *err);
void source_end(struct page_source *source);

/* A pack as it is stored. */
struct stored_pack {
	uint64_t key;
	MDB_val value; /* in the map, unless it was copied (packdisk.h) */
};

/* The one that id is in, if it is anywhere. Nothing of the value is read. ERR_CORRUPT: there is none. */
int source_seek(struct page_source *source, uint64_t id, struct stored_pack *ret, struct err *err);
/* After that: first id of the pack behind it, UINT64_MAX: it is the last. */
int source_next_key(struct page_source *source, uint64_t *ret, struct err *err);
/* Checks it and points source->view at it. */
int source_look(struct page_source *source, const struct stored_pack *pack, struct err *err);
/* Whether id is in source->view, and *ret its entry. */
bool source_has(const struct page_source *source, uint64_t id, uint32_t *ret);

/* Points source->view at id's pack and *ret at its entry. ERR_CORRUPT: damaged or missing. */
int source_find(struct page_source *source, uint64_t id, uint32_t *ret, struct err *err);
/* The next pages come from the pack in view and, mostly, from what lies behind it in the file: they are asked for
 * now, once a pack. For who reads many pages. */
void source_read_ahead(struct page_source *source);
/* Decompressed and checked; id >= ID_FIRST. */
int source_page(struct page_source *source, uint64_t id, void *page, struct err *err);
/* … and *ret as it is stored, valid until source_end. */
int source_stored(struct page_source *source, uint64_t id, void *page, struct stored_page *ret,
		  struct err *err);
int source_node(struct page_source *source, uint64_t id, unsigned *ret_level,
		uint64_t slots[NODE_SLOTS], struct err *err);

/* ---- hashes of pages, kept across transactions --------------------------------------------- *
 *
 * And from one session of a store to the next: an id is given out once, and its page never changes, so what is here
 * stays true. Read anew, they come from the disk (snapshots leave the page cache again): that took a fifth of the time
 * of a snapshot.
 */

struct hash_pack {
	uint64_t first, used_at;
	uint32_t span, count;
	uint32_t *delta; /* of each id to first; NULL: they follow each other, as those of a pack that nothing was moved into do */
	struct page_hash *hash;
	uint64_t *superseded; /* a bit for each page; NULL: none is */
};

struct hash_cache { /* starts as {0} */
	struct hash_pack *packs; /* ascending by first */
	size_t n, room, last;
	uint64_t pages;      /* in all of them */
	uint64_t superseded; /* of those */
	uint64_t most_pages; /* 0: nobody has told */
	uint64_t clock;
};

void hash_cache_clear(struct hash_cache *cache);
bool hash_cache_find(struct hash_cache *cache, uint64_t id, struct page_hash *ret);
/* The page that had it has another content now: unless another one has it too, it will not be asked for again. */
void hash_cache_supersede(struct hash_cache *cache, uint64_t id);
/* A snapshot has so many pages: as many are kept, and half as many again. */
void hash_cache_expect(struct hash_cache *cache, uint64_t pages);
/* Best effort: without memory it is just not kept. What is superseded makes room, then what was not used for the longest
 * time. */
void hash_cache_add(struct hash_cache *cache, const struct pack_view *view);

/* That of the last session, or an empty one; NULL: no memory. The caller's until hash_cache_keep (which takes NULL). */
struct hash_cache *hash_cache_take(struct store *store);
void hash_cache_keep(struct store *store, struct hash_cache *cache);
void hash_cache_forget(struct store *store); /* at its end */

#endif
