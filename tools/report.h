/*
 * report.h: jobs and snapshots as JSON and as text.
 */
#ifndef PAWL_TOOLS_REPORT_H
#define PAWL_TOOLS_REPORT_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "store/replicas.h"
#include "store/store.h"
#include "watchdog/watchdog.h"

/* Nanoseconds since the epoch as RFC 3339 in UTC, "2026-03-01T12:00:00.250000Z". buf of 40. */
const char *report_time(uint64_t ns, char *buf, size_t len);
/* How long ago, "3.2 s", "2h 05m"; "-" for time 0. buf of 32. */
const char *report_age(uint64_t now_ns, uint64_t ns, char *buf, size_t len);

/* A JSON string of any bytes: where they are not UTF-8, those above 0x7f become "\xNN" text. */
json_t *report_bytes(const char *data, size_t len);
json_t *report_text(const char *text);

/* The fields of `show --json` and `snapshot --json`. The caller's reference. */
json_t *report_snapshot(const struct snapshot_info *info);
/* The choice of the time between snapshots, with its reason, and when the next one is due. */
json_t *report_interval(const struct job_status *status);
/* Prints value and drops the reference. */
void report_print(json_t *value);

/* "new" "running" "stopped" "finished" "failed", and "crashed" for a job that is said to run and
 * whose watchdog is gone: it can be resumed. */
const char *report_state(struct store *store, const struct job_info *job);

/* Where a snapshot is durable: "here" and destinations, as of the last contact with them. */
json_t *report_places(const struct replica_state *states, size_t n, uint64_t time,
		      uint64_t generation, bool here);

#endif
