#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/cleanup.h"
#include "store/bytes.h"
#include "store/catalogue.h"
#include "store/record.h"

static struct snapshot_key key_of(const MDB_val *key)
{
	struct snapshot_key copy;

	memcpy(copy.bytes, key->mv_data, sizeof(copy.bytes));
	return copy;
}

/* The cursor on the newest record of the job: the one before where the next job would begin. */
static int seek_newest(MDB_cursor *cursor, uint64_t job, MDB_val *key, MDB_val *value)
{
	struct snapshot_key after = snapshot_key(job + 1, 0);
	int rc;

	*key = *KEY_VAL(after);
	rc = mdb_cursor_get(cursor, key, value, MDB_SET_RANGE);
	rc = mdb_cursor_get(cursor, key, value, rc == MDB_NOTFOUND ? MDB_LAST : MDB_PREV);
	if (rc == 0 && (key->mv_size != 16 || get_be64(key->mv_data) != job))
		rc = MDB_NOTFOUND;
	return rc;
}

int snapshot_find(struct store *store, MDB_txn *txn, uint64_t job, uint64_t seq, MDB_val *ret,
		  uint64_t *ret_seq, struct err *err)
{
	struct snapshot_key wanted = snapshot_key(job, seq);
	MDB_val key = *KEY_VAL(wanted);
	MDB_cursor *cursor;
	int rc = mdb_cursor_open(txn, store->snapshots, &cursor);

	if (rc)
		return err_lmdb(err, rc, "cannot read snapshots");
	if (seq)
		rc = mdb_cursor_get(cursor, &key, ret, MDB_SET);
	else
		rc = seek_newest(cursor, job, &key, ret);
	if (rc == 0 && ret_seq)
		*ret_seq = seq ? seq : get_be64((const uint8_t *)key.mv_data + 8);
	mdb_cursor_close(cursor);
	if (rc == MDB_NOTFOUND)
		return 0;
	return rc ? err_lmdb(err, rc, "cannot read snapshots") : 1;
}

int snapshot_each(struct store *store, MDB_txn *txn, uint64_t job, snapshot_fn *fn, void *ctx,
		  struct err *err)
{
	struct snapshot_key from = snapshot_key(job, 0);
	MDB_val key = *KEY_VAL(from), value;
	MDB_cursor *cursor;
	int failed = 0, rc = mdb_cursor_open(txn, store->snapshots, &cursor);

	if (rc)
		return err_lmdb(err, rc, "cannot read snapshots");
	rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
	while (rc == 0 && !failed) {
		struct snapshot_key copy;

		if (key.mv_size != sizeof(copy.bytes)) {
			failed = err_set(err, ERR_CORRUPT, "a snapshot's key is damaged");
			break;
		}
		copy = key_of(&key);
		if (job && get_be64(copy.bytes) != job)
			break;
		failed = fn(ctx, &copy, &value, err);
		rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
	}
	mdb_cursor_close(cursor);
	if (rc && rc != MDB_NOTFOUND)
		return err_lmdb(err, rc, "cannot read snapshots");
	return failed;
}

/* ---- listing ------------------------------------------------------------------------------- */

struct lister {
	struct store *store;
	const char *job;
	struct snapshot_info *list;
	size_t n;
};

static int list_one(void *ctx, const struct snapshot_key *key, const MDB_val *value,
		    struct err *err)
{
	struct lister *l = ctx;
	struct snapshot_info *more = reallocarray(l->list, l->n + 1, sizeof(*more));
	struct snapshot_head head = {0};
	struct err why;

	if (!more)
		return err_sys(err, "cannot list snapshots");
	l->list = more;
	snapshot_head_open(&head, key, value->mv_data, value->mv_size, &l->store->secret, &why);
	more[l->n] = head.info; /* a damaged one: all zero */
	more[l->n].seq = get_be64(key->bytes + 8);
	snprintf(more[l->n].job, sizeof(more->job), "%s", l->job);
	l->n++;
	return 0;
}

int store_snapshot_list(struct store *store, const char *job, struct snapshot_info **ret,
			size_t *ret_n, struct err *err)
{
	struct lister l = {.store = store, .job = job};
	cleanup_job Cat__Job *record = NULL;
	MDB_txn *txn;
	int rc;

	if (txn_read(store, &txn, err) < 0)
		return -1;
	rc = job_read(store, txn, job, &record, err);
	if (rc == 0)
		rc = snapshot_each(store, txn, record->id, list_one, &l, err);
	txn_end(store, txn);
	if (rc < 0) {
		free(l.list);
		return -1;
	}
	*ret = l.list ? l.list : calloc(1, sizeof(**ret));
	*ret_n = l.n;
	return *ret ? 0 : err_sys(err, "cannot list snapshots");
}

/* ---- loading ------------------------------------------------------------------------------- */

static int load_in_txn(struct store *store, MDB_txn *txn, const char *job, uint64_t seq,
		       struct snapshot_info *ret_info, Snap__Snapshot **ret_model, struct err *err)
{
	cleanup_job Cat__Job *record = NULL;
	struct snapshot_head head;
	struct snapshot_key key;
	MDB_val value;
	int found;

	if (job_read(store, txn, job, &record, err) < 0)
		return -1;
	found = snapshot_find(store, txn, record->id, seq, &value, &seq, err);
	if (found < 0)
		return -1;
	if (!found && seq)
		return err_set(err, ERR_NOT_FOUND, "there is no snapshot %s@%" PRIu64, job, seq);
	if (!found)
		return err_set(err, ERR_NOT_FOUND, "job '%s' has no snapshot", job);
	key = snapshot_key(record->id, seq);
	if (snapshot_head_open(&head, &key, value.mv_data, value.mv_size, &store->secret, err) < 0 ||
	    (ret_model && snapshot_model_open(&head, &store->secret, ret_model, err) < 0))
		return err_wrap(err, "%s@%" PRIu64 ": record", job, seq);
	if (ret_info) {
		*ret_info = head.info;
		ret_info->seq = seq;
		snprintf(ret_info->job, sizeof(ret_info->job), "%s", job);
	}
	return 0;
}

int store_snapshot_load(struct store *store, const char *job, uint64_t seq,
			struct snapshot_info *ret_info, Snap__Snapshot **ret_model, struct err *err)
{
	MDB_txn *txn;
	int rc;

	if (txn_read(store, &txn, err) < 0)
		return -1;
	rc = load_in_txn(store, txn, job, seq, ret_info, ret_model, err);
	txn_end(store, txn);
	return rc;
}

/* ---- dropping ------------------------------------------------------------------------------ */

/* Whether a session that still lives (or whose remains are still there) was taken against it. */
static int is_parent(struct store *store, MDB_txn *txn, uint64_t job, uint64_t seq,
		     struct err *err)
{
	MDB_cursor *cursor;
	MDB_val key, value;
	int found = 0, rc = mdb_cursor_open(txn, store->sessions, &cursor);

	if (rc)
		return err_lmdb(err, rc, "cannot read sessions");
	rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
	while (rc == 0 && !found) {
		Cat__Session *session;

		/* A damaged one may be anything: then rather keep the roots. */
		if (message_decode(store, &key, &value, MAGIC_SESSION, &cat__session__descriptor,
				   &session, err) < 0) {
			found = 1;
			break;
		}
		found = session->job == job && session->parent == seq;
		cat__session__free_unpacked(session, NULL);
		rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
	}
	mdb_cursor_close(cursor);
	if (rc && rc != MDB_NOTFOUND)
		return err_lmdb(err, rc, "cannot read sessions");
	return found;
}

static int keep_roots(struct store *store, MDB_txn *txn, struct snapshot_key *key,
		      const MDB_val *value, struct err *err)
{
	Cat__Dropped dropped = CAT__DROPPED__INIT;
	cleanup_free uint64_t *roots = NULL;
	struct snapshot_head head;
	uint32_t i;

	if (snapshot_head_open(&head, key, value->mv_data, value->mv_size, &store->secret, err) < 0)
		return 0; /* its roots are lost: nothing to keep */
	roots = calloc(head.n_roots + 1, sizeof(*roots));
	if (!roots)
		return err_sys(err, "cannot drop a snapshot");
	for (i = 0; i < head.n_roots; i++)
		roots[i] = get_le64(head.roots + 8 * i);
	dropped.roots = roots;
	dropped.n_roots = head.n_roots;
	return message_put(store, txn, store->dropped, KEY_VAL(*key), MAGIC_DROPPED, &dropped.base,
			   "a dropped snapshot", err);
}

int snapshot_remove(struct store *store, MDB_txn *txn, uint64_t job, uint64_t seq, struct err *err)
{
	struct snapshot_key key = snapshot_key(job, seq);
	int pinned = is_parent(store, txn, job, seq, err);
	MDB_val value;

	if (pinned < 0)
		return -1;
	if (pinned && record_get(txn, store->snapshots, KEY_VAL(key), &value, "a snapshot", err) == 1 &&
	    keep_roots(store, txn, &key, &value, err) < 0)
		return -1;
	return record_delete(txn, store->snapshots, KEY_VAL(key), "a snapshot", err);
}

static int drop_in_txn(struct store *store, MDB_txn *txn, const char *job, uint64_t seq,
		       struct err *err)
{
	cleanup_job Cat__Job *record = NULL;
	MDB_val value;
	int found;

	if (job_read(store, txn, job, &record, err) < 0)
		return -1;
	found = snapshot_find(store, txn, record->id, seq, &value, &seq, err);
	if (found < 0)
		return -1;
	if (!found)
		return err_set(err, ERR_NOT_FOUND, "there is no snapshot %s@%" PRIu64, job, seq);
	return snapshot_remove(store, txn, record->id, seq, err);
}

int store_snapshot_drop(struct store *store, const char *job, uint64_t seq, struct err *err)
{
	MDB_txn *txn;

	if (seq == 0)
		return err_set(err, ERR_INVALID, "which snapshot of job '%s'?", job);
	if (txn_write(store, &txn, err) < 0)
		return -1;
	if (drop_in_txn(store, txn, job, seq, err) < 0) {
		txn_end(store, txn);
		return -1;
	}
	return txn_commit(store, txn, true, err);
}
