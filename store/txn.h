/*
 * txn.h: the store's environment, its transactions, and reading and writing single records.
 *
 * Read transactions are short and pointers into the map end with them. A write transaction begins and
 * ends in one function of one thread. Commits leave the store whole after any crash (LMDB's meta page
 * is written after the data was synced) but only txn_commit with sync makes them last.
 */
#ifndef PAWL_STORE_TXN_H
#define PAWL_STORE_TXN_H

#include <limits.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "catalogue.pb-c.h"
#include "store/base/err.h"
#include "store/dedup.h"
#include "store/hash.h"
#include "store/idset.h"
#include "store/store.h"

/* Bytes of DIR/store.lock. */
enum { LOCK_USERS = 0, LOCK_GC = 1, LOCK_MAKE = 2 };

#define STORE_NO_TABLE UINT_MAX

struct store {
	MDB_env *env;
	MDB_dbi meta, jobs, snapshots, packs, nodes, sessions, dropped;
	MDB_dbi index;             /* STORE_NO_TABLE: there is none (pageindex.h) */
	char *dir;
	int flags;
	int dir_fd;
	int lock_fd;               /* DIR/store.lock, LOCK_USERS shared */
	struct store_secret secret;
	uint8_t uuid[16];
	pthread_rwlock_t map_lock; /* read: a transaction runs; write: the map moves */
	pthread_mutex_t gc_mutex;  /* LOCK_GC among our own threads */
	atomic_int users;          /* open sessions and readers */
	atomic_bool stay_cached;   /* store_stay_in_page_cache */
	atomic_bool sparse;        /* map_read_sparsely */
	pthread_mutex_t past_mutex; /* of read_past: keys of packs that were read past the page cache */
	struct idset read_past;
	/* From one session to the next: */
	pthread_mutex_t hashes_mutex;
	struct hash_cache *kept_hashes; /* source.h; NULL: a session has them */
	struct dedup kept_room;		/* empty */
};

/* From LMDB's or errno's code. */
int err_lmdb(struct err *err, int rc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

int txn_read(struct store *store, MDB_txn **ret, struct err *err);
/* For a transaction that is kept and reused: from reset to reading, and back. */
int txn_renew(struct store *store, MDB_txn *txn, struct err *err);
void txn_reset(struct store *store, MDB_txn *txn);

int txn_write(struct store *store, MDB_txn **ret, struct err *err);
/* Ends the transaction in any case. */
int txn_commit(struct store *store, MDB_txn *txn, bool sync, struct err *err);
/* Ends a read transaction, or a write transaction without effect. Takes NULL. */
void txn_end(struct store *store, MDB_txn *txn);
int store_sync(struct store *store, struct err *err);

/* Where LMDB has mapped its file during this transaction, which it does not tell: a small value stands in a page
 * that begins with its number (struct MDB_page of mdb.c). In a write transaction: before anything is written. NULL: not to
 * be told. */
const char *txn_map_base(struct store *store, MDB_txn *txn);
/* From now on the kernel reads of the map what is touched, and what map_expect says. For who looks at headers and tables
 * of packs here and there: where a disk has 8 MiB of read-ahead, as is common, that would read all of the store. */
void map_read_sparsely(struct store *store);
/* Bytes of the map that will be read: what is not in the page cache is read in one go. */
void map_expect(const void *bytes, size_t len);
/* They will not be read again: the page cache need not keep them for us. */
void map_leave(const void *bytes, size_t len);

/* ---- keys ---------------------------------------------------------------------------------- */

struct id_key { /* packs, nodes, sessions: MDB_INTEGERKEY */
	uint8_t bytes[8];
};
struct snapshot_key { /* snapshots, dropped: big-endian, ascending by job, then by number */
	uint8_t bytes[16];
};
struct id_key id_key(uint64_t id);
struct snapshot_key snapshot_key(uint64_t job, uint64_t seq);
#define KEY_VAL(key) (&(MDB_val){sizeof((key).bytes), (key).bytes})

/* ---- records ------------------------------------------------------------------------------- */

/* 1: found, 0: not there, -1. what names it in messages. */
int record_get(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *ret, const char *what,
	       struct err *err);
/* A protobuf message in a frame (jobs: in two). *ret: free with protobuf_c_message_free_unpacked. */
int message_get(struct store *store, MDB_txn *txn, MDB_dbi dbi, MDB_val *key, uint32_t magic,
		const ProtobufCMessageDescriptor *type, void *ret, const char *what,
		struct err *err);
int message_decode(struct store *store, MDB_val *key, MDB_val *value, uint32_t magic,
		   const ProtobufCMessageDescriptor *type, void *ret, struct err *err);
int message_put(struct store *store, MDB_txn *txn, MDB_dbi dbi, MDB_val *key, uint32_t magic,
		const ProtobufCMessage *message, const char *what, struct err *err);
/* LMDB frees as many pages as the header of an overflow page says: a damaged one would free what others
 * use. Whether that header is as it must be for a value of this size. */
bool value_is_sound(const MDB_val *key, const MDB_val *value);
/* Deletes; absent is fine. ERR_CORRUPT where the value is not sound. */
int record_delete(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, const char *what, struct err *err);

/* The next ids to give out. */
struct next_ids {
	uint64_t page, node, session, job;
};
int next_get(struct store *store, MDB_txn *txn, struct next_ids *ret, struct err *err);
int next_put(struct store *store, MDB_txn *txn, const struct next_ids *next, struct err *err);

#endif
