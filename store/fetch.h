/*
 * fetch.h: many pages at once, in the order in which they are stored.
 *
 * The pages of a table that has been written for a while lie in as many packs as it has seen snapshots.
 * Read in the order of the table every page would open another pack, and check it, anew; read in the order
 * of their ids each pack is opened once, and the file is read from its beginning to its end; from the disk, past
 * the page cache, where it is not there and much of the pack is wanted, but only once (packdisk.h).
 *
 * List the pages of any number of tables, sort, and fetch: the list may be cut anywhere, and the parts fetched
 * by several threads, each with a fetcher of its own.
 */
#ifndef PAWL_STORE_FETCH_H
#define PAWL_STORE_FETCH_H

#include "store/store.h"

struct page_place {
	uint64_t id;   /* of the stored page */
	uint64_t page; /* where it belongs: its index in the table */
};

struct page_places { /* starts as {0} */
	struct page_place *list; /* owned */
	size_t n, room;
};

void page_places_clear(struct page_places *places);
/* Adds those of pages first … first+n-1 that are PAGE_DATA. */
int page_reader_places(struct page_reader *reader, uint64_t first, uint64_t n, struct page_places *places,
		       struct err *err);
/* Ascending by id; the same content keeps the order of its places. Without memory for that nothing is moved
 * and -1 returned: fetching works all the same, slower. */
int page_places_sort(struct page_places *places);

struct page_fetcher;

#define FETCH_PAGES 64u /* at once: they are still in the CPU's cache when the sink gets them */

/* n pages (at most FETCH_PAGES), checked, of these places. -1 with err set ends the fetching. */
typedef int page_sink(void *ctx, const struct page_place *places, size_t n, const void *pages,
		      struct err *err);

/* once: what is read is not needed again soon. */
int page_fetcher_open(struct page_fetcher **ret, struct store *store, bool once, struct err *err);
void page_fetcher_close(struct page_fetcher *fetcher); /* takes NULL */
/* How many of the places, at least one and about `least`, fill whole packs, so that no other part of the list has
 * to open one of these anew. */
int page_fetch_reach(struct page_fetcher *fetcher, const struct page_place *places, size_t n, size_t least,
		     size_t *ret, struct err *err);
/* Reads the pages of places[0 … n-1], checks their hashes and gives them to the sink, in order. In one read
 * transaction: n should be some thousands at most. */
int page_fetch(struct page_fetcher *fetcher, const struct page_place *places, size_t n, page_sink *sink,
	       void *ctx, struct err *err);

#endif
