#include "store/sessionkeep.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/cleanup.h"
#include "store/bytes.h"
#include "store/catalogue.h"
#include "store/lock.h"
#include "store/record.h"
#include "store/session.h"

#define KNOW_BATCH 32u /* packs in one read transaction */

/* ---- taking over --------------------------------------------------------------------------- */

static bool same_key(const Cat__Session *a, const Cat__Session *b)
{
	return a->keep_time == b->keep_time && a->keep_generation == b->keep_generation;
}

static void take_ranges(Cat__Session *to, Cat__Session *from)
{
	to->pages = steal_ptr(&from->pages);
	to->n_pages = from->n_pages;
	to->nodes = steal_ptr(&from->nodes);
	to->n_nodes = from->n_nodes;
	from->n_pages = from->n_nodes = 0;
}

/* 1: it was a dead one with our key, and is ours. */
static int try_adopt(struct store_session *session, MDB_val *key, MDB_val *value, struct err *err)
{
	uint64_t id = get_le64(key->mv_data);
	Cat__Session *dead;
	struct err ignored;
	int rc = 0;

	if (message_decode(session->store, key, value, MAGIC_SESSION, &cat__session__descriptor,
			   &dead, &ignored) < 0)
		return 0; /* damaged: not ours to judge */
	if (same_key(dead, &session->record))
		rc = lock_byte(session->lock_fd, id, F_WRLCK);
	if (rc == 1) {
		take_ranges(&session->record, dead);
		session->id = id;
	}
	cat__session__free_unpacked(dead, NULL);
	return rc < 0 ? err_sys(err, "cannot lock session %" PRIu64, id) : rc;
}

int session_adopt(struct store_session *session, MDB_txn *txn, struct err *err)
{
	MDB_cursor *cursor;
	MDB_val key, value;
	int found = 0, rc = mdb_cursor_open(txn, session->store->sessions, &cursor);

	if (rc)
		return err_lmdb(err, rc, "cannot read sessions");
	rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
	while (rc == 0 && found == 0) {
		found = try_adopt(session, &key, &value, err);
		rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
	}
	mdb_cursor_close(cursor);
	if (found == 0 && rc && rc != MDB_NOTFOUND)
		return err_lmdb(err, rc, "cannot read sessions");
	return found;
}

/* ---- what is known ------------------------------------------------------------------------- */

static void know_pack(struct store_session *session, const MDB_val *key, const MDB_val *value)
{
	const struct store_secret *secret = &session->store->secret;
	uint8_t page[STORE_PAGE_SIZE];
	struct pack_view view;
	struct err ignored;

	if (pack_open(&view, value->mv_data, value->mv_size, get_le64(key->mv_data), secret,
		      &ignored) < 0)
		return;
	for (uint32_t i = 0; i < view.count; i++) {
		struct pack_entry entry = pack_entry(&view, i);

		if (pack_page(&view, i, secret, session->source.dctx, page, &ignored) == 0)
			dedup_add(&session->known_pages, entry.hash, entry.id);
	}
}

/* Packs with ids in [*first, end), as many as one transaction is for. 1: there may be more. */
static int know_some(struct store_session *session, uint64_t *first, uint64_t end, struct err *err)
{
	struct id_key from = id_key(*first);
	MDB_val key = *KEY_VAL(from), value;
	MDB_cursor *cursor = NULL;
	unsigned n = 0;
	MDB_txn *txn;
	int rc;

	if (txn_read(session->store, &txn, err) < 0)
		return -1;
	rc = mdb_cursor_open(txn, session->store->packs, &cursor);
	if (rc == 0)
		rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
	while (rc == 0 && get_le64(key.mv_data) < end && n++ < KNOW_BATCH) {
		know_pack(session, &key, &value);
		*first = get_le64(key.mv_data) + 1;
		rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
	}
	if (cursor)
		mdb_cursor_close(cursor);
	txn_end(session->store, txn);
	if (rc && rc != MDB_NOTFOUND)
		return err_lmdb(err, rc, "cannot read pages");
	return rc == 0 && n > KNOW_BATCH;
}

int session_know_adopted(struct store_session *session, struct err *err)
{
	const Cat__Session *record = &session->record;
	int more = 0;

	for (size_t i = 0; i + 1 < record->n_pages && more == 0; i += 2) {
		uint64_t first = record->pages[i];

		do
			more = know_some(session, &first, record->pages[i + 1], err);
		while (more == 1);
	}
	return more < 0 ? -1 : 0;
}

/* Pages below a node, whose level is at most `most`. What is damaged is not known. */
static int know_node(struct store_session *session, uint64_t id, int most, struct err *err)
{
	uint64_t slots[NODE_SLOTS];
	struct page_hash hash;
	unsigned level;

	if (id < ID_FIRST)
		return 0;
	if (session_node(session, id, &level, slots, err) < 0)
		return err->kind == ERR_CORRUPT ? 0 : -1;
	for (unsigned i = 0; i < NODE_SLOTS && (int)level <= most; i++) {
		if (level > 0 && know_node(session, slots[i], (int)level - 1, err) < 0)
			return -1;
		if (level > 0 || slots[i] < ID_FIRST)
			continue;
		if (session_page_hash(session, slots[i], &hash, err) == 0)
			dedup_add(&session->known_pages, hash, slots[i]);
		else if (err->kind != ERR_CORRUPT)
			return -1;
	}
	return 0;
}

int session_know_snapshot(struct store_session *session, const Snap__Snapshot *model,
			  struct err *err)
{
	cleanup_free uint64_t *roots = NULL;
	size_t n;

	if (snapshot_roots(model, &roots, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (know_node(session, roots[i], NODE_MAX_LEVEL, err) < 0)
			return -1;
	return 0;
}

size_t session_known_pages(const struct store_session *session)
{
	return session->known_pages.used;
}

uint64_t session_find_page(const struct store_session *session, struct page_hash hash)
{
	return dedup_find(&session->known_pages, hash);
}

/* ---- beginning and ending ------------------------------------------------------------------ */

int session_begin_kept(struct store_session **ret, struct store *store, const char *job,
		       uint64_t parent, enum store_codec codec, const struct session_key *key,
		       struct err *err)
{
	struct store_session *session;

	if (session_new(&session, store, job, parent, codec, key, err) < 0)
		return -1;
	if (session_know_adopted(session, err) < 0) {
		session_keep(session);
		return -1;
	}
	*ret = session;
	return 0;
}

void session_keep(struct store_session *session)
{
	struct err ignored;

	if (!session)
		return;
	if (!session->failed && session_settle(session, &ignored) == 0 &&
	    session->gathering.n_packs > 0)
		batch_commit(&session->gathering, session->store, &ignored);
	session_free(session);
}

static int take_job(struct store_session *session, const char *job, struct err *err)
{
	if (session->job[0])
		return 0;
	if (job_name_check(job, err) < 0)
		return -1;
	snprintf(session->job, sizeof(session->job), "%s", job);
	return 0;
}

int session_publish_received(struct store_session **session, const char *job,
			     const Snap__Snapshot *model, struct snapshot_info *info,
			     const struct session_hold *hold, struct err *err)
{
	struct store_session *s = *session;
	struct store *store = s->store;
	int rc;

	s->import = true;
	s->hold = hold;
	rc = take_job(s, job, err);
	if (rc == 0)
		rc = session_put_snapshot(s, model, info, err);
	s->hold = NULL;
	if (rc < 0 && err->kind != ERR_FULL && err->kind != ERR_FENCED)
		return -1;
	*session = NULL;
	if (rc < 0) {
		session_abort(s);
		return -1;
	}
	session_free(s);
	return store_sync(store, err);
}

/* ---- holds --------------------------------------------------------------------------------- */

int job_check_hold(const struct session_hold *hold, const char *name, const Cat__Job *job,
		   struct err *err)
{
	const ProtobufCBinaryData *token = &job->token;

	if (hold->token && (token->len != HOLD_TOKEN || memcmp(token->data, hold->token, HOLD_TOKEN)))
		return err_set(err, ERR_FENCED, "job '%s' has been taken by %.*s", name,
			       token->len ? (int)job->holder.len : 7,
			       token->len && job->holder.len ? (const char *)job->holder.data
							     : "another");
	if (hold->generation < job->generation)
		return err_set(err, ERR_FENCED,
			       "job '%s' was resumed there since (generation %" PRIu64
			       ", not %" PRIu64 ")",
			       name, job->generation, hold->generation);
	return 0;
}
