/*
 * batch.h: packs and nodes that a session has made and that are not in the store yet.
 */
#ifndef PAWL_STORE_BATCH_H
#define PAWL_STORE_BATCH_H

#include "store/node.h"
#include "store/pack.h"
#include "store/txn.h"

#define BATCH_PACKS ((unsigned)(SESSION_BATCH_BYTES >> 20)) /* 1 MiB each: what one transaction writes */

struct sealed_pack {
	struct pack_view view; /* of bytes */
	uint8_t *bytes;        /* PACK_SIZE, malloc'ed */
	size_t len;
};

struct pending_node {
	uint64_t id;
	uint8_t *record;
	size_t len;
};

struct batch { /* starts as {0} */
	struct sealed_pack packs[BATCH_PACKS];
	size_t n_packs;
	struct pending_node *nodes; /* ascending by id */
	size_t n_nodes, room_nodes;
};

/* Takes the builder's bytes; there is room for a pack. */
int batch_add_pack(struct batch *batch, struct pack_builder *builder,
		   const struct store_secret *secret, struct err *err);
/* Takes the record; id is above all others. */
int batch_add_node(struct batch *batch, struct pending_node node, struct err *err);

bool batch_find_hash(const struct batch *batch, uint64_t id, struct page_hash *ret);
const struct pending_node *batch_find_node(const struct batch *batch, uint64_t id);

/* Puts all of it. */
int batch_write(const struct batch *batch, struct store *store, MDB_txn *txn, struct err *err);
/* Puts all of it in a transaction of its own, and lets the page cache go of it. */
int batch_commit(const struct batch *batch, struct store *store, struct err *err);

/* Unless store_stay_in_page_cache says otherwise, these let the page cache go of what is mapped by nobody: of a batch
 * that is in the store; of the whole file, which takes time by its size. */
void batch_leave_page_cache(const struct batch *batch, struct store *store);
void store_leave_page_cache(struct store *store);

void batch_free_nodes(struct batch *batch); /* empties it of nodes, keeps the array */
void batch_clear(struct batch *batch);

#endif
