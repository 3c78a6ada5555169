/* The check of data.mdb before LMDB, which trusts its file, may read it; and what salvage makes of one. */
#include "fuzz.h"

#include <fcntl.h>
#include <lmdb.h>
#include <unistd.h>

#include "store/bytes.h"
#include "store/lmdbfile.h"
#include "store/salvagescan.h"

#define META_TXNID (16 + 128) /* offset of the transaction's number in a meta page */

static void fill(MDB_env *env)
{
	MDB_txn *txn;
	MDB_dbi dbi;

	if (mdb_txn_begin(env, NULL, 0, &txn) || mdb_dbi_open(txn, "t", MDB_CREATE, &dbi))
		abort();
	for (unsigned i = 0; i < 60; i++) {
		char value[6000] = {0};
		MDB_val k = {sizeof(i), &i}, v = {i % 20 == 0 ? sizeof(value) : 40 + i, value};

		if (mdb_put(txn, dbi, &k, &v, 0))
			abort();
	}
	if (mdb_txn_commit(txn))
		abort();
	if (mdb_txn_begin(env, NULL, 0, &txn))
		abort();
	for (unsigned i = 0; i < 60; i += 2) { /* for the free list */
		MDB_val k = {sizeof(i), &i};

		if (mdb_del(txn, dbi, &k, NULL))
			abort();
	}
	if (mdb_txn_commit(txn))
		abort();
}

/* A small environment as LMDB writes it. */
size_t fuzz_seed(unsigned i, uint8_t *buf, size_t room)
{
	char dir[] = "/tmp/pawl-fuzz-XXXXXX", path[64];
	MDB_env *env;
	ssize_t size;
	int fd;

	if (i > 0)
		return 0;
	if (!mkdtemp(dir) || mdb_env_create(&env) || mdb_env_set_maxdbs(env, 4) ||
	    mdb_env_open(env, dir, 0, 0600))
		abort();
	fill(env);
	mdb_env_close(env);
	snprintf(path, sizeof(path), "%s/data.mdb", dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	size = read(fd, buf, room);
	if (size <= 0)
		abort();
	close(fd);
	unlink(path);
	snprintf(path, sizeof(path), "%s/lock.mdb", dir);
	unlink(path);
	rmdir(dir);
	return (size_t)size;
}

struct buffer {
	const uint8_t *data;
	size_t size;
};

static ssize_t read_buffer(void *ctx, void *buf, size_t len, uint64_t offset)
{
	const struct buffer *b = ctx;

	if (offset >= b->size)
		return 0;
	if (len > b->size - offset)
		len = b->size - (size_t)offset;
	memcpy(buf, b->data + offset, len);
	return (ssize_t)len;
}

/* Reads the ends of what was found, which must be within the file. */
static int touch(void *ctx, const struct found_record *found, struct err *err)
{
	const struct buffer *b = ctx;
	static volatile uint8_t sink;

	(void)err;
	promise(found->key >= b->data && found->key_len <= (size_t)(b->data + b->size - found->key));
	promise(found->value >= b->data && found->len <= (size_t)(b->data + b->size - found->value));
	if (found->key_len)
		sink = found->key[found->key_len - 1];
	if (found->len)
		sink = found->value[found->len - 1];
	(void)sink;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buffer buffer = {data, size};
	struct lmdbfile_source source = {.ctx = &buffer, .read = read_buffer, .size = size};
	struct err err = {0};

	/* As the transaction that either meta page names. */
	for (size_t page = 0; page < 2 && size >= page * 4096 + META_TXNID + 8; page++) {
		uint64_t txnid = get_le64(data + page * 4096 + META_TXNID);

		for (int deep = 0; deep <= 1; deep++)
			if (lmdbfile_walk(&source, txnid, deep, &err) < 0)
				promise(err.kind == ERR_CORRUPT || err.kind == ERR_VERSION);
	}
	promise(salvage_scan(data, size, touch, &buffer, &err) == 0);
	return 0;
}
