#include "store/elsewhere.h"

#include <stdlib.h>

#include "store/bytes.h"
#include "store/pageindex.h"
#include "store/pins.h"
#include "store/session.h"

#define CANDIDATES   4u      /* pages with the same fingerprint */
#define NEAR_END     8u      /* pages of a pack, whichever comes first: the next pack may be wanted */
#define WINDOW_FIRST 4096u
#define WINDOW_MOST  65536u
/* After so many hooks of which next to none was found only one in RARE is looked up. */
#define PATIENCE 512u
#define RARE     8u
/* Each costs a transaction. */
#define REFUSED_MOST 8u

void elsewhere_clear(struct elsewhere *e)
{
	free(e->hooks);
	id_ranges_clear(&e->pinned);
	*e = (struct elsewhere){0};
}

static bool is_pinned(const struct elsewhere *e, uint64_t id)
{
	return id_ranges_meet(&e->pinned, id, id);
}

/* In one more than that the next time: who comes back to one pack comes back to many. */
static bool pin(struct store_session *session, uint64_t first, uint64_t last)
{
	struct elsewhere *e = &session->elsewhere;
	struct err ignored;
	uint64_t end;

	if (e->window == 0)
		e->window = WINDOW_FIRST;
	end = first + e->window;
	if (end <= last)
		end = last + 1;
	if (pins_add(session, first, &end, &ignored) != 1) {
		e->off = ++e->refused == REFUSED_MOST;
		return false;
	}
	if (e->window < WINDOW_MOST)
		e->window *= 2;
	return id_ranges_add(&e->pinned, first, end) == 0;
}

/* The pages of source.view whose ids are pinned become known. */
static void know_view(struct store_session *session, const struct pack_view *view)
{
	struct elsewhere *e = &session->elsewhere;
	uint64_t last = view->first + view->span;
	uint32_t i;

	for (i = 0; i < view->count; i++) {
		struct pack_entry entry = pack_entry(view, i);

		if (is_pinned(e, entry.id))
			dedup_add(&session->known_pages, entry.hash, entry.id);
	}
	e->near_end = view->count > NEAR_END ? pack_entry(view, view->count - NEAR_END).id : view->first;
	e->next_pack = last + 1;
	hash_cache_add(session->hashes, view);
}

/* The pack that holds id becomes known; it is pinned before it is looked at again. */
static bool know_pack_of(struct store_session *session, uint64_t id, uint64_t first, uint64_t last)
{
	struct err ignored;
	uint32_t i;
	bool there;

	if (!is_pinned(&session->elsewhere, id) && !pin(session, first, last))
		return false;
	if (source_begin(&session->source, &ignored) < 0)
		return false;
	there = source_find(&session->source, id, &i, &ignored) == 0;
	if (there)
		know_view(session, &session->source.view);
	source_end(&session->source);
	return there;
}

/* Which of the candidates has this content, 0: none; and the ids of its pack. */
static uint64_t confirm(struct store_session *session, struct page_hash hash, const uint64_t *ids, size_t n,
			uint64_t *ret_first, uint64_t *ret_last)
{
	struct err ignored;
	uint32_t at;

	for (size_t i = 0; i < n; i++) {
		const struct pack_view *view = &session->source.view;

		if (source_find(&session->source, ids[i], &at, &ignored) < 0 ||
		    !hash_equal(pack_entry(view, at).hash, hash))
			continue;
		*ret_first = view->first;
		*ret_last = view->first + view->span;
		return ids[i];
	}
	return 0;
}

/* Looking up costs a few cache misses a run: too much for every page of a job that never finds any. */
static bool worth_looking(struct elsewhere *e, struct page_hash hash)
{
	if (e->off || !index_hook(hash))
		return false;
	if (e->looked >= PATIENCE && e->found * 64 < e->looked && (hash.lo >> 3) % RARE != 0)
		return false;
	e->looked++;
	return true;
}

uint64_t elsewhere_find(struct store_session *session, struct page_hash hash)
{
	struct elsewhere *e = &session->elsewhere;
	uint64_t ids[CANDIDATES], id, first = 0, last = 0;
	struct err ignored;
	size_t n, runs;

	if (!worth_looking(e, hash) || source_begin(&session->source, &ignored) < 0)
		return 0;
	n = index_find(session->store, session->source.txn, index_print(hash), ids, CANDIDATES, &runs);
	id = confirm(session, hash, ids, n, &first, &last);
	source_end(&session->source);
	e->off |= runs == 0;
	if (!id || !know_pack_of(session, id, first, last))
		return 0;
	e->found++;
	return dedup_find(&session->known_pages, hash);
}

void elsewhere_met(struct store_session *session, uint64_t id)
{
	struct elsewhere *e = &session->elsewhere;
	struct page_source *source = &session->source;
	struct id_key from = id_key(e->next_pack);
	MDB_val key = *KEY_VAL(from), value;
	struct pack_view view;
	struct err ignored;
	int rc;

	if (!e->next_pack || e->off || id < e->near_end || id >= e->next_pack)
		return;
	if (source_begin(source, &ignored) < 0)
		return;
	rc = mdb_cursor_get(source->cursor, &key, &value, MDB_SET_RANGE);
	if (rc == 0)
		rc = pack_peek(&view, value.mv_data, value.mv_size, get_le64(key.mv_data), &ignored);
	source_end(source);
	e->next_pack = 0;
	if (rc == 0)
		know_pack_of(session, view.first, view.first, view.first + view.span);
}

void elsewhere_note(struct store_session *session, struct page_hash hash, uint64_t id)
{
	struct elsewhere *e = &session->elsewhere;

	if (!index_hook(hash) || id >= RUN_ID_END || e->n_hooks == RUN_MOST)
		return;
	if (e->n_hooks == e->room) {
		size_t room = e->room ? e->room * 2 : 512;
		struct index_entry *more = reallocarray(e->hooks, room, sizeof(*more));

		if (!more)
			return;
		e->hooks = more;
		e->room = room;
	}
	e->hooks[e->n_hooks++] = (struct index_entry){index_print(hash), id};
	session->counts.bytes_stored += RUN_ENTRY;
}

int elsewhere_flush(struct store_session *session, MDB_txn *txn, struct err *err)
{
	struct elsewhere *e = &session->elsewhere;

	if (e->n_hooks == 0)
		return 0;
	index_sort(e->hooks, e->n_hooks);
	if (index_add(session->store, txn, e->hooks, e->n_hooks, err) < 0)
		return -1;
	e->n_hooks = 0; /* if the transaction fails, so does the session */
	return 0;
}
