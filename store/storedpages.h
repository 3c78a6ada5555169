/*
 * storedpages.h: pages that go from one store to another without being compressed anew.
 *
 * Hashes are each store's own; what is compressed is the same everywhere.
 */
#ifndef PAWL_STORE_STOREDPAGES_H
#define PAWL_STORE_STOREDPAGES_H

#include "store/pack.h"
#include "store/store.h"

/* As page_reader_read, and each page as it is stored too: ret[i].data is in `bytes` (n pages' room), back to back. */
int page_reader_read_stored(struct page_reader *reader, uint64_t first, size_t n, void *pages,
			    struct stored_page *ret, uint8_t *bytes, struct err *err);

/* As page_table_put; stored[i] decompresses to page i, and is what is kept of it where it is new. */
int page_table_put_stored(struct page_table *table, uint64_t first, const void *pages,
			  const struct stored_page *stored, size_t n, struct err *err);

#endif
