#include "store/lmdbfile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/bytes.h"
#include "store/idset.h"
#include "store/txn.h"

/* LMDB 0.9's file format, as its mdb.c defines it (64-bit, little-endian). */
#define PAGE_BYTES   4096u
#define PAGE_HEADER  16u
#define META_MAGIC   0xBEEFC0DEu
#define META_VERSION 1u
#define META_BYTES   136u
#define DB_BYTES     48u
#define NO_PAGE      UINT64_MAX
#define MAX_DEPTH    32u
#define MAX_PAGES    (1ull << 36)

enum { P_BRANCH = 0x01, P_LEAF = 0x02, P_OVERFLOW = 0x04, P_META = 0x08 };
enum { F_BIGDATA = 0x01, F_SUBDATA = 0x02 };
enum { DB_INTEGERKEY = 0x08 };

struct db {
	uint16_t flags, depth;
	uint64_t root;
};

struct meta {
	struct db free, main;
	uint64_t last_page, txnid;
};

struct walk {
	const struct lmdbfile_source *source;
	uint64_t last_page;
	bool deep;
	struct idset used;
	struct err *err;
};

struct leaf_node {
	const uint8_t *key, *data; /* data: in the page, or NULL where it is in overflow pages */
	uint16_t key_len, flags;
	uint32_t data_len;
	uint64_t overflow;
};

static int damaged(struct walk *w, uint64_t page, const char *what)
{
	return err_set(w->err, ERR_CORRUPT, "data.mdb: page %" PRIu64 ": %s", page, what);
}

static struct db read_db(const uint8_t *p)
{
	return (struct db){
		.flags = get_le16(p + 4), .depth = get_le16(p + 6), .root = get_le64(p + 40)};
}

static int read_bytes(const struct lmdbfile_source *source, void *buf, size_t len, uint64_t offset,
		      struct err *err)
{
	ssize_t n = source->read(source->ctx, buf, len, offset);

	if (n < 0)
		return err_sys(err, "cannot read data.mdb");
	if ((size_t)n < len)
		return err_set(err, ERR_CORRUPT, "data.mdb is cut off after %" PRIu64 " bytes",
			       source->size);
	return 0;
}

static int read_meta(const struct lmdbfile_source *source, unsigned i, struct meta *ret,
		     struct err *err)
{
	uint8_t page[PAGE_HEADER + META_BYTES];
	const uint8_t *m = page + PAGE_HEADER;

	if (read_bytes(source, page, sizeof(page), (uint64_t)i * PAGE_BYTES, err) < 0)
		return -1;
	if (!(get_le16(page + 10) & P_META) || get_le32(m) != META_MAGIC ||
	    get_le32(m + 4) != META_VERSION)
		return err_set(err, ERR_VERSION, "data.mdb is not an LMDB 0.9 file of this machine");
	if (get_le32(m + 24) != PAGE_BYTES)
		return err_set(err, ERR_VERSION, "data.mdb has pages of %u bytes, not %u",
			       get_le32(m + 24), PAGE_BYTES);
	*ret = (struct meta){read_db(m + 24), read_db(m + 24 + DB_BYTES), get_le64(m + 120),
			     get_le64(m + 128)};
	if (ret->last_page < 1 || ret->last_page >= MAX_PAGES)
		return err_set(err, ERR_CORRUPT, "data.mdb: meta page %u is damaged", i);
	return 0;
}

static ssize_t read_fd(void *ctx, void *buf, size_t len, uint64_t offset)
{
	return pread_upto(*(int *)ctx, buf, len, (off_t)offset);
}

int lmdbfile_check_header(int dir_fd, const char *dir, struct err *err)
{
	cleanup_fd int fd = openat(dir_fd, "data.mdb", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct lmdbfile_source source = {&fd, read_fd, 0};
	struct meta meta;
	struct stat st;
	unsigned i;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, "%s/data.mdb", dir);
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_VERSION, "%s/data.mdb is not a file", dir);
	if (st.st_mode & (S_IWGRP | S_IWOTH))
		return err_set(err, ERR_DENIED, "%s/data.mdb: others may write it", dir);
	source.size = (uint64_t)st.st_size;
	for (i = 0; i < 2; i++)
		if (read_meta(&source, i, &meta, err) < 0)
			return err_wrap(err, "%s", dir);
	return 0;
}

/* Notes n pages from first as used. */
static int use_pages(struct walk *w, uint64_t first, uint64_t n)
{
	uint64_t i;

	if (first < 2 || first > w->last_page || n > w->last_page - first + 1)
		return damaged(w, first, "is outside of the file");
	if ((first + n) * PAGE_BYTES > w->source->size)
		return err_set(w->err, ERR_CORRUPT,
			       "data.mdb is cut off: page %" PRIu64 " is missing", first + n - 1);
	for (i = 0; i < n; i++) {
		int added = idset_add(&w->used, first + i);

		if (added < 0)
			return err_sys(w->err, "data.mdb");
		if (added == 0)
			return damaged(w, first + i, "is used twice");
	}
	return 0;
}

static int check_overflow(struct walk *w, uint64_t page, uint64_t n)
{
	uint8_t header[PAGE_HEADER];

	if (read_bytes(w->source, header, sizeof(header), page * PAGE_BYTES, w->err) < 0)
		return -1;
	if (get_le64(header) != page || (get_le16(header + 10) & 0x0f) != P_OVERFLOW ||
	    get_le32(header + 12) != n)
		return damaged(w, page, "is not the overflow page it should be");
	return 0;
}

static int use_overflow(struct walk *w, const struct leaf_node *node)
{
	uint64_t n = ((uint64_t)node->data_len + PAGE_HEADER + PAGE_BYTES - 1) / PAGE_BYTES;

	if (use_pages(w, node->overflow, n) < 0)
		return -1;
	return w->deep ? check_overflow(w, node->overflow, n) : 0;
}

/* Node i of a page, bounds-checked. Branch nodes have no data. */
static bool get_node(const uint8_t *page, unsigned i, bool branch, struct leaf_node *ret)
{
	unsigned at = get_le16(page + PAGE_HEADER + 2 * i);
	const uint8_t *n = page + at;
	size_t end;

	if (at < get_le16(page + 14) || at > PAGE_BYTES - 8 || at % 2)
		return false;
	*ret = (struct leaf_node){.key = n + 8, .key_len = get_le16(n + 6)};
	end = at + 8 + ret->key_len;
	if (end > PAGE_BYTES)
		return false;
	if (branch)
		return true;
	ret->data_len = get_le32(n);
	ret->flags = get_le16(n + 4);
	ret->data = n + 8 + ret->key_len;
	if (!(ret->flags & F_BIGDATA))
		return ret->data_len <= PAGE_BYTES - end;
	if (PAGE_BYTES - end < 8)
		return false;
	ret->overflow = get_le64(ret->data);
	ret->data = NULL;
	return true;
}

typedef int leaf_fn(struct walk *w, const struct db *db, const struct leaf_node *node);

static int walk_tree(struct walk *w, const struct db *db, uint64_t pgno, unsigned depth,
		     leaf_fn *leaf);

static int walk_node(struct walk *w, const struct db *db, const uint8_t *page, unsigned i,
		     unsigned depth, leaf_fn *leaf)
{
	bool branch = depth < db->depth;
	const uint8_t *raw;
	struct leaf_node node;

	if (!get_node(page, i, branch, &node))
		return damaged(w, get_le64(page), "an entry is out of bounds");
	if ((db->flags & DB_INTEGERKEY) && node.key_len != 8 && !(branch && i == 0))
		return damaged(w, get_le64(page), "an entry's key has the wrong size");
	if (!branch)
		return leaf(w, db, &node);
	raw = node.key - 8;
	return walk_tree(w, db, (uint64_t)get_le32(raw) | (uint64_t)get_le16(raw + 4) << 32,
			 depth + 1, leaf);
}

static int walk_tree(struct walk *w, const struct db *db, uint64_t pgno, unsigned depth,
		     leaf_fn *leaf)
{
	uint8_t page[PAGE_BYTES];
	unsigned i, lower, upper;
	bool branch = depth < db->depth;

	if (use_pages(w, pgno, 1) < 0 ||
	    read_bytes(w->source, page, sizeof(page), pgno * PAGE_BYTES, w->err) < 0)
		return -1;
	lower = get_le16(page + 12);
	upper = get_le16(page + 14);
	if (get_le64(page) != pgno || (get_le16(page + 10) & 0x0f) != (branch ? P_BRANCH : P_LEAF) ||
	    lower < PAGE_HEADER || lower % 2 || lower > upper || upper > PAGE_BYTES)
		return damaged(w, pgno, "is not the page it should be");
	if (branch && lower - PAGE_HEADER < 4)
		return damaged(w, pgno, "has too few entries");
	for (i = 0; i < (lower - PAGE_HEADER) / 2; i++)
		if (walk_node(w, db, page, i, depth, leaf) < 0)
			return -1;
	return 0;
}

static int walk_db(struct walk *w, const struct db *db, leaf_fn *leaf)
{
	if (db->root == NO_PAGE)
		return 0;
	if (db->depth < 1 || db->depth > MAX_DEPTH)
		return damaged(w, db->root, "is the root of a tree of impossible depth");
	return walk_tree(w, db, db->root, 1, leaf);
}

static int leaf_plain(struct walk *w, const struct db *db, const struct leaf_node *node)
{
	(void)db;
	if (node->flags & ~F_BIGDATA)
		return err_set(w->err, ERR_CORRUPT, "data.mdb: an entry has unknown flags");
	return node->data ? 0 : use_overflow(w, node);
}

static int leaf_main(struct walk *w, const struct db *db, const struct leaf_node *node)
{
	struct db sub;

	if (!(node->flags & F_SUBDATA))
		return leaf_plain(w, db, node);
	if (!node->data || node->data_len != DB_BYTES)
		return err_set(w->err, ERR_CORRUPT, "data.mdb: a table's entry is damaged");
	sub = read_db(node->data);
	return walk_db(w, &sub, leaf_plain);
}

static int check_free_ids(struct walk *w, const uint8_t *ids, uint64_t n)
{
	uint64_t i, last = w->last_page + 1;

	for (i = 0; i < n; i++) {
		uint64_t page = get_le64(ids + 8 * i);

		if (page < 2 || page >= last)
			return damaged(w, page, "does not belong in the free list");
		if (idset_add(&w->used, page) != 1)
			return damaged(w, page, "is in use, and in the free list");
		last = page;
	}
	return 0;
}

static int leaf_free(struct walk *w, const struct db *db, const struct leaf_node *node)
{
	cleanup_free uint8_t *copy = NULL;
	const uint8_t *ids = node->data;

	if (node->key_len != 8 || node->data_len < 8 || (node->flags & ~F_BIGDATA))
		return err_set(w->err, ERR_CORRUPT, "data.mdb: the free list is damaged");
	if (leaf_plain(w, db, node) < 0)
		return -1;
	if (!ids) {
		if (!(copy = malloc(node->data_len)))
			return err_sys(w->err, "data.mdb");
		if (read_bytes(w->source, copy, node->data_len,
			       node->overflow * PAGE_BYTES + PAGE_HEADER, w->err) < 0)
			return -1;
		ids = copy;
	}
	if (get_le64(ids) > node->data_len / 8 - 1)
		return err_set(w->err, ERR_CORRUPT, "data.mdb: the free list is damaged");
	return check_free_ids(w, ids + 8, get_le64(ids));
}

int lmdbfile_walk(const struct lmdbfile_source *source, uint64_t txnid, bool deep, struct err *err)
{
	struct walk w = {.source = source, .deep = deep, .err = err};
	struct meta meta;
	int rc;

	if (read_meta(source, txnid & 1, &meta, err) < 0)
		return -1;
	if (meta.txnid != txnid)
		return 0;
	w.last_page = meta.last_page;
	/* The free list last: it must not name what the trees use. */
	rc = walk_db(&w, &meta.main, leaf_main);
	if (rc == 0)
		rc = walk_db(&w, &meta.free, leaf_free);
	idset_clear(&w.used);
	return rc < 0 ? -1 : 1;
}

int lmdbfile_check(struct store *store, bool deep, struct err *err)
{
	int tries, rc = 0;

	for (tries = 0; tries < 8 && rc == 0; tries++) {
		struct lmdbfile_source source = {.read = read_fd};
		struct stat st;
		mdb_filehandle_t fd;
		MDB_txn *txn;

		mdb_env_get_fd(store->env, &fd);
		source.ctx = &fd;
		if (txn_read(store, &txn, err) < 0)
			return -1;
		if (fstat(fd, &st) < 0) {
			rc = err_sys(err, "%s", store->dir);
		} else {
			source.size = (uint64_t)st.st_size;
			rc = lmdbfile_walk(&source, mdb_txn_id(txn), deep, err);
		}
		txn_end(store, txn);
	}
	/* Writers too fast to be caught have just proved that it can be walked. */
	return rc < 0 ? err_wrap(err, "%s", store->dir) : 0;
}
