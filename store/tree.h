/*
 * tree.h: a directory tree as values: what --save-dir saves, and what lies on disk.
 *
 * Objects (inodes) in an array, directories with the names in them; a file with two names is one
 * object. Object 0 is the root directory; a tree whose root is TREE_NONE is one that does not
 * exist. Contents are not here: a stored object has a stretch of pages in its tree's page table of
 * contents (FORMAT.md, "Directory trees").
 */
#ifndef PAWL_STORE_TREE_H
#define PAWL_STORE_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/store.h"

#define TREE_NAME_MOST	  255u
#define TREE_TARGET_MOST  4095u	     /* of a symbolic link (PATH_MAX) */
#define TREE_XATTRS_MOST  (1u << 20) /* bytes of a coded set */
#define TREE_OBJECTS_MOST (1u << 26)
#define TREE_NOWHERE	  UINT32_MAX /* no object */

enum tree_kind {
	TREE_NONE, /* a free place */
	TREE_REGULAR,
	TREE_DIRECTORY,
	TREE_SYMLINK,
	TREE_FIFO,
	TREE_SOCKET,
	TREE_CHARACTER,
	TREE_BLOCK,
};
#define TREE_KINDS 8u

enum tree_flags {
	TREE_UNSTEADY = 1u << 0, /* was mapped shared and writable: its times prove nothing */
	TREE_BOUNDARY =
		1u << 1, /* a directory with another file system on it: what is in it is not ours */
};

struct tree_entry {
	char *name; /* owned */
	uint32_t object;
};

/* Pages of the page table of contents that are an object's own: from first, up to room of them. */
struct tree_stretch {
	uint64_t first, room;
};

struct tree_object {
	enum tree_kind kind;
	unsigned flags; /* enum tree_flags */
	uint32_t mode;	/* permission bits of st_mode */
	uint32_t uid, gid;
	uint32_t nlink; /* on disk; not stored */
	uint64_t device, inode, rdev;
	uint64_t size; /* regular: bytes; stored directories and links: bytes of their coding */
	int64_t mtime, ctime; /* ns */
	struct tree_stretch content, xattr_content;
	uint8_t *xattrs; /* coded set; owned */
	uint32_t xattrs_len;
	char *target;		    /* of a symbolic link; owned */
	struct tree_entry *entries; /* of a directory, ascending by name (strcmp); owned */
	uint32_t n_entries;
	uint32_t names;	  /* entries that lead to it (tree_link_up) */
	uint32_t parent;  /* a directory that it is in; TREE_NOWHERE: none */
	const char *name; /* its name there; belongs to the entry */
	/* For whoever works on the tree; tree.c leaves them alone. */
	uint32_t slot, other;
	uint8_t mark;
};

struct tree {
	struct tree_object *objects;
	uint32_t n, room;
	uint64_t next_page; /* first page of the contents that was never given out */
};

void tree_clear(struct tree *tree);
/* A new object, zeroed but for parent, slot and other (TREE_NOWHERE); its index, or TREE_NOWHERE
 * without memory. Moves objects. */
uint32_t tree_add(struct tree *tree);
/* Takes name over (frees it on failure). Order is the caller's: tree_sort afterwards. 0, -1: no
 * memory. */
int tree_append(struct tree *tree, uint32_t dir, char *name, uint32_t object);
void tree_free_entries(struct tree_object *dir);
void tree_sort(struct tree_object *dir);
/* Entry by name, NULL: none. */
struct tree_entry *tree_find(const struct tree_object *dir, const char *name);
/* Sets parent, name and names of all objects from the entries below the root. Objects that cannot
 * be reached have names 0. ERR_CORRUPT: a directory in two places, or in itself. */
int tree_link_up(struct tree *tree, struct err *err);
/* tree_link_up, and what a stored tree must be: a directory at its root (or nothing), every object
 * reached, no free place with a name. ERR_CORRUPT. */
int tree_check(struct tree *tree, struct err *err);
/* Path of an object relative to the root ("." for that). -1: longer than len. */
int tree_path(const struct tree *tree, uint32_t object, char *buf, size_t len);
int tree_path_of(const struct tree *tree, uint32_t dir, const char *name, char *buf, size_t len);
/* Object at a relative path; TREE_NOWHERE: none. */
uint32_t tree_lookup(const struct tree *tree, const char *path);

/* ---- by inode ------------------------------------------------------------------------------ */

struct tree_index { /* starts as {0} */
	uint32_t *places;
	size_t room, used;
};

int tree_index_add(struct tree_index *index, const struct tree *tree, uint32_t object);
uint32_t tree_index_find(const struct tree_index *index, const struct tree *tree, uint64_t device,
			 uint64_t inode);
void tree_index_clear(struct tree_index *index);

/* ---- bytes: pure (treecodec.c) ------------------------------------------------------------- */

#define TREE_RECORD	    128u
#define TREE_RECORDS_A_PAGE (STORE_PAGE_SIZE / TREE_RECORD)

void tree_record_encode(const struct tree_object *object, uint8_t record[TREE_RECORD]);
/* Fills what is stored. ERR_CORRUPT. */
int tree_record_decode(const uint8_t record[TREE_RECORD], struct tree_object *ret, struct err *err);

/* A directory's names. slot_of maps an entry's object to what is written. *ret malloc'ed. */
int tree_listing_encode(const struct tree *tree, const struct tree_object *dir, uint8_t **ret,
			size_t *ret_len, struct err *err);
/* Fills dir's entries: names valid and ascending, objects below n. */
int tree_listing_decode(const uint8_t *bytes, size_t len, uint32_t n, struct tree_object *dir,
			struct err *err);

/* One attribute of a coded set: advances *at. 1, 0: the end, -1: malformed. */
struct tree_xattr {
	const char *name; /* NUL-terminated */
	const uint8_t *value;
	uint32_t len;
};
int tree_xattr_next(const uint8_t *set, uint32_t set_len, uint32_t *at, struct tree_xattr *ret);
/* Appends to a growing set. 0, -1: no memory or too large. */
int tree_xattr_append(uint8_t **set, uint32_t *set_len, const char *name, const void *value,
		      uint32_t len);

/* ---- the store (treestore.c) --------------------------------------------------------------- */

/* Pages that `bytes` take. */
static inline uint64_t tree_pages(uint64_t bytes)
{
	return bytes / STORE_PAGE_SIZE + (bytes % STORE_PAGE_SIZE != 0);
}

/* Gives a stretch with room for that many bytes, the old one where it suffices. True: it is another
 * one, and what was in the old one is to be cleared. */
bool tree_place(struct tree *tree, struct tree_stretch *stretch, uint64_t bytes);

/* Reads and checks a stored tree: after that every index, name, size and stretch in it is good. */
int tree_load(struct tree *ret, struct store *store, const Snap__Tree *model, struct err *err);

/* Writes the objects that have a slot (slot of those that go unsaved: TREE_NOWHERE), directories'
 * names, links' targets and attribute sets; regular files' content is the caller's. contents: open
 * for editing, stays open. *ret_root: of the objects, against base. */
int tree_store(struct tree *tree, uint32_t n_slots, struct store_session *session,
	       struct page_table *contents, uint64_t base, uint64_t *ret_root, struct err *err);

#endif
