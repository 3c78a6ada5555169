#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "store/fetch.h"
#include "store/pageids.h"
#include "store/source.h"
#include "store/storedpages.h"

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

/* Within one leaf. */
static struct page_ids ids_at(const struct page_reader *reader, uint64_t index)
{
	const uint64_t *slots = reader->at[0].slots;
	unsigned slot = node_slot_of(0, index), end = slot + 1;
	bool zero = slots[slot] == ID_ZERO;

	while (end < NODE_SLOTS && slots[end] == (zero ? slots[slot] : slots[end - 1] + 1))
		end++;
	return (struct page_ids){index, end - slot, slots[slot]};
}

static int next_ids(struct page_reader *reader, uint64_t from, struct page_ids *ret,
		    struct err *err)
{
	for (;;) {
		uint64_t skip;
		int rc = find_leaf(reader, from, &skip, err);

		if (rc < 0)
			return -1;
		if (rc == 0) {
			if (skip == 0)
				return 0;
			from = skip;
			continue;
		}
		if (reader->at[0].slots[node_slot_of(0, from)] != ID_ABSENT) {
			*ret = ids_at(reader, from);
			return 1;
		}
		if (++from == 0)
			return 0;
	}
}

int page_reader_next_ids(struct page_reader *reader, uint64_t from, struct page_ids *ret,
			 struct err *err)
{
	int rc;

	if (source_begin(&reader->source, err) < 0)
		return -1;
	rc = next_ids(reader, from, ret, err);
	source_end(&reader->source);
	return rc;
}

/* ---- places -------------------------------------------------------------------------------- */

static int add_place(struct page_places *places, uint64_t id, uint64_t page, struct err *err)
{
	if (places->n == places->room) {
		size_t room = places->room ? places->room * 2 : 4096;
		struct page_place *more = reallocarray(places->list, room, sizeof(*more));

		if (!more)
			return err_sys(err, "list of pages");
		places->list = more;
		places->room = room;
	}
	places->list[places->n++] = (struct page_place){id, page};
	return 0;
}

static int list_places(struct page_reader *reader, uint64_t first, uint64_t n, struct page_places *places,
		       struct err *err)
{
	uint64_t end = first + n, skip;

	while (first < end) {
		int rc = find_leaf(reader, first, &skip, err);

		if (rc < 0)
			return -1;
		if (rc == 0 && (skip == 0 || skip >= end))
			break;
		if (rc == 0) {
			first = skip;
			continue;
		}
		for (unsigned slot = node_slot_of(0, first); slot < NODE_SLOTS && first < end;
		     slot++, first++)
			if (reader->at[0].slots[slot] >= ID_FIRST &&
			    add_place(places, reader->at[0].slots[slot], first, err) < 0)
				return -1;
	}
	return 0;
}

int page_reader_places(struct page_reader *reader, uint64_t first, uint64_t n, struct page_places *places,
		       struct err *err)
{
	int rc;

	if (source_begin(&reader->source, err) < 0)
		return -1;
	rc = list_places(reader, first, n, places, err);
	source_end(&reader->source);
	return rc;
}

/* ---- two tables ---------------------------------------------------------------------------- */

/* Id of the node of that level over index: 0 where there is none, or index is beyond the root. Nodes above
 * the root count as none too; the caller does not ask for them. */
static int node_over(struct page_reader *reader, unsigned level, uint64_t index, uint64_t *ret,
		     struct err *err)
{
	uint64_t id = reader->root && node_covers(reader->level, index) ? reader->root : 0;

	for (unsigned at = reader->level; id && at > level; at--) {
		if (load(reader, at, id, err) < 0)
			return -1;
		id = reader->at[at].slots[node_slot_of(at, index)];
	}
	*ret = id;
	return 0;
}

/* The largest stretch around index that has the same node (or none) in both: *ret_end is the first index
 * behind it (0: to the end of all indexes). 1, 0: they differ at index's leaf; -1. */
static int same_stretch(struct page_reader *a, struct page_reader *b, uint64_t index,
			uint64_t *ret_end, struct err *err)
{
	unsigned level = !b->root || (a->root && a->level < b->level) ? a->level : b->level;

	if ((!a->root || !node_covers(a->level, index)) &&
	    (!b->root || !node_covers(b->level, index))) {
		*ret_end = 0;
		return 1;
	}
	for (;; level--) {
		unsigned shift = node_slot_shift(level + 1);
		uint64_t in_a, in_b;

		if (node_over(a, level, index, &in_a, err) < 0 ||
		    node_over(b, level, index, &in_b, err) < 0)
			return -1;
		if (in_a == in_b) {
			*ret_end = shift > 63 ? 0 : ((index >> shift) + 1) << shift;
			return 1;
		}
		if (level == 0)
			return 0;
	}
}

static uint64_t slot_id(const struct page_reader *reader, bool has_leaf, uint64_t index)
{
	return has_leaf ? reader->at[0].slots[node_slot_of(0, index)] : (uint64_t)ID_ABSENT;
}

/* Within the leaf of from: the first run of pages that differ in the same way. 1 or 0. */
static int compare_leaf(struct page_reader *a, struct page_reader *b, const bool has_leaf[2],
			uint64_t from, uint64_t limit, struct page_difference *ret)
{
	uint64_t end = (from | (NODE_SLOTS - 1)) + 1;

	if (end == 0 || end > limit)
		end = limit;
	ret->n = 0;
	for (uint64_t i = from; i < end; i++) {
		uint64_t x = slot_id(a, has_leaf[0], i), y = slot_id(b, has_leaf[1], i);
		bool same_kinds = ret->n && kind_of(x) == ret->a && kind_of(y) == ret->b;

		if (x == y && ret->n == 0)
			continue;
		if (x == y || (ret->n && !same_kinds))
			break;
		if (ret->n++ == 0) {
			ret->first = i;
			ret->a = kind_of(x);
			ret->b = kind_of(y);
		}
	}
	return ret->n > 0;
}

static int compare(struct page_reader *a, struct page_reader *b, uint64_t from, uint64_t limit,
		   struct page_difference *ret, struct err *err)
{
	while (from < limit) {
		uint64_t end = 0, skip;
		int in_a, in_b, same = same_stretch(a, b, from, &end, err);

		if (same < 0)
			return -1;
		if (same == 0) {
			in_a = find_leaf(a, from, &skip, err);
			in_b = in_a < 0 ? -1 : find_leaf(b, from, &skip, err);
			if (in_b < 0)
				return -1;
			if (compare_leaf(a, b, (const bool[2]){in_a, in_b}, from, limit, ret))
				return 1;
			end = (from | (NODE_SLOTS - 1)) + 1;
		}
		if (end == 0)
			break;
		from = end;
	}
	return 0;
}

int page_readers_compare(struct page_reader *a, struct page_reader *b, uint64_t from, uint64_t limit,
			 struct page_difference *ret, struct err *err)
{
	int rc = -1;

	/* Two read transactions in one thread: the store's lock prefers readers (glibc's default). */
	if (source_begin(&a->source, err) < 0)
		return -1;
	if (source_begin(&b->source, err) == 0)
		rc = compare(a, b, from, limit, ret, err);
	source_end(&b->source);
	source_end(&a->source);
	return rc;
}

static int read_page(struct page_reader *reader, uint64_t index, void *page, struct stored_page *ret,
		     struct err *err)
{
	uint64_t skip, id = ID_ABSENT;
	int rc = find_leaf(reader, index, &skip, err);

	if (rc < 0)
		return -1;
	if (rc == 1)
		id = reader->at[0].slots[node_slot_of(0, index)];
	if (id >= ID_FIRST) {
		if (source_stored(&reader->source, id, page, ret, err) < 0)
			return -1;
		source_read_ahead(&reader->source);
		return 0;
	}
	memset(page, 0, STORE_PAGE_SIZE);
	*ret = (struct stored_page){page, STORE_PAGE_SIZE, CODEC_NONE};
	return 0;
}

/* Behind the others; what would be longer than the page is the page. */
static uint8_t *keep_stored(struct stored_page *stored, const void *page, uint8_t *bytes)
{
	if (stored->len > STORE_PAGE_SIZE)
		*stored = (struct stored_page){page, STORE_PAGE_SIZE, CODEC_NONE};
	memcpy(bytes, stored->data, stored->len);
	stored->data = bytes;
	return bytes + stored->len;
}

/* bytes NULL: as they are stored is not wanted. */
static int read_pages(struct page_reader *reader, uint64_t first, size_t n, char *page,
		      struct stored_page *ret, uint8_t *bytes, struct err *err)
{
	struct stored_page stored;
	size_t i;
	int rc = 0;

	for (i = 0; i < n && rc == 0; i++) {
		if (i % READ_CHUNK == 0) {
			source_end(&reader->source);
			if (source_begin(&reader->source, err) < 0)
				return -1;
		}
		rc = read_page(reader, first + i, page + i * STORE_PAGE_SIZE, &stored, err);
		if (rc < 0)
			err_wrap(err, "page 0x%" PRIx64, first + i);
		if (rc < 0 || !bytes)
			continue;
		bytes = keep_stored(&stored, page + i * STORE_PAGE_SIZE, bytes);
		ret[i] = stored;
	}
	source_end(&reader->source);
	return rc;
}

int page_reader_read(struct page_reader *reader, uint64_t first, size_t n, void *buf,
		     struct err *err)
{
	return read_pages(reader, first, n, buf, NULL, NULL, err);
}

int page_reader_read_stored(struct page_reader *reader, uint64_t first, size_t n, void *pages,
			    struct stored_page *ret, uint8_t *bytes, struct err *err)
{
	return read_pages(reader, first, n, pages, ret, bytes, err);
}
