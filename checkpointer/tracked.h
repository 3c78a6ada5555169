/*
 * tracked.h: what is kept of each process from one snapshot to the next.
 */
#ifndef PAWL_CHECKPOINTER_TRACKED_H
#define PAWL_CHECKPOINTER_TRACKED_H

#include "checkpointer/collect.h"
#include "checkpointer/pages.h"
#include "checkpointer/track.h"

struct tracked {
	pid_t pid;            /* host */
	uint64_t start_time;  /* with pid: identifies the process */
	pid_t vpid;
	struct tracker *tracker;
	/* Populated private pages as of the last published snapshot; valid if known. */
	struct scan_result populated;
	bool known;
	/* Ranges that scans since then have re-armed, and whose contents were not published (the snapshot failed):
	 * they count as written. Where they are not known, distrust: all counts as written. */
	struct scan_result owed;
	bool distrust;
	bool alone; /* as the last look at the tree told: for page_owner */
	/* ---- of the snapshot that is being taken ---- */
	struct page_table *table;
	struct scan_result now;      /* populated at the freeze */
	struct scan_result precopied; /* found in earlier rounds: may have been put */
	bool alive;
};

static inline struct page_owner tracked_pages(const struct tracked *t)
{
	return (struct page_owner){.pid = t->pid, .alone = t->alone, .table = t->table};
}

struct tracked_set {
	struct tracked *list;
	size_t n;
};

struct tracked *tracked_find(struct tracked_set *set, pid_t pid, uint64_t start_time);
struct tracked *tracked_add(struct tracked_set *set, pid_t pid, uint64_t start_time, pid_t vpid,
			    struct err *err);
void tracked_set_free(struct tracked_set *set);

/* In a short stop before the first pre-copy: makes the tracker, so that all can be armed and read while the
 * process runs. root: as for approach_begin. */
int tracked_arm(struct tracked *t, struct frozen_process *p, enum tracker_kind kind,
		const struct tree_root *root, struct err *err);

/* One round while the process runs: what was written since the last scan is copied or, where it does not
 * fit, goes straight to the table. last: bytes that the round before has found, TRACKED_FIRST: there was none. Returns
 * the number of candidate pages, -1 on error (the process may simply be gone). */
#define TRACKED_FIRST UINT64_MAX
int64_t tracked_precopy(struct tracked *t, struct page_copies *copies, uint64_t last, uint64_t *candidates,
			struct err *err);

/* How so many bytes are copied aside. last: what the round before found, TRACKED_FIRST: there was none.
 *
 * While pages are compressed, the job writes more of them than while they are copied: so rounds that hardly get smaller
 * are copied as they are. So are they where the work is to give way to the job, or is to go at no more than a rate: the
 * job does not wait for that work, but the pause comes after this one. */
enum capture_mode tracked_copy_mode(const struct page_copies *copies, uint64_t size, uint64_t last);
/* One of these rounds for which there are not enough buffers: parts of it go straight to the table. */
int tracked_copy_big(struct tracked *t, const struct scan_result *round, struct page_copies *copies,
		       uint64_t *candidates, struct err *err);

/* In the pause: makes the tracker where there is none, and scans. */
int tracked_scan_frozen(struct tracked *t, struct collected_process *p, enum tracker_kind kind,
			struct err *err);
/* Then: copies what is written. */
int tracked_copy_frozen(struct tracked *t, struct page_copies *copies, uint64_t *candidates,
			struct err *err);

/* The snapshot is published (or not): keep what the next one needs, drop the rest. */
void tracked_set_done(struct tracked_set *set, bool published);

#endif
