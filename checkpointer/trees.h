/*
 * trees.h: directories that belong to the job (--save-dir), from disk into a snapshot.
 *
 * While the job runs each directory is walked and what changed since the last snapshot is read; an
 * inotify watch on every directory in it then tells what changes from there on, so that in the
 * pause only that is looked at again. Where watches cannot be had (fs.inotify.max_user_watches) or
 * events were lost, the pause has a second walk in it. What is read in the pause is put into the
 * store when the job runs again.
 *
 * A file whose inode, size and times are those of the last snapshot is not read, unless its times
 * prove nothing: changed within the clock's grain of that snapshot, mapped shared and writable
 * then, or on a file system (tmpfs) whose times do not follow writes through mappings.
 */
#ifndef PAWL_CHECKPOINTER_TREES_H
#define PAWL_CHECKPOINTER_TREES_H

#include "checkpointer/collect.h"
#include "store/store.h"

struct saved_trees;

/* While the job runs. *trees: kept by the checkpointer from snapshot to snapshot, NULL at first.
 * The directories are config->save_dirs and those of `last`, the parent's model (NULL: none), whose
 * trees are loaded where they are not those of the last successful snapshot. On failure
 * saved_trees_done is called as after any other. */
int saved_trees_begin(struct saved_trees **trees, const struct checkpoint_config *config,
		      struct store *store, struct store_session *session,
		      const Snap__Snapshot *last, struct err *err);
/* Their paths, for config->save_dirs of collect_begin. */
const char *const *saved_trees_paths(const struct saved_trees *trees, size_t *ret_n);
/* While the job stands still and everything is described. */
int saved_trees_frozen(struct saved_trees *trees, const struct collection *c, struct store *store,
		       struct err *err);
/* When it runs again: adds them to the model. */
int saved_trees_finish(struct saved_trees *trees, struct store_session *session,
		       Snap__Snapshot *model, struct err *err);
/* The snapshot is over. published: what it saw is what the next one compares with. */
void saved_trees_done(struct saved_trees *trees, bool published);
/* Takes NULL. */
void saved_trees_free(struct saved_trees *trees);

#endif
