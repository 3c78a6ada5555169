/*
 * capture.h: pages of a process on their way to where they are kept, as one thread reads them. Private to pages.c.
 *
 * They are read by slices that fit in a CPU's cache. Those that nothing waits for are hashed and compressed there: only
 * what will be stored leaves it, which takes two thirds of the time that reading, hashing and compressing take apart.
 */
#ifndef PAWL_CHECKPOINTER_CAPTURE_H
#define PAWL_CHECKPOINTER_CAPTURE_H

#include <pthread.h>

#include "checkpointer/pages.h"
#include "checkpointer/reading.h"

struct capture { /* .reading starts with descriptors of -1 */
	pid_t pid;
	struct page_table *table;
	struct page_copies *copies;
	enum capture_mode mode;
	pthread_mutex_t *lock; /* of copies and table, where several threads read; else NULL */
	uint64_t candidates;
	struct page_slice slice; /* to be read next */
	struct page_reading reading;
	struct page_chunk *chunk; /* that fills */
	struct page_chunk *raw;	  /* the slice, where it is pressed */
	struct page_press *press;
	bool compress; /* for this chunk */
};

/* What is to be read of the range, mostly a chunk at a time. */
int capture_range(struct capture *c, const struct scan_range *r, struct err *err);
/* What has begun to fill. */
int capture_finish(struct capture *c, struct err *err);
void capture_end(struct capture *c);

#endif
