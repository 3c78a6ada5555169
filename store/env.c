#include "store/env.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/bytes.h"
#include "store/lmdbfile.h"
#include "store/node.h"
#include "store/record.h"

#define MAP_SIZE_MOST  (1ull << 40)
#define MAP_SIZE_LEAST (64ull << 20)
#define ENV_READERS    1022
#define STORE_PAYLOAD  224u /* version, flags, created, uuid, secret */

static const char store_name[] = "store";

struct db_spec {
	const char *name;
	unsigned flags;
	size_t offset; /* of the handle in struct store */
};

static const struct db_spec dbs[] = {
	{"meta", 0, offsetof(struct store, meta)},
	{"jobs", 0, offsetof(struct store, jobs)},
	{"snapshots", 0, offsetof(struct store, snapshots)},
	{"packs", MDB_INTEGERKEY, offsetof(struct store, packs)},
	{"nodes", MDB_INTEGERKEY, offsetof(struct store, nodes)},
	{"sessions", MDB_INTEGERKEY, offsetof(struct store, sessions)},
	{"dropped", 0, offsetof(struct store, dropped)},
	{"index", MDB_INTEGERKEY, offsetof(struct store, index)}, /* not in stores of early pawls */
};
#define N_DBS (sizeof(dbs) / sizeof(*dbs))

static int open_dbs(struct store *store, MDB_txn *txn, unsigned create, struct err *err)
{
	size_t i;

	for (i = 0; i < N_DBS; i++) {
		MDB_dbi *dbi = (MDB_dbi *)((char *)store + dbs[i].offset);
		int rc = mdb_dbi_open(txn, dbs[i].name, dbs[i].flags | create, dbi);

		if (rc == MDB_NOTFOUND && dbs[i].offset == offsetof(struct store, index)) {
			*dbi = STORE_NO_TABLE;
			continue;
		}
		if (rc == MDB_NOTFOUND)
			return err_set(err, ERR_VERSION, "%s: data.mdb is not a store of pawl",
				       store->dir);
		if (rc)
			return err_lmdb(err, rc, "%s: cannot open '%s'", store->dir, dbs[i].name);
	}
	return 0;
}

static uint64_t first_map_size(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_AS, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY ||
	    limit.rlim_cur / 2 > MAP_SIZE_MOST)
		return MAP_SIZE_MOST;
	return limit.rlim_cur / 2 > MAP_SIZE_LEAST ? limit.rlim_cur / 2 : MAP_SIZE_LEAST;
}

static int open_env_once(struct store *store, const char *path, unsigned flags, uint64_t map_size)
{
	int rc = mdb_env_create(&store->env);

	if (rc)
		return rc;
	mdb_env_set_maxdbs(store->env, N_DBS);
	mdb_env_set_maxreaders(store->env, ENV_READERS);
	mdb_env_set_mapsize(store->env, map_size);
	rc = mdb_env_open(store->env, path, flags, 0600);
	if (rc) {
		mdb_env_close(store->env);
		store->env = NULL;
	}
	return rc;
}

/* As much address space as can be had: the map never has to move then. */
static int open_env(struct store *store, const char *path, unsigned flags, struct err *err)
{
	uint64_t map_size = first_map_size();
	int rc = ENOMEM;

	/* NOMETASYNC: commits sync the data, txn_commit's sync the meta page where it matters. */
	flags |= MDB_NOTLS | MDB_NOMETASYNC;
	for (; rc == ENOMEM && map_size >= MAP_SIZE_LEAST; map_size /= 2)
		rc = open_env_once(store, path, flags, map_size);
	return rc ? err_lmdb(err, rc, "%s: cannot open the store", store->dir) : 0;
}

static_assert(ENV_STORE_RECORD == 2 * (FRAME_HEADER + STORE_PAYLOAD), "FORMAT.md, Store record");

static int make_store_record(struct store *store, uint8_t record[ENV_STORE_RECORD], struct err *err)
{
	uint8_t *p = record + FRAME_HEADER;

	memset(record, 0, ENV_STORE_RECORD);
	/* uuid and secret in one go */
	if (getrandom(p + 16, STORE_PAYLOAD - 16, 0) != (ssize_t)(STORE_PAYLOAD - 16))
		return err_sys(err, "no random numbers");
	put_le32(p, STORE_FORMAT_VERSION);
	put_le64(p + 8, clock_ns(CLOCK_REALTIME));
	memcpy(store->secret.bytes, p + 32, sizeof(store->secret.bytes));
	frame_seal_twice(record, STORE_PAYLOAD, MAGIC_STORE, store_name, sizeof(store_name) - 1, NULL);
	return 0;
}

static int put_store_record(struct store *store, MDB_txn *txn, const struct env_seed *seed, struct err *err)
{
	MDB_val key = {sizeof(store_name) - 1, (void *)store_name}, value;
	uint8_t record[ENV_STORE_RECORD];
	int rc;

	if (seed)
		memcpy(record, seed->record, sizeof(record));
	else if (make_store_record(store, record, err) < 0)
		return -1;
	value = (MDB_val){sizeof(record), record};
	rc = mdb_put(txn, store->meta, &key, &value, 0);
	return rc ? err_lmdb(err, rc, "cannot write the store's record") : 0;
}

static int fill_new_env(struct store *store, const struct env_seed *seed, struct err *err)
{
	const struct next_ids first = {ID_FIRST, ID_FIRST, 1, 1};
	MDB_txn *txn;

	if (txn_write(store, &txn, err) < 0)
		return -1;
	if (open_dbs(store, txn, MDB_CREATE, err) < 0 || put_store_record(store, txn, seed, err) < 0 ||
	    next_put(store, txn, &first, err) < 0) {
		txn_end(store, txn);
		return -1;
	}
	if (txn_commit(store, txn, true, err) < 0)
		return -1;
	return seed ? seed->fill(seed->ctx, err) : 0;
}

int env_make(struct store *store, const struct env_seed *seed, struct err *err)
{
	char path[PATH_MAX], final[PATH_MAX];
	int rc;

	if (snprintf(path, sizeof(path), "%s/data.mdb.new", store->dir) >= (int)sizeof(path))
		return err_set(err, ERR_INVALID, "%s: path too long", store->dir);
	snprintf(final, sizeof(final), "%s/data.mdb", store->dir);
	unlink(path);
	if (open_env(store, path, MDB_NOSUBDIR | MDB_NOLOCK, err) < 0)
		return -1;
	rc = fill_new_env(store, seed, err);
	env_close(store);
	if (rc == 0 && (rename(path, final) < 0 || fsync(store->dir_fd) < 0))
		rc = err_sys(err, "%s: cannot make the store", store->dir);
	if (rc < 0)
		unlink(path);
	return rc;
}

static int too_new(uint32_t version, struct err *err)
{
	return err_set(err, ERR_VERSION, "format %u is newer than this pawl (which knows up to %u)",
		       version, STORE_FORMAT_VERSION);
}

int env_read_record(struct store *store, const void *record, size_t len, struct err *err)
{
	const uint8_t *p = record;
	struct frame frame;

	if (len < FRAME_HEADER + 4)
		return err_set(err, ERR_VERSION, "data.mdb is not a store of pawl");
	if (frame_open_twice(&frame, p, len, MAGIC_STORE, store_name, sizeof(store_name) - 1, NULL, NULL,
			     err) < 0) {
		/* A later version may have changed all but the first bytes. */
		if (get_le32(p) != MAGIC_STORE || get_le32(p + FRAME_HEADER) > STORE_FORMAT_VERSION)
			return too_new(get_le32(p + FRAME_HEADER), err);
		return err_wrap(err, "the store's own record");
	}
	if (frame.len >= 4 && get_le32(frame.payload) > STORE_FORMAT_VERSION)
		return too_new(get_le32(frame.payload), err);
	if (frame.len < STORE_PAYLOAD)
		return err_set(err, ERR_CORRUPT, "the store's own record is too short");
	memcpy(store->uuid, frame.payload + 16, sizeof(store->uuid));
	memcpy(store->secret.bytes, frame.payload + 32, sizeof(store->secret.bytes));
	return 0;
}

static int read_store_record(struct store *store, MDB_txn *txn, struct err *err)
{
	MDB_val key = {sizeof(store_name) - 1, (void *)store_name}, value;
	int found = record_get(txn, store->meta, &key, &value, "the store's record", err);

	if (found < 0)
		return -1;
	if (!found)
		return err_set(err, ERR_VERSION, "data.mdb is not a store of pawl");
	return env_read_record(store, value.mv_data, value.mv_size, err);
}

static int read_env(struct store *store, struct err *err)
{
	MDB_txn *txn;
	int rc;

	if (lmdbfile_check(store, false, err) < 0 || txn_read(store, &txn, err) < 0)
		return -1;
	rc = open_dbs(store, txn, 0, err);
	if (rc == 0 && (rc = read_store_record(store, txn, err)) < 0)
		err_wrap(err, "%s", store->dir);
	if (rc < 0) {
		txn_end(store, txn);
		return -1;
	}
	return txn_commit(store, txn, false, err); /* keeps the handles */
}

/* Without room for it the store is as good as before. */
static int add_index(struct store *store, struct err *err)
{
	MDB_txn *txn;

	if (!(store->flags & STORE_WRITE) || store->index != STORE_NO_TABLE)
		return 0;
	if (txn_write(store, &txn, err) < 0)
		return -1;
	if (open_dbs(store, txn, MDB_CREATE, err) < 0) {
		txn_end(store, txn);
	} else if (txn_commit(store, txn, false, err) == 0) {
		return 0;
	}
	store->index = STORE_NO_TABLE;
	return err->kind == ERR_FULL ? 0 : -1;
}

int env_open(struct store *store, struct err *err)
{
	int dead;

	if (lmdbfile_check_header(store->dir_fd, store->dir, err) < 0)
		return -1;
	if (open_env(store, store->dir, store->flags & STORE_WRITE ? 0 : MDB_RDONLY, err) < 0)
		return -1;
	mdb_reader_check(store->env, &dead);
	return read_env(store, err) < 0 ? -1 : add_index(store, err);
}

void env_close(struct store *store)
{
	atomic_store(&store->sparse, false);
	if (store->env)
		mdb_env_close(store->env);
	store->env = NULL;
}
