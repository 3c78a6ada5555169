#include "store/source.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "store/bytes.h"

int source_open(struct page_source *source, struct store *store, struct err *err)
{
	MDB_txn *txn;
	int rc;

	*source = (struct page_source){.store = store};
	source->dctx = ZSTD_createDCtx();
	if (!source->dctx)
		return err_sys(err, "%s", store->dir);
	if (txn_read(store, &txn, err) < 0)
		return -1;
	source->txn = txn;
	rc = mdb_cursor_open(txn, store->packs, &source->cursor);
	txn_reset(store, txn);
	return rc ? err_lmdb(err, rc, "cannot read packs") : 0;
}

void source_close(struct page_source *source)
{
	source_end(source);
	if (source->cursor)
		mdb_cursor_close(source->cursor);
	if (source->txn)
		mdb_txn_abort(source->txn);
	ZSTD_freeDCtx(source->dctx);
	*source = (struct page_source){0};
}

int source_begin(struct page_source *source, struct err *err)
{
	int rc;

	if (source->active)
		return 0;
	if (txn_renew(source->store, source->txn, err) < 0)
		return -1;
	source->active = true;
	source->has_view = false;
	rc = mdb_cursor_renew(source->txn, source->cursor);
	if (!rc)
		return 0;
	source_end(source);
	return err_lmdb(err, rc, "cannot read packs");
}

void source_end(struct page_source *source)
{
	if (!source->active)
		return;
	source->active = source->has_view = false;
	txn_reset(source->store, source->txn);
}

/* The pack with the greatest key not above id. */
static int seek_pack(struct page_source *source, uint64_t id, MDB_val *key, MDB_val *value)
{
	struct id_key wanted = id_key(id);
	int rc;

	*key = *KEY_VAL(wanted);
	rc = mdb_cursor_get(source->cursor, key, value, MDB_SET_RANGE);
	if (rc == MDB_NOTFOUND)
		return mdb_cursor_get(source->cursor, key, value, MDB_LAST);
	if (rc || get_le64(key->mv_data) == id)
		return rc;
	return mdb_cursor_get(source->cursor, key, value, MDB_PREV);
}

static int err_missing(uint64_t id, struct err *err)
{
	return err_set(err, ERR_CORRUPT, "stored page %" PRIu64 " is missing", id);
}

int source_seek(struct page_source *source, uint64_t id, struct stored_pack *ret, struct err *err)
{
	MDB_val key, value;
	int rc = seek_pack(source, id, &key, &value);

	if (rc && rc != MDB_NOTFOUND)
		return err_lmdb(err, rc, "cannot read stored page %" PRIu64, id);
	if (rc == MDB_NOTFOUND)
		return err_missing(id, err);
	*ret = (struct stored_pack){.key = get_le64(key.mv_data), .value = value};
	return 0;
}

int source_next_key(struct page_source *source, uint64_t *ret, struct err *err)
{
	MDB_val key, value;
	int rc = mdb_cursor_get(source->cursor, &key, &value, MDB_NEXT);

	if (rc && rc != MDB_NOTFOUND)
		return err_lmdb(err, rc, "cannot read packs");
	*ret = rc ? UINT64_MAX : get_le64(key.mv_data);
	return 0;
}

int source_look(struct page_source *source, const struct stored_pack *pack, struct err *err)
{
	const MDB_val *value = &pack->value;

	source->has_view = false;
	if (pack_peek(&source->view, value->mv_data, value->mv_size, pack->key, err) < 0)
		return -1;
	map_expect(source->view.bytes + source->view.entries, source->view.used - source->view.entries);
	if (pack_open(&source->view, value->mv_data, value->mv_size, pack->key, &source->store->secret, err) < 0)
		return -1;
	source->has_view = true;
	return 0;
}

bool source_has(const struct page_source *source, uint64_t id, uint32_t *ret)
{
	int64_t i = source->has_view ? pack_find(&source->view, id) : -1;

	if (i >= 0)
		*ret = (uint32_t)i;
	return i >= 0;
}

int source_find(struct page_source *source, uint64_t id, uint32_t *ret, struct err *err)
{
	struct stored_pack pack;

	if (source_has(source, id, ret))
		return 0;
	source->has_view = false;
	if (source_seek(source, id, &pack, err) < 0 || source_look(source, &pack, err) < 0)
		return -1;
	return source_has(source, id, ret) ? 0 : err_missing(id, err);
}

/* The kernel's own read-ahead in a mapping is far shorter. The map is larger than the file; what is behind its end
 * does not count. */
#define READ_AHEAD (2u * PACK_SIZE)

void source_read_ahead(struct page_source *source)
{
	const struct pack_view *view = &source->view;

	if (!source->has_view)
		return;
	for (unsigned i = 0; i < SOURCE_AHEAD; i++)
		if (source->ahead[i] == view->first)
			return;
	source->ahead[source->n_ahead++ % SOURCE_AHEAD] = view->first;
	map_expect(view->bytes, READ_AHEAD);
}

int source_stored(struct page_source *source, uint64_t id, void *page, struct stored_page *ret,
		  struct err *err)
{
	struct pack_entry entry;
	uint32_t i;

	if (source_find(source, id, &i, err) < 0 ||
	    pack_page(&source->view, i, &source->store->secret, source->dctx, page, err) < 0)
		return -1;
	entry = pack_entry(&source->view, i);
	*ret = (struct stored_page){source->view.bytes + entry.offset, entry.len, entry.codec};
	return 0;
}

int source_page(struct page_source *source, uint64_t id, void *page, struct err *err)
{
	struct stored_page unused;

	return source_stored(source, id, page, &unused, err);
}

int source_node(struct page_source *source, uint64_t id, unsigned *ret_level,
		uint64_t slots[NODE_SLOTS], struct err *err)
{
	struct id_key key = id_key(id);
	MDB_val value;
	int found = record_get(source->txn, source->store->nodes, KEY_VAL(key), &value,
			       "page table", err);

	if (found < 0)
		return -1;
	if (!found)
		return err_set(err, ERR_CORRUPT, "page table node %" PRIu64 " is missing", id);
	return node_open(value.mv_data, value.mv_size, id, &source->store->secret, ret_level, slots,
			 err);
}
