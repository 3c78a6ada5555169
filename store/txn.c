#include "store/txn.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/bytes.h"
#include "store/record.h"

static enum err_kind kind_of_lmdb(int rc)
{
	switch (rc) {
	case MDB_MAP_FULL:
	case MDB_TXN_FULL:
	case EFBIG: /* RLIMIT_FSIZE */
		return ERR_FULL;
	case MDB_CORRUPTED:
	case MDB_PAGE_NOTFOUND:
	case MDB_INVALID:
		return ERR_CORRUPT;
	case MDB_VERSION_MISMATCH:
	case MDB_INCOMPATIBLE:
		return ERR_VERSION;
	case MDB_READERS_FULL:
		return ERR_BUSY;
	case MDB_NOTFOUND:
		return ERR_NOT_FOUND;
	default:
		return ERR_SYSTEM;
	}
}

int err_lmdb(struct err *err, int rc, const char *fmt, ...)
{
	char what[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	if (rc > 0 && rc != EFBIG)
		return err_code(err, rc, "%s", what);
	return err_set(err, kind_of_lmdb(rc), "%s: %s", what, mdb_strerror(rc));
}

/* Another process has let the file grow beyond our map: take its size over. */
static int follow_map(struct store *store)
{
	int rc;

	pthread_rwlock_wrlock(&store->map_lock);
	rc = mdb_env_set_mapsize(store->env, 0);
	atomic_store(&store->sparse, false);
	pthread_rwlock_unlock(&store->map_lock);
	return rc;
}

static int begin(struct store *store, unsigned flags, MDB_txn **ret)
{
	int tries, rc = MDB_MAP_RESIZED;

	for (tries = 0; tries < 3 && rc == MDB_MAP_RESIZED; tries++) {
		if (tries > 0 && (rc = follow_map(store)) != 0)
			return rc;
		pthread_rwlock_rdlock(&store->map_lock);
		rc = mdb_txn_begin(store->env, NULL, flags, ret);
		if (rc != 0)
			pthread_rwlock_unlock(&store->map_lock);
	}
	return rc;
}

int txn_read(struct store *store, MDB_txn **ret, struct err *err)
{
	int rc = begin(store, MDB_RDONLY, ret);

	return rc ? err_lmdb(err, rc, "%s: cannot read", store->dir) : 0;
}

int txn_write(struct store *store, MDB_txn **ret, struct err *err)
{
	int rc;

	if (!(store->flags & STORE_WRITE))
		return err_set(err, ERR_INVALID, "%s: opened for reading only", store->dir);
	rc = begin(store, 0, ret);
	return rc ? err_lmdb(err, rc, "%s: cannot write", store->dir) : 0;
}

int txn_renew(struct store *store, MDB_txn *txn, struct err *err)
{
	int tries, rc = MDB_MAP_RESIZED;

	for (tries = 0; tries < 3 && rc == MDB_MAP_RESIZED; tries++) {
		if (tries > 0 && (rc = follow_map(store)) != 0)
			break;
		pthread_rwlock_rdlock(&store->map_lock);
		rc = mdb_txn_renew(txn);
		if (rc != 0)
			pthread_rwlock_unlock(&store->map_lock);
	}
	return rc ? err_lmdb(err, rc, "%s: cannot read", store->dir) : 0;
}

void txn_reset(struct store *store, MDB_txn *txn)
{
	mdb_txn_reset(txn);
	pthread_rwlock_unlock(&store->map_lock);
}

int store_sync(struct store *store, struct err *err)
{
	int rc = mdb_env_sync(store->env, 1);

	return rc ? err_lmdb(err, rc, "%s: cannot sync", store->dir) : 0;
}

/*
 * LMDB 0.9 says EIO where a write came out short ("filesystem full?" its source wonders). What the disk
 * says now tells: a short write has used up what there was.
 */
static int why_short(struct store *store)
{
	static const char block[65536];
	cleanup_fd int fd = openat(store->dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	struct rlimit limit;
	struct stat st;
	int i;

	if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
	    fstatat(store->dir_fd, "data.mdb", &st, 0) == 0 &&
	    (uint64_t)st.st_size + sizeof(block) > limit.rlim_cur)
		return EFBIG;
	for (i = 0; fd >= 0 && i < 16; i++)
		if (write_full(fd, block, sizeof(block)) < 0)
			return errno;
	return EIO;
}

int txn_commit(struct store *store, MDB_txn *txn, bool sync, struct err *err)
{
	int rc = mdb_txn_commit(txn);

	pthread_rwlock_unlock(&store->map_lock);
	if (rc == EIO)
		rc = why_short(store);
	if (rc)
		return err_lmdb(err, rc, "%s: cannot write", store->dir);
	return sync ? store_sync(store, err) : 0;
}

void txn_end(struct store *store, MDB_txn *txn)
{
	if (!txn)
		return;
	mdb_txn_abort(txn);
	pthread_rwlock_unlock(&store->map_lock);
}

const char *txn_map_base(struct store *store, MDB_txn *txn)
{
	const char *page = NULL;
	MDB_cursor *cursor;
	MDB_val key, value;

	if (mdb_cursor_open(txn, store->meta, &cursor))
		return NULL;
	if (mdb_cursor_get(cursor, &key, &value, MDB_FIRST) == 0)
		page = (const char *)((uintptr_t)value.mv_data & ~(uintptr_t)4095);
	mdb_cursor_close(cursor);
	return page ? page - get_le64((const uint8_t *)page) * 4096 : NULL;
}

static void advise(const void *bytes, size_t len, int advice)
{
	uintptr_t start = (uintptr_t)bytes & ~(uintptr_t)(STORE_PAGE_SIZE - 1);

	madvise((void *)start, (uintptr_t)bytes + len - start, advice);
}

void map_read_sparsely(struct store *store)
{
	struct err ignored;
	MDB_envinfo info;
	const char *base;
	MDB_txn *txn;

	if (atomic_exchange(&store->sparse, true) || txn_read(store, &txn, &ignored) < 0)
		return;
	base = txn_map_base(store, txn);
	if (base && mdb_env_info(store->env, &info) == 0)
		advise(base, info.me_mapsize, MADV_RANDOM);
	txn_end(store, txn);
}

void map_expect(const void *bytes, size_t len)
{
	advise(bytes, len, MADV_WILLNEED);
}

void map_leave(const void *bytes, size_t len)
{
	advise(bytes, len, MADV_DONTNEED);
}

struct id_key id_key(uint64_t id)
{
	struct id_key key;

	put_le64(key.bytes, id);
	return key;
}

struct snapshot_key snapshot_key(uint64_t job, uint64_t seq)
{
	struct snapshot_key key;

	put_be64(key.bytes, job);
	put_be64(key.bytes + 8, seq);
	return key;
}

int record_get(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *ret, const char *what,
	       struct err *err)
{
	int rc = mdb_get(txn, dbi, key, ret);

	if (rc == MDB_NOTFOUND)
		return 0;
	return rc ? err_lmdb(err, rc, "cannot read %s", what) : 1;
}

bool value_is_sound(const MDB_val *key, const MDB_val *value)
{
	/* LMDB 0.9, 4096-byte pages: above this a node keeps its value in overflow pages, behind a header
	 * of 16 bytes: number (8), pad (2), flags (2), pages (4). */
	const size_t node_most = 2038;
	const uint8_t *header = (const uint8_t *)value->mv_data - 16;

	if (8 + key->mv_size + value->mv_size <= node_most)
		return true;
	return (get_le16(header + 10) & 0x0f) == 0x04 &&
	       get_le32(header + 12) == (value->mv_size + 16 + 4095) / 4096;
}

int record_delete(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, const char *what, struct err *err)
{
	MDB_val value;
	int rc = record_get(txn, dbi, key, &value, what, err);

	if (rc <= 0)
		return rc;
	if (!value_is_sound(key, &value))
		return err_set(err, ERR_CORRUPT, "cannot delete %s: its pages' header is damaged",
			       what);
	rc = mdb_del(txn, dbi, key, NULL);
	return rc ? err_lmdb(err, rc, "cannot delete %s", what) : 0;
}

/* Jobs are kept twice. */
static bool is_doubled(uint32_t magic)
{
	return magic == MAGIC_JOB;
}

int message_decode(struct store *store, MDB_val *key, MDB_val *value, uint32_t magic,
		   const ProtobufCMessageDescriptor *type, void *ret, struct err *err)
{
	ProtobufCMessage *message;
	struct frame frame;
	int rc;

	if (is_doubled(magic))
		rc = frame_open_twice(&frame, value->mv_data, value->mv_size, magic, key->mv_data,
				      key->mv_size, &store->secret, NULL, err);
	else
		rc = frame_open(&frame, value->mv_data, value->mv_size, magic, UINT32_MAX,
				key->mv_data, key->mv_size, &store->secret, err);
	if (rc < 0)
		return -1;
	message = protobuf_c_message_unpack(type, NULL, frame.len, frame.payload);
	if (!message)
		return err_set(err, ERR_CORRUPT, "does not decode");
	*(ProtobufCMessage **)ret = message;
	return 0;
}

int message_get(struct store *store, MDB_txn *txn, MDB_dbi dbi, MDB_val *key, uint32_t magic,
		const ProtobufCMessageDescriptor *type, void *ret, const char *what,
		struct err *err)
{
	MDB_val value;
	int found = record_get(txn, dbi, key, &value, what, err);

	if (found != 1)
		return found;
	if (message_decode(store, key, &value, magic, type, ret, err) < 0)
		return err_wrap(err, "record of %s", what);
	return 1;
}

int message_put(struct store *store, MDB_txn *txn, MDB_dbi dbi, MDB_val *key, uint32_t magic,
		const ProtobufCMessage *message, const char *what, struct err *err)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	MDB_val value = {.mv_size = (FRAME_HEADER + len) * (is_doubled(magic) ? 2 : 1)};
	cleanup_free uint8_t *record = malloc(value.mv_size);
	int rc;

	if (!record)
		return err_sys(err, "%s", what);
	protobuf_c_message_pack(message, record + FRAME_HEADER);
	if (is_doubled(magic))
		frame_seal_twice(record, len, magic, key->mv_data, key->mv_size, &store->secret);
	else
		frame_seal(record, len, magic, key->mv_data, key->mv_size, &store->secret);
	value.mv_data = record;
	rc = mdb_put(txn, dbi, key, &value, 0);
	return rc ? err_lmdb(err, rc, "cannot write %s", what) : 0;
}

static const char next_name[] = "next";

int next_get(struct store *store, MDB_txn *txn, struct next_ids *ret, struct err *err)
{
	MDB_val key = {sizeof(next_name) - 1, (void *)next_name}, value;
	struct frame frame;
	int found = record_get(txn, store->meta, &key, &value, "the id counters", err);

	if (found < 0)
		return -1;
	if (!found)
		return err_set(err, ERR_CORRUPT, "the id counters are missing");
	if (frame_open_twice(&frame, value.mv_data, value.mv_size, MAGIC_NEXT, key.mv_data,
			     key.mv_size, &store->secret, NULL, err) < 0)
		return err_wrap(err, "record of the id counters");
	if (frame.len < 32)
		return err_set(err, ERR_CORRUPT, "record of the id counters is too short");
	*ret = (struct next_ids){get_le64(frame.payload), get_le64(frame.payload + 8),
				 get_le64(frame.payload + 16), get_le64(frame.payload + 24)};
	return 0;
}

int next_put(struct store *store, MDB_txn *txn, const struct next_ids *next, struct err *err)
{
	MDB_val key = {sizeof(next_name) - 1, (void *)next_name}, value;
	uint8_t record[2 * (FRAME_HEADER + 32)];
	int rc;

	put_le64(record + FRAME_HEADER, next->page);
	put_le64(record + FRAME_HEADER + 8, next->node);
	put_le64(record + FRAME_HEADER + 16, next->session);
	put_le64(record + FRAME_HEADER + 24, next->job);
	frame_seal_twice(record, 32, MAGIC_NEXT, key.mv_data, key.mv_size, &store->secret);
	value = (MDB_val){sizeof(record), record};
	rc = mdb_put(txn, store->meta, &key, &value, 0);
	return rc ? err_lmdb(err, rc, "cannot write the id counters") : 0;
}
