#include "store/fetch.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "store/source.h"

void page_places_clear(struct page_places *places)
{
	free(places->list);
	*places = (struct page_places){0};
}

/* ---- sorting ------------------------------------------------------------------------------- */

#define DIGIT_BITS 11u
#define DIGITS	   (1u << DIGIT_BITS)

static bool is_sorted(const struct page_places *places)
{
	for (size_t i = 1; i < places->n; i++)
		if (places->list[i].id < places->list[i - 1].id)
			return false;
	return true;
}

/* One pass of a radix sort, stable. False: all have the same digit, nothing was moved. */
static bool sort_by_digit(const struct page_place *from, struct page_place *to, size_t n, unsigned shift)
{
	size_t at[DIGITS] = {0}, sum = 0;

	for (size_t i = 0; i < n; i++)
		at[from[i].id >> shift & (DIGITS - 1)]++;
	if (at[from[0].id >> shift & (DIGITS - 1)] == n)
		return false;
	for (size_t d = 0; d < DIGITS; d++) {
		size_t count = at[d];

		at[d] = sum;
		sum += count;
	}
	for (size_t i = 0; i < n; i++)
		to[at[from[i].id >> shift & (DIGITS - 1)]++] = from[i];
	return true;
}

int page_places_sort(struct page_places *places)
{
	struct page_place *other;

	if (is_sorted(places))
		return 0;
	other = malloc(places->room * sizeof(*other));
	if (!other)
		return -1;
	for (unsigned shift = 0; shift < 64; shift += DIGIT_BITS) {
		struct page_place *from = places->list;

		if (!sort_by_digit(from, other, places->n, shift))
			continue;
		places->list = other;
		other = from;
	}
	free(other);
	return 0;
}

/* ---- fetching ------------------------------------------------------------------------------ */

struct page_fetcher {
	struct page_source source;
	char *pages;   /* FETCH_PAGES */
};

int page_fetcher_open(struct page_fetcher **ret, struct store *store, struct err *err)
{
	struct page_fetcher *fetcher = calloc(1, sizeof(*fetcher));

	if (!fetcher)
		return err_sys(err, "reading pages");
	atomic_fetch_add(&store->users, 1);
	fetcher->source.store = store;
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
	atomic_fetch_sub(&store->users, 1);
	free(fetcher->pages);
	free(fetcher);
}

static int fetch_one(struct page_fetcher *fetcher, uint64_t id, void *page, struct err *err)
{
	struct page_source *source = &fetcher->source;
	uint32_t i;

	if (source_find(source, id, &i, err) < 0)
		return -1;
	source_read_ahead(source);
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
		else if (fetch_one(fetcher, places[i].id, page, err) < 0)
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
	rc = fetch_all(fetcher, places, n, sink, ctx, err);
	source_end(&fetcher->source);
	return rc;
}
