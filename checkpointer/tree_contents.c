/* Contents of the files in a saved directory tree. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpointer/tree_impl.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"

#define READ_PAGES  256u
#define READ_BYTES  (READ_PAGES * STORE_PAGE_SIZE)
#define COPIES_MOST (512ull << 20) /* then they are put in the pause */

typedef int pages_sink(void *ctx, uint64_t first, char *pages, uint64_t n, struct err *err);

static int read_extent(int fd, uint64_t from, uint64_t to, char *buf, pages_sink *sink, void *ctx,
		       struct err *err)
{
	while (from < to) {
		size_t want = to - from > READ_BYTES ? READ_BYTES : (size_t)(to - from);
		ssize_t n = pread_upto(fd, buf, want, (off_t)from);
		uint64_t pages;

		if (n < 0)
			return err_sys(err, "read");
		if (n == 0)
			return 0; /* became shorter: noticed by its times */
		pages = tree_pages((uint64_t)n);
		memset(buf + n, 0, pages * STORE_PAGE_SIZE - (size_t)n);
		if (sink(ctx, from / STORE_PAGE_SIZE, buf, pages, err) < 0)
			return -1;
		from += pages * STORE_PAGE_SIZE;
	}
	return 0;
}

/* Data up to size, in ascending order; holes are left out. Extents are widened to whole pages. */
static int read_content(int fd, uint64_t size, pages_sink *sink, void *ctx, struct err *err)
{
	cleanup_free char *buf = malloc(READ_BYTES);
	uint64_t at = 0;

	if (!buf)
		return err_set(err, ERR_SYSTEM, "out of memory");
	while (at < size) {
		off_t data = lseek(fd, (off_t)at, SEEK_DATA), hole;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data < 0)
			data = (off_t)at; /* the file system cannot tell holes */
		if ((uint64_t)data >= size)
			return 0;
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0 || (uint64_t)hole > size)
			hole = (off_t)size;
		data &= ~((off_t)STORE_PAGE_SIZE - 1);
		if (read_extent(fd, (uint64_t)data < at ? at : (uint64_t)data, (uint64_t)hole, buf,
				sink, ctx, err) < 0)
			return -1;
		at = tree_pages((uint64_t)hole) * STORE_PAGE_SIZE;
	}
	return 0;
}

/* ---- into the page table ------------------------------------------------------------------- */

struct putting {
	struct page_table *table;
	uint64_t base; /* page of the table where the file begins */
	uint64_t at;   /* pages of the file before this one are done */
};

static int put_pages(void *ctx, uint64_t first, char *pages, uint64_t n, struct err *err)
{
	struct putting *p = ctx;

	if (first > p->at && page_table_clear(p->table, p->base + p->at, first - p->at, err) < 0)
		return -1;
	p->at = first + n;
	return page_table_put(p->table, p->base + first, pages, n, NULL, err);
}

/* Room for a file of o's size. */
static int make_room(struct saved_tree *t, struct tree_object *o, struct err *err)
{
	struct tree_stretch old = o->content;

	if (!tree_place(&t->now, &o->content, o->size))
		return 0;
	return page_table_clear(t->contents, old.first, old.room, err);
}

static int end_putting(const struct putting *p, const struct tree_object *o, struct err *err)
{
	if (p->at >= o->content.room)
		return 0;
	return page_table_clear(p->table, p->base + p->at, o->content.room - p->at, err);
}

static int put_file(struct saved_tree *t, struct tree_object *o, int fd, struct err *err)
{
	struct putting p = {.table = t->contents};

	if (make_room(t, o, err) < 0)
		return -1;
	p.base = o->content.first;
	if (read_content(fd, o->size, put_pages, &p, err) < 0)
		return -1;
	return end_putting(&p, o, err);
}

/* ---- copies -------------------------------------------------------------------------------- */

struct copying {
	struct saved_tree *t;
	uint32_t object;
};

static int copy_pages(void *ctx, uint64_t first, char *pages, uint64_t n, struct err *err)
{
	const struct copying *c = ctx;
	struct saved_tree *t = c->t;
	char *data = malloc(n * STORE_PAGE_SIZE + 1);

	if (data && t->n_copies == t->copies_room) {
		size_t room = t->copies_room ? t->copies_room * 2 : 64;
		struct tree_copy *more = reallocarray(t->copies, room, sizeof(*more));

		if (!more) {
			free(data);
			data = NULL;
		} else {
			t->copies = more;
			t->copies_room = room;
		}
	}
	if (!data)
		return err_set(err, ERR_SYSTEM, "out of memory");
	if (n)
		memcpy(data, pages, n * STORE_PAGE_SIZE);
	t->copies[t->n_copies++] = (struct tree_copy){c->object, first, n, data};
	t->copied += n * STORE_PAGE_SIZE;
	return 0;
}

/* An empty copy stands for a file without data. */
static int begin_copy(struct saved_tree *t, uint32_t object, struct err *err)
{
	struct copying c = {t, object};

	return copy_pages(&c, 0, NULL, 0, err);
}

static int put_copies_of(struct saved_tree *t, size_t *at, struct err *err)
{
	uint32_t object = t->copies[*at].object;
	struct tree_object *o = &t->now.objects[object];
	struct putting p = {.table = t->contents};

	if (make_room(t, o, err) < 0)
		return -1;
	p.base = o->content.first;
	for (; *at < t->n_copies && t->copies[*at].object == object; (*at)++) {
		const struct tree_copy *copy = &t->copies[*at];

		if (copy->n && put_pages(&p, copy->first, copy->data, copy->n, err) < 0)
			return -1;
	}
	return end_putting(&p, o, err);
}

int tree_put_copies(struct saved_tree *t, struct err *err)
{
	size_t at = 0;

	while (at < t->n_copies)
		if (put_copies_of(t, &at, err) < 0)
			return -1;
	tree_free_copies(t);
	return 0;
}

void tree_free_copies(struct saved_tree *t)
{
	for (size_t i = 0; i < t->n_copies; i++)
		free(t->copies[i].data);
	free(t->copies);
	t->copies = NULL;
	t->n_copies = t->copies_room = 0;
	t->copied = 0;
}

/* ---- one object ---------------------------------------------------------------------------- */

static void take_stat(struct tree_object *o, const struct stat *st)
{
	unsigned flags = o->flags;

	tree_object_from_stat(o, st);
	o->flags = flags;
}

/* 1: read, 0: it is not there (any more), -1. */
static int read_object(struct saved_tree *t, uint32_t id, bool frozen, struct err *err)
{
	struct tree_object *o = &t->now.objects[id];
	cleanup_fd int fd = -1;
	struct copying c = {t, id};
	struct stat st;

	if (tree_walk_details(&t->walk, id, err) < 0)
		return -1;
	if (o->kind != TREE_REGULAR || !(o->mark & TREE_READ_AGAIN))
		return 0;
	fd = tree_walk_open(&t->walk, id, O_RDONLY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, "read");
	if (!S_ISREG(st.st_mode) || st.st_ino != o->inode || st.st_dev != o->device)
		return err_set(err, ERR_BUSY, "another file has taken its place");
	take_stat(o, &st);
	if (!frozen)
		return put_file(t, o, fd, err);
	if (begin_copy(t, id, err) < 0 || read_content(fd, o->size, copy_pages, &c, err) < 0)
		return -1;
	return t->copied > COPIES_MOST ? tree_put_copies(t, err) : 0;
}

#define WANTED (TREE_READ_AGAIN | TREE_DETAILS_AGAIN)

int tree_read_ahead(struct saved_tree *t, struct err *err)
{
	for (uint32_t i = 0; i < t->now.n; i++) {
		struct tree_object *o = &t->now.objects[i];
		struct err why;

		if (!(o->mark & WANTED) || (i && !o->name) || o->flags & TREE_BOUNDARY)
			continue;
		if (read_object(t, i, false, &why) == 0) {
			o->mark &= (uint8_t) ~(o->kind == TREE_DIRECTORY ? TREE_DETAILS_AGAIN
									 : WANTED);
			continue;
		}
		/* The store's errors are the snapshot's; a file that vanished or cannot be read is
		 * looked at again in the pause. */
		if (why.kind == ERR_FULL || why.kind == ERR_CORRUPT || why.kind == ERR_INVALID) {
			*err = why;
			return -1;
		}
		log_debug("%s: reading %s ahead: %s", t->path, o->name ? o->name : ".", why.msg);
	}
	return 0;
}

int tree_read_frozen(struct saved_tree *t, struct err *err)
{
	char path[TREE_PATH_ROOM];

	for (uint32_t i = 0; i < t->now.n; i++) {
		struct tree_object *o = &t->now.objects[i];

		/* Without a path it has been deleted. */
		if (!(o->mark & WANTED) || o->flags & TREE_BOUNDARY ||
		    tree_path(&t->now, i, path, sizeof(path)) < 0)
			continue;
		if (read_object(t, i, true, err) < 0)
			return err_wrap(err, "%s/%s", t->path, path);
		o->mark = 0;
	}
	return 0;
}
