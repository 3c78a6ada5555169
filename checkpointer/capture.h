/*
 * capture.h: pages of a process on their way to where they are kept, as one thread reads them. Private to pages.c.
 */
#ifndef PAWL_CHECKPOINTER_CAPTURE_H
#define PAWL_CHECKPOINTER_CAPTURE_H

#include <pthread.h>

#include "checkpointer/pages.h"
#include "checkpointer/putting.h"
#include "checkpointer/reading.h"

struct capture { /* .reading starts with descriptors of -1 */
	pid_t pid;
	struct page_table *table;
	struct page_copies *copies;
	enum capture_mode mode;
	struct page_chunk *chunk;
	struct putting *putting; /* CAPTURE_THROUGH */
	struct page_reading reading;
	uint64_t candidates;
	pthread_mutex_t *lock; /* of copies and table, where several threads read; else NULL */
};

/* What is to be read of the range, mostly a chunk at a time. */
int capture_range(struct capture *c, const struct scan_range *r, struct err *err);
/* The chunk that has begun to fill. */
int capture_finish(struct capture *c, struct err *err);
void capture_end(struct capture *c);

#endif
