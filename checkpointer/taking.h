/*
 * taking.h: a snapshot while it is taken, for the parts of the checkpointer.
 */
#ifndef PAWL_CHECKPOINTER_TAKING_H
#define PAWL_CHECKPOINTER_TAKING_H

#include "checkpointer/brake.h"
#include "checkpointer/collect.h"
#include "checkpointer/contents.h"
#include "checkpointer/copies.h"
#include "checkpointer/empty_messages.h"
#include "checkpointer/freeze.h"
#include "checkpointer/map_notes.h"
#include "checkpointer/pausing.h"
#include "checkpointer/sleeps.h"
#include "checkpointer/tracked.h"
#include "checkpointer/trees.h"

struct checkpointer {
	struct checkpoint_config config;
	enum tracker_kind tracker;
	struct sleeps *sleeps;
	struct empty_messages empties; /* of the last look, whatever became of it */
	struct brake *brake; /* NULL: the job was never slowed down */
	struct tracked_set tracked;
	struct page_copies copies;
	struct saved_trees *trees;
	Snap__Snapshot *last; /* as published; the parent of the next */
	uint64_t last_seq;
	struct refusals refusals; /* of the last take */
	bool hurry;        /* the next snapshot gives way to nobody */
	struct map_notes notes; /* of the last snapshot */
	bool notes_age;	   /* those of the last snapshot were too old once */
	bool notes_failed; /* they did not hold: a job that often changes the advice of its mappings
			    */
};

struct taking {
	struct checkpointer *c;
	struct checkpoint_config config; /* with all directories that are saved */
	const struct checkpoint_hooks *hooks;
	struct store *store;
	struct store_session *session;
	struct frozen_tree tree;
	struct collection collection;
	struct known_contents known;
	struct map_notes notes;
	struct snapshot_info info;
	uint64_t begin_ns, pause_ns;
	struct last_rounds { /* of the pre-copy */
		uint64_t found;	 /* bytes: about what is left */
		uint64_t ns;	 /* that they took */
		uint64_t end_ns; /* CLOCK_MONOTONIC */
	} last_rounds;
	struct pausing pausing;
	bool end; /* the job is to be ended by it */
	bool frozen;
	bool again; /* failed only by what is mostly over at the next attempt */
};

/* The process's page table in this snapshot, begun as the parent's. */
int taking_open_table(struct taking *t, struct tracked *p, struct err *err);

/* While the job runs (but for the moment that arming takes): stores what can be stored before the
 * pause. */
int precopy(struct taking *t, struct err *err);
/* The last thing before the pause: as much of it again as the job has written meanwhile, if that took longer than it
 * takes. */
int precopy_last(struct taking *t, struct err *err);
/* Before the pause: the flags of big processes' mappings. */
int take_notes(struct taking *t, struct err *err);
/* The first thing after it: whether they still hold. If not, t->again is set. */
int check_notes(struct taking *t, struct err *err);

/* About so many bytes of memory are there in all tracked processes: what they share counts for each. */
uint64_t tracked_resident_bytes(const struct checkpointer *c);

#endif
