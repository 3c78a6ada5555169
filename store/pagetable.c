/*
 * A page table under construction: the part of the tree that was looked at or changed, in memory.
 * Unchanged leaves are dropped again when many have gathered; changed ones stay until finish.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "store/session.h"
#include "store/storedpages.h"

#define CLEAN_LEAVES_MOST 4096u /* 16 MiB */

struct tnode {
	unsigned level;
	bool dirty;
	uint64_t slots[NODE_SLOTS]; /* page ids; above leaves: node ids as stored, ID_FIRST while new */
	struct tnode **child;       /* above leaves: NODE_SLOTS loaded children, or NULLs */
};

struct page_table {
	struct store_session *session;
	struct tnode *root; /* NULL: empty */
	uint64_t stored_root;
	struct tnode *path[NODE_MAX_LEVEL + 1]; /* by level, to the last leaf used */
	uint64_t leaf_base;                     /* index of that leaf's first page */
	size_t clean_leaves;
};

static struct tnode *tnode_new(unsigned level)
{
	struct tnode *node = calloc(1, sizeof(*node));

	if (!node)
		return NULL;
	node->level = level;
	if (level > 0 && !(node->child = calloc(NODE_SLOTS, sizeof(struct tnode *)))) {
		free(node);
		return NULL;
	}
	return node;
}

static void tnode_free(struct tnode *node)
{
	unsigned i;

	if (!node)
		return;
	for (i = 0; node->child && i < NODE_SLOTS; i++)
		tnode_free(node->child[i]);
	free(node->child);
	free(node);
}

static int no_memory(struct err *err)
{
	return err_sys(err, "no memory for a page table");
}

/* Reads node id; want: its level, or -1 for any. */
static int tnode_load(struct page_table *table, uint64_t id, int want, struct tnode **ret,
		      struct err *err)
{
	uint64_t slots[NODE_SLOTS];
	struct tnode *node;
	unsigned level;

	if (session_node(table->session, id, &level, slots, err) < 0)
		return -1;
	if (want >= 0 && level != (unsigned)want)
		return err_set(err, ERR_CORRUPT,
			       "page table node %" PRIu64 ": level %u where %d belongs", id, level,
			       want);
	node = tnode_new(level);
	if (!node)
		return no_memory(err);
	memcpy(node->slots, slots, sizeof(slots));
	table->clean_leaves += level == 0;
	session_know_node(table->session, level, slots, id);
	*ret = node;
	return 0;
}

int page_table_edit(struct page_table **ret, struct store_session *session, uint64_t root,
		    struct err *err)
{
	struct page_table *table = calloc(1, sizeof(*table));

	if (!table)
		return no_memory(err);
	table->session = session;
	table->stored_root = root;
	if (root && tnode_load(table, root, -1, &table->root, err) < 0) {
		free(table);
		return -1;
	}
	*ret = table;
	return 0;
}

void page_table_free(struct page_table *table)
{
	if (!table)
		return;
	tnode_free(table->root);
	free(table);
}

/* ---- walking ------------------------------------------------------------------------------- */

static void forget_path(struct page_table *table)
{
	memset(table->path, 0, sizeof(table->path));
}

/* Frees what is unchanged below node; the ids in its slots lead back to it. */
static void drop_clean(struct tnode *node)
{
	unsigned i;

	for (i = 0; i < NODE_SLOTS && node->level > 0; i++) {
		struct tnode *child = node->child[i];

		if (!child)
			continue;
		if (child->dirty) {
			drop_clean(child);
			continue;
		}
		tnode_free(child);
		node->child[i] = NULL;
	}
}

/* Not while a path into the tree is in use. */
static void bound_memory(struct page_table *table)
{
	if (table->clean_leaves < CLEAN_LEAVES_MOST)
		return;
	drop_clean(table->root);
	table->clean_leaves = 0;
	forget_path(table);
}

/* A higher root, with the old one as its first child, until index has a place. */
static int grow(struct page_table *table, uint64_t index, struct err *err)
{
	if (!table->root) {
		unsigned level = 0;

		while (!node_covers(level, index))
			level++;
		table->root = tnode_new(level);
		return table->root ? 0 : no_memory(err);
	}
	while (!node_covers(table->root->level, index)) {
		struct tnode *root = tnode_new(table->root->level + 1);

		if (!root)
			return no_memory(err);
		/* Dirty, so that the old root is not dropped: its slot holds no id that leads back. */
		root->dirty = table->root->dirty = true;
		root->slots[0] = ID_FIRST;
		root->child[0] = table->root;
		table->root = root;
	}
	forget_path(table);
	return 0;
}

/* 1: *ret is the child, 0: absent. create: made where absent. */
static int get_child(struct page_table *table, struct tnode *node, unsigned slot, bool create,
		     struct tnode **ret, struct err *err)
{
	struct tnode **child = &node->child[slot];

	if (!*child && node->slots[slot]) {
		if (tnode_load(table, node->slots[slot], (int)node->level - 1, child, err) < 0)
			return -1;
	} else if (!*child) {
		if (!create)
			return 0;
		*child = tnode_new(node->level - 1);
		if (!*child)
			return no_memory(err);
		node->slots[slot] = ID_FIRST;
		(*child)->dirty = true;
	}
	*ret = *child;
	return 1;
}

/* A changed node's parents are changed too: nothing that is changed hangs below what is not. */
static void mark_path(struct page_table *table)
{
	unsigned level;

	for (level = 0; level <= NODE_MAX_LEVEL; level++)
		if (table->path[level])
			table->path[level]->dirty = true;
}

/* The leaf that holds index, and the path to it. 1, 0 (absent), -1. */
static int find_leaf(struct page_table *table, uint64_t index, bool create, struct tnode **ret,
		     struct err *err)
{
	struct tnode *node;
	int rc = 1;

	if (table->path[0] && index - table->leaf_base < NODE_SLOTS) {
		*ret = table->path[0];
		return 1;
	}
	if (!table->root || !node_covers(table->root->level, index)) {
		if (!create)
			return 0;
		if (grow(table, index, err) < 0)
			return -1;
	}
	bound_memory(table);
	forget_path(table);
	node = table->root;
	for (;;) {
		table->path[node->level] = node;
		if (node->level == 0)
			break;
		rc = get_child(table, node, node_slot_of(node->level, index), create, &node, err);
		if (rc <= 0) {
			forget_path(table);
			return rc;
		}
		if (node->dirty)
			mark_path(table);
	}
	table->leaf_base = index & ~(uint64_t)(NODE_SLOTS - 1);
	*ret = node;
	return 1;
}

/* ---- putting ------------------------------------------------------------------------------- */

/* The id under which a nonzero page is to stand: old where the content is the same. */
static int content_id(struct store_session *session, const struct pressed_page *page, uint64_t old, uint64_t *ret,
		      struct err *err)
{
	struct page_hash old_hash;
	uint64_t known;

	if (old >= ID_FIRST) {
		if (session_page_hash(session, old, &old_hash, err) == 0) {
			dedup_add(&session->known_pages, old_hash, old);
			if (hash_equal(page->hash, old_hash)) {
				*ret = old;
				return 0;
			}
			hash_cache_supersede(session->hashes, old);
		} else if (err->kind != ERR_CORRUPT) {
			return -1;
		} /* else: what was stored is damaged, the page is stored anew */
	}
	known = session_find_content(session, page->hash);
	if (known) {
		session->counts.pages_duplicate++;
		*ret = known;
		return 0;
	}
	return session_add_page(session, page, ret, err);
}

/* The page at index has that id. */
static void set_id(struct page_table *table, uint64_t *slot, uint64_t id, uint64_t *changed)
{
	if (id == *slot)
		return;
	*slot = id;
	mark_path(table);
	table->session->counts.pages_changed++;
	(*changed)++;
}

static int put_page(struct page_table *table, struct tnode *leaf, uint64_t index, const struct pressed_page *page,
		    uint64_t *changed, struct err *err)
{
	struct store_session *session = table->session;
	uint64_t *slot = &leaf->slots[node_slot_of(0, index)];
	uint64_t id = ID_ZERO;

	session->counts.pages_in++;
	if (page->zero)
		session->counts.pages_zero++;
	else if (content_id(session, page, *slot, &id, err) < 0)
		return -1;
	set_id(table, slot, id, changed);
	return 0;
}

/* Page i of what is put: as it was in another store or pressed by another thread, or only hashed here (it is compressed
 * if it is new). */
struct putting_from {
	const char *pages;		    /* or NULL */
	const struct stored_page *stored;   /* of those, or NULL */
	const struct pressed_page *pressed; /* or NULL */
};

static struct pressed_page page_of(struct page_table *table, const struct putting_from *from, size_t i)
{
	const void *content = from->pressed ? from->pressed[i].page : from->pages + i * STORE_PAGE_SIZE;
	struct pressed_page page;

	if (from->pressed && from->pressed[i].hashed)
		return from->pressed[i];
	page = page_press_page(table->session->press, content, NULL, false);
	if (from->stored)
		page.stored = from->stored[i];
	return page;
}

static int put_pages(struct page_table *table, uint64_t first, const struct putting_from *from, size_t n,
		     uint64_t *ret_changed, struct err *err)
{
	uint64_t changed = 0;
	size_t i;

	if (table->session->failed)
		return err_set(err, ERR_INVALID, "a write of this snapshot had failed");
	for (i = 0; i < n; i++) {
		struct pressed_page page = page_of(table, from, i);
		struct tnode *leaf;

		if (find_leaf(table, first + i, true, &leaf, err) < 0 ||
		    put_page(table, leaf, first + i, &page, &changed, err) < 0)
			return err_wrap(err, "page 0x%" PRIx64, first + i);
	}
	if (ret_changed)
		*ret_changed = changed;
	return 0;
}

int page_table_put(struct page_table *table, uint64_t first, const void *pages, size_t n,
		   uint64_t *ret_changed, struct err *err)
{
	const struct putting_from from = {.pages = pages};

	return put_pages(table, first, &from, n, ret_changed, err);
}

int page_table_put_stored(struct page_table *table, uint64_t first, const void *pages,
			  const struct stored_page *stored, size_t n, struct err *err)
{
	const struct putting_from from = {.pages = pages, .stored = stored};

	return put_pages(table, first, &from, n, NULL, err);
}

int page_table_put_pressed(struct page_table *table, uint64_t first, const struct pressed_page *pages, size_t n,
			   uint64_t *stored, struct err *err)
{
	const struct putting_from from = {.pressed = pages};
	uint64_t before = table->session->counts.pages_stored;

	if (put_pages(table, first, &from, n, NULL, err) < 0)
		return -1;
	*stored += table->session->counts.pages_stored - before;
	return 0;
}

struct store_session *page_table_session(const struct page_table *table)
{
	return table->session;
}

int page_table_put_id(struct page_table *table, uint64_t index, uint64_t id, struct err *err)
{
	struct tnode *leaf;
	uint64_t changed = 0;

	if (find_leaf(table, index, true, &leaf, err) < 0)
		return err_wrap(err, "page 0x%" PRIx64, index);
	table->session->counts.pages_in++;
	table->session->counts.pages_duplicate++;
	set_id(table, &leaf->slots[node_slot_of(0, index)], id, &changed);
	return 0;
}

/* ---- clearing ------------------------------------------------------------------------------ */

/* Below node, whose first page is base: empties [low, high], both in node. */
static int clear_below(struct page_table *table, struct tnode *node, uint64_t base, uint64_t low,
		       uint64_t high, struct err *err)
{
	unsigned shift = node_slot_shift(node->level);
	unsigned slot = node_slot_of(node->level, low), last = node_slot_of(node->level, high);

	for (; slot <= last; slot++) {
		uint64_t from = base + ((uint64_t)slot << shift);
		uint64_t to = from + (((uint64_t)1 << shift) - 1);
		struct tnode *child;

		if (!node->slots[slot])
			continue;
		if (low > from || high < to) {
			int rc;

			if (get_child(table, node, slot, false, &child, err) < 0)
				return -1;
			rc = clear_below(table, child, from, low > from ? low : from,
					 high < to ? high : to, err);
			node->dirty |= child->dirty;
			if (rc < 0)
				return -1;
			continue;
		}
		if (node->level > 0) {
			tnode_free(node->child[slot]);
			node->child[slot] = NULL;
		}
		node->slots[slot] = ID_ABSENT;
		node->dirty = true;
	}
	return 0;
}

/* Last index that a root of that level has a place for. */
static uint64_t last_index(unsigned level)
{
	return level >= NODE_MAX_LEVEL ? UINT64_MAX : (1ull << node_slot_shift(level + 1)) - 1;
}

int page_table_clear(struct page_table *table, uint64_t first, uint64_t n, struct err *err)
{
	uint64_t last = n - 1 > UINT64_MAX - first ? UINT64_MAX : first + (n - 1), most;

	if (n == 0 || !table->root)
		return 0;
	most = last_index(table->root->level);
	if (first > most)
		return 0;
	forget_path(table);
	return clear_below(table, table->root, 0, first, last < most ? last : most, err);
}

/* ---- looking ------------------------------------------------------------------------------- */

int page_table_has(struct page_table *table, uint64_t index, struct err *err)
{
	struct tnode *leaf;
	int rc = find_leaf(table, index, false, &leaf, err);

	return rc <= 0 ? rc : leaf->slots[node_slot_of(0, index)] != ID_ABSENT;
}

/* First index in [low, high] below node whose page is populated (or not, as wanted). */
static int seek(struct page_table *table, struct tnode *node, uint64_t base, uint64_t low,
		uint64_t high, bool populated, uint64_t *ret, struct err *err)
{
	unsigned shift = node_slot_shift(node->level);
	unsigned slot = node_slot_of(node->level, low), last = node_slot_of(node->level, high);

	for (; slot <= last; slot++) {
		uint64_t from = base + ((uint64_t)slot << shift);
		uint64_t to = from + (((uint64_t)1 << shift) - 1);
		uint64_t start = low > from ? low : from;
		struct tnode *child;
		int rc;

		if (node->level == 0 || !node->slots[slot]) {
			if ((node->slots[slot] != ID_ABSENT) != populated)
				continue;
			*ret = start;
			return 1;
		}
		if (get_child(table, node, slot, false, &child, err) < 0)
			return -1;
		rc = seek(table, child, from, start, high < to ? high : to, populated, ret, err);
		if (rc != 0)
			return rc;
	}
	return 0;
}

int page_table_next(struct page_table *table, uint64_t from, uint64_t limit, uint64_t *ret_first,
		    uint64_t *ret_n, struct err *err)
{
	uint64_t first, end, most;
	int rc;

	if (!table->root || from >= limit)
		return 0;
	bound_memory(table);
	most = last_index(table->root->level);
	if (from > most)
		return 0;
	if (limit - 1 < most)
		most = limit - 1;
	rc = seek(table, table->root, 0, from, most, true, &first, err);
	if (rc <= 0)
		return rc;
	rc = seek(table, table->root, 0, first, most, false, &end, err);
	if (rc < 0)
		return -1;
	*ret_first = first;
	*ret_n = rc ? end - first : most - first + 1;
	return 1;
}

/* ---- finishing ----------------------------------------------------------------------------- */

/* Writes what changed at and below node. *ret 0: nothing is in it. */
static int write_below(struct page_table *table, struct tnode *node, uint64_t *ret, struct err *err)
{
	unsigned i, present = 0;

	for (i = 0; i < NODE_SLOTS; i++) {
		if (node->level > 0 && node->child[i] && node->child[i]->dirty &&
		    write_below(table, node->child[i], &node->slots[i], err) < 0)
			return -1;
		present += node->slots[i] != ID_ABSENT;
	}
	*ret = 0;
	return present ? session_add_node(table->session, node->level, node->slots, ret, err) : 0;
}

int page_table_finish(struct page_table *table, uint64_t *ret_root, struct err *err)
{
	uint64_t root = table->stored_root;
	int rc = 0;

	if (table->session->failed)
		rc = err_set(err, ERR_INVALID, "a write of this snapshot had failed");
	else if (table->root && table->root->dirty)
		rc = write_below(table, table->root, &root, err);
	page_table_free(table);
	if (rc == 0)
		*ret_root = root;
	return rc;
}
