/*
 * tree_restore.h: a directory of --save-dir becomes what it was.
 *
 * First it is compared with the snapshot, and all that is to be done is known (and can be told)
 * before anything is touched. Then: what is not the snapshot's is removed, names are put right by
 * links to the files that were renamed, contents by the pages that differ, the rest is made anew. A
 * new file gets its name when it is whole. Nothing outside the directory is touched, and of a file
 * with names outside none of these changes: it is replaced. A recovery that is killed on the way
 * leaves what the next one completes.
 */
#ifndef PAWL_RECOVERY_TREE_RESTORE_H
#define PAWL_RECOVERY_TREE_RESTORE_H

#include <stdio.h>

#include "recovery/content.h"
#include "store/treewalk.h"

enum tree_work {
	TREE_MAKE = 1u << 0,	   /* a new inode */
	TREE_WRITE = 1u << 1,	   /* pages of its content */
	TREE_ATTRIBUTES = 1u << 2, /* mode, owner, times, extended attributes */
	TREE_STASHED = 1u << 3,	   /* reached by its link in the stash */
	TREE_PLACED = 1u << 4,	   /* has a name that it is to have */
};

struct tree_todo {
	unsigned work;
	struct page_runs differ;
	/* Where it can be reached (PLACED). */
	uint32_t dir; /* of want */
	const char *name;
};

struct tree_restore {
	struct store *store;
	const Snap__Tree *model;
	struct tree want, disk; /* `other` of an object: which one of the other tree it is */
	struct tree_walk walk;
	struct tree_todo *todo; /* by object of want */
	uint32_t *dirs;		/* of want, parents first */
	uint32_t n_dirs;
	char stash[32]; /* name of the directory of links, in the root; empty: none */
	uint32_t removed, made, changed;
};

/* Changes nothing. ERR_CORRUPT: the stored tree or content. */
int tree_restore_compare(struct tree_restore **ret, struct store *store, const Snap__Tree *model,
			 struct err *err);
/* One line for everything that will be removed, made and changed. */
void tree_restore_print(const struct tree_restore *r, FILE *out);
/* Nothing is to be done. */
bool tree_restore_is_idle(const struct tree_restore *r);
int tree_restore_apply(struct tree_restore *r, struct err *err);
/* Takes NULL. */
void tree_restore_free(struct tree_restore *r);
/* Stored content of the regular file at an absolute path in the tree. ERR_NOT_FOUND. */
int tree_restore_content(const struct tree_restore *r, const char *path, struct stored_content *ret,
			 struct err *err);

/* ---- private ------------------------------------------------------------------------------- */

static inline struct stored_content tree_content(const struct tree_restore *r,
						 const struct tree_object *o)
{
	return (struct stored_content){.store = r->store,
				       .root = r->model->contents_root,
				       .base = o->content.first,
				       .size = o->size};
}

/* The disk's object of that name in want's directory `dir`; TREE_NOWHERE: none. */
uint32_t tree_on_disk(const struct tree_restore *r, uint32_t dir, const char *name);
/* Whether that name leads to the right object already. */
bool tree_name_is_right(const struct tree_restore *r, uint32_t dir, const struct tree_entry *e);

/* tree_object.c: one object in an open directory. */
int tree_make_object(struct tree_restore *r, int dir, const char *name, uint32_t object,
		     struct err *err);
int tree_write_object(struct tree_restore *r, int dir, const char *name, uint32_t object,
		      struct err *err);
int tree_set_attributes(int dir, const char *name, const struct tree_object *o, struct err *err);

#endif
