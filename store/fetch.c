#include "store/fetch.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "store/packdisk.h"
#include "store/source.h"

/* Pages wanted of a pack from which on all of it is read. Below, what is asked for is somebody's page fault, or the
 * pack has little left of use. */
#define WHOLE FETCH_PAGES

void page_places_clear(struct page_places *places)
{
	free(places->list);
	*places = (struct page_places){0};
}

/* ---- sorting ------------------------------------------------------------------------------- */

#define DIGIT_BITS 11u
#define DIGITS	   (1u << DIGIT_BITS)

/* The bits in which ids differ; 0 where there is nothing to sort. */
static uint64_t bits_to_sort(const struct page_places *places)
{
	uint64_t bits = 0;
	bool sorted = true;

	for (size_t i = 1; i < places->n; i++) {
		sorted &= places->list[i].id >= places->list[i - 1].id;
		bits |= places->list[i].id ^ places->list[0].id;
	}
	return sorted ? 0 : bits;
}

/* One pass of a radix sort, stable. */
static void sort_by_digit(const struct page_place *from, struct page_place *to, size_t n, unsigned shift)
{
	size_t at[DIGITS] = {0}, sum = 0;

	for (size_t i = 0; i < n; i++)
		at[from[i].id >> shift & (DIGITS - 1)]++;
	for (size_t d = 0; d < DIGITS; d++) {
		size_t count = at[d];

		at[d] = sum;
		sum += count;
	}
	for (size_t i = 0; i < n; i++)
		to[at[from[i].id >> shift & (DIGITS - 1)]++] = from[i];
}

int page_places_sort(struct page_places *places)
{
	uint64_t bits = bits_to_sort(places);
	struct page_place *other;

	if (!bits)
		return 0;
	other = malloc(places->room * sizeof(*other));
	if (!other)
		return -1;
	for (unsigned shift = 0; shift < 64; shift += DIGIT_BITS) {
		struct page_place *from = places->list;

		if (!(bits >> shift & (DIGITS - 1)))
			continue;
		sort_by_digit(from, other, places->n, shift);
		places->list = other;
		other = from;
	}
	free(other);
	return 0;
}

/* ---- fetching ------------------------------------------------------------------------------ */

struct page_fetcher {
	struct page_source source;
	struct pack_disk disk;
	const char *base; /* of the map, in this transaction */
	char *pages;   /* FETCH_PAGES */
};

int page_fetcher_open(struct page_fetcher **ret, struct store *store, bool once, struct err *err)
{
	struct page_fetcher *fetcher = calloc(1, sizeof(*fetcher));

	if (!fetcher)
		return err_sys(err, "reading pages");
	atomic_fetch_add(&store->users, 1);
	fetcher->source.store = store;
	fetcher->disk.fd = -1;
	fetcher->pages = aligned_alloc(STORE_PAGE_SIZE, FETCH_PAGES * STORE_PAGE_SIZE);
	if (!fetcher->pages) {
		page_fetcher_close(fetcher);
		return err_sys(err, "reading pages");
	}
	if (source_open(&fetcher->source, store, err) < 0) {
		fetcher->source.store = store;
		page_fetcher_close(fetcher);
		return -1;
	}
	if (once)
		pack_disk_open(&fetcher->disk, store);
	fetcher->disk.once = true;
	*ret = fetcher;
	return 0;
}

void page_fetcher_close(struct page_fetcher *fetcher)
{
	struct store *store;

	if (!fetcher)
		return;
	store = fetcher->source.store;
	source_close(&fetcher->source);
	pack_disk_close(&fetcher->disk);
	atomic_fetch_sub(&store->users, 1);
	free(fetcher->pages);
	free(fetcher);
}

/* How many of the places, which ascend, are in the pack that source_seek has found. */
static int count_in_pack(struct page_fetcher *fetcher, const struct page_place *places, size_t n, size_t *ret,
			 struct err *err)
{
	uint64_t next;
	size_t i = 1;

	if (source_next_key(&fetcher->source, &next, err) < 0)
		return -1;
	while (i < n && places[i].id < next && places[i].id >= places[i - 1].id)
		i++;
	*ret = i;
	return 0;
}

/* Opens the pack of the first of the places. */
static int enter_pack(struct page_fetcher *fetcher, const struct page_place *places, size_t n, struct err *err)
{
	struct page_source *source = &fetcher->source;
	struct stored_pack pack;
	const void *in_map;
	size_t wanted;

	if (source_seek(source, places->id, &pack, err) < 0 ||
	    count_in_pack(fetcher, places, n, &wanted, err) < 0)
		return -1;
	in_map = pack.value.mv_data;
	if (wanted >= WHOLE)
		pack_disk_read(&fetcher->disk, fetcher->base, pack.key, &pack.value);
	if (source_look(source, &pack, err) < 0)
		return -1;
	if (pack.value.mv_data == in_map)
		source_read_ahead(source);
	return 0;
}

static int fetch_one(struct page_fetcher *fetcher, const struct page_place *places, size_t n, void *page,
		     struct err *err)
{
	struct page_source *source = &fetcher->source;
	uint32_t i;

	if (!source_has(source, places->id, &i) &&
	    (enter_pack(fetcher, places, n, err) < 0 || source_find(source, places->id, &i, err) < 0))
		return -1;
	return pack_page(&source->view, i, &source->store->secret, source->dctx, page, err);
}

static int fetch_all(struct page_fetcher *fetcher, const struct page_place *places, size_t n,
		     page_sink *sink, void *ctx, struct err *err)
{
	size_t done = 0;

	for (size_t i = 0; i < n; i++) {
		char *page = fetcher->pages + (i - done) * STORE_PAGE_SIZE;

		if (i > done && places[i].id == places[i - 1].id)
			memcpy(page, page - STORE_PAGE_SIZE, STORE_PAGE_SIZE);
		else if (fetch_one(fetcher, places + i, n - i, page, err) < 0)
			return err_wrap(err, "page 0x%" PRIx64, places[i].page);
		if (i + 1 - done < FETCH_PAGES && i + 1 < n)
			continue;
		if (sink(ctx, places + done, i + 1 - done, fetcher->pages, err) < 0)
			return -1;
		done = i + 1;
	}
	return 0;
}

int page_fetch(struct page_fetcher *fetcher, const struct page_place *places, size_t n, page_sink *sink,
	       void *ctx, struct err *err)
{
	int rc;

	if (source_begin(&fetcher->source, err) < 0)
		return -1;
	fetcher->base = txn_map_base(fetcher->source.store, fetcher->source.txn);
	rc = fetch_all(fetcher, places, n, sink, ctx, err);
	source_end(&fetcher->source);
	return rc;
}

int page_fetch_reach(struct page_fetcher *fetcher, const struct page_place *places, size_t n, size_t least,
		     size_t *ret, struct err *err)
{
	struct stored_pack pack;
	size_t reach = 0, more;
	int rc = source_begin(&fetcher->source, err);

	if (rc < 0)
		return -1;
	while (rc == 0 && reach < n && reach < least) {
		rc = source_seek(&fetcher->source, places[reach].id, &pack, err);
		if (rc == 0)
			rc = count_in_pack(fetcher, places + reach, n - reach, &more, err);
		reach += rc == 0 ? more : 0;
	}
	source_end(&fetcher->source);
	*ret = reach;
	return rc;
}
