/*
 * streams.h: what a job's standard streams are, and their making.
 *
 * Regular files, directories and devices are handed through as they are, so that descriptions
 * shared with others stay shared. All terminal streams become one pseudo-terminal. Everything else
 * (pipes, sockets) becomes a pipe that the pump serves; where the caller's 1 and 2 are the same
 * pipe, the job's are too, so that the order of what it writes holds.
 */
#ifndef PAWL_WATCHDOG_STREAMS_H
#define PAWL_WATCHDOG_STREAMS_H

#include "checkpointer/checkpointer.h"
#include "watchdog/caller.h"
#include "watchdog/pty.h"
#include "watchdog/pump.h"

enum stream_kind { STREAM_AS_IS, STREAM_CLOSED, STREAM_PUMPED, STREAM_TERMINAL };

struct streams {
	enum stream_kind kind[3];
	bool joined;   /* 2 is the same pipe as 1 */
	bool terminal; /* there is a pseudo-terminal */
	struct outer_terminal outer;
	struct pump pump;
	/* The job's ends, for one capsule: streams 0 to 2 and the terminal's slave; -1: none. */
	int job_end[3];
	int slave;
	struct capsule_stream identity[3], terminal_identity;
};

void streams_init(struct streams *streams);
void streams_clear(struct streams *streams);

/* For a launch: looks at descriptors 0 to 2. keep_output: output to /dev/null is pumped too, for
 * the log's sake. */
void streams_classify(struct streams *streams, const struct caller *caller, bool keep_output);
/* For a recovery: what the snapshot's job had. */
void streams_from_model(struct streams *streams, const Snap__Snapshot *model);

/* Makes pipes and pseudo-terminal for a new capsule; the caller's sides are opened the first time.
 * The pump's logs must be there. model: a recovery's terminal settings; NULL: the caller's
 * terminal's. */
int streams_build(struct streams *streams, const Snap__Snapshot *model, struct err *err);
/* The job's input goes on at `position` of the input log, then with the caller's standard input, of
 * which the first `skip` bytes are in the log already. Opened the first time only. */
void streams_open_input(struct streams *streams, uint64_t position, uint64_t skip);
/* The job has its ends; ours go, so that ends of file are seen. */
void streams_close_job_ends(struct streams *streams);
/* The capsule is gone: drains and closes what belonged to it. */
void streams_detach(struct streams *streams);

/* Takes the caller's terminal (raw mode, keys) where that is possible now, or gives it back. */
void streams_enter_terminal(struct streams *streams);
void streams_leave_terminal(struct streams *streams);

#endif
