/*
 * flip.c: damages a store: changes one bit of one stored value, everything around it stays valid.
 *
 * Usage: flip STORE DATABASE INDEX OFFSET [STEP]
 * DATABASE: packs, nodes, snapshots … (store/FORMAT.md). INDEX: of the key, counted from the end:
 * -1 is the last. OFFSET: byte within the value; with STEP also every STEP bytes after it (a pack
 * may hold pages that nothing refers to any more). The store must not be in use.
 */
#include <lmdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BIT 0x10

static int fail(const char *what, int rc)
{
	fprintf(stderr, "flip: %s: %s\n", what, rc ? mdb_strerror(rc) : "out of range");
	return 1;
}

/* Moves the cursor to the key that is the index'th from the end. */
static int find(MDB_cursor *cursor, long index, MDB_val *key, MDB_val *value)
{
	int rc = mdb_cursor_get(cursor, key, value, MDB_LAST);

	for (; rc == 0 && index < -1; index++)
		rc = mdb_cursor_get(cursor, key, value, MDB_PREV);
	return rc;
}

static int flip(MDB_txn *txn, const char *database, long index, size_t offset, size_t step)
{
	MDB_val key, value;
	MDB_cursor *cursor;
	MDB_dbi dbi;
	int rc;

	if ((rc = mdb_dbi_open(txn, database, 0, &dbi)) ||
	    (rc = mdb_cursor_open(txn, dbi, &cursor)))
		return fail(database, rc);
	rc = find(cursor, index, &key, &value);
	if (rc || offset >= value.mv_size)
		return fail("no such value", rc);
	unsigned char *copy = malloc(value.mv_size);
	if (!copy)
		return fail("memory", 0);
	memcpy(copy, value.mv_data, value.mv_size);
	for (size_t at = offset; at < value.mv_size; at += step)
		copy[at] ^= BIT;
	value.mv_data = copy;
	rc = mdb_cursor_put(cursor, &key, &value, MDB_CURRENT);
	free(copy);
	mdb_cursor_close(cursor);
	return rc ? fail("cannot write", rc) : 0;
}

int main(int argc, char **argv)
{
	MDB_env *env;
	MDB_txn *txn;
	int rc;

	if (argc < 5 || argc > 6) {
		fprintf(stderr, "usage: flip STORE DATABASE INDEX OFFSET [STEP]\n");
		return 2;
	}
	if ((rc = mdb_env_create(&env)))
		return fail("mdb_env_create", rc);
	mdb_env_set_maxdbs(env, 16);
	if ((rc = mdb_env_open(env, argv[1], MDB_NOLOCK, 0600)) ||
	    (rc = mdb_txn_begin(env, NULL, 0, &txn)))
		return fail(argv[1], rc);
	size_t step = argc == 6 ? (size_t)atol(argv[5]) : SIZE_MAX / 2;
	if (flip(txn, argv[2], atol(argv[3]), (size_t)atol(argv[4]), step))
		return 1;
	if ((rc = mdb_txn_commit(txn)))
		return fail("commit", rc);
	mdb_env_close(env);
	return 0;
}
