#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "store/source.h"

#define READ_CHUNK 2048u /* pages in one read transaction */

struct read_level {
	uint64_t id; /* node in slots; 0: none */
	uint64_t slots[NODE_SLOTS];
};

struct page_reader {
	struct page_source source;
	uint64_t root;
	unsigned level; /* of the root; meaningful where root is not 0 */
	struct read_level at[NODE_MAX_LEVEL + 1];
};

static int load(struct page_reader *reader, unsigned level, uint64_t id, struct err *err)
{
	struct read_level *at = &reader->at[level];
	unsigned found;

	if (at->id == id)
		return 0;
	at->id = 0;
	if (source_node(&reader->source, id, &found, at->slots, err) < 0)
		return -1;
	if (found != level)
		return err_set(err, ERR_CORRUPT,
			       "page table node %" PRIu64 ": level %u where %u belongs", id, found,
			       level);
	at->id = id;
	return 0;
}

static int load_root(struct page_reader *reader, struct err *err)
{
	uint64_t slots[NODE_SLOTS];
	int rc;

	if (source_begin(&reader->source, err) < 0)
		return -1;
	rc = source_node(&reader->source, reader->root, &reader->level, slots, err);
	source_end(&reader->source);
	return rc;
}

int page_reader_open(struct page_reader **ret, struct store *store, uint64_t root, struct err *err)
{
	struct page_reader *reader = calloc(1, sizeof(*reader));

	if (!reader)
		return err_sys(err, "page reader");
	reader->root = root;
	atomic_fetch_add(&store->users, 1);
	reader->source.store = store;
	if (source_open(&reader->source, store, err) < 0 || (root && load_root(reader, err) < 0)) {
		page_reader_close(reader);
		return -1;
	}
	*ret = reader;
	return 0;
}

void page_reader_close(struct page_reader *reader)
{
	struct store *store;

	if (!reader)
		return;
	store = reader->source.store;
	source_close(&reader->source);
	atomic_fetch_sub(&store->users, 1);
	free(reader);
}

/* Brings at[0] to the leaf of index. 1: there; 0: absent, and *ret_skip is the first index after the
 * absent stretch (0: to the end of all indexes). */
static int find_leaf(struct page_reader *reader, uint64_t index, uint64_t *ret_skip, struct err *err)
{
	unsigned level = reader->level;
	uint64_t id = reader->root;

	*ret_skip = 0;
	if (!id || !node_covers(level, index))
		return 0;
	for (;; level--) {
		unsigned shift = node_slot_shift(level);

		if (load(reader, level, id, err) < 0)
			return -1;
		if (level == 0)
			return 1;
		id = reader->at[level].slots[node_slot_of(level, index)];
		if (!id) {
			*ret_skip = ((index >> shift) + 1) << shift;
			return 0;
		}
	}
}

static enum page_kind kind_of(uint64_t id)
{
	if (id == ID_ABSENT)
		return PAGE_ABSENT;
	return id == ID_ZERO ? PAGE_ZERO : PAGE_DATA;
}

/* Kind of the page at index; *ret_n: so many pages from index on are known to be of it (0: all). */
static int run_at(struct page_reader *reader, uint64_t index, enum page_kind *ret, uint64_t *ret_n,
		  struct err *err)
{
	const uint64_t *slots = reader->at[0].slots;
	unsigned slot = node_slot_of(0, index), end;
	uint64_t skip;
	int rc = find_leaf(reader, index, &skip, err);

	if (rc < 0)
		return -1;
	if (rc == 0) {
		*ret = PAGE_ABSENT;
		*ret_n = skip ? skip - index : 0;
		return 0;
	}
	*ret = kind_of(slots[slot]);
	for (end = slot + 1; end < NODE_SLOTS && kind_of(slots[end]) == *ret; end++)
		;
	*ret_n = end - slot;
	return 0;
}

static int next_run(struct page_reader *reader, uint64_t from, struct page_run *ret, struct err *err)
{
	struct page_run run = {.first = from};
	enum page_kind kind;
	uint64_t n;

	for (;;) {
		uint64_t at = run.first + run.n;

		if (run.n && at == 0) /* the run ends with the last index of all */
			break;
		if (run_at(reader, at, &kind, &n, err) < 0)
			return -1;
		if (run.n && kind != run.kind)
			break;
		if (kind != PAGE_ABSENT) {
			run.kind = kind;
			run.n += n;
		} else if (n == 0 || at + n == 0) {
			return 0;
		} else {
			run.first = at + n;
		}
	}
	*ret = run;
	return 1;
}

int page_reader_next(struct page_reader *reader, uint64_t from, struct page_run *ret, struct err *err)
{
	int rc;

	if (source_begin(&reader->source, err) < 0)
		return -1;
	rc = next_run(reader, from, ret, err);
	source_end(&reader->source);
	return rc;
}

static int read_page(struct page_reader *reader, uint64_t index, void *page, struct err *err)
{
	uint64_t skip, id = ID_ABSENT;
	int rc = find_leaf(reader, index, &skip, err);

	if (rc < 0)
		return -1;
	if (rc == 1)
		id = reader->at[0].slots[node_slot_of(0, index)];
	if (id >= ID_FIRST)
		return source_page(&reader->source, id, page, err);
	memset(page, 0, STORE_PAGE_SIZE);
	return 0;
}

int page_reader_read(struct page_reader *reader, uint64_t first, size_t n, void *buf,
		     struct err *err)
{
	char *page = buf;
	size_t i;
	int rc = 0;

	for (i = 0; i < n && rc == 0; i++) {
		if (i % READ_CHUNK == 0) {
			source_end(&reader->source);
			if (source_begin(&reader->source, err) < 0)
				return -1;
		}
		rc = read_page(reader, first + i, page + i * STORE_PAGE_SIZE, err);
		if (rc < 0)
			err_wrap(err, "page 0x%" PRIx64, first + i);
	}
	source_end(&reader->source);
	return rc;
}
