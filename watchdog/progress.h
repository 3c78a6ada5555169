/*
 * progress.h: the line on a terminal that says how a job fares: time, last snapshot, its pause and
 * size.
 */
#ifndef PAWL_WATCHDOG_PROGRESS_H
#define PAWL_WATCHDOG_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "store/store.h"

struct progress {
	bool enabled;
	bool shown;
	uint64_t started, drawn; /* CLOCK_MONOTONIC */
	bool has_last;
	struct snapshot_info last;
};

/* The text alone. Pure. */
const char *progress_text(const struct progress *progress, const char *job, uint64_t now,
			  uint64_t realtime, char *buf, size_t len);
/* Draws once a second on standard error, over itself. */
void progress_draw(struct progress *progress, const char *job, uint64_t now);
void progress_clear(struct progress *progress);

#endif
