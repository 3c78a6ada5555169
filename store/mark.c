#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "store/bytes.h"
#include "store/catalogue.h"
#include "store/gc.h"
#include "store/record.h"

#define MARK_BATCH 1024u /* nodes in one read transaction */

struct parent {
	uint64_t job, seq;
};

struct look {
	struct gc *gc;
	MDB_txn *txn;
	struct parent *parents; /* of live sessions */
	size_t n_parents;
};

static int add_roots(struct gc *gc, const uint64_t *roots, size_t n, struct err *err)
{
	uint64_t *more = reallocarray(gc->roots, gc->n_roots + n + 1, sizeof(*more));

	if (!more)
		return err_sys(err, "garbage collection");
	if (n)
		memcpy(more + gc->n_roots, roots, n * sizeof(*roots));
	gc->roots = more;
	gc->n_roots += n;
	return 0;
}

static int look_at_snapshot(void *ctx, const struct snapshot_key *key, const MDB_val *value,
			    struct err *err)
{
	struct look *look = ctx;
	struct snapshot_head head;
	uint32_t i;

	if (snapshot_head_open(&head, key, value->mv_data, value->mv_size,
			       &look->gc->store->secret, err) < 0) {
		char job[128];

		job_name_of(look->gc->store, look->txn, get_be64(key->bytes), job, sizeof(job));
		return err_wrap(err, "cannot free anything: record of %s@%" PRIu64
				     " (remove that snapshot first)",
				job, get_be64(key->bytes + 8));
	}
	for (i = 0; i < head.n_roots; i++) {
		uint64_t root = get_le64(head.roots + 8 * (size_t)i);

		if (add_roots(look->gc, &root, 1, err) < 0)
			return -1;
	}
	return 0;
}

typedef int look_fn(struct look *look, MDB_val *key, MDB_val *value, struct err *err);

static int each_record(struct look *look, MDB_dbi dbi, look_fn *fn, struct err *err)
{
	MDB_val key, value;
	MDB_cursor *cursor;
	int failed = 0, rc = mdb_cursor_open(look->txn, dbi, &cursor);

	if (rc)
		return err_lmdb(err, rc, "garbage collection");
	rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
	while (rc == 0 && !failed) {
		failed = fn(look, &key, &value, err);
		rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
	}
	mdb_cursor_close(cursor);
	if (failed || rc == MDB_NOTFOUND)
		return failed;
	return err_lmdb(err, rc, "garbage collection");
}

static int note_session(struct look *look, uint64_t id, const Cat__Session *session, struct err *err)
{
	struct parent *more = reallocarray(look->parents, look->n_parents + 1, sizeof(*more));
	struct gc *gc = look->gc;
	size_t i;
	int rc = more ? 0 : -1;

	if (rc == 0 && session->published)
		rc = id_ranges_add(&gc->published, id, id + 1);
	if (more) {
		more[look->n_parents++] = (struct parent){session->job, session->parent};
		look->parents = more;
	}
	for (i = 0; i + 1 < session->n_pages && rc == 0; i += 2)
		rc = id_ranges_add(&gc->live_pages, session->pages[i], session->pages[i + 1]);
	for (i = 0; i + 1 < session->n_nodes && rc == 0; i += 2)
		rc = id_ranges_add(&gc->live_nodes, session->nodes[i], session->nodes[i + 1]);
	return rc < 0 ? err_sys(err, "garbage collection") : 0;
}

static int look_at_session(struct look *look, MDB_val *key, MDB_val *value, struct err *err)
{
	Cat__Session *session;
	int rc;

	if (message_decode(look->gc->store, key, value, MAGIC_SESSION, &cat__session__descriptor,
			   &session, err) < 0)
		return err_wrap(err, "cannot free anything: record of a session");
	rc = note_session(look, get_le64(key->mv_data), session, err);
	cat__session__free_unpacked(session, NULL);
	return rc;
}

static bool is_parent(const struct look *look, const uint8_t *key)
{
	size_t i;

	for (i = 0; i < look->n_parents; i++)
		if (look->parents[i].job == get_be64(key) &&
		    look->parents[i].seq == get_be64(key + 8))
			return true;
	return false;
}

static int look_at_dropped(struct look *look, MDB_val *key, MDB_val *value, struct err *err)
{
	struct gc *gc = look->gc;
	struct gc_root_key *more;
	Cat__Dropped *dropped;
	int rc;

	if (key->mv_size == sizeof(more->bytes) && is_parent(look, key->mv_data)) {
		if (message_decode(gc->store, key, value, MAGIC_DROPPED, &cat__dropped__descriptor,
				   &dropped, err) < 0)
			return err_wrap(err, "cannot free anything: record of a dropped snapshot");
		rc = add_roots(gc, dropped->roots, dropped->n_roots, err);
		cat__dropped__free_unpacked(dropped, NULL);
		return rc;
	}
	more = reallocarray(gc->forget, gc->n_forget + 1, sizeof(*more));
	if (!more)
		return err_sys(err, "garbage collection");
	gc->forget = more;
	memset(&more[gc->n_forget], 0, sizeof(*more));
	memcpy(more[gc->n_forget++].bytes, key->mv_data,
	       key->mv_size < sizeof(more->bytes) ? key->mv_size : sizeof(more->bytes));
	return 0;
}

/* Counters, sessions and roots, of one moment. */
static int look_around(struct gc *gc, struct err *err)
{
	struct look look = {.gc = gc};
	int rc;

	if (txn_read(gc->store, &look.txn, err) < 0)
		return -1;
	rc = next_get(gc->store, look.txn, &gc->next, err);
	if (rc == 0)
		rc = each_record(&look, gc->store->sessions, look_at_session, err);
	if (rc == 0)
		rc = each_record(&look, gc->store->dropped, look_at_dropped, err);
	if (rc == 0)
		rc = snapshot_each(gc->store, look.txn, 0, look_at_snapshot, &look, err);
	txn_end(gc->store, look.txn);
	free(look.parents);
	return rc;
}

/* ---- marking ------------------------------------------------------------------------------- */

struct marker {
	struct gc *gc;
	struct page_source source;
	unsigned seen; /* nodes in this transaction */
};

static int mark_pages(struct gc *gc, const uint64_t slots[NODE_SLOTS], struct err *err)
{
	unsigned i;

	for (i = 0; i < NODE_SLOTS; i++)
		if (slots[i] >= ID_FIRST && slots[i] < gc->next.page &&
		    idset_add(&gc->pages, slots[i]) < 0)
			return err_sys(err, "garbage collection");
	return 0;
}

/* most: the level that a node here may have at most. */
static int mark_node(struct marker *marker, uint64_t id, int most, struct err *err)
{
	struct gc *gc = marker->gc;
	uint64_t slots[NODE_SLOTS];
	unsigned i, level;
	int added;

	if (id < ID_FIRST || id >= gc->next.node)
		return 0;
	added = idset_add(&gc->nodes, id);
	if (added < 0)
		return err_sys(err, "garbage collection");
	if (added == 0)
		return 0;
	if (++marker->seen % MARK_BATCH == 0)
		source_end(&marker->source);
	if (source_begin(&marker->source, err) < 0)
		return -1;
	if (source_node(&marker->source, id, &level, slots, err) < 0)
		return err->kind == ERR_CORRUPT ? 0 : -1; /* what it led to is lost anyway */
	if ((int)level > most)
		return 0;
	if (level == 0)
		return mark_pages(gc, slots, err);
	for (i = 0; i < NODE_SLOTS; i++)
		if (mark_node(marker, slots[i], (int)level - 1, err) < 0)
			return -1;
	return 0;
}

int gc_mark(struct gc *gc, struct err *err)
{
	struct marker marker = {.gc = gc};
	size_t i;
	int rc = look_around(gc, err);

	if (rc == 0)
		rc = source_open(&marker.source, gc->store, err);
	for (i = 0; i < gc->n_roots && rc == 0; i++)
		rc = mark_node(&marker, gc->roots[i], NODE_MAX_LEVEL, err);
	source_close(&marker.source);
	return rc;
}
