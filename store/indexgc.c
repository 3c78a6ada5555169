/*
 * The index in a garbage collection: entries of pages that are gone are taken out, run by run; a damaged index
 * is made anew.
 */
#include <stdlib.h>

#include "store/base/cleanup.h"
#include "store/bytes.h"
#include "store/gc.h"
#include "store/pageindex.h"

#define PACK_BATCH 256u /* packs read in one transaction */

static bool is_dead(const struct gc *gc, uint64_t id)
{
	return id < gc->next.page && !idset_has(&gc->pages, id) &&
	       !id_ranges_meet(&gc->live_pages, id, id);
}

/* The run's entries that are not of dead pages. *ret malloc'ed. */
static int keep_living(const struct gc *gc, const struct index_run *run, struct index_entry **ret,
		       size_t *ret_n, struct err *err)
{
	struct index_entry *entries = malloc(run->count * sizeof(*entries));
	uint32_t i;

	if (!entries)
		return err_sys(err, "garbage collection");
	*ret_n = 0;
	for (i = 0; i < run->count; i++) {
		struct index_entry e = run_entry(run, i);

		if (!is_dead(gc, e.id))
			entries[(*ret_n)++] = e;
	}
	*ret = entries;
	return 0;
}

/* Under the key it has. n 0: away with it. */
static int replace_run(struct gc *gc, MDB_txn *txn, uint64_t key, const struct index_entry *entries,
		       size_t n, struct err *err)
{
	struct store *store = gc->store;
	struct id_key k = id_key(key);
	MDB_val value = {.mv_size = run_len(n)};
	int rc;

	if (record_delete(txn, store->index, KEY_VAL(k), "a run of the index", err) < 0)
		return -1;
	if (n == 0)
		return 0;
	rc = mdb_put(txn, store->index, KEY_VAL(k), &value, MDB_RESERVE | MDB_NOOVERWRITE);
	if (rc)
		return err_lmdb(err, rc, "cannot write the index");
	run_seal(value.mv_data, entries, n, key, &store->secret);
	return 0;
}

/* Whether a quarter of it leads to nothing: less than that may stay. */
static bool is_stale(const struct gc *gc, const struct index_run *run)
{
	uint32_t i, dead = 0;

	for (i = 0; i < run->count; i++)
		dead += is_dead(gc, run_entry(run, i).id);
	return dead > run->count / 4;
}

/* The first stale run from `from` on. 1: it is *ret, 0: none; *damaged: there is a damaged one. */
static int next_stale(struct gc *gc, uint64_t from, uint64_t *ret, bool *damaged, size_t *runs,
		      struct err *err)
{
	struct id_key k = id_key(from);
	MDB_val key = *KEY_VAL(k), value;
	struct index_run run;
	struct err ignored;
	MDB_cursor *cursor;
	MDB_txn *txn;
	int rc, found = 0;

	if (txn_read(gc->store, &txn, err) < 0)
		return -1;
	rc = mdb_cursor_open(txn, gc->store->index, &cursor);
	if (rc == 0) {
		rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
		for (; rc == 0 && !found; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
			*ret = get_le64(key.mv_data);
			++*runs;
			if (!value_is_sound(&key, &value))
				continue; /* cannot be replaced */
			if (run_open(&run, value.mv_data, value.mv_size, *ret, &gc->store->secret,
				     &ignored) < 0)
				*damaged = true;
			else
				found = is_stale(gc, &run);
		}
		mdb_cursor_close(cursor);
	}
	txn_end(gc->store, txn);
	if (rc && rc != MDB_NOTFOUND)
		return err_lmdb(err, rc, "cannot read the index");
	return found;
}

/* It may have been merged into another one since it was looked at: then nothing. */
static int prune_run(struct gc *gc, uint64_t key, struct err *err)
{
	cleanup_free struct index_entry *entries = NULL;
	struct id_key k = id_key(key);
	struct index_run run;
	struct err ignored;
	MDB_val value;
	MDB_txn *txn;
	size_t n = 0;
	int rc;

	if (gc_write(gc, &txn, err) < 0)
		return -1;
	rc = record_get(txn, gc->store->index, KEY_VAL(k), &value, "the index", err);
	if (rc == 1 && run_open(&run, value.mv_data, value.mv_size, key, &gc->store->secret, &ignored) == 0) {
		rc = keep_living(gc, &run, &entries, &n, err);
		if (rc == 0)
			rc = replace_run(gc, txn, key, entries, n, err);
	}
	if (rc < 0) {
		txn_end(gc->store, txn);
		return -1;
	}
	return gc_commit(gc, txn, err);
}

/* ---- making it anew ------------------------------------------------------------------------ */

static int drop_all_runs(struct gc *gc, struct err *err)
{
	MDB_cursor *cursor;
	MDB_val key, value;
	MDB_txn *txn;
	int rc;

	if (gc_write(gc, &txn, err) < 0)
		return -1;
	rc = mdb_cursor_open(txn, gc->store->index, &cursor);
	if (rc == 0) {
		while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0)
			if (value_is_sound(&key, &value) && (rc = mdb_cursor_del(cursor, 0)))
				break;
		mdb_cursor_close(cursor);
	}
	if (rc && rc != MDB_NOTFOUND) {
		txn_end(gc->store, txn);
		return err_lmdb(err, rc, "cannot write the index");
	}
	return gc_commit(gc, txn, err);
}

struct gathering {
	struct index_entry *entries; /* RUN_MOST */
	size_t n;
};

static void gather_pack(const struct gc *gc, const MDB_val *key, const MDB_val *value, struct gathering *g)
{
	struct pack_view view;
	struct err ignored;
	uint32_t i;

	if (pack_open(&view, value->mv_data, value->mv_size, get_le64(key->mv_data),
		      &gc->store->secret, &ignored) < 0)
		return;
	for (i = 0; i < view.count && g->n < RUN_MOST; i++) {
		struct pack_entry e = pack_entry(&view, i);

		if (index_hook(e.hash) && e.id < RUN_ID_END && idset_has(&gc->pages, e.id))
			g->entries[g->n++] = (struct index_entry){index_print(e.hash), e.id};
	}
}

/* Packs from *from on, until there is enough for a run. 1: there may be more. */
static int gather_some(struct gc *gc, uint64_t *from, struct gathering *g, struct err *err)
{
	struct id_key k = id_key(*from);
	MDB_val key = *KEY_VAL(k), value;
	MDB_cursor *cursor;
	MDB_txn *txn;
	unsigned n;
	int rc;

	if (txn_read(gc->store, &txn, err) < 0)
		return -1;
	rc = mdb_cursor_open(txn, gc->store->packs, &cursor);
	if (rc == 0) {
		rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
		for (n = 0; rc == 0 && n < PACK_BATCH && g->n + PACK_MAX_PAGES <= RUN_MOST; n++) {
			gather_pack(gc, &key, &value, g);
			*from = get_le64(key.mv_data) + 1;
			rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
		}
		mdb_cursor_close(cursor);
	}
	txn_end(gc->store, txn);
	if (rc == MDB_NOTFOUND)
		return 0;
	return rc ? err_lmdb(err, rc, "cannot read packs") : 1;
}

static int write_gathered(struct gc *gc, struct gathering *g, struct err *err)
{
	MDB_txn *txn;

	if (g->n == 0)
		return 0;
	index_sort(g->entries, g->n);
	if (gc_write(gc, &txn, err) < 0)
		return -1;
	if (index_add(gc->store, txn, g->entries, g->n, err) < 0) {
		txn_end(gc->store, txn);
		return -1;
	}
	g->n = 0;
	return gc_commit(gc, txn, err);
}

static int make_anew(struct gc *gc, struct err *err)
{
	cleanup_free struct index_entry *entries = malloc(RUN_MOST * sizeof(*entries));
	struct gathering g = {entries, 0};
	uint64_t from = 0;
	int more;

	if (!entries)
		return err_sys(err, "garbage collection");
	if (drop_all_runs(gc, err) < 0)
		return -1;
	do {
		more = gather_some(gc, &from, &g, err);
		if (more < 0 || ((more == 0 || g.n + PACK_MAX_PAGES > RUN_MOST) &&
				 write_gathered(gc, &g, err) < 0))
			return -1;
	} while (more);
	return 0;
}

int index_collect(struct gc *gc, struct err *err)
{
	uint64_t at = 0, key;
	bool damaged = false;
	size_t runs = 0;
	int found;

	if (!index_is_there(gc->store))
		return 0;
	while ((found = next_stale(gc, at, &key, &damaged, &runs, err)) == 1 && !damaged) {
		if (prune_run(gc, key, err) < 0)
			return err->kind == ERR_FULL || err->kind == ERR_CORRUPT ? 0 : -1;
		at = key + 1;
	}
	if (found < 0 || (!damaged && runs > 0))
		return found < 0 ? -1 : 0;
	/* No room for it: later. */
	return make_anew(gc, err) < 0 && err->kind != ERR_FULL ? -1 : 0;
}
