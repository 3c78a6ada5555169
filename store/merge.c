/*
 * Live pages of sparse packs, moved together into new ones.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "store/base/cleanup.h"
#include "store/packdisk.h"
#include "store/pins.h"
#include "store/sweep.h"

#define MERGE_BATCH 4u /* new packs in one write transaction: writers wait while 4 MiB go to disk */

/* Live pages are moved only where that many times their bytes are freed: a pack that waits gets sparser, and takes less
 * moving. At 3, which is when a quarter is live, 1.2 bytes are written for one that is stored; at 2, 1.3; at 1, 1.9
 * (docs/cost.md). Who asks for space wants what there is. */
#define FREED_PER_MOVED	      3u
#define FREED_PER_MOVED_LEAST 1u /* STORE_GC_THOROUGH */

/*
 * Packs from..to-1 that fit in one; dead ones among them are gone already. *ret_gain: above 0 where it pays. They
 * must not enclose ids that a session may still write: a pack is found by its first id, so that session's
 * packs would come to stand in front of what was moved from behind them.
 */
static size_t group_end(const struct gc *gc, const struct pack_list *packs, size_t from,
			int64_t *ret_gain)
{
	unsigned freed_per_moved = gc->thorough ? FREED_PER_MOVED_LEAST : FREED_PER_MOVED;
	uint64_t first = packs->use[from].key;
	size_t len = PACK_HEADER, old = 0, pages = 0, i;

	for (i = from; i < packs->n; i++) {
		const struct pack_use *use = &packs->use[i];

		if (use->fate == PACK_DEAD)
			continue;
		if (use->fate == PACK_BARRIER || len + use->live_len > PACK_SIZE ||
		    pages + use->live > PACK_MAX_PAGES ||
		    use->last - first > UINT32_MAX ||
		    id_ranges_meet(&gc->live_pages, first, use->last))
			break;
		len += use->live_len;
		old += use->value_len;
		pages += use->live;
	}
	*ret_gain = (int64_t)old - (int64_t)pack_value_len(len) * (1 + freed_per_moved);
	return i > from ? i : from + 1;
}

struct merging {
	struct gc *gc;
	const struct pack_list *packs;
	struct pack_builder builder;
	struct pack_disk disk; /* what is moved is read once, and then gone */
	MDB_txn *txn;	       /* NULL: nothing was moved in it yet */
	const char *base;      /* of the map, in that transaction */
};

/* Moves the live pages of one pack into the builder. */
static int copy_live(struct merging *m, uint64_t id, struct err *err)
{
	struct pack_builder *builder = &m->builder;
	struct gc *gc = m->gc;
	struct id_key key = id_key(id);
	struct pack_view view;
	const void *in_map;
	MDB_val value;
	uint32_t i;
	int found = record_get(m->txn, gc->store->packs, KEY_VAL(key), &value, "a pack", err);

	if (found < 0)
		return -1;
	if (!found)
		return err_set(err, ERR_CORRUPT, "pack %" PRIu64 " is missing", id);
	in_map = value.mv_data;
	pack_disk_read(&m->disk, m->base, id, &value);
	if (value.mv_data == in_map)
		map_expect(value.mv_data, value.mv_size);
	if (pack_open(&view, value.mv_data, value.mv_size, id, &gc->store->secret, err) < 0)
		return -1;
	for (i = 0; i < view.count; i++) {
		struct pack_entry e = pack_entry(&view, i);

		if (!idset_has(&gc->pages, e.id))
			continue;
		if (e.offset < PACK_HEADER || e.offset > view.entries ||
		    e.len > view.entries - e.offset || !pack_has_room(builder, e.id, e.len))
			return err_set(err, ERR_CORRUPT, "pack %" PRIu64 " is damaged", id);
		pack_add(builder, &e, view.bytes + e.offset);
	}
	if (value.mv_data == in_map)
		map_leave(value.mv_data, value.mv_size);
	return record_delete(m->txn, gc->store->packs, KEY_VAL(key), "a pack", err);
}

static int merge_group(struct merging *m, size_t from, size_t to, struct err *err)
{
	struct pack_builder *builder = &m->builder;
	struct gc *gc = m->gc;
	struct id_key key;
	MDB_val value;
	size_t i;
	int rc;

	pack_start(builder);
	for (i = from; i < to; i++) {
		const struct pack_use *use = &m->packs->use[i];

		if (use->fate != PACK_LIVE)
			continue;
		if (copy_live(m, use->key, err) < 0)
			return -1;
		gc->stats.packs_compacted++;
		gc->stats.bytes_freed += use->value_len + 16;
	}
	value = (MDB_val){pack_seal(builder, &gc->store->secret), builder->bytes};
	gc->stats.bytes_freed -= value.mv_size + 16;
	key = id_key(builder->first);
	rc = mdb_put(m->txn, gc->store->packs, KEY_VAL(key), &value, MDB_NOOVERWRITE);
	return rc ? err_lmdb(err, rc, "cannot write a pack") : 0;
}

/* A merged pack has only what is marked: none of them may be pinned. */
static bool group_is_pinned(const struct id_ranges *pins, const struct pack_list *packs, size_t from, size_t to)
{
	size_t i;

	for (i = from; i < to; i++)
		if (packs->use[i].fate == PACK_LIVE &&
		    id_ranges_meet(pins, packs->use[i].key, packs->use[i].last))
			return true;
	return false;
}

static int begin_merging(struct merging *m, struct id_ranges *pins, struct err *err)
{
	if (gc_write(m->gc, &m->txn, err) < 0)
		return -1;
	m->base = txn_map_base(m->gc->store, m->txn);
	return pins_read(m->gc->store, m->txn, pins, err);
}

/* Groups of packs, from *at on, in one transaction, which the caller ends. */
static int merge_groups(struct merging *m, size_t *at, struct err *err)
{
	cleanup_id_ranges struct id_ranges pins = {0};
	const struct pack_list *packs = m->packs;
	unsigned merged = 0;

	while (*at < packs->n && merged < MERGE_BATCH) {
		int64_t gain = 0;
		size_t from = *at;

		*at = from + 1;
		if (packs->use[from].fate != PACK_LIVE)
			continue;
		*at = group_end(m->gc, packs, from, &gain);
		if (gain <= 0)
			continue;
		if (merged++ == 0 && begin_merging(m, &pins, err) < 0)
			return -1;
		if (!group_is_pinned(&pins, packs, from, *at) && merge_group(m, from, *at, err) < 0)
			return -1;
	}
	return 0;
}

/* One transaction of merges, from *at on. */
static int merge_some(struct merging *m, size_t *at, struct err *err)
{
	int result = merge_groups(m, at, err);
	MDB_txn *txn = m->txn;

	m->txn = NULL;
	if (result == 0 && txn)
		return gc_commit(m->gc, txn, err);
	txn_end(m->gc->store, txn);
	return result;
}

int merge_sparse(struct gc *gc, const struct pack_list *packs, struct err *err)
{
	cleanup_free uint8_t *bytes = malloc(PACK_SIZE);
	cleanup_free uint8_t *table = malloc((size_t)PACK_MAX_PAGES * PACK_ENTRY);
	struct merging m = {.gc = gc, .packs = packs, .builder = {.bytes = bytes, .table = table}};
	size_t at = 0;
	int result = 0;

	if (!bytes || !table)
		return err_sys(err, "garbage collection");
	pack_disk_open(&m.disk, gc->store);
	while (at < packs->n && result == 0)
		result = merge_some(&m, &at, err);
	pack_disk_close(&m.disk);
	/* No room to move things: what was dead is free all the same. */
	return result < 0 && err->kind == ERR_FULL ? 0 : result;
}
