/*
 * contents.h: the content of files, from the file system into page tables.
 *
 * A file whose identity, size and times are those of an earlier capture is not read again, unless its
 * times prove nothing: mapped shared and writable, or changed within the clock's grain of the capture.
 * content_blocks.h says how the others are read in the pause.
 */
#ifndef PAWL_CHECKPOINTER_CONTENTS_H
#define PAWL_CHECKPOINTER_CONTENTS_H

#include <sys/stat.h>

#include "checkpointer/collect.h"
#include "checkpointer/content_blocks.h"
#include "checkpointer/content_pieces.h"
#include "checkpointer/pages.h"
#include "checkpointer/tree_root.h"
#include "store/store.h"

/* One known content: a file as it was, and the page table made of it. */
struct known_content {
	uint64_t device, inode, size, mtime, ctime;
	uint64_t root;
	uint64_t captured; /* CLOCK_REALTIME before it was read, ns */
	struct content_digests *digests; /* of what is at root, NULL: none; owned by the list */
};

struct known_contents {
	struct known_content *list;
	size_t n;
	const Snap__Snapshot *last; /* the snapshot it began with, NULL: none */
};

void known_contents_free(struct known_contents *known);
/* Contents that snapshot `model` holds. */
int known_contents_from(struct known_contents *known, const Snap__Snapshot *model, struct err *err);

/* While the job runs: reads files that the last snapshot restored and that have changed since, and all memory
 * that processes share, so that in the pause only what still changes then is left to be stored. Failures only
 * mean that it is done later. */
void contents_read_ahead(struct known_contents *known, struct store_session *session,
			 const struct tree_root *root);

/* While the job stands still: content of the files that belong to the job. */
int contents_capture_job_files(struct collection *c, struct store_session *session,
			       struct known_contents *known, struct err *err);
/* When it runs again: programs and libraries, which nobody changes in place, and what was held. */
int contents_capture_programs(struct collection *c, struct store_session *session,
			      struct known_contents *known, struct err *err);

/* ---- for contents*.c ----------------------------------------------------------------------- */

/* NULL: not known. Valid until the next known_remember. */
const struct known_content *known_find(const struct known_contents *known, uint64_t device,
				       uint64_t inode);
/* Takes content->digests, also on failure. */
int known_remember(struct known_contents *known, const struct known_content *content,
		   struct err *err);
/* Root of the shared memory that the last snapshot had mapped at that address, 0: none. After a recovery the
 * same memory has another inode; a wrong guess costs only time. */
uint64_t known_root_at(const struct known_contents *known, uint64_t start);
bool known_still_holds(const struct known_content *k, const struct stat *st);
/* Reads what path leads to. guess: root to begin with where nothing is known of it. ahead: with digests. */
int contents_capture_path(struct known_contents *known, struct store_session *session,
			  const char *path, const char *name, uint64_t guess, bool ahead,
			  struct known_content *ret, struct err *err);
/* The same of memory that is reached through mappings only; content has its device, inode and size. */
int contents_capture_memory(struct known_contents *known, struct store_session *session,
			    const struct piece_list *pieces, uint64_t guess, bool ahead,
			    struct known_content *content, struct err *err);

#endif
