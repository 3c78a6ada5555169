/*
 * readers.h: a few page readers kept open, by root of their page table. Private to recovery/.
 */
#ifndef PAWL_RECOVERY_READERS_H
#define PAWL_RECOVERY_READERS_H

#include "store/store.h"

#define READERS_MOST 6

struct readers { /* starts as {.store = …} */
	struct store *store;
	uint64_t clock;
	struct {
		struct page_reader *reader; /* NULL: free */
		uint64_t root, used;
	} open[READERS_MOST];
};

/* *ret stays valid until five others have been asked for. */
int readers_get(struct readers *readers, uint64_t root, struct page_reader **ret, struct err *err);
void readers_close(struct readers *readers);

#endif
