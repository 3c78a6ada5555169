/*
 * supervise.h: one job under its watchdog. Private to the watchdog's own files:
 *
 *   watchdog.c   the loop: what has happened becomes events
 *   actions.c    what the state table asks for
 *   begin.c      store, name, lock, logs: up to where there is a job to run
 *   launch_job.c a fresh launch
 *   attach_job.c a tree that runs already
 *   resume.c     recovery: candidates, capsule, rebuild, release
 *   offer.c      a job that another machine hands over: it waits, rebuilt, for that machine's word
 *   look.c       objects that cannot be saved are noticed early
 *   tell.c       what a service manager is told
 *   notice.c     what is said of it on standard error
 *   replicas.c   destinations: what is fetched and taken at the start, waited for at the end
 *   account.c    what snapshots cost: the next one's time, metrics
 *   finish.c     the end
 */
#ifndef PAWL_WATCHDOG_SUPERVISE_H
#define PAWL_WATCHDOG_SUPERVISE_H

#include <stdbool.h>
#include <stdint.h>

#include "recovery/lazy.h"
#include "watchdog/attached.h"
#include "watchdog/caller.h"
#include "watchdog/capsule.h"
#include "watchdog/control.h"
#include "watchdog/metrics.h"
#include "watchdog/policy.h"
#include "watchdog/progress.h"
#include "watchdog/replicator.h"
#include "watchdog/replicas.h"
#include "watchdog/sdnotify.h"
#include "watchdog/snapshotter.h"
#include "watchdog/state.h"
#include "watchdog/streams.h"
#include "watchdog/watchdog.h"

#define WD_NOTICES 8

/* A recovery under way. */
struct resume {
	uint64_t *seqs; /* candidates, best first; owned */
	size_t n, next;
	uint64_t seq; /* the one being rebuilt, … */
	struct snapshot_info info; /* … as it was when it was chosen */
	Snap__Snapshot *model;
	struct recovery_host host;
};

/* One destination. */
struct wd_replica {
	struct destination *d; /* until its replicator has it */
	bool source;	       /* the job is to be recovered from there */
	bool reached, has_seen, tried, held;
	struct replica_job seen;
	struct replica_hold hold;
	struct replicator *replicator;
	bool told; /* that it was resumed elsewhere */
};

struct watchdog {
	const struct watchdog_config *config;
	struct caller caller;
	bool captured;
	int signals; /* signalfd */

	struct store *store;
	struct job_info job;
	int lock;
	bool job_is_new; /* registered by us: goes again when nothing comes of it */

	struct joblog *log;
	struct stdinlog *input;
	struct streams streams;
	struct attach_target target; /* where config->attach_pid says so */
	struct capsule *capsule;
	struct snapshotter *snapshotter;
	struct control *control;
	struct resume resume;
	struct ahead *ahead;		/* for the next snapshot, or NULL, … */
	struct capsule *capsule_ahead;	/* … in the capsule that will be the job's */
	struct recovery_result offered; /* in WD_OFFERED */
	uint64_t offer_until;		/* CLOCK_MONOTONIC */
	struct lazy *lazy;    /* fills the memory of the job that runs; goes with the capsule. NULL: it was all there */
	bool lazy_told;	      /* its end has been seen */
	bool lazy_refused;    /* this machine does not let us, which has been said */
	uint64_t damaged_seq; /* it was found damaged when the job ran already; 0: none was */
	uint64_t recover_seq; /* config's, by the number it has here */
	struct wd_replica *replicas;
	size_t n_replicas;
	int replica_wake; /* eventfd: one of them is fenced */
	char *notices[WD_NOTICES];
	size_t n_notices;
	struct progress progress;

	struct sdnotify notify;
	struct {
		enum wd_state state;
		uint64_t seq;			     /* of the last snapshot */
		bool ready, stopping;
		uint64_t next_extension, next_sign; /* CLOCK_MONOTONIC */
	} told; /* the service manager */

	unsigned cpu_baseline; /* that the job was launched with, by this watchdog or an earlier one */

	enum wd_state state;
	char *move_to;	    /* the stop that is under way is a move there; NULL: it is not. Owned, as is: */
	char **move_environment; /* that ssh goes there in */
	bool urgent;	 /* the next snapshot is to be sent at once */
	bool wanted;	 /* a snapshot as soon as the one under way is done */
	bool started;	 /* the job has run: from here on there is a status to report */
	bool hanging_up; /* an output stream has ended, the caller's is to be closed soon */
	bool suspended;	 /* the job is stopped by job control */
	uint64_t due;	 /* next periodic snapshot, CLOCK_MONOTONIC */
	struct interval_cost cost;
	struct interval_choice interval;
	struct metrics metrics;
	uint64_t metrics_due;  /* when its file is written again, CLOCK_MONOTONIC; 0: at once */
	bool metrics_failed;   /* as warned of */
	uint64_t next_hang_look;
	uint64_t next_look; /* for objects that cannot be saved */
	char last_look[sizeof(((struct err *)0)->msg)]; /* what it found, as warned of */
	char last_failure[sizeof(((struct err *)0)->msg)]; /* of a snapshot, as warned of */
	struct refusals last_refused;
	struct retry_state retry;
	struct hang_state hang;
	uint64_t sent;	 /* signals passed on to the job, bit n-1 */
	int stop_signal; /* the last signal that asked for the end; 0: none */
	uint64_t stop_signal_at;

	/* The end. */
	int wait_status; /* of the leader */
	bool status_unknown;
	bool left_alone; /* attached: the job runs on without us */
	bool left_behind;
	bool abandoned; /* the snapshot thread is still at work, with what is ours */
	bool finished_before; /* the job had ended for good before we came: config->once */
	bool stopped;	/* by a final snapshot, … */
	bool unrun;	/* … or without one, for nothing is to be kept since the last */
	struct snapshot_info final; /* that it goes on from */
	bool failed; /* pawl gives up; why: */
	struct err failure;
	int exec_errno; /* the command could not be executed */
};

/* ---- begin.c ------------------------------------------------------------------------------- */

/* Signals, store, name, lock, record, logs. */
int wd_begin(struct watchdog *w, struct err *err);
/* Candidates for a recovery: w->resume.seqs; none: a fresh launch. */
int wd_choose_start(struct watchdog *w, struct err *err);
/* The job as this command would choose it may go on from this snapshot. */
bool wd_may_use(const struct watchdog *w, const struct snapshot_info *info);
/* The control socket and the snapshot thread; the latter must not exist before the first capsule (a
 * fork with threads is a risk not worth taking where it can be avoided). */
int wd_start_services(struct watchdog *w, struct err *err);
/* The newest good snapshot of the job's latest run (zeroes: none), and how many the job has, of earlier runs
 * too (ret_all may be NULL). */
int wd_newest_of_run(const struct watchdog *w, struct snapshot_info *ret, size_t *ret_all, struct err *err);
/* Writes the record as running under this process. */
int wd_put_running(struct watchdog *w, struct err *err);

/* ---- earlier.c ----------------------------------------------------------------------------- */

/* Waits until nothing is left of the capsule of the job's last watchdog. The caller holds the job's lock.
 * ERR_BUSY: it takes too long, or a signal came. A dry run waits for nothing. */
int wd_await_earlier(struct watchdog *w, struct err *err);
/* Notes the new capsule's init in the job's record, before anything runs there. */
int wd_note_init(struct watchdog *w, struct err *err);

/* ---- launch_job.c -------------------------------------------------------------------------- */

int wd_launch(struct watchdog *w, struct err *err);
/* The logs that the streams need (w->streams.kind is known). */
int wd_open_logs(struct watchdog *w, struct err *err);
struct checkpoint_config wd_checkpoint_config(const struct watchdog *w, pid_t leader_vpid);

/* ---- attach_job.c -------------------------------------------------------------------------- */

int wd_attach(struct watchdog *w, struct err *err);
/* The watchdog's job is one that pawl did not start and has not recovered. */
bool wd_is_attached(const struct watchdog *w);

/* ---- resume.c ------------------------------------------------------------------------------ */

/* Starts rebuilding the next candidate. 1: under way, 0: no candidate left, -1: failed. */
int wd_resume_next(struct watchdog *w, struct err *err);
/* The rebuild failed with err: 0 where the next candidate may be tried. */
int wd_resume_failed(struct watchdog *w, const struct err *why);
/* The job stands rebuilt: logs and record are put back, then it is let go. */
int wd_release(struct watchdog *w, const struct recovery_result *built, struct err *err);
/* After the result of the release. */
void wd_resume_done(struct watchdog *w);
/* Candidates for going back, what having happened to the job; false: policy gives up. */
bool wd_plan_roll_back(struct watchdog *w, const char *what);
/* If all memory of the job is there at last, or cannot be had. */
void wd_look_at_lazy(struct watchdog *w);
/* The snapshot that the job goes on from next (seq 0: none): the newest but for what this watchdog has found damaged. */
int wd_goes_on_from(const struct watchdog *w, struct snapshot_info *ret, struct err *err);
/* `recover --dry-run`. */
int wd_dry_run(struct watchdog *w, struct err *err);

/* ---- ahead.c ------------------------------------------------------------------------------- */

/* Carries out the orders that come before the job's lock is taken; the last says from which snapshot it is
 * recovered. */
int wd_await_start(struct watchdog *w, struct err *err);
/* All processes of the job are born, or will not be of it. */
void wd_drop_ahead(struct watchdog *w);

/* ---- offer.c ------------------------------------------------------------------------------- */

/* The job comes from another machine (config->confirm_fd), where it may still go on. */
bool wd_is_offer(const struct watchdog *w);
/* It stands rebuilt: that is told, and the word waited for. */
void wd_offer(struct watchdog *w, const struct recovery_result *built);
/* In every turn of the loop. */
void wd_look_at_offer(struct watchdog *w);

/* ---- actions.c ----------------------------------------------------------------------------- */

/* Moves to the next state and carries out its action. */
void wd_handle(struct watchdog *w, enum wd_event event);
/* The leader has ended. */
void wd_leader_ended(struct watchdog *w, const struct capsule_event *end);
void wd_fail(struct watchdog *w, const struct err *err);
/* The stop that follows is a move there, or NULL: it is not. Both become the watchdog's; none is under way. */
void wd_move_to(struct watchdog *w, char *destination, char **environment);
/* Sends signo to the job's leader, or to the process group that has the terminal or is the
 * leader's. */
void wd_signal_leader(struct watchdog *w, int signo);
void wd_signal_group(struct watchdog *w, int signo);

/* ---- look.c -------------------------------------------------------------------------------- */

/* If it is time: looks for objects that cannot be saved, warns of them or ends the job. */
void wd_look(struct watchdog *w, uint64_t now);
/* CLOCK_MONOTONIC of the next look; UINT64_MAX: not now. */
uint64_t wd_next_look(const struct watchdog *w);

/* ---- tell.c -------------------------------------------------------------------------------- */

/* What is new, and what is due. In every turn of the loop. */
void wd_tell_service(struct watchdog *w);
/* CLOCK_MONOTONIC of what is due next; UINT64_MAX: nothing. */
uint64_t wd_next_tell(const struct watchdog *w);
/* The last word. */
void wd_tell_end(struct watchdog *w);

/* ---- notice.c ------------------------------------------------------------------------------ */

/* A warning for later: recovery may put back the very file that standard error goes to, and would
 * take with it what was said before. */
void wd_notice(struct watchdog *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void wd_tell_notices(struct watchdog *w);
/* Where standard output or error is a file that the job writes too, ours becomes the job's open
 * file description again, as at a launch: else we would write over each other. leader: host pid. */
void wd_share_descriptions(pid_t leader);

/* ---- account.c ----------------------------------------------------------------------------- */

/* The job is known: what its interval is until something has been measured. */
void wd_account_begin(struct watchdog *w);
/* A snapshot was taken or failed. */
void wd_account(struct watchdog *w, const struct snap_result *result);
/* The job goes on from this snapshot. */
void wd_account_restart(struct watchdog *w, const struct snapshot_info *from);
/* Sets w->due, after a snapshot (or a start) that began and ended then. */
void wd_schedule(struct watchdog *w, uint64_t started, uint64_t finished);
/* Writes the metrics where a file is wanted and it is time. */
void wd_write_metrics(struct watchdog *w, uint64_t now);
/* The last word of the metrics. */
void wd_account_end(struct watchdog *w, int exit_status);

/* ---- finish.c ------------------------------------------------------------------------------ */

/* Ends the capsule and closes what belonged to it; the job's output is drained first. */
void wd_retire_capsule(struct watchdog *w);
/* Everything; *ret_exit as watchdog_run. */
int wd_finish(struct watchdog *w, int *ret_exit, struct err *err);

#endif
