/* tree_impl.h: one directory of --save-dir in a snapshot; private to trees.c, tree_match.c,
 * tree_watch.c and tree_contents.c. */
#ifndef PAWL_CHECKPOINTER_TREE_IMPL_H
#define PAWL_CHECKPOINTER_TREE_IMPL_H

#include "store/treewalk.h"

#define TREE_DETAILS_AGAIN                                                                         \
	(1u << 4) /* a mark beside those of treewalk.h: not its content, but the rest */

/* Pages of a file that were read in the pause. */
struct tree_copy {
	uint32_t object;
	uint64_t first, n; /* pages of the file */
	char *data;
};

struct tree_watch {
	int fd;		/* inotify; -1: none */
	uint32_t *dirs; /* by watch descriptor */
	size_t room;
	bool blind; /* a watch could not be had, or events were lost */
};

struct saved_tree {
	char *path;
	/* The last snapshot's, by slot. */
	struct tree prev;
	bool has_prev;
	uint64_t prev_walked, objects_root, contents_root;
	/* This one's. `other` of an object: the place in prev that it goes on from. */
	struct tree now;
	struct tree_walk walk;
	struct tree_watch watch;
	struct page_table *contents;
	uint64_t walked;
	bool no_times; /* a file system whose times do not follow writes through mappings */
	struct tree_copy *copies;
	size_t n_copies, copies_room;
	uint64_t copied; /* bytes */
};

/* ---- tree_match.c -------------------------------------------------------------------------- */

/* Finds for all objects of now what they were at the last snapshot; marks those that must be read.
 */
int tree_match(struct saved_tree *t, struct err *err);
/* As tree_match, of a second walk: `ahead` is the first one, whose contents have been read. */
int tree_match_ahead(struct saved_tree *t, struct tree *ahead, struct err *err);
/* Settles who goes on from which place, gives places to the rest, clears the contents of what is
 * gone. *ret_slots: how many places there are. */
int tree_assign(struct saved_tree *t, uint32_t *ret_slots, struct err *err);

/* After a snapshot: prev becomes now, by slot. False: no memory; prev is as it was, or empty. */
bool tree_make_prev(struct saved_tree *t);

/* ---- tree_watch.c -------------------------------------------------------------------------- */

void tree_watch_begin(struct tree_watch *watch);
/* For tree_walk.entered; ctx: a struct tree_watch. */
int tree_watch_add(void *ctx, uint32_t dir, int fd, struct err *err);
/* Marks what the events say. */
void tree_watch_drain(struct tree_watch *watch, struct tree *tree);
void tree_watch_end(struct tree_watch *watch);

/* ---- tree_contents.c ----------------------------------------------------------------------- */

/* While the job runs: reads what is marked, straight into the page table. What cannot be read stays
 * marked. */
int tree_read_ahead(struct saved_tree *t, struct err *err);
/* In the pause: copies what is marked aside. */
int tree_read_frozen(struct saved_tree *t, struct err *err);
/* Puts the copies of files that are still there. */
int tree_put_copies(struct saved_tree *t, struct err *err);
void tree_free_copies(struct saved_tree *t);

#endif
