/*
 * catalogue.h: records of jobs and snapshots, inside transactions. For the store's own files.
 */
#ifndef PAWL_STORE_CATALOGUE_H
#define PAWL_STORE_CATALOGUE_H

#include "store/txn.h"

/* ---- jobs ---------------------------------------------------------------------------------- */

/* ERR_NOT_FOUND where there is none. *ret: cat__job__free_unpacked(…, NULL). */
int job_read(struct store *store, MDB_txn *txn, const char *name, Cat__Job **ret, struct err *err);
/* The same, in a transaction of its own. */
int job_load(struct store *store, const char *name, Cat__Job **ret, struct err *err);
int job_write(struct store *store, MDB_txn *txn, const char *name, const Cat__Job *job,
	      struct err *err);
/* Between record and struct. The record borrows from info; texts has room for argv and options. */
int job_info_from_record(const char *name, size_t name_len, const Cat__Job *job,
			 struct job_info *ret, struct err *err);
void job_record_from_info(const struct job_info *info, ProtobufCBinaryData *texts, Cat__Job *ret);
/* For messages: the job's name, or "job #ID" where no record has that id. */
void job_name_of(struct store *store, MDB_txn *txn, uint64_t id, char *buf, size_t len);

static inline void cleanup_job_p(Cat__Job **job)
{
	cat__job__free_unpacked(*job, NULL);
}
#define cleanup_job __attribute__((cleanup(cleanup_job_p)))

/* ---- snapshot records (FORMAT.md, "Snapshots") --------------------------------------------- */

struct snapshot_head {
	struct snapshot_info info; /* without job and seq */
	const uint8_t *roots;      /* n_roots little-endian ids, in the record */
	uint32_t n_roots;
	uint64_t model_len;        /* serialised */
	const uint8_t *model;      /* compressed, in the record */
	size_t model_stored;
	struct page_hash model_hash; /* of the compressed bytes */
};

/* Header and roots, checksum included; the model's bytes are not touched. Pure. */
int snapshot_head_open(struct snapshot_head *ret, const struct snapshot_key *key,
		       const void *record, size_t len, const struct store_secret *secret,
		       struct err *err);
/* Checks and decodes the model. *ret: snap__snapshot__free_unpacked. Pure. */
int snapshot_model_open(const struct snapshot_head *head, const struct store_secret *secret,
			Snap__Snapshot **ret, struct err *err);
/* A whole record. *ret malloc'ed. info->bytes_stored is increased by its length. */
int snapshot_record_make(struct store *store, const struct snapshot_key *key,
			 struct snapshot_info *info, const Snap__Snapshot *model, uint8_t **ret,
			 size_t *ret_len, struct err *err);

/* Distinct roots that the model names, ascending. *ret malloc'ed. */
int snapshot_roots(const Snap__Snapshot *model, uint64_t **ret, size_t *ret_n, struct err *err);

/* 1 and *ret, 0 no such record, -1. seq 0: the newest; *ret_seq (may be NULL) is its number. */
int snapshot_find(struct store *store, MDB_txn *txn, uint64_t job, uint64_t seq, MDB_val *ret,
		  uint64_t *ret_seq, struct err *err);
/* Removes it; where a session was taken against it, its roots move to "dropped". */
int snapshot_remove(struct store *store, MDB_txn *txn, uint64_t job, uint64_t seq, struct err *err);

/* Calls fn for every snapshot record of a job (0: all jobs), ascending, until it fails. */
typedef int snapshot_fn(void *ctx, const struct snapshot_key *key, const MDB_val *value,
			struct err *err);
int snapshot_each(struct store *store, MDB_txn *txn, uint64_t job, snapshot_fn *fn, void *ctx,
		  struct err *err);

#endif
