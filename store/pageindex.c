#include "store/pageindex.h"

#include <stdlib.h>
#include <string.h>

#include "store/base/cleanup.h"
#include "store/bytes.h"

bool index_is_there(const struct store *store)
{
	return store->index != STORE_NO_TABLE;
}

/* ---- adding -------------------------------------------------------------------------------- */

struct growing { /* what is to become a run */
	struct index_entry *entries; /* malloc'ed */
	size_t n;
	uint64_t key;
};

/* Takes the last run in where that is worth it. 1, 0: it is not, -1. */
static int absorb_last(struct store *store, MDB_cursor *cursor, struct growing *g, struct err *err)
{
	struct index_entry *merged;
	struct index_run run;
	MDB_val key, value;
	struct err ignored;
	int rc = mdb_cursor_get(cursor, &key, &value, MDB_LAST);

	if (rc == MDB_NOTFOUND)
		return 0;
	if (rc)
		return err_lmdb(err, rc, "cannot read the index");
	g->key = get_le64(key.mv_data) + 1;
	if (run_peek(&run, value.mv_data, value.mv_size, g->key - 1, &ignored) < 0 ||
	    run.count / 2 > g->n || run.count + g->n > RUN_MOST ||
	    !value_is_sound(&key, &value) ||
	    run_open(&run, value.mv_data, value.mv_size, g->key - 1, &store->secret, &ignored) < 0)
		return 0;
	merged = malloc((g->n + run.count) * sizeof(*merged));
	if (!merged)
		return 0; /* one run more */
	run_merge(merged, g->entries, g->n, &run);
	free(g->entries);
	g->entries = merged;
	g->n += run.count;
	g->key--;
	rc = mdb_cursor_del(cursor, 0);
	return rc ? err_lmdb(err, rc, "cannot write the index") : 1;
}

static int put_run(struct store *store, MDB_txn *txn, const struct growing *g, struct err *err)
{
	struct id_key key = id_key(g->key);
	MDB_val value = {.mv_size = run_len(g->n)};
	int rc = mdb_put(txn, store->index, KEY_VAL(key), &value, MDB_RESERVE | MDB_APPEND);

	if (rc)
		return err_lmdb(err, rc, "cannot write the index");
	run_seal(value.mv_data, g->entries, g->n, g->key, &store->secret);
	return 0;
}

static int forget_oldest(struct store *store, MDB_txn *txn, MDB_cursor *cursor, struct err *err)
{
	MDB_val key, value;
	MDB_stat stat;
	int rc = mdb_stat(txn, store->index, &stat);

	if (rc == 0 && stat.ms_entries < INDEX_RUNS_MOST)
		return 0;
	if (rc == 0)
		rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
	if (rc == 0 && value_is_sound(&key, &value))
		rc = mdb_cursor_del(cursor, 0);
	return rc ? err_lmdb(err, rc, "cannot write the index") : 0;
}

int index_add(struct store *store, MDB_txn *txn, const struct index_entry *entries, size_t n,
	      struct err *err)
{
	struct growing g = {.entries = malloc(n * sizeof(*entries)), .n = n, .key = 1};
	MDB_cursor *cursor;
	int rc;

	if (!g.entries || n == 0 || !index_is_there(store)) {
		free(g.entries); /* without memory: some duplicates more */
		return 0;
	}
	memcpy(g.entries, entries, n * sizeof(*entries));
	rc = mdb_cursor_open(txn, store->index, &cursor);
	if (rc) {
		free(g.entries);
		return err_lmdb(err, rc, "cannot read the index");
	}
	do
		rc = absorb_last(store, cursor, &g, err);
	while (rc == 1);
	if (rc == 0)
		rc = forget_oldest(store, txn, cursor, err);
	mdb_cursor_close(cursor);
	if (rc == 0)
		rc = put_run(store, txn, &g, err);
	free(g.entries);
	return rc;
}

/* ---- finding ------------------------------------------------------------------------------- */

static size_t find_in_run(const struct index_run *run, uint32_t print, uint64_t *ids, size_t most)
{
	uint32_t i;
	size_t n = 0;

	for (i = run_find(run, print); i < run->count && n < most; i++) {
		struct index_entry e = run_entry(run, i);

		if (e.print != print)
			break;
		ids[n++] = e.id;
	}
	return n;
}

size_t index_find(const struct store *store, MDB_txn *txn, uint32_t print, uint64_t *ids, size_t most,
		  size_t *ret_runs)
{
	MDB_cursor *cursor;
	MDB_val key, value;
	size_t n = 0;
	int rc;

	*ret_runs = 0;
	if (!index_is_there(store) || mdb_cursor_open(txn, store->index, &cursor))
		return 0;
	rc = mdb_cursor_get(cursor, &key, &value, MDB_LAST);
	while (rc == 0 && n < most) {
		struct index_run run;
		struct err ignored;

		++*ret_runs;
		if (run_peek(&run, value.mv_data, value.mv_size, 0, &ignored) == 0)
			n += find_in_run(&run, print, ids + n, most - n);
		rc = mdb_cursor_get(cursor, &key, &value, MDB_PREV);
	}
	mdb_cursor_close(cursor);
	return n;
}
