#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/cleanup.h"
#include "store/bytes.h"
#include "store/record.h"
#include "store/session.h"

#define PAGE_BLOCK 262144u
#define NODE_BLOCK 4096u

/* ---- ids ----------------------------------------------------------------------------------- */

static int append_range(uint64_t **array, size_t *n, uint64_t first, uint64_t end, struct err *err)
{
	uint64_t *more;

	if (*n && (*array)[*n - 1] == first) {
		(*array)[*n - 1] = end;
		return 0;
	}
	more = reallocarray(*array, *n + 2, sizeof(*more));
	if (!more)
		return err_sys(err, "session");
	more[(*n)++] = first;
	more[(*n)++] = end;
	*array = more;
	return 0;
}

int session_reserve(struct store_session *session, struct next_ids *next, bool pages,
		    struct err *err)
{
	struct id_block *block = pages ? &session->page_ids : &session->node_ids;
	uint64_t *counter = pages ? &next->page : &next->node;
	uint64_t first = *counter, end = first + (pages ? PAGE_BLOCK : NODE_BLOCK);
	Cat__Session *record = &session->record;
	int rc;

	if (pages)
		rc = append_range(&record->pages, &record->n_pages, first, end, err);
	else
		rc = append_range(&record->nodes, &record->n_nodes, first, end, err);
	if (rc < 0)
		return -1;
	if (block->end != first)
		block->next = first;
	block->end = end;
	*counter = end;
	return 0;
}

int session_put_record(struct store_session *session, MDB_txn *txn, struct err *err)
{
	struct id_key key = id_key(session->id);

	return message_put(session->store, txn, session->store->sessions, KEY_VAL(key),
			   MAGIC_SESSION, &session->record.base, "the session", err);
}

/* ---- writing what was gathered ------------------------------------------------------------- */

void session_recycle(void *ctx, struct batch *batch)
{
	struct store_session *session = ctx;

	while (batch->n_packs > 0) {
		struct sealed_pack *pack = &batch->packs[--batch->n_packs];

		hash_cache_add(session->hashes, &pack->view);
		session->spare[session->n_spare++] = pack->bytes;
	}
	batch_free_nodes(batch);
}

/* Sends the batch on its way. */
static int launch(struct store_session *session, struct err *err)
{
	if (batch_writer_give(session->writer, &session->gathering, err) == 0)
		return 0;
	session->failed = true;
	return -1;
}

/* Moves the open pack, if anything is in it, to the batch, which has room for it. */
static int seal(struct store_session *session, struct err *err)
{
	struct pack_builder *open = &session->open;

	if (!open->bytes || open->count == 0)
		return 0;
	session->counts.bytes_stored += pack_value_len(open->used + (size_t)open->count * PACK_ENTRY);
	return batch_add_pack(&session->gathering, open, &session->store->secret, err);
}

/* An empty open pack. */
static int open_pack(struct store_session *session, struct err *err)
{
	if (seal(session, err) < 0)
		return -1;
	if (session->gathering.n_packs == BATCH_PACKS && launch(session, err) < 0)
		return -1;
	if (!session->open.bytes)
		session->open.bytes = session->n_spare ? session->spare[--session->n_spare]
						       : malloc(PACK_SIZE);
	pack_start(&session->open);
	return session->open.bytes ? 0 : err_sys(err, "no memory for a pack");
}

int session_settle(struct store_session *session, struct err *err)
{
	if (batch_writer_wait(session->writer, err) < 0) {
		session->failed = true;
		return -1;
	}
	return seal(session, err);
}

/* Another block of ids, in a transaction with what has gathered. The block may not follow the last one,
 * and no pack may span both: so the open pack is closed. */
static int reserve_block(struct store_session *session, bool pages, struct err *err)
{
	struct store *store = session->store;
	struct next_ids next;
	MDB_txn *txn;

	if (session_settle(session, err) < 0 || txn_write(store, &txn, err) < 0)
		return -1;
	if (batch_write(&session->gathering, store, txn, err) < 0 ||
	    elsewhere_flush(session, txn, err) < 0 ||
	    next_get(store, txn, &next, err) < 0 ||
	    session_reserve(session, &next, pages, err) < 0 ||
	    next_put(store, txn, &next, err) < 0 || session_put_record(session, txn, err) < 0) {
		txn_end(store, txn);
		return -1;
	}
	if (txn_commit(store, txn, false, err) < 0)
		return -1;
	session_recycle(session, &session->gathering);
	return 0;
}

static int next_id(struct store_session *session, bool pages, uint64_t *ret, struct err *err)
{
	struct id_block *block = pages ? &session->page_ids : &session->node_ids;

	if (block->next == block->end && reserve_block(session, pages, err) < 0) {
		session->failed = true;
		return -1;
	}
	*ret = block->next++;
	return 0;
}

/* ---- pages --------------------------------------------------------------------------------- */

int session_add_page(struct store_session *session, const struct pressed_page *page, uint64_t *ret_id, struct err *err)
{
	struct pack_entry entry = {.hash = page->hash};
	struct stored_page pressed;
	uint8_t *out;

	if (next_id(session, true, &entry.id, err) < 0)
		return -1;
	if ((!session->open.bytes || !pack_has_room(&session->open, entry.id, STORE_PAGE_SIZE)) &&
	    open_pack(session, err) < 0)
		return -1;
	/* In place: the pack has room for a raw page. */
	out = session->open.bytes + session->open.used;
	pressed = page->stored.data ? page->stored : page_compress(session->press, page->page, out);
	if (pressed.data != out)
		memcpy(out, pressed.data, pressed.len);
	entry.len = pressed.len;
	entry.codec = pressed.codec;
	pack_add(&session->open, &entry, out);
	dedup_add(&session->known_pages, page->hash, entry.id);
	elsewhere_note(session, page->hash, entry.id);
	session->counts.pages_stored++;
	session->counts.bytes_raw += STORE_PAGE_SIZE;
	*ret_id = entry.id;
	return 0;
}

uint64_t session_find_content(struct store_session *session, struct page_hash hash)
{
	uint64_t id = dedup_find(&session->known_pages, hash);

	if (!id)
		return elsewhere_find(session, hash);
	elsewhere_met(session, id);
	return id;
}

static bool hash_in_memory(struct store_session *session, uint64_t id, struct page_hash *ret)
{
	const struct pack_builder *open = &session->open;

	/* Most are of earlier sessions. */
	if (id < session->record.pages[0])
		return hash_cache_find(session->hashes, id, ret);
	if (open->bytes && open->count && id >= open->first && id <= open->last) {
		/* Ids of the open pack follow each other without gaps. */
		*ret = pack_built_entry(open, (uint32_t)(id - open->first)).hash;
		return true;
	}
	return batch_find_hash(&session->gathering, id, ret) ||
	       batch_writer_find_hash(session->writer, id, ret) ||
	       hash_cache_find(session->hashes, id, ret);
}

int session_page_hash(struct store_session *session, uint64_t id, struct page_hash *ret,
		      struct err *err)
{
	uint32_t i;
	int rc;

	if (hash_in_memory(session, id, ret))
		return 0;
	if (source_begin(&session->source, err) < 0)
		return -1;
	rc = source_find(&session->source, id, &i, err);
	if (rc == 0) {
		*ret = pack_entry(&session->source.view, i).hash;
		hash_cache_add(session->hashes, &session->source.view);
	}
	source_end(&session->source);
	return rc;
}

/* ---- nodes --------------------------------------------------------------------------------- */

int session_node(struct store_session *session, uint64_t id, unsigned *ret_level,
		 uint64_t slots[NODE_SLOTS], struct err *err)
{
	const struct pending_node *pending = batch_find_node(&session->gathering, id);
	int rc;

	if (!pending)
		pending = batch_writer_find_node(session->writer, id);
	if (pending)
		return node_open(pending->record, pending->len, id, &session->store->secret,
				 ret_level, slots, err);
	if (source_begin(&session->source, err) < 0)
		return -1;
	rc = source_node(&session->source, id, ret_level, slots, err);
	source_end(&session->source);
	return rc;
}

/* payload: [0] the level, then the node's own; the level is part of the content. */
static struct page_hash content_hash(struct store_session *session, unsigned level,
				     const uint64_t slots[NODE_SLOTS], uint8_t *payload,
				     size_t *ret_len)
{
	payload[0] = (uint8_t)level;
	*ret_len = node_encode(slots, payload + 1);
	return hash_bytes(&session->store->secret, payload, *ret_len + 1);
}

void session_know_node(struct store_session *session, unsigned level,
		       const uint64_t slots[NODE_SLOTS], uint64_t id)
{
	uint8_t payload[NODE_MAX_RECORD];
	size_t len;
	struct page_hash hash = content_hash(session, level, slots, payload, &len);

	if (!dedup_find(&session->known_nodes, hash))
		dedup_add(&session->known_nodes, hash, id);
}

static int add_pending(struct store_session *session, uint64_t id, unsigned level,
		       const uint8_t *payload, size_t len, struct err *err)
{
	struct id_key key = id_key(id);
	struct pending_node node = {id, malloc(FRAME_HEADER + len), FRAME_HEADER + len};

	if (!node.record)
		return err_sys(err, "no memory for a page table");
	memcpy(node.record + FRAME_HEADER, payload, len);
	frame_seal(node.record, len, MAGIC_NODE((uint32_t)level), key.bytes, sizeof(key.bytes),
		   &session->store->secret);
	if (batch_add_node(&session->gathering, node, err) < 0) {
		free(node.record);
		return -1;
	}
	session->counts.bytes_stored += node.len;
	return 0;
}

int session_add_node(struct store_session *session, unsigned level,
		     const uint64_t slots[NODE_SLOTS], uint64_t *ret_id, struct err *err)
{
	uint8_t payload[NODE_MAX_RECORD];
	size_t len;
	struct page_hash hash = content_hash(session, level, slots, payload, &len);
	uint64_t id = dedup_find(&session->known_nodes, hash);

	if (!id) {
		if (next_id(session, false, &id, err) < 0 ||
		    add_pending(session, id, level, payload + 1, len, err) < 0)
			return -1;
		dedup_add(&session->known_nodes, hash, id);
	}
	*ret_id = id;
	return 0;
}
