#include "store/batch.h"

#include <fcntl.h>
#include <stdlib.h>

#include "store/base/search.h"
#include "store/bytes.h"

int batch_add_pack(struct batch *batch, struct pack_builder *builder,
		   const struct store_secret *secret, struct err *err)
{
	struct sealed_pack *pack = &batch->packs[batch->n_packs];

	pack->len = pack_seal(builder, secret);
	pack->bytes = builder->bytes;
	if (pack_peek(&pack->view, pack->bytes, pack->len, builder->first, err) < 0)
		return -1;
	builder->bytes = NULL;
	builder->count = 0;
	batch->n_packs++;
	return 0;
}

int batch_add_node(struct batch *batch, struct pending_node node, struct err *err)
{
	if (batch->n_nodes == batch->room_nodes) {
		size_t room = batch->room_nodes ? batch->room_nodes * 2 : 64;
		struct pending_node *more = reallocarray(batch->nodes, room, sizeof(*more));

		if (!more)
			return err_sys(err, "no memory for a page table");
		batch->nodes = more;
		batch->room_nodes = room;
	}
	batch->nodes[batch->n_nodes++] = node;
	return 0;
}

bool batch_find_hash(const struct batch *batch, uint64_t id, struct page_hash *ret)
{
	size_t i;

	for (i = batch->n_packs; i-- > 0;) {
		int64_t at = pack_find(&batch->packs[i].view, id);

		if (at < 0)
			continue;
		*ret = pack_entry(&batch->packs[i].view, (uint32_t)at).hash;
		return true;
	}
	return false;
}

const struct pending_node *batch_find_node(const struct batch *batch, uint64_t id)
{
	size_t at = COUNT_BEFORE(batch->n_nodes, i, batch->nodes[i].id < id);

	return at < batch->n_nodes && batch->nodes[at].id == id ? &batch->nodes[at] : NULL;
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

int batch_write(const struct batch *batch, struct store *store, MDB_txn *txn, struct err *err)
{
	size_t i;
	int rc = 0;

	for (i = 0; i < batch->n_packs && rc == 0; i++)
		rc = put_ascending(txn, store->packs, batch->packs[i].view.first,
				   batch->packs[i].bytes, batch->packs[i].len);
	for (i = 0; i < batch->n_nodes && rc == 0; i++)
		rc = put_ascending(txn, store->nodes, batch->nodes[i].id, batch->nodes[i].record,
				   batch->nodes[i].len);
	return rc ? err_lmdb(err, rc, "cannot write pages") : 0;
}

/* A file system keeps what was written in one go in folios of up to 2 MiB, which are let go only whole. */
#define FOLIO_MOST (2 << 20)

static void let_go(int fd, off_t start, off_t end)
{
	start = start > FOLIO_MOST ? start - FOLIO_MOST : 0;
	if (end > 0)
		posix_fadvise(fd, start, end + FOLIO_MOST - start, POSIX_FADV_DONTNEED);
}

/* What was just synced to disk is read again only by a recovery. Left in the page cache it would
 * push out the job's own files, and every batch would go to fresh memory, whose first touch is dear
 * (see checkpointer/copies.h). Pages mapped by somebody stay, and of an old store many are: so only what
 * this batch has written is looked at, not the file, which is after a garbage collection. */
void batch_leave_page_cache(const struct batch *batch, struct store *store)
{
	off_t start = 0, end = 0;
	mdb_filehandle_t fd;
	struct err ignored;
	const char *base;
	MDB_txn *txn;

	if (atomic_load(&store->stay_cached) || mdb_env_get_fd(store->env, &fd) ||
	    txn_read(store, &txn, &ignored) < 0)
		return;
	base = txn_map_base(store, txn);
	for (size_t i = 0; base && i < batch->n_packs; i++) {
		struct id_key key = id_key(batch->packs[i].view.first);
		MDB_val value;
		off_t at;

		if (mdb_get(txn, store->packs, KEY_VAL(key), &value) != 0)
			continue;
		at = (const char *)value.mv_data - base;
		if (at < end || at > end + FOLIO_MOST) { /* mostly they follow each other */
			let_go(fd, start, end);
			start = at;
		}
		end = at + (off_t)value.mv_size;
	}
	let_go(fd, start, end);
	txn_end(store, txn);
}

void store_stay_in_page_cache(struct store *store, bool stay)
{
	atomic_store(&store->stay_cached, stay);
}

void store_leave_page_cache(struct store *store)
{
	mdb_filehandle_t fd;

	if (!atomic_load(&store->stay_cached) && mdb_env_get_fd(store->env, &fd) == 0)
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

int batch_commit(const struct batch *batch, struct store *store, struct err *err)
{
	MDB_txn *txn;

	if (txn_write(store, &txn, err) < 0)
		return -1;
	if (batch_write(batch, store, txn, err) < 0) {
		txn_end(store, txn);
		return -1;
	}
	if (txn_commit(store, txn, false, err) < 0)
		return -1;
	batch_leave_page_cache(batch, store);
	return 0;
}

void batch_free_nodes(struct batch *batch)
{
	while (batch->n_nodes > 0)
		free(batch->nodes[--batch->n_nodes].record);
}

void batch_clear(struct batch *batch)
{
	size_t i;

	for (i = 0; i < batch->n_packs; i++)
		free(batch->packs[i].bytes);
	batch_free_nodes(batch);
	free(batch->nodes);
	*batch = (struct batch){0};
}
