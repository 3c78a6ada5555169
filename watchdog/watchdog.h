/*
 * watchdog.h: one job, from launch or recovery to its end.
 *
 * watchdog_run owns the whole life of a job in the calling process: it makes the capsule, launches or
 * recovers the job in it, pumps its streams, takes snapshots on schedule and on request, retries after
 * a death by signal, thins old snapshots, and returns when the job is over. The job dies with it,
 * unless it is an attached one, which runs on as it did before.
 */
#ifndef PAWL_WATCHDOG_WATCHDOG_H
#define PAWL_WATCHDOG_WATCHDOG_H

#include <stdbool.h>
#include <stdint.h>

#include "checkpointer/checkpointer.h"
#include "store/base/err.h"
#include "store/store.h"
#include "watchdog/interval.h"

enum pawl_exit {
	PAWL_EXIT_MISUSE = 2,
	PAWL_EXIT_STOPPED = 85,     /* snapshotted and stopped on request; settable */
	PAWL_EXIT_FAILED = 125,     /* pawl itself failed */
	PAWL_EXIT_CANNOT_RUN = 126, /* CMD is not executable */
	PAWL_EXIT_NO_COMMAND = 127, /* CMD not found */
};

enum launch_mode {
	LAUNCH_RESUME_OR_START, /* pawl run */
	LAUNCH_FRESH,           /* pawl run --fresh: earlier snapshots stay until thinned */
	LAUNCH_RECOVER,         /* pawl recover: there must be a snapshot */
};

struct retention {
	unsigned keep;        /* newest snapshots kept; 0: all */
	unsigned keep_hourly; /* besides, the newest of each of the last N hours / days with one */
	unsigned keep_daily;
};

struct watchdog_config {
	const char *store_dir;
	int store_flags;            /* STORE_ANY_FS or 0 */
	const char *name;           /* NULL with a command: made from the command's base name, with -2, -3 …
	                             * where a job of that name with another command or cwd exists or runs */
	char **argv;                /* NULL for recover and attach */
	pid_t attach_pid;           /* attach: this process with all below it is the job; else 0 */
	char *const *options;       /* kept in the job's record, for recover: store.h; NULL: as they are */
	enum launch_mode mode;
	bool once;                  /* a job that has finished is not started again: its exit status is ours */
	uint64_t recover_seq;       /* 0: latest good */
	bool recover_stopped;       /* --stopped: leave it stopped for a debugger, print the pid, wait */
	bool lazy;                  /* recover: the job runs before all of its memory is back, where that is possible */
	bool dry_run;               /* recover: print the plan on stdout and return */
	uint64_t interval_ns;       /* 0: no periodic snapshots */
	bool interval_auto;         /* chosen by what snapshots cost instead (interval.h) */
	uint64_t mtbf_ns;           /* of interval_auto; 0: INTERVAL_MTBF_NS */
	uint64_t least_interval_ns, most_interval_ns; /* of interval_auto; 0: INTERVAL_FLOOR_NS, INTERVAL_CEILING_NS */
	const char *metrics;        /* absolute path of the Prometheus file; NULL: none */
	struct retention retention;
	unsigned retries;           /* deaths by signal that are rolled back and tried again */
	uint64_t hang_timeout_ns;   /* no CPU time used for that long: treated as a death; 0: off */
	int stop_exit_code;         /* default PAWL_EXIT_STOPPED */
	enum store_codec codec;
	enum tracker_kind tracker;
	uint64_t memory_budget;     /* as checkpoint_config's */
	int nice;
	uint64_t rate;
	struct file_rule *rules;
	size_t n_rules;
	uint64_t file_size_limit;
	enum connection_policy connections;
	char **save_dirs;           /* as checkpoint_config's; savedir_add has checked them */
	size_t n_save_dirs;
	unsigned cpu_baseline;      /* level of x86-64 that a launched job is kept to (baseline.h); 0: none */
	char **replicas;            /* destinations (store/replica/destination.h), checked */
	size_t n_replicas;
	const char *from;           /* recover --from: one of them, which must have the job; or NULL */
	bool fenced_warns;          /* --on-fenced warn: a job that was resumed elsewhere goes on here */
	bool unsupported_fails;     /* --on-unsupported fail: end the job with 125; default: warn, go on */
	const char *before_snapshot, *after_snapshot; /* sh -c commands, PAWL_JOB in the environment */
	bool progress;              /* progress line on stderr (a terminal) */
	bool quiet;
	bool keep_output;           /* output to /dev/null is kept in the job's log too (a detached job) */
	const uint8_t *hold;        /* recover only while the bearer of this token (16 bytes) holds the job; or NULL */
	int confirm_fd;             /* with hold: a socket (enum handover_word) for whose word the rebuilt job waits
				     * before it runs; -1 */
	bool no_capsule_user;       /* as root: without a user namespace (default as root) */
};

/* Over confirm_fd (FORMAT.md, "Handing a job over"): orders to the watchdog until it is to rebuild the job, … */
struct handover_order {
	uint64_t seq; /* of the snapshot */
	enum handover_order_kind {
		HANDOVER_AHEAD = 1, /* fill memory from it (recovery/ahead.h); answered */
		HANDOVER_START,	    /* recover the job from it, as recover_seq */
	} kind;
};

/* … and words, a byte each. */
enum handover_word {
	HANDOVER_FILLED = 'F',	 /* from the watchdog: memory is ahead */
	HANDOVER_UNFILLED = 'U', /* … is not, nor will it be */
	HANDOVER_READY = 'R', /* from the watchdog: it stands rebuilt */
	HANDOVER_GO = 'G',    /* to it: the job is its own from now on. The other end closed, or nothing for 30 s:
			       * it never runs, nothing is changed */
	HANDOVER_DONE = 'D',  /* from it: that is recorded, it runs */
};

/* *ret_exit: what the command exits with. -1 with err set where pawl failed before there was a job to
 * report on (then the exit is PAWL_EXIT_FAILED or, from err kind, misuse/126/127 by *ret_exit). */
int watchdog_run(const struct watchdog_config *config, int *ret_exit, struct err *err);

/* ---- control: talking to the watchdog of a running job ------------------------------------- */

/* ERR_NOT_FOUND where the job does not run. snapshot: waits until durable. stop: waits until the job has
 * ended. */
int control_snapshot(struct store *store, const char *job, struct snapshot_info *ret,
		     struct err *err);
/* … of one that is to be sent at once: it does not give way to the job. */
int control_snapshot_now(struct store *store, const char *job, struct snapshot_info *ret,
			 struct err *err);
int control_stop(struct store *store, const char *job, struct snapshot_info *ret, struct err *err);
/* Waits until the job runs at ssh://… and has ended here; an error: it goes on here. */
int control_move(struct store *store, const char *job, const char *to, struct snapshot_info *ret,
		 struct err *err);

struct job_status {
	char state[32];                  /* "running", "suspended", ... */
	struct interval_choice interval;
	uint64_t next_ns;                /* until the next periodic snapshot; UINT64_MAX: none is due */
};
/* Asks once, for two seconds at most: a watchdog that is just starting does not answer. */
int control_status(struct store *store, const char *job, struct job_status *ret, struct err *err);

#endif
