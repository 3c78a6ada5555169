/*
 * checkpointer.h: from a live process tree to a snapshot in the store.
 *
 * A checkpointer belongs to one capsule and one generation of its job; it keeps the dirty trackers
 * between snapshots. All calls must come from one thread (ptrace's rule). Between calls the job is
 * not traced.
 */
#ifndef PAWL_CHECKPOINTER_CHECKPOINTER_H
#define PAWL_CHECKPOINTER_CHECKPOINTER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "checkpointer/refusals.h"
#include "checkpointer/tree_root.h"
#include "store/base/err.h"
#include "store/store.h"

struct checkpointer;

enum tracker_kind { TRACKER_AUTO, TRACKER_PAGEMAP, TRACKER_SOFT_DIRTY, TRACKER_NONE };

enum file_policy { FILES_SAVE, FILES_TRUNCATE, FILES_LEAVE, FILES_FAIL };

/* --connections: what becomes of a connection to a peer outside the job. */
enum connection_policy {
	CONNECTIONS_REFUSE, /* the snapshot is refused by name */
	CONNECTIONS_RESET,  /* it comes back broken off by its peer */
};

/* --files POLICY[:GLOB], last match wins; glob NULL matches all. */
struct file_rule {
	enum file_policy policy;
	char *glob;
};

/* Identifies a descriptor that is one of the capsule's streams: st_dev and st_ino of what the job was
 * given (a pipe's inode is the same seen from both ends; a pty slave is known by rdev). */
struct capsule_stream {
	bool used;
	dev_t dev;
	ino_t ino;
	dev_t rdev; /* terminals: st_rdev; else 0 */
};

struct checkpoint_config {
	struct tree_root root;
	pid_t leader_vpid;          /* pid inside the capsule of the process that is "the job" */
	bool user_namespace;
	bool new_ids;               /* no capsule: recovery will give it other pids (store/new_ids.h) */
	struct capsule_stream stream[3];
	struct capsule_stream terminal;
	/* Pipes and sockets that the job has inherited from pawl's caller (a shell's, a batch system's) beyond
	 * its standard streams. Their other ends will be gone after a recovery, so they come back hung up
	 * instead of being refused. Owned by the caller, as rules is. */
	const struct capsule_stream *inherited;
	size_t n_inherited;
	enum tracker_kind tracker;
	enum store_codec codec;
	const struct file_rule *rules;
	size_t n_rules;
	uint64_t file_size_limit;   /* bytes; larger files written by the job are refused by name; 0: none */
	const char *const *save_dirs; /* directories that belong to the job; absolute, real paths */
	size_t n_save_dirs;
	enum connection_policy connections;
	unsigned cpu_baseline;      /* level of x86-64 that the job was kept to; 0: none */
	uint64_t job_start;         /* CLOCK_REALTIME, ns; 0: when its oldest process began */
	const Snap__Snapshot *last; /* the snapshot before, where names are looked for first; NULL: none */
	uint64_t memory_budget;     /* bytes of copies of pages and of packs; 0: a quarter of what is free */
	int nice;                   /* of what the job does not wait for: yielding.h */
	uint64_t rate;              /* bytes a second, likewise; 0: no limit */
	/* Whether the processes could be brought into the world again as they are related (recovery.h); asked of
	 * each model, so that what could not be recovered is refused while the job runs. NULL: not asked. */
	int (*check_model)(const Snap__Snapshot *model, struct err *err);
};

struct checkpoint_hooks {
	void *ctx;
	/* Everything stands still: fill model->capsule (log length, consumed stdin, terminal). Runs in the
	 * calling thread, is part of the pause. */
	int (*frozen)(void *ctx, Snap__Snapshot *model, struct err *err);
	/* The job runs again, the rest of the work goes on. May be NULL. */
	void (*resumed)(void *ctx, uint64_t pause_us);
	/* Before publishing: make durable what the model refers to (the log). */
	int (*publish)(void *ctx, struct err *err);
	/* With end: the snapshot is published, the tree stands still; -1: it goes on instead of being killed,
	 * and the call fails with that. May set info->pause_us. May be NULL. */
	int (*leave)(void *ctx, struct snapshot_info *info, struct err *err);
};

int checkpointer_new(struct checkpointer **ret, const struct checkpoint_config *config,
		     struct err *err);
void checkpointer_free(struct checkpointer *c); /* takes NULL; releases trackers */

/* Takes one snapshot of job `name` against snapshot `parent` (seq, 0: none); where that is gone or
 * damaged without it, everything being stored anew. With end: the tree is killed instead of resumed once
 * everything has been read (planned shutdown), and info->final is set; on failure it runs on. *ret_info as published. ERR_UNSUPPORTED names process and object, and
 * checkpointer_refusals all of them; ERR_GONE when the job ended meanwhile. */
int checkpointer_take(struct checkpointer *c, struct store *store, const char *name, uint64_t parent,
		      bool end, const struct checkpoint_hooks *hooks, struct snapshot_info *ret_info,
		      struct err *err);

/* Whether the next snapshots are waited for: then they give way to nobody. Final ones always are. */
void checkpointer_hurry(struct checkpointer *c, bool hurry);

/* From now on the job stands still for that part of the time (percent, below 99; 0: for none), until this is called
 * again, however often it is saved meanwhile: brake.h. */
int checkpointer_slow_down(struct checkpointer *c, unsigned percent, struct err *err);
/* How long it has stood still for that, ns. */
uint64_t checkpointer_slowed_ns(const struct checkpointer *c);

/* What the last call of checkpointer_take has refused; valid until the next. */
const struct refusals *checkpointer_refusals(const struct checkpointer *c);

/* Describes the job and lets it run on, after a pause as of a snapshot's; nothing is stored. The model is
 * without contents, and without what is in *ret_refusals. Freed by the caller. */
int checkpointer_look(const struct checkpoint_config *config, Snap__Snapshot **ret_model,
		      struct refusals *ret_refusals, struct err *err);

/* "pagemap", "soft-dirty" or "none": what TRACKER_AUTO finds to work on this machine, probed by
 * behaviour on a page of our own. *ret_why: static text. */
enum tracker_kind checkpointer_probe_tracker(enum tracker_kind wanted, const char **ret_why);
const char *tracker_name(enum tracker_kind kind);

#endif
