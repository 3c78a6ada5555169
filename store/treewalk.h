/*
 * treewalk.h: a directory on disk as a tree.
 *
 * Everything is reached from one descriptor of the root, never through a symbolic link or into
 * another mount (openat2(2), Linux 5.6: RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV):
 * whatever a job puts into its directory, nothing outside is looked at or touched.
 */
#ifndef PAWL_STORE_TREEWALK_H
#define PAWL_STORE_TREEWALK_H

#include <sys/stat.h>

#include "store/tree.h"

#define TREE_PATH_ROOM 4096u /* PATH_MAX: a relative path as the kernel takes it */

/* A directory that is passed over as if it were not there (the store). */
struct tree_spared {
	uint64_t device, inode;
};

struct tree_walk {
	struct tree *tree;	 /* filled; the caller's */
	struct tree_index index; /* of all its objects */
	int root;		 /* descriptor of the root directory; -1: there is none */
	struct tree_spared spared;
	/* Nobody changes anything meanwhile: what cannot be read is an error instead of a thing to
	 * look at again, and what its owner has made unreadable is made readable for the moment of
	 * opening it. */
	bool still;
	/* Called with every directory that is opened, before it is read. May be NULL. */
	int (*entered)(void *ctx, uint32_t dir, int fd, struct err *err);
	void *ctx;
	uint32_t *queue; /* directories to read */
	size_t n_queue, queue_room;
};

enum tree_mark {
	TREE_LOOK_AGAIN = 1u << 0, /* its attributes may have changed */
	TREE_READ_AGAIN = 1u << 1, /* its content (or names) too */
};

/* Opens the root. A path that does not exist is a tree without root; ERR_UNSUPPORTED: no directory.
 */
int tree_walk_begin(struct tree_walk *walk, const char *path, struct err *err);
/* Reads all, from the root down. Marks directories that could not be read TREE_READ_AGAIN. */
int tree_walk_all(struct tree_walk *walk, struct err *err);
/* Reads the names of `dir` again (ERR_NOT_FOUND: it is not at its path any more; marked as before).
 * Names that are new, and those of objects marked TREE_LOOK_AGAIN, are looked up; an object that is
 * known by its inode stays the same object. Directories that are new are read, with everything
 * below. */
int tree_walk_again(struct tree_walk *walk, uint32_t dir, struct err *err);
/* Attributes of an object by its path. False: it is not there any more, or another one is. */
bool tree_walk_look(struct tree_walk *walk, uint32_t object);
void tree_walk_end(struct tree_walk *walk);

/* What a symbolic link says, and extended attributes that belong to the user (user.*, ACLs; as root
 * capabilities and trusted.* too). The object must have its path (tree_link_up). */
int tree_walk_details(struct tree_walk *walk, uint32_t object, struct err *err);
/* Opens an object for reading, O_NOFOLLOW. -1: errno says. */
int tree_walk_open(struct tree_walk *walk, uint32_t object, int flags);

/* openat2(2) below root as described above. -1: errno. */
int open_beneath(int root, const char *path, int flags);
void tree_object_from_stat(struct tree_object *o, const struct stat *st);

/* ---- one object by directory descriptor and name, for those who change it ------------------ */

/* Extended attributes as a coded set (*set NULL: none). 0, or -1 with errno. */
int read_xattrs(int dir, const char *name, uint8_t **set, uint32_t *len);
/* Makes them so. 0, or -1 with errno. */
int write_xattrs(int dir, const char *name, const uint8_t *set, uint32_t len);

#endif
