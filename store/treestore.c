/* Stored directory trees: from and to page tables. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/cleanup.h"
#include "store/tree.h"

/* Small objects lie close together, and have room for their own size; large ones can grow. */
#define SMALL_PAGES 64u
#define GROWTH	    8u
#define ALIGN_MOST  512u

static uint64_t power_of_two(uint64_t n)
{
	uint64_t p = 1;

	while (p < n)
		p <<= 1;
	return p;
}

bool tree_place(struct tree *tree, struct tree_stretch *stretch, uint64_t bytes)
{
	uint64_t pages = tree_pages(bytes), align;

	if (pages <= stretch->room)
		return false;
	stretch->room = power_of_two(pages) * (pages > SMALL_PAGES ? GROWTH : 1);
	align = stretch->room < ALIGN_MOST ? stretch->room : ALIGN_MOST;
	stretch->first = (tree->next_page + align - 1) & ~(align - 1);
	tree->next_page = stretch->first + stretch->room;
	return true;
}

/* ---- loading ------------------------------------------------------------------------------- */

struct loading {
	struct tree *tree;
	struct page_reader *contents;
	uint8_t *buf;
	size_t room;
};

/* The bytes of one stretch in l->buf. */
static int read_bytes(struct loading *l, uint64_t first, uint64_t len, struct err *err)
{
	uint64_t pages = tree_pages(len);

	if (pages * STORE_PAGE_SIZE > l->room) {
		uint8_t *more = realloc(l->buf, pages * STORE_PAGE_SIZE);

		if (!more)
			return err_sys(err, "directory of %" PRIu64 " bytes", len);
		l->buf = more;
		l->room = pages * STORE_PAGE_SIZE;
	}
	return pages ? page_reader_read(l->contents, first, pages, l->buf, err) : 0;
}

static int load_xattrs(struct loading *l, struct tree_object *o, struct err *err)
{
	struct tree_xattr x;
	uint32_t at = 0;
	int more;

	if (o->xattrs_len == 0)
		return 0;
	if (read_bytes(l, o->xattr_content.first, o->xattrs_len, err) < 0)
		return -1;
	o->xattrs = malloc(o->xattrs_len);
	if (!o->xattrs)
		return err_sys(err, "extended attributes");
	memcpy(o->xattrs, l->buf, o->xattrs_len);
	while ((more = tree_xattr_next(o->xattrs, o->xattrs_len, &at, &x)) > 0)
		;
	return more < 0 ? err_set(err, ERR_CORRUPT, "extended attributes of an object") : 0;
}

static int load_target(struct loading *l, struct tree_object *o, struct err *err)
{
	if (read_bytes(l, o->content.first, o->size, err) < 0)
		return -1;
	o->target = strndup((const char *)l->buf, o->size);
	if (!o->target)
		return err_sys(err, "symbolic link");
	return strlen(o->target) == o->size
		       ? 0
		       : err_set(err, ERR_CORRUPT, "a symbolic link with a zero byte");
}

static int load_details(struct loading *l, struct tree_object *o, struct err *err)
{
	if (load_xattrs(l, o, err) < 0)
		return -1;
	if (o->kind == TREE_SYMLINK)
		return load_target(l, o, err);
	if (o->kind != TREE_DIRECTORY)
		return 0;
	if (read_bytes(l, o->content.first, o->size, err) < 0)
		return -1;
	return tree_listing_decode(l->buf, o->size, l->tree->n, o, err);
}

static int load_records(struct tree *tree, struct store *store, const Snap__Tree *model,
			struct err *err)
{
	struct page_reader *reader;
	uint8_t page[STORE_PAGE_SIZE];
	int result = 0;

	if (page_reader_open(&reader, store, model->objects_root, err) < 0)
		return -1;
	for (uint64_t i = 0; i < model->objects && result == 0; i++) {
		uint32_t in_page = (uint32_t)(i % TREE_RECORDS_A_PAGE);
		struct tree_object o;
		uint32_t id;

		if (in_page == 0)
			result = page_reader_read(reader, i / TREE_RECORDS_A_PAGE, 1, page, err);
		if (result == 0)
			result = tree_record_decode(page + in_page * TREE_RECORD, &o, err);
		if (result < 0)
			break;
		id = tree_add(tree);
		if (id == TREE_NOWHERE)
			result = err_sys(err, "objects of a directory tree");
		else
			tree->objects[id] = o;
	}
	page_reader_close(reader);
	return result;
}

static int load_all(struct loading *l, struct store *store, const Snap__Tree *model,
		    struct err *err)
{
	struct tree *tree = l->tree;

	if (model->objects > TREE_OBJECTS_MOST)
		return err_set(err, ERR_CORRUPT, "too many objects");
	if (load_records(tree, store, model, err) < 0)
		return -1;
	for (uint32_t i = 0; i < tree->n; i++) {
		tree->objects[i].slot = i;
		if (load_details(l, &tree->objects[i], err) < 0)
			return err_wrap(err, "object %u", i);
	}
	tree->next_page = model->next_page;
	return tree_check(tree, err);
}

int tree_load(struct tree *ret, struct store *store, const Snap__Tree *model, struct err *err)
{
	struct tree tree = {0};
	struct loading l = {.tree = &tree};
	int result;

	if (page_reader_open(&l.contents, store, model->contents_root, err) < 0)
		return -1;
	result = load_all(&l, store, model, err);
	page_reader_close(l.contents);
	free(l.buf);
	if (result < 0) {
		tree_clear(&tree);
		return err_wrap(err, "directory tree %s", model->path);
	}
	*ret = tree;
	return 0;
}

/* ---- storing ------------------------------------------------------------------------------- */

static int put_bytes(struct tree *tree, struct page_table *contents, struct tree_stretch *stretch,
		     const void *bytes, size_t len, struct err *err)
{
	struct tree_stretch old = *stretch;
	uint64_t pages = tree_pages(len);
	cleanup_free char *padded = NULL;

	if (tree_place(tree, stretch, len) &&
	    page_table_clear(contents, old.first, old.room, err) < 0)
		return -1;
	if (stretch->room > pages &&
	    page_table_clear(contents, stretch->first + pages, stretch->room - pages, err) < 0)
		return -1;
	if (pages == 0)
		return 0;
	padded = calloc(pages, STORE_PAGE_SIZE);
	if (!padded)
		return err_sys(err, "directory tree");
	memcpy(padded, bytes, len);
	return page_table_put(contents, stretch->first, padded, pages, NULL, err);
}

static int put_details(struct tree *tree, struct tree_object *o, struct page_table *contents,
		       struct err *err)
{
	cleanup_free uint8_t *listing = NULL;
	size_t len;

	if ((o->xattrs_len || o->xattr_content.room) &&
	    put_bytes(tree, contents, &o->xattr_content, o->xattrs, o->xattrs_len, err) < 0)
		return -1;
	if (o->kind == TREE_SYMLINK) {
		o->size = strlen(o->target);
		return put_bytes(tree, contents, &o->content, o->target, o->size, err);
	}
	if (o->kind == TREE_REGULAR && tree_pages(o->size) > o->content.room)
		return err_set(err, ERR_BUSY, "a file has grown since it was read");
	if (o->kind != TREE_DIRECTORY)
		return 0;
	if (tree_listing_encode(tree, o, &listing, &len, err) < 0)
		return -1;
	o->size = len;
	return put_bytes(tree, contents, &o->content, listing, len, err);
}

static int put_records(const struct tree *tree, uint32_t n_slots, struct page_table *table,
		       struct err *err)
{
	uint64_t pages = tree_pages((uint64_t)n_slots * TREE_RECORD);
	cleanup_free uint8_t *bytes = calloc(pages + 1, STORE_PAGE_SIZE);

	if (!bytes)
		return err_sys(err, "directory tree");
	for (uint32_t i = 0; i < tree->n; i++)
		if (tree->objects[i].slot < n_slots)
			tree_record_encode(&tree->objects[i],
					   bytes + (size_t)tree->objects[i].slot * TREE_RECORD);
	if (pages && page_table_put(table, 0, bytes, pages, NULL, err) < 0)
		return -1;
	return page_table_clear(table, pages, UINT64_MAX / 2, err);
}

int tree_store(struct tree *tree, uint32_t n_slots, struct store_session *session,
	       struct page_table *contents, uint64_t base, uint64_t *ret_root, struct err *err)
{
	struct page_table *table;

	for (uint32_t i = 0; i < tree->n; i++)
		if (tree->objects[i].slot != TREE_NOWHERE &&
		    put_details(tree, &tree->objects[i], contents, err) < 0)
			return -1;
	if (page_table_edit(&table, session, base, err) < 0)
		return -1;
	if (put_records(tree, n_slots, table, err) < 0) {
		page_table_free(table);
		return -1;
	}
	return page_table_finish(table, ret_root, err);
}
