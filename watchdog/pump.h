/*
 * pump.h: moves a job's pumped streams between its pipes or pseudo-terminal and the caller's, and
 * keeps them: output in the job's log, input in its input log.
 *
 * Nothing here blocks. The main thread polls and moves; a snapshot drains (pump_freeze) from its
 * own thread while the job stands still, which is why there is a lock. What was drained or not yet
 * taken by a slow reader waits in memory; while more than PUMP_BACKLOG waits, no more is read from
 * the job, so that a slow reader slows the job as it would without pawl.
 */
#ifndef PAWL_WATCHDOG_PUMP_H
#define PAWL_WATCHDOG_PUMP_H

#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/snapshot.h"
#include "watchdog/capsule.h"
#include "watchdog/joblog.h"
#include "watchdog/outlet.h"
#include "watchdog/stdinlog.h"

#define PUMP_BACKLOG  (64u * 1024u)
#define PUMP_MAX_POLL 10

/* From the job to the caller. Index: JOBLOG_STDOUT - 1 and so on. */
struct outflow {
	int job_fd; /* read end of the pipe, or master; -1: none, closed, ended */
	struct outlet outlet;
	bool terminal;
	bool drop_cr;	   /* the caller's terminal turns \n into \r\n itself */
	bool held_cr;	   /* … and a \r has been held back, its follower is not known yet */
	bool ended;	   /* the job has closed it, the caller's side is still open */
	uint64_t ended_at; /* CLOCK_MONOTONIC */
	bool reader_gone;
	uint64_t skip; /* bytes the caller already has: kept in the log, not passed on */
	char *pending; /* not yet taken by the outlet */
	size_t sent, used, room;
};

/* From the caller's standard input to the job's pipe, by way of the input log. */
struct inflow {
	int outer;  /* -1: none, or ended */
	int job_fd; /* write end; -1: none or closed */
	int peek;   /* read end, for what is in the pipe once the write end is closed; -1: none */
	bool used;  /* there is a pipe at all */
	bool open;  /* the job is (about to be) there, and `written` is right */
	bool outer_opened; /* outer has been opened before, whatever became of it */
	uint64_t written;  /* position of the next byte for the pipe */
	uint64_t skip;	   /* bytes of the caller's input that the log already has */
	char *held;	   /* read, but the input log cannot be written: no more until it can */
	size_t held_len;
};

/* Keys typed at the caller's terminal. */
struct keyflow {
	int outer; /* -1: none */
	int master;
	bool wanted; /* in the foreground */
	char pending[4096];
	size_t sent, used;
};

struct pump {
	pthread_mutex_t lock;
	struct joblog *log;
	struct stdinlog *input; /* NULL: standard input is not pumped */
	struct outflow out[3];
	struct inflow in;
	struct keyflow keys;
	bool log_failed;       /* said so already */
	bool wrote_line_start; /* the last byte passed on to a terminal ended a line */
};

void pump_init(struct pump *pump);
/* Closes *fd where it is one. */
void pump_close(int *fd);
/* Closes what it has. The logs are the caller's. */
void pump_clear(struct pump *pump);

/* Entries to poll for; at most PUMP_MAX_POLL. The result is for the next pump_move. */
size_t pump_poll(struct pump *pump, struct pollfd *fds);
void pump_move(struct pump *pump, const struct pollfd *fds, size_t n);

/* Reads all that the job has written into memory and log. */
void pump_drain(struct pump *pump);
/* Whether something waits for the caller's side to take it. */
bool pump_has_pending(struct pump *pump);
/* Closes the caller's standard output where the job has closed its own PUMP_GRACE_NS ago: not at
 * once, for that is also how a death begins to show, after which the job may be rolled back and
 * write again. Returns whether there is something left to close later. */
#define PUMP_GRACE_NS 250000000ull
bool pump_hang_up(struct pump *pump, uint64_t now);
/* The job is dead: its ends are drained and closed; a next capsule gets new ones. */
void pump_detach(struct pump *pump);
/* One of the output streams has lost its reader. */
bool pump_reader_gone(const struct pump *pump);
/* The job's input is stalled because it cannot be kept: retry from time to time. */
bool pump_stalled(const struct pump *pump);
void pump_retry(struct pump *pump);

/* Everything stands still: drains, and fills in what the model says of the streams. */
int pump_freeze(struct pump *pump, const struct capsule *capsule, Snap__Capsule *model,
		struct err *err);
/* Makes durable what pump_freeze has put into the model. */
int pump_sync(struct pump *pump, struct err *err);

#endif
