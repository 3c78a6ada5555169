#include "tools/cmd_replicas.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/units.h"
#include "store/replicas.h"
#include "tools/report.h"

static void show_progress(void *ctx, uint64_t done, uint64_t all)
{
	char have[32], want[32];

	if (!isatty(STDERR_FILENO))
		return;
	fprintf(stderr, "\r%s of %s%s", format_size(done, have, sizeof(have)),
		format_size(all, want, sizeof(want)), done >= all ? "\r\033[K" : "\033[K");
}

const struct replica_watch transfer_watch = {.progress = show_progress};

/* As they were: zeroes where there were none. */
static int keep_tokens(struct store *store, const char *job, struct destination *d, struct replica_state *ret,
		       struct err *err)
{
	struct replica_state *states;
	size_t n;

	if (store_replicas_get(store, job, &states, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (strcmp(states[i].destination, destination_text(d)) == 0) {
			memcpy(ret->token, states[i].token, REPLICA_TOKEN);
			memcpy(ret->taking, states[i].taking, REPLICA_TOKEN);
		}
	replica_states_free(states, n);
	return 0;
}

int note_replica(struct store *store, struct destination *d, const char *job,
		 const struct replica_hold *hold, struct err *err)
{
	struct replica_state state = {.destination = (char *)destination_text(d)};
	cleanup_free struct replica_mark *marks = NULL;
	struct replica_job seen;

	if (destination_look(d, job, &seen, err) < 0)
		return -1;
	marks = calloc(seen.n_snapshots + 1, sizeof(*marks));
	if (marks) {
		for (size_t i = 0; i < seen.n_snapshots; i++)
			marks[i] = (struct replica_mark){seen.snapshots[i].seq,
							 seen.snapshots[i].generation,
							 seen.snapshots[i].time};
		state.marks = marks;
		state.n_marks = seen.n_snapshots;
		state.tried = state.reached = clock_ns(CLOCK_REALTIME);
		if (hold)
			memcpy(state.token, hold->token, sizeof(state.token));
	}
	replica_job_clear(&seen);
	if (!marks)
		return err_sys(err, "the job's record");
	if (!hold && keep_tokens(store, job, d, &state, err) < 0)
		return -1;
	return store_replica_put(store, job, &state, err);
}

void print_transfer(const char *verb, const char *job, const struct destination *d,
		    const struct replica_stats *stats, bool json)
{
	char size[32];
	json_t *o;

	if (!json) {
		printf("%s@%" PRIu64 " %s %s: %s\n", job, stats->seq, verb, destination_text(d),
		       stats->bytes ? format_size(stats->bytes, size, sizeof(size))
				    : "was there already");
		return;
	}
	o = json_object();
	json_object_set_new(o, "job", report_text(job));
	json_object_set_new(o, "seq", json_integer((json_int_t)stats->seq));
	json_object_set_new(o, "destination", report_text(destination_text(d)));
	json_object_set_new(o, "pages", json_integer((json_int_t)stats->pages));
	json_object_set_new(o, "bytes", json_integer((json_int_t)stats->bytes));
	report_print(o);
}
