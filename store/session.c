#include "store/session.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/bytes.h"
#include "store/catalogue.h"
#include "store/lock.h"
#include "store/pins.h"
#include "store/record.h"

#define RECLAIM_BATCH 256u /* packs deleted in one transaction */

static int open_sessions_lock(struct store *store)
{
	return openat(store->dir_fd, "sessions.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW,
		      0600);
}

static struct dedup swap_room(struct store *store, struct dedup room)
{
	struct dedup before;

	pthread_mutex_lock(&store->hashes_mutex);
	before = store->kept_room;
	store->kept_room = room;
	pthread_mutex_unlock(&store->hashes_mutex);
	return before;
}

static void keep_room(struct store_session *session)
{
	struct dedup other;

	dedup_rest(&session->known_pages);
	other = swap_room(session->store, session->known_pages);
	dedup_clear(&other);
}

void session_free(struct store_session *session)
{
	size_t i;

	source_close(&session->source);
	batch_writer_free(session->writer);
	batch_clear(&session->gathering);
	for (i = 0; i < session->n_spare; i++)
		free(session->spare[i]);
	free(session->open.bytes);
	free(session->open.table);
	free(session->record.pages);
	free(session->record.nodes);
	free(session->record.pins);
	keep_room(session);
	dedup_clear(&session->known_nodes);
	elsewhere_clear(&session->elsewhere);
	hash_cache_keep(session->store, session->hashes);
	page_press_free(session->press);
	if (session->lock_fd >= 0)
		close(session->lock_fd);
	atomic_fetch_sub(&session->store->users, 1);
	free(session);
}

/* ---- beginning ----------------------------------------------------------------------------- */

static int begin_in_txn(struct store_session *session, MDB_txn *txn, const char *job,
			uint64_t parent, struct err *err)
{
	struct store *store = session->store;
	cleanup_job Cat__Job *record = NULL;
	struct next_ids next;
	MDB_val value;
	int rc;

	if ((job && job_read(store, txn, job, &record, err) < 0) ||
	    next_get(store, txn, &next, err) < 0)
		return -1;
	rc = parent && record ? snapshot_find(store, txn, record->id, parent, &value, NULL, err) : 1;
	if (rc == 0)
		return err_set(err, ERR_NOT_FOUND, "there is no snapshot %s@%" PRIu64, job, parent);
	if (rc < 0)
		return -1;
	session->record.job = record ? record->id : 0;
	session->record.parent = parent;
	session->record.started = clock_ns(CLOCK_REALTIME);
	rc = session->record.keep_time ? session_adopt(session, txn, err) : 0;
	if (rc < 0)
		return -1;
	if (rc == 0) {
		session->id = next.session++;
		/* Locked before anybody can see the record: it never looks dead. */
		rc = lock_byte(session->lock_fd, session->id, F_WRLCK);
	}
	if (rc <= 0)
		return err_sys(err, "%s: cannot lock session %" PRIu64, store->dir, session->id);
	if (session_reserve(session, &next, true, err) < 0 ||
	    session_reserve(session, &next, false, err) < 0 ||
	    next_put(store, txn, &next, err) < 0)
		return -1;
	return session_put_record(session, txn, err);
}

static int begin_session(struct store_session *session, const char *job, uint64_t parent,
			 struct err *err)
{
	struct store *store = session->store;
	MDB_txn *txn;

	session->lock_fd = open_sessions_lock(store);
	session->open.table = malloc((size_t)PACK_MAX_PAGES * PACK_ENTRY);
	if (session->lock_fd < 0)
		return err_sys(err, "%s/sessions.lock", store->dir);
	if (!session->open.table)
		return err_sys(err, "session");
	if (page_press_new(&session->press, session, err) < 0 || source_open(&session->source, store, err) < 0 ||
	    txn_write(store, &txn, err) < 0)
		return -1;
	if (begin_in_txn(session, txn, job, parent, err) < 0) {
		txn_end(store, txn);
		return -1;
	}
	return txn_commit(store, txn, false, err);
}

int session_new(struct store_session **ret, struct store *store, const char *job, uint64_t parent,
		enum store_codec codec, const struct session_key *keep, struct err *err)
{
	struct store_session *session;

	if (job && job_name_check(job, err) < 0)
		return -1;
	session = calloc(1, sizeof(*session));
	if (!session)
		return err_sys(err, "session");
	session->store = store;
	session->lock_fd = -1;
	session->codec = codec;
	session->record = (Cat__Session)CAT__SESSION__INIT;
	session->record.keep_time = keep ? keep->time : 0;
	session->record.keep_generation = keep ? keep->generation : 0;
	snprintf(session->job, sizeof(session->job), "%s", job ? job : "");
	atomic_fetch_add(&store->users, 1);
	map_read_sparsely(store);
	session->hashes = hash_cache_take(store);
	session->known_pages = swap_room(store, (struct dedup){0});
	if (!session->hashes)
		err_sys(err, "session");
	if (!session->hashes || batch_writer_new(&session->writer, store, session_recycle, session, err) < 0 ||
	    begin_session(session, job, parent, err) < 0) {
		session_free(session);
		return -1;
	}
	*ret = session;
	return 0;
}

int session_begin(struct store_session **ret, struct store *store, const char *job, uint64_t parent,
		  enum store_codec codec, struct err *err)
{
	return session_new(ret, store, job, parent, codec, NULL, err);
}

struct page_hash session_digest(const struct store_session *session, const void *data, size_t len)
{
	return hash_bytes(&session->store->secret, data, len);
}

void session_expect(struct store_session *session, uint64_t pages)
{
	hash_cache_expect(session->hashes, pages);
}

void session_counts(const struct store_session *session, struct session_counts *ret)
{
	*ret = session->counts;
}

/* ---- taking back what a session wrote ------------------------------------------------------ */

/* Deletes records with ids in [first, end) while the budget lasts. 1: there may be more, 0: done. */
static int delete_ids(MDB_txn *txn, MDB_dbi dbi, uint64_t first, uint64_t end, unsigned *budget,
		      struct err *err)
{
	struct id_key from = id_key(first);
	MDB_cursor *cursor;
	int rc = mdb_cursor_open(txn, dbi, &cursor);

	while (rc == 0 && *budget > 0) {
		MDB_val key = *KEY_VAL(from), value;

		rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
		if (rc || get_le64(key.mv_data) >= end)
			break;
		if (!value_is_sound(&key, &value)) { /* left alone */
			from = id_key(get_le64(key.mv_data) + 1);
			continue;
		}
		rc = mdb_cursor_del(cursor, 0);
		(*budget)--;
	}
	if (rc && rc != MDB_NOTFOUND)
		return err_lmdb(err, rc, "cannot reclaim");
	mdb_cursor_close(cursor);
	return *budget == 0;
}

static int delete_ranges(struct store *store, MDB_txn *txn, const Cat__Session *record,
			 struct err *err)
{
	unsigned packs = RECLAIM_BATCH, nodes = RECLAIM_BATCH * 16;
	int more = 0;
	size_t i;

	for (i = 0; i + 1 < record->n_pages && more == 0; i += 2)
		more = delete_ids(txn, store->packs, record->pages[i], record->pages[i + 1], &packs,
				  err);
	for (i = 0; i + 1 < record->n_nodes && more == 0; i += 2)
		more = delete_ids(txn, store->nodes, record->nodes[i], record->nodes[i + 1], &nodes,
				  err);
	return more;
}

/* One transaction's worth, by the record as it stands: where it is gone, the session was published or
 * reclaimed, and its pages are nobody's to delete. 1: more to do, 0: done. */
static int reclaim_some(struct store *store, MDB_txn *txn, uint64_t id, struct err *err)
{
	struct id_key key = id_key(id);
	Cat__Session *record;
	int rc = message_get(store, txn, store->sessions, KEY_VAL(key), MAGIC_SESSION,
			     &cat__session__descriptor, &record, "a session", err);

	if (rc == 0 || (rc < 0 && err->kind != ERR_CORRUPT))
		return rc;
	if (rc == 1) {
		rc = delete_ranges(store, txn, record, err);
		cat__session__free_unpacked(record, NULL);
		if (rc != 0)
			return rc;
	} /* else: it is dead and does not tell its ids; the next sweep finds what it left unmarked */
	return record_delete(txn, store->sessions, KEY_VAL(key), "a session", err);
}

/* The caller holds the session's lock. */
static int reclaim(struct store *store, uint64_t id, struct err *err)
{
	int more;

	do {
		MDB_txn *txn;

		if (txn_write(store, &txn, err) < 0)
			return -1;
		more = reclaim_some(store, txn, id, err);
		if (more < 0) {
			txn_end(store, txn);
			return -1;
		}
		if (txn_commit(store, txn, false, err) < 0)
			return -1;
	} while (more);
	return 0;
}

void session_abort(struct store_session *session)
{
	struct err ignored; /* what stays is reclaimed later, as after a death */

	if (!session)
		return;
	batch_writer_free(session->writer); /* what waits is not written, only to be deleted */
	session->writer = NULL;
	source_close(&session->source);
	reclaim(session->store, session->id, &ignored);
	session_free(session);
}

/* What a receive has left behind, and its repeat may want (sessionkeep.h); pins, which a collection takes away
 * (pins.h). */
static bool is_kept(struct store *store, MDB_val *key, MDB_val *value)
{
	Cat__Session *record;
	struct err ignored;
	bool kept;

	if (message_decode(store, key, value, MAGIC_SESSION, &cat__session__descriptor, &record,
			   &ignored) < 0)
		return false;
	kept = record->published ||
	       (record->keep_time && clock_ns(CLOCK_REALTIME) - record->started < SESSION_KEPT_NS);
	cat__session__free_unpacked(record, NULL);
	return kept;
}

/* The first session after `after` that is not to be kept. 1: found, 0: none. */
static int next_session(struct store *store, uint64_t after, uint64_t *ret, struct err *err)
{
	struct id_key from = id_key(after + 1);
	MDB_val key = *KEY_VAL(from), value;
	MDB_cursor *cursor = NULL;
	MDB_txn *txn;
	int rc;

	if (txn_read(store, &txn, err) < 0)
		return -1;
	rc = mdb_cursor_open(txn, store->sessions, &cursor);
	if (rc == 0)
		rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
	while (rc == 0 && is_kept(store, &key, &value))
		rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
	if (rc == 0)
		*ret = get_le64(key.mv_data);
	if (cursor)
		mdb_cursor_close(cursor);
	txn_end(store, txn);
	if (rc == MDB_NOTFOUND)
		return 0;
	return rc ? err_lmdb(err, rc, "cannot read sessions") : 1;
}

int sessions_reclaim(struct store *store, struct err *err)
{
	uint64_t id = 0;
	int rc;

	while ((rc = next_session(store, id, &id, err)) == 1) {
		cleanup_fd int fd = open_sessions_lock(store);

		if (fd < 0 || (rc = lock_byte(fd, id, F_WRLCK)) < 0)
			return err_sys(err, "%s/sessions.lock", store->dir);
		if (rc == 1 && reclaim(store, id, err) < 0)
			return err_wrap(err, "session %" PRIu64, id);
	}
	return rc;
}

/* ---- publishing ---------------------------------------------------------------------------- */

/* The rest of the last block, which was never used, goes back. */
static void give_back(const struct store_session *session, struct next_ids *next)
{
	if (next->page == session->page_ids.end)
		next->page = session->page_ids.next;
	if (next->node == session->node_ids.end)
		next->node = session->node_ids.next;
}

static int put_snapshot(struct store_session *session, MDB_txn *txn, const Snap__Snapshot *model,
			struct snapshot_info *info, uint64_t job, struct err *err)
{
	struct snapshot_key key = snapshot_key(job, info->seq);
	cleanup_free uint8_t *record = NULL;
	MDB_val value;
	int rc;

	if (snapshot_record_make(session->store, &key, info, model, &record, &value.mv_size, err) < 0)
		return -1;
	value.mv_data = record;
	rc = mdb_put(txn, session->store->snapshots, KEY_VAL(key), &value, MDB_NOOVERWRITE);
	return rc ? err_lmdb(err, rc, "cannot write the snapshot's record") : 0;
}

/* Its own number where that is free. */
static int take_foreign_number(struct store *store, MDB_txn *txn, Cat__Job *job,
			       struct snapshot_info *info, struct err *err)
{
	MDB_val value;
	int taken = info->seq ? snapshot_find(store, txn, job->id, info->seq, &value, NULL, err) : 1;

	if (taken < 0)
		return -1;
	if (taken)
		info->seq = job->last_seq + 1;
	if (job->last_seq < info->seq)
		job->last_seq = info->seq;
	if (job->generation < info->generation)
		job->generation = info->generation;
	return 0;
}

static int publish_in_txn(struct store_session *session, MDB_txn *txn, const Snap__Snapshot *model,
			  struct snapshot_info *info, struct err *err)
{
	struct store *store = session->store;
	cleanup_job Cat__Job *job = NULL;
	struct next_ids next;

	if (job_read(store, txn, session->job, &job, err) < 0 ||
	    next_get(store, txn, &next, err) < 0)
		return -1;
	if (session->record.job && job->id != session->record.job)
		return err_set(err, ERR_NOT_FOUND, "job '%s' was removed", session->job);
	if (session->hold && job_check_hold(session->hold, session->job, job, err) < 0)
		return -1;
	if (session->import) {
		if (take_foreign_number(store, txn, job, info, err) < 0)
			return -1;
	} else {
		info->seq = ++job->last_seq;
		info->generation = job->generation;
	}
	give_back(session, &next);
	if (batch_write(&session->gathering, store, txn, err) < 0 ||
	    elsewhere_flush(session, txn, err) < 0 ||
	    put_snapshot(session, txn, model, info, job->id, err) < 0 ||
	    job_write(store, txn, session->job, job, err) < 0 ||
	    next_put(store, txn, &next, err) < 0)
		return -1;
	return pins_leave(session, txn, err);
}

/* Roots that are neither stored nor about to be would make a snapshot that cannot be read. */
static int check_roots(struct store_session *session, const Snap__Snapshot *model, struct err *err)
{
	cleanup_free uint64_t *roots = NULL;
	uint64_t slots[NODE_SLOTS];
	unsigned level;
	size_t i, n;

	if (snapshot_roots(model, &roots, &n, err) < 0)
		return -1;
	for (i = 0; i < n; i++)
		if (session_node(session, roots[i], &level, slots, err) < 0)
			return err_wrap(err, "the model names a page table that is not there");
	return 0;
}

int session_put_snapshot(struct store_session *session, const Snap__Snapshot *model,
			 struct snapshot_info *info, struct err *err)
{
	struct store *store = session->store;
	MDB_txn *txn;

	if (session->failed)
		return err_set(err, ERR_INVALID, "a write of this snapshot had failed");
	if (session_settle(session, err) < 0 || check_roots(session, model, err) < 0)
		return -1;
	snprintf(info->job, sizeof(info->job), "%s", session->job);
	if (!session->import)
		info->parent = session->record.parent;
	info->bytes_stored = session->counts.bytes_stored;
	if (txn_write(store, &txn, err) < 0)
		return -1;
	if (publish_in_txn(session, txn, model, info, err) < 0) {
		txn_end(store, txn);
		return -1;
	}
	return txn_commit(store, txn, false, err);
}

int session_publish(struct store_session *session, const Snap__Snapshot *model,
		    struct snapshot_info *info, struct err *err)
{
	int rc;

	if (session_put_snapshot(session, model, info, err) < 0) {
		err_wrap(err, "snapshot of job '%s'", session->job);
		session_abort(session);
		return -1;
	}
	/* From here on it is in the catalogue: a failing sync does not take it back. */
	rc = store_sync(session->store, err);
	batch_leave_page_cache(&session->gathering, session->store);
	session_free(session);
	return rc;
}

int session_publish_import(struct store_session *session, const Snap__Snapshot *model,
			   struct snapshot_info *info, struct err *err)
{
	session->import = true;
	return session_publish(session, model, info, err);
}
