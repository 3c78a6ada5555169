/*
 * pausing.h: what the time went to while the job stood still.
 *
 * Costs a clock reading a part. The parts add up to the pause, but for the moment between a look at the
 * clock and the next.
 */
#ifndef PAWL_CHECKPOINTER_PAUSING_H
#define PAWL_CHECKPOINTER_PAUSING_H

#include <stdint.h>

#include "store/base/err.h"
#include "store/snapshot.h"

enum pause_part {
	PAUSE_ARM,	/* an earlier stop, before the first copy of a process */
	PAUSE_FREEZE,	/* until everything stood still, and was identified */
	PAUSE_DESCRIBE, /* everything but contents */
	PAUSE_SCAN,	/* page tables */
	PAUSE_COPY,	/* pages that were written since the last look */
	PAUSE_FILES,	/* contents of files and of shared memory */
	PAUSE_STREAMS,	/* what the job's owner does: streams, log */
	PAUSE_RELEASE,	/* until the last thread runs again */
	PAUSE_PARTS
};

struct pausing {
	uint64_t mark; /* CLOCK_MONOTONIC, ns: where the next part begins */
	uint64_t ns[PAUSE_PARTS];
};

/* The first part begins at `at`. */
void pausing_begin(struct pausing *p, uint64_t at);
/* `part` ends now, and the next begins. */
void pausing_end(struct pausing *p, enum pause_part part);
/* Into the model, in microseconds. */
int pausing_note(const struct pausing *p, Snap__Snapshot *model, struct err *err);
/* One line for the log, to someone who debugs. */
void pausing_log(const struct pausing *p);

#endif
