#include <inttypes.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "store/base/cleanup.h"
#include "store/bytes.h"
#include "store/record.h"
#include "store/session.h"

#define PAGE_BLOCK 65536u
#define NODE_BLOCK 4096u
/* Compressed pages above this are kept raw: reading them back is then a copy. */
#define WORTH_LEN  (STORE_PAGE_SIZE - 256u)

/* ---- ids ---- */

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

/* ---- writing what was gathered ---- */

static uint8_t *take_buffer(struct store_session *session)
{
	return session->n_spare ? session->spare[--session->n_spare] : malloc(PACK_SIZE);
}

/* Closes the open pack, if anything is in it, and starts the next. */
static int seal_open_pack(struct store_session *session, struct err *err)
{
	struct pack_builder *open = &session->open;
	struct sealed_pack *sealed = &session->sealed[session->n_sealed];

	if (open->bytes && open->count == 0)
		return 0;
	if (open->bytes) {
		sealed->len = pack_seal(open, &session->store->secret);
		sealed->bytes = open->bytes;
		open->bytes = NULL;
		if (pack_peek(&sealed->view, sealed->bytes, sealed->len, open->first, err) < 0)
			return -1;
		session->n_sealed++;
	}
	open->bytes = take_buffer(session);
	pack_start(open);
	return open->bytes ? 0 : err_sys(err, "no memory for a pack");
}

/* Appending is what LMDB does best; where a concurrent writer was ahead, the plain way serves. */
static int put_ascending(MDB_txn *txn, MDB_dbi dbi, uint64_t id, void *data, size_t len)
{
	struct id_key key = id_key(id);
	MDB_val value = {len, data};
	int rc = mdb_put(txn, dbi, KEY_VAL(key), &value, MDB_APPEND);

	if (rc == MDB_KEYEXIST)
		rc = mdb_put(txn, dbi, KEY_VAL(key), &value, MDB_NOOVERWRITE);
	return rc;
}

int session_write(struct store_session *session, MDB_txn *txn, struct err *err)
{
	struct store *store = session->store;
	size_t i;
	int rc = 0;

	for (i = 0; i < session->n_sealed && rc == 0; i++)
		rc = put_ascending(txn, store->packs, session->sealed[i].view.first,
				   session->sealed[i].bytes, session->sealed[i].len);
	for (i = 0; i < session->n_nodes && rc == 0; i++)
		rc = put_ascending(txn, store->nodes, session->nodes[i].id,
				   session->nodes[i].record, session->nodes[i].len);
	return rc ? err_lmdb(err, rc, "cannot write pages") : 0;
}

static void session_written(struct store_session *session)
{
	size_t i;

	for (i = 0; i < session->n_sealed; i++) {
		session->counts.bytes_stored += session->sealed[i].len;
		hash_cache_add(&session->hashes, &session->sealed[i].view);
		session->spare[session->n_spare++] = session->sealed[i].bytes;
	}
	for (i = 0; i < session->n_nodes; i++) {
		session->counts.bytes_stored += session->nodes[i].len;
		free(session->nodes[i].record);
	}
	session->n_sealed = session->n_nodes = 0;
}

/* Writes the batch; which: NULL, or reserves another block of these ids with it. */
static int flush(struct store_session *session, const bool *pages, struct err *err)
{
	struct store *store = session->store;
	struct next_ids next;
	MDB_txn *txn;

	if (txn_write(store, &txn, err) < 0)
		goto fail;
	if (session_write(session, txn, err) < 0 ||
	    (pages && (next_get(store, txn, &next, err) < 0 ||
		       session_reserve(session, &next, *pages, err) < 0 ||
		       next_put(store, txn, &next, err) < 0 ||
		       session_put_record(session, txn, err) < 0))) {
		txn_end(store, txn);
		goto fail;
	}
	if (txn_commit(store, txn, false, err) < 0)
		goto fail;
	session_written(session);
	return 0;
fail:
	session->failed = true;
	return -1;
}

static int seal_and_flush(struct store_session *session, struct err *err)
{
	if (seal_open_pack(session, err) < 0)
		return -1;
	return flush(session, NULL, err);
}

int session_seal(struct store_session *session, struct err *err)
{
	return session->open.count ? seal_open_pack(session, err) : 0;
}

static int next_id(struct store_session *session, bool pages, uint64_t *ret, struct err *err)
{
	struct id_block *block = pages ? &session->page_ids : &session->node_ids;

	if (block->next == block->end) {
		/* The next block may not follow this one: no pack may span both. */
		if (pages && seal_open_pack(session, err) < 0)
			return -1;
		if (flush(session, &pages, err) < 0)
			return -1;
	}
	*ret = block->next++;
	return 0;
}

/* ---- pages ---- */

/* Compresses into out (room for a page); raw where that is not worth it. */
static size_t compress_page(struct store_session *session, const void *page, void *out,
			    uint8_t *ret_codec)
{
	size_t n = 0;

	*ret_codec = (uint8_t)session->codec;
	if (session->codec == CODEC_LZ4)
		n = (size_t)LZ4_compress_default(page, out, STORE_PAGE_SIZE, WORTH_LEN);
	else if (session->codec == CODEC_ZSTD)
		n = ZSTD_compressCCtx(session->cctx, out, WORTH_LEN, page, STORE_PAGE_SIZE, 1);
	if (n > 0 && !ZSTD_isError(n))
		return n;
	*ret_codec = CODEC_NONE;
	memcpy(out, page, STORE_PAGE_SIZE);
	return STORE_PAGE_SIZE;
}

int session_add_page(struct store_session *session, const void *page, struct page_hash hash,
		     uint64_t *ret_id, struct err *err)
{
	struct pack_entry entry = {.hash = hash};

	if (next_id(session, true, &entry.id, err) < 0)
		return -1;
	if (!session->open.bytes || !pack_has_room(&session->open, entry.id, STORE_PAGE_SIZE)) {
		if (session->n_sealed == SESSION_BATCH - 1) {
			if (seal_and_flush(session, err) < 0)
				return -1;
		} else if (seal_open_pack(session, err) < 0) {
			return -1;
		}
	}
	/* In place: the pack has room for a raw page. */
	entry.len = (uint16_t)compress_page(session, page,
					    session->open.bytes + session->open.used, &entry.codec);
	pack_add(&session->open, entry, session->open.bytes + session->open.used);
	dedup_add(&session->known_pages, hash, entry.id);
	session->counts.pages_stored++;
	session->counts.bytes_raw += STORE_PAGE_SIZE;
	*ret_id = entry.id;
	return 0;
}

static bool hash_in_memory(struct store_session *session, uint64_t id, struct page_hash *ret)
{
	const struct pack_builder *open = &session->open;
	size_t i;

	if (open->count && id >= open->first && id <= open->last) {
		/* Ids of the open pack follow each other without gaps. */
		*ret = pack_built_entry(open, (uint32_t)(id - open->first)).hash;
		return true;
	}
	for (i = session->n_sealed; i-- > 0;) {
		int64_t at = pack_find(&session->sealed[i].view, id);

		if (at >= 0) {
			*ret = pack_entry(&session->sealed[i].view, (uint32_t)at).hash;
			return true;
		}
	}
	return hash_cache_find(&session->hashes, id, ret);
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
		hash_cache_add(&session->hashes, &session->source.view);
	}
	source_end(&session->source);
	return rc;
}

/* ---- nodes ---- */

static const struct pending_node *find_pending(const struct store_session *session, uint64_t id)
{
	size_t low = 0, high = session->n_nodes;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (session->nodes[mid].id == id)
			return &session->nodes[mid];
		if (session->nodes[mid].id < id)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

int session_node(struct store_session *session, uint64_t id, unsigned *ret_level,
		 uint64_t slots[NODE_SLOTS], struct err *err)
{
	const struct pending_node *pending = find_pending(session, id);
	int rc;

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
	uint8_t *record = malloc(FRAME_HEADER + len);

	if (session->n_nodes == session->room_nodes) {
		size_t room = session->room_nodes ? session->room_nodes * 2 : 64;
		struct pending_node *more = reallocarray(session->nodes, room, sizeof(*more));

		if (more) {
			session->nodes = more;
			session->room_nodes = room;
		}
	}
	if (!record || session->n_nodes == session->room_nodes) {
		free(record);
		return err_sys(err, "no memory for a page table");
	}
	memcpy(record + FRAME_HEADER, payload, len);
	frame_seal(record, len, MAGIC_NODE((uint32_t)level), key.bytes, sizeof(key.bytes),
		   &session->store->secret);
	session->nodes[session->n_nodes++] = (struct pending_node){id, record, FRAME_HEADER + len};
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
