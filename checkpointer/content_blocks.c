#include "checkpointer/content_blocks.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/parallel.h"
#include "store/base/search.h"

#define BLOCK_PAGES  (BLOCK_BYTES / STORE_PAGE_SIZE)
#define MAX_READERS  4
#define BLOCKS_EACH  8 /* so many are worth a thread */

/* What one page of a block is. */
enum page_state {
	PAGE_LEFT, /* cannot be read here */
	PAGE_READ,
	PAGE_HOLE, /* not there: reads as zeroes, takes no room */
};

struct block {
	uint64_t first; /* page index in the file */
	size_t n;
	bool has_data; /* some page was read: then data is whole, with zeroes for the others */
	uint8_t state[BLOCK_PAGES];
	char data[BLOCK_BYTES];
};

void content_digests_free(struct content_digests *digests)
{
	if (digests)
		free(digests->list);
	free(digests);
}

static uint64_t count_blocks(const struct content_source *source)
{
	return source->size / BLOCK_BYTES + (source->size % BLOCK_BYTES != 0);
}

/* ---- reading one --------------------------------------------------------------------------- */

static void mark(struct block *b, uint64_t from, uint64_t to, enum page_state state)
{
	memset(b->state + from / STORE_PAGE_SIZE, (int)state,
	       (to + STORE_PAGE_SIZE - 1) / STORE_PAGE_SIZE - from / STORE_PAGE_SIZE);
}

/* Holes stay holes. Extents are widened to whole pages. */
static int read_from_fd(struct block *b, const struct content_source *source, struct err *err)
{
	const off_t mask = (off_t)STORE_PAGE_SIZE - 1, start = (off_t)(b->first * STORE_PAGE_SIZE);
	off_t end = start + (off_t)(b->n * STORE_PAGE_SIZE), at = start;

	mark(b, 0, b->n * STORE_PAGE_SIZE, PAGE_HOLE);
	if (end > (off_t)source->size)
		end = (off_t)source->size;
	while (at < end) {
		off_t data = lseek(source->fd, at, SEEK_DATA), hole;
		ssize_t n;

		if (data >= end || (data < 0 && errno == ENXIO))
			break;
		data = data < 0 ? at : data & ~mask; /* < 0: the file system cannot tell */
		hole = lseek(source->fd, data > at ? data : at, SEEK_HOLE);
		hole = hole < 0 || hole > end ? end : (hole + mask) & ~mask;
		hole = hole > end ? end : hole;
		n = pread_upto(source->fd, b->data + (data - start), (size_t)(hole - data), data);
		if (n < 0)
			return err_sys(err, "cannot read");
		memset(b->data + (data - start) + n, 0, (size_t)(-n & (STORE_PAGE_SIZE - 1)));
		mark(b, (uint64_t)(data - start), (uint64_t)(data - start + n), PAGE_READ);
		if (n < hole - data)
			break; /* became shorter while we read: the caller sees it in its times */
		at = hole;
	}
	return 0;
}

static bool read_piece(const struct file_piece *piece, uint64_t at, char *buf, size_t len)
{
	uint64_t from = piece->start + (at - piece->offset);
	struct err ignored;

	return mem_read(piece->pid, from, buf, len, &ignored) == 0 ||
	       mem_read_forced(piece->pid, from, buf, len, &ignored) == 0;
}

/* First piece that ends behind offset `at`. */
static size_t find_piece(const struct content_source *source, uint64_t at)
{
	return COUNT_BEFORE(source->n_pieces, i, source->pieces[i].offset + source->pieces[i].len <= at);
}

/* A mapping may reach beyond the end of the file, where reading is SIGBUS: then page by page. */
static void read_from_pieces(struct block *b, const struct content_source *source)
{
	uint64_t start = b->first * STORE_PAGE_SIZE, end = start + b->n * STORE_PAGE_SIZE;

	mark(b, 0, b->n * STORE_PAGE_SIZE, PAGE_LEFT);
	for (size_t i = find_piece(source, start);
	     i < source->n_pieces && source->pieces[i].offset < end; i++) {
		const struct file_piece *p = &source->pieces[i];
		uint64_t from = p->offset > start ? p->offset : start;
		uint64_t to = p->offset + p->len < end ? p->offset + p->len : end;

		if (read_piece(p, from, b->data + (from - start), to - from)) {
			mark(b, from - start, to - start, PAGE_READ);
			continue;
		}
		for (uint64_t at = from; at < to; at += STORE_PAGE_SIZE)
			if (read_piece(p, at, b->data + (at - start), STORE_PAGE_SIZE))
				mark(b, at - start, at - start + STORE_PAGE_SIZE, PAGE_READ);
	}
}

/* Great reserves have mostly blocks without any page: they cost next to nothing. */
static void complete(struct block *b)
{
	b->has_data = memchr(b->state, PAGE_READ, b->n) != NULL;
	for (size_t i = 0; i < b->n && b->has_data; i++)
		if (b->state[i] != PAGE_READ)
			memset(b->data + i * STORE_PAGE_SIZE, 0, STORE_PAGE_SIZE);
}

static int read_block(struct block *b, const struct content_source *source, uint64_t index,
		      struct err *err)
{
	uint64_t pages = source->size / STORE_PAGE_SIZE + (source->size % STORE_PAGE_SIZE != 0);

	b->first = index * BLOCK_PAGES;
	b->n = pages - b->first < BLOCK_PAGES ? pages - b->first : BLOCK_PAGES;
	if (source->fd < 0)
		read_from_pieces(b, source);
	else if (read_from_fd(b, source, err) < 0)
		return -1;
	complete(b);
	return 0;
}

static struct page_hash digest_of(const struct store_session *session, const struct block *b)
{
	const size_t data = b->has_data ? b->n * STORE_PAGE_SIZE : 0;
	const struct page_hash parts[2] = {session_digest(session, b->data, data),
					   session_digest(session, b->state, b->n)};

	return session_digest(session, parts, sizeof(parts));
}

static int put_block(struct page_table *table, const struct content_source *source,
		     const struct block *b, struct err *err)
{
	for (size_t i = 0, n; i < b->n; i += n) {
		uint64_t first = b->first + i;
		int result = 0;

		for (n = 1; i + n < b->n && b->state[i + n] == b->state[i]; n++)
			;
		if (b->state[i] == PAGE_READ)
			result = page_table_put(table, first, b->data + i * STORE_PAGE_SIZE, n, NULL,
						err);
		else if (b->state[i] == PAGE_HOLE || source->clear_rest)
			result = page_table_clear(table, first, n, err);
		if (result < 0)
			return -1;
	}
	return 0;
}

/* ---- all of them --------------------------------------------------------------------------- */

static int finish(struct page_table *table, const struct content_source *source, int result,
		  uint64_t *ret_root, struct err *err)
{
	uint64_t pages = source->size / STORE_PAGE_SIZE + (source->size % STORE_PAGE_SIZE != 0);

	if (result == 0)
		result = page_table_clear(table, pages, UINT64_MAX / 2 / STORE_PAGE_SIZE, err);
	if (result == 0)
		return page_table_finish(table, ret_root, err);
	page_table_free(table);
	return -1;
}

static struct content_digests *new_digests(uint64_t n)
{
	struct content_digests *digests = calloc(1, sizeof(*digests));

	if (digests)
		digests->list = calloc(n + 1, sizeof(*digests->list));
	if (digests && digests->list) {
		digests->n = n;
		return digests;
	}
	free(digests);
	return NULL;
}

int blocks_capture(struct store_session *session, const struct content_source *source, uint64_t base,
		   uint64_t *ret_root, struct content_digests **ret_digests, struct err *err)
{
	uint64_t n = count_blocks(source);
	struct content_digests *digests = ret_digests ? new_digests(n) : NULL;
	cleanup_free struct block *b = malloc(sizeof(*b));
	struct page_table *table = NULL;
	int result = b ? page_table_edit(&table, session, base, err) : err_sys(err, "cannot read");

	for (uint64_t i = 0; i < n && result == 0; i++) {
		result = read_block(b, source, i, err);
		if (result == 0)
			result = put_block(table, source, b, err);
		if (result == 0 && digests)
			digests->list[i] = digest_of(session, b);
	}
	if (table)
		result = finish(table, source, result, ret_root, err);
	if (result < 0) {
		content_digests_free(digests);
		return -1;
	}
	if (digests)
		digests->root = *ret_root;
	if (ret_digests)
		*ret_digests = digests;
	return 0;
}

/* ---- what has changed ---------------------------------------------------------------------- */

struct comparison {
	const struct store_session *session;
	const struct content_source *source;
	const struct content_digests *digests;
	uint64_t n;
	uint8_t *changed; /* by block */
	atomic_uint_fast64_t next;
};

/* A block that cannot be read counts as changed: reading it again says why. */
static int compare(void *ctx, struct err *err)
{
	struct comparison *c = ctx;
	cleanup_free struct block *b = malloc(sizeof(*b));
	uint64_t i;

	while ((i = atomic_fetch_add(&c->next, 1)) < c->n) {
		c->changed[i] = 1;
		if (b && i < c->digests->n && read_block(b, c->source, i, err) == 0) {
			struct page_hash now = digest_of(c->session, b), was = c->digests->list[i];

			c->changed[i] = now.lo != was.lo || now.hi != was.hi ||
					(c->source->clear_rest && memchr(b->state, PAGE_LEFT, b->n));
		}
	}
	return 0;
}

static void compare_all(struct comparison *c)
{
	size_t n = (size_t)((c->n + BLOCKS_EACH - 1) / BLOCKS_EACH), cpus = parallel_cpus();
	struct err never;

	n = n > MAX_READERS ? MAX_READERS : n;
	parallel_run(n > cpus ? cpus : n, compare, c, &never);
}

int blocks_capture_changed(struct store_session *session, const struct content_source *source,
			   const struct content_digests *digests, uint64_t *ret_root, struct err *err)
{
	struct comparison c = {.session = session, .source = source, .digests = digests,
			       .n = count_blocks(source)};
	cleanup_free uint8_t *changed = calloc(c.n + 1, 1);
	cleanup_free struct block *b = malloc(sizeof(*b));
	struct page_table *table = NULL;
	int result;

	if (!b || !changed)
		return err_sys(err, "cannot read");
	c.changed = changed;
	compare_all(&c);
	result = page_table_edit(&table, session, digests->root, err);
	if (result < 0)
		return -1;
	for (uint64_t i = 0; i < c.n && result == 0; i++)
		if (changed[i] && (result = read_block(b, source, i, err)) == 0)
			result = put_block(table, source, b, err);
	return finish(table, source, result, ret_root, err);
}
