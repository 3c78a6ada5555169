/*
 * policy.h: when the next snapshot is due, what a death means, what hangs, what is thinned. Pure:
 * values in, values out; times are nanoseconds of one clock of the caller's.
 */
#ifndef PAWL_WATCHDOG_POLICY_H
#define PAWL_WATCHDOG_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/store.h"
#include "watchdog/watchdog.h"

/* When the next periodic snapshot is due after one that was started and finished (or failed) then.
 * A snapshot that takes long is followed by as much time without one, so that at most half of the
 * time goes to snapshots. UINT64_MAX where interval is 0. */
uint64_t policy_next_due(uint64_t started, uint64_t finished, uint64_t interval);

/* ---- deaths -------------------------------------------------------------------------------- */

struct death_facts {
	int status;	  /* wait(2) status of the job's leader */
	uint64_t sent;	  /* bit n-1: pawl itself sent signal n on its user's behalf */
	bool terminal;	  /* the job has a terminal: ^C and ^\ reach it there */
	bool stream_gone; /* nobody reads one of its output streams any more */
};

/* Whether the job was killed by a signal that it did not get from pawl's user. */
bool policy_foreign_death(const struct death_facts *facts);

struct retry_state {   /* zeroed at the start */
	unsigned used; /* roll-backs so far */
	uint64_t base; /* seq last gone back to, 0: none yet */
	uint64_t recovered_at;
	bool snapshot_since; /* a snapshot was taken after that */
};

/* Which snapshot to go back to after a foreign death; 0: give up. good: seqs that may be used,
 * ascending. The newest, unless the job died again soon after the last roll-back (before it took a
 * snapshot, or within two intervals): then the next older one. Pure: the caller updates state with
 * retry_note when it really goes back. */
uint64_t policy_roll_back(const struct retry_state *state, unsigned retries, uint64_t now,
			  uint64_t interval, const uint64_t *good, size_t n_good);
void retry_note(struct retry_state *state, uint64_t seq, uint64_t now);

/* ---- hanging ------------------------------------------------------------------------------- */

struct hang_state { /* zeroed at the start */
	bool known;
	uint64_t cpu;	/* CPU time at the last look */
	uint64_t since; /* when it last grew */
};

/* A look at the job's CPU time. True where it has not grown for timeout (never for timeout 0). */
bool hang_look(struct hang_state *state, uint64_t cpu, uint64_t now, uint64_t timeout);
/* CPU time that is not the job's own doing (a snapshot's): it does not count as a sign of life. */
void hang_rebase(struct hang_state *state, uint64_t cpu);
/* The job stood still for a reason (stopped by job control): start anew. */
void hang_reset(struct hang_state *state);

/* ---- retention ----------------------------------------------------------------------------- */

/* Marks the snapshots to drop: drop[i] for infos[i], ascending by seq as store_snapshot_list gives
 * them. Kept: the newest `keep`, the newest of each of the last keep_hourly hours and keep_daily
 * days that have one (local time: utc_offset seconds), and `protect` (seq, 0: none). keep 0: all
 * are kept. Damaged records (time 0) count for nothing and go once `keep` good ones are there.
 * Returns how many are to be dropped. */
size_t policy_retention(const struct snapshot_info *infos, size_t n, const struct retention *rule,
			uint64_t protect, long utc_offset, bool *drop);

/* Whether the space of dropped snapshots, of `garbage` bytes, is freed now; infos: those that were there, ascending. To
 * find it takes the longer the more is stored, so it waits for half of what one full snapshot takes. */
bool policy_frees_now(const struct snapshot_info *infos, size_t n, uint64_t garbage);

/* Whether a job that is to move is saved and sent once more while it runs: the last round was of that many pages, the
 * one before it of `last` (UINT64_MAX: there was none). */
bool policy_another_round(uint64_t last, uint64_t pages);

/* Where rounds do not get smaller by themselves: for which part of the time (percent) the job is to stand still from
 * now on, where it was `percent` so far. 0: what is left takes no longer than it may stand still for good (the last
 * round took round_ns), or nothing more can be done. */
unsigned policy_slow_down(uint64_t round_ns, unsigned percent);

#endif
