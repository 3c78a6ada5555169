/*
 * runs.h: a page table as a flat list of runs: what a manifest holds of it. Pure.
 *
 * The coding is in FORMAT.md, "Runs of pages". Runs ascend and do not touch the end of the index space.
 */
#ifndef PAWL_STORE_REPLICA_RUNS_H
#define PAWL_STORE_REPLICA_RUNS_H

#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/pageids.h"

struct runs_writer { /* starts as {0}; bytes is malloc'ed and the caller's to free */
	uint8_t *bytes;
	size_t len, room;
	uint64_t end;     /* index after the last run */
	uint64_t next_id; /* after the last run with ids */
};

/* run.first is not below the end of the one before. -1: out of memory. */
int runs_add(struct runs_writer *w, const struct page_ids *run, struct err *err);

struct runs_reader {
	const uint8_t *at, *limit;
	uint64_t end, next_id;
};

void runs_open(struct runs_reader *r, const void *bytes, size_t len);
/* 1: a run, 0: the end, -1: ERR_CORRUPT. */
int runs_next(struct runs_reader *r, struct page_ids *ret, struct err *err);

#endif
