/*
 * session.h: the inside of a writer, for the page table code.
 *
 * Pages go into the open pack; full packs and new nodes gather in a batch. Full batches are written by a thread
 * of their own (batchwriter.h), while the next ones gather: compressing and waiting for the disk overlap. Page and
 * node ids come from blocks that are reserved in the session's record, so that no two writers ever give out the
 * same one, and what a dead writer left is known by its ids.
 */
#ifndef PAWL_STORE_SESSION_H
#define PAWL_STORE_SESSION_H

#include "store/batchwriter.h"
#include "store/dedup.h"
#include "store/elsewhere.h"
#include "store/press.h"
#include "store/sessionkeep.h"
#include "store/source.h"

struct id_block {
	uint64_t next, end;
};

struct store_session {
	struct store *store;
	uint64_t id;
	int lock_fd;          /* sessions.lock, byte id */
	char job[128];
	enum store_codec codec;
	Cat__Session record;  /* as stored; arrays malloc'ed */
	struct id_block page_ids, node_ids;
	struct pack_builder open;
	struct batch gathering;
	struct batch_writer *writer;
	uint8_t *spare[SESSION_PACKS_BYTES / PACK_SIZE + 1]; /* PACK_SIZE buffers for reuse */
	size_t n_spare;
	struct dedup known_pages, known_nodes;
	struct elsewhere elsewhere;
	struct hash_cache *hashes;
	struct page_source source;
	struct page_press *press;
	struct session_counts counts;
	bool failed;                /* a write failed: only abort is left */
	bool import;                /* the snapshot comes from another store */
	const struct session_hold *hold; /* … if its sender still holds the job; NULL: is not asked */
};

/* Hash of a page by id: of this session or stored. ERR_CORRUPT where it cannot be told. */
int session_page_hash(struct store_session *session, uint64_t id, struct page_hash *ret,
		      struct err *err);
/* Stores new content, that of a hashed page that is not zero, and compresses it where that was not done; *ret_id is its
 * id. May write a batch. */
int session_add_page(struct store_session *session, const struct pressed_page *page, uint64_t *ret_id, struct err *err);

/* A page of that content that may be referred to: of this session, its parent, or found in the store; 0: none
 * is known. */
uint64_t session_find_content(struct store_session *session, struct page_hash hash);

/* Slots of a node of this session or a stored one. */
int session_node(struct store_session *session, uint64_t id, unsigned *ret_level,
		 uint64_t slots[NODE_SLOTS], struct err *err);
/* The id of a node with that content: a known one, or a new one. */
int session_add_node(struct store_session *session, unsigned level,
		     const uint64_t slots[NODE_SLOTS], uint64_t *ret_id, struct err *err);
/* Makes a stored node's content known, so that session_add_node finds it again. */
void session_know_node(struct store_session *session, unsigned level,
		       const uint64_t slots[NODE_SLOTS], uint64_t id);

/* The batch is in the store: its buffers serve again. */
batch_written session_recycle;
/* Closes the open pack and waits for the writer: what is left to write is in `gathering`. ERR_FULL and others are
 * the writer's. */
int session_settle(struct store_session *session, struct err *err);
/* Adds a block of page or node ids to the record (which the caller writes). */
int session_reserve(struct store_session *session, struct next_ids *next, bool pages,
		    struct err *err);
int session_put_record(struct store_session *session, MDB_txn *txn, struct err *err);

/* session_begin with or without something to keep; job NULL: none yet. */
int session_new(struct store_session **ret, struct store *store, const char *job, uint64_t parent,
		enum store_codec codec, const struct session_key *keep, struct err *err);
/* Frees the struct only: what is stored stays as if the process had died. */
void session_free(struct store_session *session);
/* session_publish without its end: the session stays in any case, after a success with nothing left but
 * to be freed. */
int session_put_snapshot(struct store_session *session, const Snap__Snapshot *model,
			 struct snapshot_info *info, struct err *err);
/* Makes the session the successor of a dead one with the same key, whose lock and ranges it takes. 1, 0:
 * there is none, -1. */
int session_adopt(struct store_session *session, MDB_txn *txn, struct err *err);
/* Adds the pages of what it has adopted to those that are known. Damaged ones are not. */
int session_know_adopted(struct store_session *session, struct err *err);
/* ERR_FENCED. */
int job_check_hold(const struct session_hold *hold, const char *name, const Cat__Job *job,
		   struct err *err);

/* Frees what dead sessions left. Short transactions. */
int sessions_reclaim(struct store *store, struct err *err);

#endif
