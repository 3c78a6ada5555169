/*
 * destination.h: a place on another machine, or that another machine can reach, where a job's snapshots
 * are kept too.
 *
 * A destination is named by text: `dir:/path` (FORMAT.md, "A replica in a directory") or
 * `ssh://[user@]host[/store]`. It keeps, for each job by name: snapshots, each whole or not at all, with the
 * job's log and kept input as of then; the job's record; and who may write it.
 *
 * Who may write (fencing). A run of a job *takes* it at the destination before anything of the job
 * runs or is touched, and gets a hold. A take is one atomic step from what was seen (replica_job.version)
 * to a new holder: of several that saw the same, exactly one succeeds. From then on everything
 * that an older hold asks for fails with ERR_FENCED, also if it had begun before: what a push has
 * sent is visible only once it is published, and publishing is an atomic step of the same kind.
 *
 * Snapshots are the same snapshot where time and generation are the same; they keep both, and their
 * number where that is free, wherever they go.
 *
 * Errors, besides err.h's: ERR_FENCED (another holder; the message names it), ERR_UNREACHABLE (try again
 * later: no host, no directory, a connection that ended), ERR_FULL there, ERR_CORRUPT where what is there
 * fails a check. After any error what was published before is as it was.
 *
 * A destination is used by one thread at a time. It may block for long (a hung mount): never call it from
 * a thread that a job waits for.
 */
#ifndef PAWL_STORE_REPLICA_DESTINATION_H
#define PAWL_STORE_REPLICA_DESTINATION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/store.h"

struct destination;

#define REPLICA_TOKEN 16u

struct replica_snapshot {
	uint64_t seq, generation;
	uint64_t time;  /* CLOCK_REALTIME at the freeze, ns */
	uint64_t bytes; /* that it added there */
	bool final;
};

struct replica_job { /* what one look saw */
	uint64_t version;             /* goes up with every change of any of this */
	uint8_t token[REPLICA_TOKEN]; /* of the holder; all zero: nobody has taken it yet */
	char holder[160];             /* for people: "node7, process 4711" */
	uint64_t taken;               /* CLOCK_REALTIME, ns */
	struct job_info job;          /* state, generations, argv, cwd, options; id, pids and last_seq are 0 */
	struct replica_snapshot *snapshots; /* ascending by seq; owned */
	size_t n_snapshots;
};
void replica_job_clear(struct replica_job *job); /* also of {0} */

struct replica_hold { /* what a take gives; plain values, may be kept and copied */
	char job[128];
	uint8_t token[REPLICA_TOKEN];
};

/* Watching a transfer, and giving it up. */
struct replica_watch {
	const atomic_bool *cancelled; /* may be NULL; set: ERR_GONE soon */
	void (*progress)(void *ctx, uint64_t bytes_done, uint64_t bytes_all); /* may be NULL */
	void *ctx;
};

struct replica_stats {
	uint64_t pages, bytes; /* newly sent, or fetched */
	uint64_t seq;          /* the snapshot's number where it came to */
};

/* Checks the text only. ERR_INVALID. */
int destination_check(const char *text, struct err *err);
/* Does not need the destination to be there: the first operation does. */
int destination_open(struct destination **ret, const char *text, struct err *err);
void destination_close(struct destination *d); /* takes NULL */
const char *destination_text(const struct destination *d);
/* What helps to get there is started in this environment (ssh_connect.h) from the next connection on; borrowed. */
void destination_environment(struct destination *d, char **environment);

/* ERR_NOT_FOUND: it is reachable and knows no such job. */
int destination_look(struct destination *d, const char *job, struct replica_job *ret,
		     struct err *err);
/* Makes us its holder if the job is still as it was seen (seen NULL: it is not there). job: its record
 * from now on. ERR_FENCED: somebody else was quicker, or has published meanwhile: look again. */
int destination_take(struct destination *d, const struct job_info *job,
		     const struct replica_job *seen, struct replica_hold *ret, struct err *err);
/* As destination_take, with a token that the caller has made and noted before (store_replica_taking), so that a hold is
 * known to be ours though we died, or the connection, before the answer. Taken with that token already: a success. */
int destination_take_as(struct destination *d, const struct job_info *job, const struct replica_job *seen,
			const uint8_t token[REPLICA_TOKEN], struct replica_hold *ret, struct err *err);
/* A new one. */
int replica_token_make(uint8_t ret[REPLICA_TOKEN], struct err *err);
/* Sends what is missing there and publishes. A snapshot that is there already is a success. The same call
 * after a failure sends the rest. */
int destination_push(struct destination *d, const struct replica_hold *hold, struct store *store,
		     uint64_t seq, const struct replica_watch *watch, struct replica_stats *ret,
		     struct err *err);
/* Writes the job's record: its state and exit status, generations, options. */
int destination_put_job(struct destination *d, const struct replica_hold *hold,
			const struct job_info *job, struct err *err);
/* Drops snapshots by number and frees what only they needed. */
int destination_drop(struct destination *d, const struct replica_hold *hold, const uint64_t *seqs,
		     size_t n, struct err *err);
/* Fetches one (seq 0: the newest) into the store, with the job's record where the store has none; needs no
 * hold. A snapshot that is there already is a success. The caller holds the job's lock in the store. */
int destination_pull(struct destination *d, const char *job, uint64_t seq, struct store *store,
		     const struct replica_watch *watch, struct replica_stats *ret, struct err *err);

/* ---- for implementations ------------------------------------------------------------------- */

struct destination_ops {
	int (*look)(void *self, const char *job, struct replica_job *ret, struct err *err);
	/* hold: as it is to be; its token becomes the one that it has (an older pawl there makes its own). */
	int (*take)(void *self, const struct job_info *job, const struct replica_job *seen,
		    struct replica_hold *hold, struct err *err);
	int (*push)(void *self, const struct replica_hold *hold, struct store *store, uint64_t seq,
		    const struct replica_watch *watch, struct replica_stats *ret, struct err *err);
	int (*put_job)(void *self, const struct replica_hold *hold, const struct job_info *job,
		       struct err *err);
	int (*drop)(void *self, const struct replica_hold *hold, const uint64_t *seqs, size_t n,
		    struct err *err);
	int (*pull)(void *self, const char *job, uint64_t seq, struct store *store,
		    const struct replica_watch *watch, struct replica_stats *ret, struct err *err);
	void (*environment)(void *self, char **environment); /* may be NULL */
	void (*close)(void *self);
};

/* Each makes its own kind; rest is the text after "dir:" or "ssh://". */
int dir_destination_open(void **ret_self, const struct destination_ops **ret_ops, const char *rest,
			 struct err *err);
int ssh_destination_open(void **ret_self, const struct destination_ops **ret_ops, const char *rest,
			 struct err *err);

static inline bool replica_cancelled(const struct replica_watch *watch)
{
	return watch && watch->cancelled && atomic_load(watch->cancelled);
}

#endif
