/*
 * metrics.h: what a job's watchdog has done, in the text format of Prometheus (exposition format
 * 0.0.4), for node_exporter's textfile collector.
 */
#ifndef PAWL_WATCHDOG_METRICS_H
#define PAWL_WATCHDOG_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/store.h"
#include "watchdog/interval.h"

/* How often the file is written while nothing happens: the age of the last snapshot is in it. */
#define METRICS_EVERY_NS (15 * 1000000000ull)

/* Since the watchdog began; zeroed then. */
struct metrics {
	uint64_t snapshots, failures, restarts;
	uint64_t pause_us, wall_us, cpu_ns, bytes_new, bytes_stored,
		pages_changed; /* of all snapshots */
	uint64_t longest_pause_us;
	bool has_last;
	struct snapshot_info last; /* the last good one, of this watchdog or an earlier one */
	bool running;
	bool has_exit;
	int exit_status;
	uint64_t generation;
	struct interval_choice interval;
	const char *job, *store; /* labels */
};

void metrics_taken(struct metrics *m, const struct snapshot_info *info, uint64_t cpu_ns);

/* *ret malloc'ed. now: CLOCK_REALTIME, ns. */
int metrics_text(const struct metrics *m, uint64_t now, char **ret, struct err *err);

/* Puts text into the file (0644: others read it) by renaming a new one, so that a reader finds it
 * whole. Not synced: after a crash of the machine it says nothing anyway. */
int metrics_write(const char *path, const char *text, struct err *err);

#endif
