#include <stdlib.h>

#include "store/base/cleanup.h"
#include "store/bytes.h"
#include "store/pins.h"
#include "store/sweep.h"

#define LOOK_BATCH 1024u /* packs looked at in one read transaction */
#define DROP_BATCH 256u  /* packs deleted in one write transaction */
#define NODE_BATCH 8192u

/* ---- looking at packs ---------------------------------------------------------------------- */

static void count_live(const struct gc *gc, const struct pack_view *view, struct pack_use *use)
{
	uint32_t i;

	for (i = 0; i < view->count; i++) {
		struct pack_entry e = pack_entry(view, i);

		if (!idset_has(&gc->pages, e.id))
			continue;
		use->live++;
		use->live_len += e.len + PACK_ENTRY;
	}
}

/* To move it seldom pays, whatever its neighbours have. */
static bool is_well_filled(const struct pack_use *use, const struct pack_view *view)
{
	return use->live > view->count / 2;
}

static struct pack_use judge(const struct gc *gc, uint64_t key, const MDB_val *value)
{
	const MDB_val key_val = {sizeof(key), NULL};
	struct pack_use use = {.key = key, .value_len = (uint32_t)value->mv_size};
	const struct store_secret *secret = &gc->store->secret;
	struct pack_view view;
	struct err ignored; /* a damaged pack is verify's to report; here it is left alone */

	if (!value_is_sound(&key_val, value) ||
	    pack_peek(&view, value->mv_data, value->mv_size, key, &ignored) < 0 ||
	    view.first + view.span >= gc->next.page ||
	    id_ranges_meet(&gc->live_pages, view.first, view.first + view.span))
		return use;
	use.last = view.first + view.span;
	use.live = (uint32_t)idset_count(&gc->pages, view.first, view.first + view.span);
	if (use.live == 0 || (use.live == view.count && view.count - 1 == view.span)) {
		use.fate = use.live ? PACK_LIVE : PACK_DEAD;
		use.live_len = use.live ? view.used - PACK_HEADER : 0;
		return use;
	}
	/* Its table need not be read, from the disk mostly. */
	if (is_well_filled(&use, &view))
		return use;
	use.live = 0;
	map_expect(view.bytes + view.entries, view.used - view.entries);
	if (pack_open(&view, value->mv_data, value->mv_size, key, secret, &ignored) < 0)
		return use;
	count_live(gc, &view, &use);
	use.fate = use.live ? PACK_LIVE : PACK_DEAD;
	return use;
}

static int list_add(struct pack_list *list, struct pack_use use, struct err *err)
{
	if (list->n == list->room) {
		size_t room = list->room ? list->room * 2 : 256;
		struct pack_use *more = reallocarray(list->use, room, sizeof(*more));

		if (!more)
			return err_sys(err, "garbage collection");
		list->use = more;
		list->room = room;
	}
	list->use[list->n++] = use;
	return 0;
}

/* By the ids alone, so that not even its header need be read from the disk: ids of a pack that nothing was moved out of
 * follow each other up to those of the next one. A small pack may go well with its neighbours. */
static bool fills_its_ids(const struct gc *gc, uint64_t key, uint64_t next, const MDB_val *value)
{
	return value->mv_size > PACK_SIZE / 2 && next > key && next <= gc->next.page &&
	       idset_count(&gc->pages, key, next - 1) > (next - key) / 2;
}

static int see_pack(struct gc *gc, void *packs, uint64_t key, const MDB_val *value, uint64_t next, struct err *err)
{
	const struct pack_use well_filled = {.key = key};

	return list_add(packs, fills_its_ids(gc, key, next, value) ? well_filled : judge(gc, key, value), err);
}

/* ---- looking at all of a database ----------------------------------------------------------- */

/* What is looked at, so many records in one read transaction: a long one would keep freed pages from use. */
struct look {
	MDB_dbi dbi;
	unsigned batch;
	/* next: the id of the record behind it, or 0. */
	int (*see)(struct gc *gc, void *list, uint64_t id, const MDB_val *value, uint64_t next, struct err *err);
	void *list;
	const char *what; /* for errors */
};

/* The batch with keys above *at. 1: there are more. */
static int look_at_batch(struct gc *gc, const struct look *look, uint64_t *at, struct err *err)
{
	struct id_key from = id_key(*at + 1);
	MDB_val key = *KEY_VAL(from), value;
	MDB_cursor *cursor;
	MDB_txn *txn;
	unsigned n;
	int failed = 0, rc;

	if (txn_read(gc->store, &txn, err) < 0)
		return -1;
	rc = mdb_cursor_open(txn, look->dbi, &cursor);
	if (rc == 0) {
		rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
		for (n = 0; rc == 0 && n < look->batch && !failed; n++) {
			MDB_val seen = value;

			*at = get_le64(key.mv_data);
			rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
			failed = look->see(gc, look->list, *at, &seen, rc ? 0 : get_le64(key.mv_data), err);
		}
		mdb_cursor_close(cursor);
	}
	txn_end(gc->store, txn);
	if (failed || rc == MDB_NOTFOUND)
		return failed;
	return rc ? err_lmdb(err, rc, "cannot read %s", look->what) : 1;
}

static int look_at_all(struct gc *gc, const struct look *look, struct err *err)
{
	uint64_t at = 0;
	int rc;

	do
		rc = look_at_batch(gc, look, &at, err);
	while (rc == 1);
	return rc;
}

/* ---- deleting ------------------------------------------------------------------------------ */

struct id_list {
	uint64_t *id;
	size_t n, room;
};

static int id_list_add(struct id_list *list, uint64_t id, struct err *err)
{
	if (list->n == list->room) {
		size_t room = list->room ? list->room * 2 : 1024;
		uint64_t *more = reallocarray(list->id, room, sizeof(*more));

		if (!more)
			return err_sys(err, "garbage collection");
		list->id = more;
		list->room = room;
	}
	list->id[list->n++] = id;
	return 0;
}

static int delete_batch(struct gc *gc, MDB_dbi dbi, const uint64_t *ids, size_t n, struct err *err)
{
	MDB_txn *txn;
	size_t i;

	if (gc_write(gc, &txn, err) < 0)
		return -1;
	for (i = 0; i < n; i++) {
		struct id_key key = id_key(ids[i]);

		/* What cannot be deleted safely stays, and is verify's to report. */
		if (record_delete(txn, dbi, KEY_VAL(key), "garbage", err) < 0 &&
		    err->kind != ERR_CORRUPT) {
			txn_end(gc->store, txn);
			return -1;
		}
	}
	return gc_commit(gc, txn, err);
}

static int delete_ids(struct gc *gc, MDB_dbi dbi, const struct id_list *list, size_t batch,
		      struct err *err)
{
	size_t at, n;

	for (at = 0; at < list->n; at += n) {
		n = list->n - at < batch ? list->n - at : batch;
		if (delete_batch(gc, dbi, list->id + at, n, err) < 0)
			return -1;
	}
	return 0;
}

/* Deletes dead packs from *at on. What is pinned stays, and keeps its neighbours apart. */
static int drop_some(struct gc *gc, MDB_txn *txn, struct pack_list *packs, size_t *at, struct err *err)
{
	cleanup_id_ranges struct id_ranges pins = {0};
	unsigned dropped = 0;

	if (pins_read(gc->store, txn, &pins, err) < 0)
		return -1;
	for (; *at < packs->n && dropped < DROP_BATCH; ++*at) {
		struct pack_use *use = &packs->use[*at];
		struct id_key key = id_key(use->key);

		if (use->fate != PACK_DEAD)
			continue;
		if (id_ranges_meet(&pins, use->key, use->last)) {
			use->fate = PACK_BARRIER;
			continue;
		}
		/* What cannot be deleted safely was left out by judge. */
		if (record_delete(txn, gc->store->packs, KEY_VAL(key), "garbage", err) < 0)
			return -1;
		dropped++;
		gc->stats.packs_freed++;
		gc->stats.bytes_freed += use->value_len + 16;
	}
	return 0;
}

static int drop_dead_packs(struct gc *gc, struct pack_list *packs, struct err *err)
{
	size_t at = 0;

	for (;;) {
		MDB_txn *txn;

		while (at < packs->n && packs->use[at].fate != PACK_DEAD)
			at++;
		if (at == packs->n)
			return 0;
		if (gc_write(gc, &txn, err) < 0)
			return -1;
		if (drop_some(gc, txn, packs, &at, err) < 0) {
			txn_end(gc->store, txn);
			return -1;
		}
		if (gc_commit(gc, txn, err) < 0)
			return -1;
	}
}

/* ---- nodes --------------------------------------------------------------------------------- */

static int see_node(struct gc *gc, void *dead, uint64_t id, const MDB_val *value, uint64_t next, struct err *err)
{
	if (id >= gc->next.node || idset_has(&gc->nodes, id) || id_ranges_meet(&gc->live_nodes, id, id))
		return 0;
	gc->stats.nodes_freed++;
	gc->stats.bytes_freed += value->mv_size;
	return id_list_add(dead, id, err);
}

static int sweep_nodes(struct gc *gc, struct err *err)
{
	struct id_list dead = {0};
	const struct look look = {gc->store->nodes, NODE_BATCH, see_node, &dead, "page tables"};
	int rc = look_at_all(gc, &look, err);

	if (rc == 0)
		rc = delete_ids(gc, gc->store->nodes, &dead, NODE_BATCH, err);
	free(dead.id);
	return rc;
}

static int sweep_packs(struct gc *gc, struct err *err)
{
	struct pack_list packs = {0};
	const struct look look = {gc->store->packs, LOOK_BATCH, see_pack, &packs, "packs"};
	int rc = look_at_all(gc, &look, err);

	if (rc == 0)
		rc = drop_dead_packs(gc, &packs, err);
	if (rc == 0)
		rc = merge_sparse(gc, &packs, err);
	free(packs.use);
	return rc;
}

static int forget_dropped(struct gc *gc, struct err *err)
{
	MDB_txn *txn;
	size_t i;

	if (gc->n_forget == 0)
		return 0;
	if (gc_write(gc, &txn, err) < 0)
		return -1;
	for (i = 0; i < gc->n_forget; i++) {
		if (record_delete(txn, gc->store->dropped, KEY_VAL(gc->forget[i]),
				  "a dropped snapshot", err) < 0) {
			txn_end(gc->store, txn);
			return -1;
		}
		gc->stats.snapshots_freed++;
	}
	return gc_commit(gc, txn, err);
}

int gc_sweep(struct gc *gc, struct err *err)
{
	/* The records first: a sweep that is cut short is made good by the next one. */
	if (forget_dropped(gc, err) < 0 || sweep_packs(gc, err) < 0 || sweep_nodes(gc, err) < 0)
		return -1;
	return 0;
}
