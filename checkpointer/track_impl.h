/*
 * track_impl.h: what the three trackers share; for track_*.c only.
 */
#ifndef PAWL_CHECKPOINTER_TRACK_IMPL_H
#define PAWL_CHECKPOINTER_TRACK_IMPL_H

#include "checkpointer/track.h"

struct tracker_ops {
	int (*begin)(struct tracker *t, struct remote *remote, struct tracee *thread, struct err *err);
	int (*scan)(struct tracker *t, uint64_t start, uint64_t end, unsigned how,
		    struct scan_result *result, struct err *err);
	int (*peek)(struct tracker *t, uint64_t start, uint64_t end, uint64_t *pages, struct err *err);
	int (*rearm)(struct tracker *t, struct err *err);
	bool (*probe)(void); /* on pages of our own: does a write show, and only a write? */
	bool precopy;
};

struct tracker {
	enum tracker_kind kind;
	const struct tracker_ops *ops;
	pid_t pid;
	int pagemap;
	int uffd;        /* pagemap tracker: the target's userfaultfd, held here only */
	bool quick;      /* pagemap tracker: as track_armed.h says */
	struct scan_result guards; /* … and the guard regions that it has armed, ascending */
	bool armed_once; /* soft-dirty: bits have been cleared once, so they mean something */
};

extern const struct tracker_ops tracker_pagemap_ops, tracker_softdirty_ops, tracker_none_ops;

int open_pagemap(pid_t pid, struct err *err);
/* What PAGEMAP_SCAN is asked: fields of struct pm_scan_arg. */
struct page_query {
	uint64_t flags, inverted, mask, anyof, categories;
	bool only; /* these categories, and whether it is a guard is not asked */
};
/* Appends the runs that match. all_written overrides the kernel's opinion. */
int pagemap_query(int pagemap, uint64_t start, uint64_t end, const struct page_query *query,
		  bool all_written, struct scan_result *result, struct err *err);
/* Room for one more. */
int scan_result_room(struct scan_result *result, struct err *err);
/* All that is populated. */
int pagemap_scan(int pagemap, uint64_t start, uint64_t end, uint64_t flags, bool all_written,
		 struct scan_result *result, struct err *err);
/* What is populated in [start, end), of which everything but `absent` is there, and what of that is
 * written. Both ascending, and within it. */
int scan_result_complement(struct scan_result *result, uint64_t start, uint64_t end,
			   const struct scan_result *absent, const struct scan_result *written,
			   struct err *err);
/* The words of /proc/PID/pagemap. */
int pagemap_read(int pagemap, uint64_t start, uint64_t end, bool soft_dirty,
		 struct scan_result *result, struct err *err);
/* Whichever of the two works, all written. */
int scan_with(int pagemap, uint64_t start, uint64_t end, struct scan_result *result,
	      struct err *err);

#endif
