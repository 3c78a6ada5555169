/*
 * track.h: which pages of a process are populated, and which may have changed.
 *
 * Three trackers behind one interface, chosen by behaviour. All look at page tables only, never at
 * content. A tracker belongs to one address space; when the process executes another program it ends
 * (ERR_GONE from tracker_scan), and the caller makes a new one.
 */
#ifndef PAWL_CHECKPOINTER_TRACK_H
#define PAWL_CHECKPOINTER_TRACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "checkpointer/checkpointer.h"
#include "checkpointer/tracee/remote.h"
#include "store/base/err.h"

/* A run of populated pages that are alike. */
struct scan_range {
	uint64_t start, end; /* bytes */
	bool written;        /* may have changed since the last scan that re-armed */
	bool zero;           /* the shared zero page: reads as zeroes */
	bool file;           /* a page of the mapped file itself, not a private copy */
	bool guard;          /* no page, but a guard region (MADV_GUARD_INSTALL) */
	bool absent;         /* no page: only where such were asked for, never in what tracker_scan gives */
};

struct scan_result {
	struct scan_range *ranges; /* ascending */
	size_t n, room;
};

void scan_result_free(struct scan_result *result);
int scan_result_add(struct scan_result *result, const struct scan_range *range, struct err *err);

/* Walks ranges in parts of at most so many bytes. */
struct scan_cursor { /* starts as {ranges} */
	const struct scan_result *ranges;
	size_t i;    /* the next range, */
	uint64_t at; /* from here on; 0: all of it */
};
/* false: there is none. */
bool scan_cursor_next(struct scan_cursor *cursor, uint64_t most, struct scan_range *ret);

struct tracker;

/* Prepares tracking of the stopped process (remote: its executor). TRACKER_NONE needs no remote. */
int tracker_new(struct tracker **ret, enum tracker_kind kind, pid_t pid, struct remote *remote,
		struct tracee *thread, struct err *err);
void tracker_free(struct tracker *tracker);
enum tracker_kind tracker_kind_of(const struct tracker *tracker);

/* Whether scanning, arming and re-arming work while the process runs without losing a write. */
bool tracker_can_precopy(const struct tracker *tracker);

enum scan_how {
	SCAN_ARM = 1u << 0,	/* also what was not armed before */
	SCAN_WRITTEN = 1u << 1, /* runs that were not written may be left out */
	SCAN_FILE = 1u << 2,	/* a file is mapped: its pages are told from private copies, at 20 ms/GiB
				 * instead of 2 (the kernel looks at struct page of each) */
	SCAN_STILL = 1u << 3,	/* the job stands still: its CPUs are free */
};

/* Appends the populated runs of [start, end) and re-arms it: one private mapping, or several without a
 * gap between them. If part of it was not armed before, all of it comes back as written. */
int tracker_scan(struct tracker *tracker, uint64_t start, uint64_t end, unsigned how,
		 struct scan_result *result, struct err *err);
/* Adds the number of pages of [start, end) that were written since they were armed, and leaves them so. Only
 * of a tracker that can pre-copy. */
int tracker_peek(struct tracker *tracker, uint64_t start, uint64_t end, uint64_t *pages, struct err *err);
/* After all mappings have been scanned, still stopped: soft-dirty clears its bits here. */
int tracker_rearm(struct tracker *tracker, struct err *err);

/* Populated runs as a bystander: no tracking, all written. For probes and for TRACKER_NONE. */
int scan_populated(pid_t pid, uint64_t start, uint64_t end, struct scan_result *result,
		   struct err *err);

#endif
