/*
 * snapshotter.h: the thread that stops the job. Whatever uses ptrace happens here (a tracee belongs
 * to the thread that seized it): snapshots, rebuilding, and the retention that follows a snapshot.
 *
 * The watchdog's main thread posts one command at a time and polls snapshotter_fd; every command
 * but SNAP_QUIT gives one result. While the thread works the main thread goes on pumping.
 */
#ifndef PAWL_WATCHDOG_SNAPSHOTTER_H
#define PAWL_WATCHDOG_SNAPSHOTTER_H

#include <stdbool.h>
#include <stdint.h>

#include "checkpointer/checkpointer.h"
#include "recovery/recovery.h"
#include "watchdog/pump.h"
#include "watchdog/watchdog.h"

struct snapshotter;

struct snapshotter_config {
	struct store *store;
	const char *job;
	const struct watchdog_config *options;
	struct pump *pump;
	const sigset_t *hook_mask; /* signal mask for hook commands */
};

enum snap_op { SNAP_TAKE, SNAP_REBUILD, SNAP_RELEASE };

struct snap_command {
	enum snap_op op;
	bool end;     /* TAKE: the final one */
	bool urgent;  /* TAKE: it is to be sent at once */
	const char *move_to; /* TAKE with end: the job is to go on there; must stay until the result, as must: */
	char **environment;  /* that ssh is started in; NULL: ours */
	bool stopped; /* RELEASE */
	struct lazy *lazy; /* TAKE: fills the job's memory, which is waited for; or NULL */
	bool fill_lazily;  /* REBUILD, of this snapshot */
	struct ahead *ahead; /* REBUILD, or NULL */
	uint64_t seq;
	/* REBUILD; both must stay until the result of the RELEASE, or of the failed REBUILD. */
	const Snap__Snapshot *model;
	const struct recovery_host *host;
};

struct snap_result {
	enum snap_op op;
	bool ok;
	struct err err;		      /* where not ok */
	struct refusals refused;      /* TAKE, ERR_UNSUPPORTED: all that was; the receiver's to clear */
	struct snapshot_info info;    /* TAKE */
	struct recovery_result built; /* REBUILD */
	uint64_t started, finished;   /* CLOCK_MONOTONIC */
	uint64_t cpu_ns;	      /* of this process meanwhile */
};

int snapshotter_start(struct snapshotter **ret, const struct snapshotter_config *config,
		      struct err *err);
/* A new capsule is what snapshots are taken of from now on, the first against `parent` (seq, 0:
 * none). capsule and what config points to must outlive the commands that use them. To be called
 * while no command is under way. */
void snapshotter_attach(struct snapshotter *s, const struct capsule *capsule,
			const struct checkpoint_config *config, uint64_t parent);
void snapshotter_post(struct snapshotter *s, const struct snap_command *command);
/* A snapshot that is under way and not published yet fails (ERR_GONE), and the job runs on. */
void snapshotter_cancel(struct snapshotter *s);
/* Readable when there is a result, or when the pump has more to do. */
int snapshotter_fd(const struct snapshotter *s);
/* True: *ret is the result of the command. Clears the descriptor. */
bool snapshotter_result(struct snapshotter *s, struct snap_result *ret);
/* Sees to it that the thread does not wait for ever for a process of the job that was killed (tracee/waits.h), where it
 * is at work and it is time. */
void snapshotter_care(struct snapshotter *s, uint64_t now);
/* CLOCK_MONOTONIC of the next time; UINT64_MAX: not now. */
uint64_t snapshotter_next_care(struct snapshotter *s);
/* Waits for the command under way, then ends the thread. Takes NULL. A rebuilt job that has not
 * been released is ended. Where it takes longer than patience_ms (-1: however long): false, the
 * thread goes on, and everything it was given must stay until the process ends (which it survives
 * unharmed: a snapshot that is not published was never there). */
bool snapshotter_finish(struct snapshotter *s, int patience_ms);

#endif
