#include "store/pins.h"

#include <stdlib.h>

#include "store/bytes.h"
#include "store/record.h"

#define PINS_MOST 2048u /* ranges: 32 KiB of record */

static const char gc_name[] = "gc";

static MDB_val gc_key(void)
{
	return (MDB_val){sizeof(gc_name) - 1, (void *)gc_name};
}

/* ---- other sessions' ----------------------------------------------------------------------- */

typedef int each_fn(void *ctx, uint64_t id, const Cat__Session *session);

/* Calls fn for each session's record. */
static int each_session(struct store *store, MDB_txn *txn, each_fn *fn, void *ctx, struct err *err)
{
	MDB_cursor *cursor;
	MDB_val key, value;
	int rc = mdb_cursor_open(txn, store->sessions, &cursor), failed = 0;

	if (rc)
		return err_lmdb(err, rc, "cannot read sessions");
	while (!failed && (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
		Cat__Session *session;

		failed = message_decode(store, &key, &value, MAGIC_SESSION, &cat__session__descriptor,
					&session, err);
		if (failed < 0) {
			err_wrap(err, "record of a session");
			break;
		}
		failed = fn(ctx, get_le64(key.mv_data), session);
		cat__session__free_unpacked(session, NULL);
		if (failed)
			err_sys(err, "sessions");
	}
	mdb_cursor_close(cursor);
	if (failed || rc == MDB_NOTFOUND)
		return failed;
	return err_lmdb(err, rc, "cannot read sessions");
}

struct clip {
	uint64_t own, first, end;
};

static int clip_range(void *ctx, uint64_t id, const Cat__Session *session)
{
	struct clip *clip = ctx;

	for (size_t i = 0; id != clip->own && i + 1 < session->n_pages; i += 2)
		if (session->pages[i] < clip->end && session->pages[i + 1] > clip->first)
			clip->end = session->pages[i] > clip->first ? session->pages[i] : clip->first;
	return 0;
}

static int note_pins(void *ctx, uint64_t id, const Cat__Session *session)
{
	int rc = 0;

	(void)id;
	for (size_t i = 0; i + 1 < session->n_pins && rc == 0; i += 2)
		rc = id_ranges_add(ctx, session->pins[i], session->pins[i + 1]);
	return rc;
}

int pins_read(struct store *store, MDB_txn *txn, struct id_ranges *ret, struct err *err)
{
	return each_session(store, txn, note_pins, ret, err);
}

/* ---- a session's own ----------------------------------------------------------------------- */

static int append(Cat__Session *record, uint64_t first, uint64_t end, struct err *err)
{
	uint64_t *more;

	if (record->n_pins && record->pins[record->n_pins - 1] == first) {
		record->pins[record->n_pins - 1] = end;
		return 0;
	}
	more = reallocarray(record->pins, record->n_pins + 2, sizeof(*more));
	if (!more)
		return err_sys(err, "session");
	record->pins = more;
	more[record->n_pins++] = first;
	more[record->n_pins++] = end;
	return 0;
}

int pins_add(struct store_session *session, uint64_t first, uint64_t *end, struct err *err)
{
	struct store *store = session->store;
	struct clip clip = {session->id, first, *end};
	MDB_txn *txn;

	if (session->record.n_pins >= 2 * PINS_MOST)
		return 0;
	if (txn_write(store, &txn, err) < 0)
		return -1;
	if (each_session(store, txn, clip_range, &clip, err) < 0 ||
	    (clip.end > first && (append(&session->record, first, clip.end, err) < 0 ||
				  session_put_record(session, txn, err) < 0))) {
		txn_end(store, txn);
		return -1;
	}
	if (txn_commit(store, txn, false, err) < 0)
		return -1;
	*end = clip.end;
	return clip.end > first;
}

int pins_leave(struct store_session *session, MDB_txn *txn, struct err *err)
{
	struct store *store = session->store;
	struct id_key key = id_key(session->id);
	Cat__Session left = CAT__SESSION__INIT;
	MDB_val mark = gc_key(), value;
	int collecting = 0;

	if (session->record.n_pins)
		collecting = record_get(txn, store->meta, &mark, &value, "the collection's mark", err);
	if (collecting < 0)
		return -1;
	if (!collecting)
		return record_delete(txn, store->sessions, KEY_VAL(key), "the session", err);
	left.pins = session->record.pins;
	left.n_pins = session->record.n_pins;
	left.started = session->record.started;
	left.published = true;
	return message_put(store, txn, store->sessions, KEY_VAL(key), MAGIC_SESSION, &left.base,
			   "the session", err);
}

/* ---- collections --------------------------------------------------------------------------- */

int pins_collecting(struct store *store, struct err *err)
{
	uint8_t record[FRAME_HEADER];
	MDB_val key = gc_key(), value = {sizeof(record), record};
	MDB_txn *txn;
	int rc;

	frame_seal(record, 0, MAGIC_COLLECTING, key.mv_data, key.mv_size, &store->secret);
	if (txn_write(store, &txn, err) < 0)
		return -1;
	rc = mdb_put(txn, store->meta, &key, &value, 0);
	if (rc) {
		txn_end(store, txn);
		return err_lmdb(err, rc, "cannot begin a collection");
	}
	return txn_commit(store, txn, false, err);
}

int pins_collected(struct store *store, const struct id_ranges *done, struct err *err)
{
	MDB_val mark = gc_key();
	MDB_txn *txn;
	int rc;

	if (txn_write(store, &txn, err) < 0)
		return -1;
	rc = record_delete(txn, store->meta, &mark, "the collection's mark", err);
	for (size_t i = 0; i < done->n && rc == 0; i++) {
		struct id_key key = id_key(done->range[i].first);

		rc = record_delete(txn, store->sessions, KEY_VAL(key), "a session", err);
	}
	if (rc < 0) {
		txn_end(store, txn);
		return -1;
	}
	return txn_commit(store, txn, false, err);
}
