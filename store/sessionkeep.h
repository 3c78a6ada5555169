/*
 * sessionkeep.h: writers of snapshots that come from elsewhere: what arrived of one that was cut off is
 * kept, and the repeat goes on from it.
 *
 * Such a session has a key, the snapshot's identity. When it ends without a snapshot, or its process dies, its
 * record and packs stay for a day (SESSION_KEPT_NS); the next session with that key takes them over. What is
 * not taken over is reclaimed like anything a dead session left.
 */
#ifndef PAWL_STORE_SESSIONKEEP_H
#define PAWL_STORE_SESSIONKEEP_H

#include "store/store.h"

#define SESSION_KEPT_NS (24ull * 3600 * 1000000000)
#define HOLD_TOKEN      16u

struct session_key {
	uint64_t time, generation;
};

/* Who sends. token NULL: nobody in particular. */
struct session_hold {
	const uint8_t *token; /* HOLD_TOKEN bytes */
	uint64_t generation;  /* of the job where it runs */
};

/* As session_begin; job NULL: it need not exist before the publishing (parent 0). */
int session_begin_kept(struct store_session **ret, struct store *store, const char *job,
		       uint64_t parent, enum store_codec codec, const struct session_key *key,
		       struct err *err);
/* Ends it: what arrived stays for a repeat. Takes NULL. */
void session_keep(struct store_session *session);
/* Publishes as session_publish_import does, if the hold is good. *session is NULL after a success, and where
 * its pages are of no use to a repeat (ERR_FULL, ERR_FENCED). job: where it was not known at the beginning. */
int session_publish_received(struct store_session **session, const char *job,
			     const Snap__Snapshot *model, struct snapshot_info *info,
			     const struct session_hold *hold, struct err *err);

/* Pages that are known by their content, besides those of tables under construction. */
size_t session_known_pages(const struct store_session *session);
/* Makes the pages known of a snapshot: the session's parent. */
int session_know_snapshot(struct store_session *session, const Snap__Snapshot *model,
			  struct err *err);
/* The id of a known page, 0: none. */
uint64_t session_find_page(const struct store_session *session, struct page_hash hash);
/* The page at index is that one (of session_find_page). */
int page_table_put_id(struct page_table *table, uint64_t index, uint64_t id, struct err *err);

#endif
