#include <stdio.h>
#include <sys/stat.h>

#include "store/bytes.h"
#include "store/txn.h"

#define FREE_DBI 0 /* LMDB's own list of free pages: key transaction, value count and pages */

static int count_free(MDB_txn *txn, uint64_t *ret)
{
	MDB_val key, value;
	MDB_cursor *cursor;
	uint64_t pages = 0;
	int rc = mdb_cursor_open(txn, FREE_DBI, &cursor);

	if (rc)
		return rc;
	while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0)
		if (value.mv_size >= 8)
			pages += get_le64(value.mv_data);
	mdb_cursor_close(cursor);
	*ret = pages * 4096;
	return rc == MDB_NOTFOUND ? 0 : rc;
}

static int fill(struct store *store, MDB_txn *txn, struct store_usage *usage)
{
	MDB_stat packs, nodes, jobs, snapshots;
	int rc;

	if ((rc = mdb_stat(txn, store->packs, &packs)) ||
	    (rc = mdb_stat(txn, store->nodes, &nodes)) ||
	    (rc = mdb_stat(txn, store->jobs, &jobs)) ||
	    (rc = mdb_stat(txn, store->snapshots, &snapshots)))
		return rc;
	usage->packs = packs.ms_entries;
	usage->pack_bytes = (uint64_t)packs.ms_overflow_pages * packs.ms_psize;
	usage->nodes = nodes.ms_entries;
	usage->jobs = jobs.ms_entries;
	usage->snapshots = snapshots.ms_entries;
	return count_free(txn, &usage->free_bytes);
}

int store_usage(struct store *store, struct store_usage *ret, struct err *err)
{
	struct store_usage usage = {0};
	struct stat st;
	MDB_txn *txn;
	int rc;

	if (txn_read(store, &txn, err) < 0)
		return -1;
	rc = fill(store, txn, &usage);
	txn_end(store, txn);
	if (rc)
		return err_lmdb(err, rc, "%s: cannot measure", store->dir);
	if (fstatat(store->dir_fd, "data.mdb", &st, 0) < 0)
		return err_sys(err, "%s/data.mdb", store->dir);
	usage.file_bytes = (uint64_t)st.st_size;
	*ret = usage;
	return 0;
}
