/*
 * content_blocks.h: the content of one file or piece of shared memory, block by block.
 *
 * Nobody tells which part of a file has changed: writes through mappings leave no trace in its
 * times, and times do not say where. So all of it is read and stored while the job runs, with a
 * digest of each block; in the pause all is read again, by several threads, but only blocks with
 * another digest are looked at page by page and stored.
 */
#ifndef PAWL_CHECKPOINTER_CONTENT_BLOCKS_H
#define PAWL_CHECKPOINTER_CONTENT_BLOCKS_H

#include "checkpointer/collect.h"
#include "store/store.h"

#define BLOCK_BYTES (1024u * 1024u)

/* Where content can be read. */
struct content_source {
	int fd;				 /* -1: only through mappings */
	const struct file_piece *pieces; /* then these, ascending by offset, disjoint */
	size_t n_pieces;
	bool clear_rest; /* what they do not cover is cleared, not left as the table has it */
	uint64_t size;	 /* bytes */
};

/* Digests of all the blocks of a content, as they are in the page table at root. */
struct content_digests {
	uint64_t root;
	uint64_t n;
	struct page_hash *list;
};

void content_digests_free(struct content_digests *digests); /* takes NULL */

/* Reads all and puts it into what the page table at base holds; *ret_root: the result. ret_digests:
 * NULL, or given what blocks_capture_changed needs, NULL where there is no memory for it. */
int blocks_capture(struct store_session *session, const struct content_source *source,
		   uint64_t base, uint64_t *ret_root, struct content_digests **ret_digests,
		   struct err *err);
/* The same result for digests->root as base, but only blocks that have changed since are put. */
int blocks_capture_changed(struct store_session *session, const struct content_source *source,
			   const struct content_digests *digests, uint64_t *ret_root,
			   struct err *err);

#endif
