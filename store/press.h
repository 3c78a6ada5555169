/*
 * press.h: what storing a page takes that needs no store: its hash, and its compressed form.
 *
 * So this part may be done by other threads than the session's, each with a press of its own.
 */
#ifndef PAWL_STORE_PRESS_H
#define PAWL_STORE_PRESS_H

#include <stdbool.h>

#include "store/pack.h"
#include "store/store.h"

struct pressed_page {
	bool hashed;		   /* false: of what follows, only `page` counts */
	bool zero;		   /* then nothing else counts */
	struct page_hash hash;
	const void *page;	   /* the content; may be NULL where the stored form is there */
	struct stored_page stored; /* data NULL: it has not been compressed */
};

struct page_press;

/* For the session's pages; may outlive it only to be freed. */
int page_press_new(struct page_press **ret, const struct store_session *session, struct err *err);
void page_press_free(struct page_press *press); /* takes NULL */

/* room: STORE_PAGE_SIZE bytes; the stored form is there, or the page itself where compressing it does not pay. */
struct stored_page page_compress(struct page_press *press, const void *page, void *room);
/* compress false: only its hash. */
struct pressed_page page_press_page(struct page_press *press, const void *page, void *room, bool compress);

struct store_session *page_table_session(const struct page_table *table);
/* As page_table_put, of pages some of which were pressed. Adds to *stored how many were new to the store. */
int page_table_put_pressed(struct page_table *table, uint64_t first, const struct pressed_page *pages, size_t n,
			   uint64_t *stored, struct err *err);

#endif
