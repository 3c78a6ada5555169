/* replicas.h: a watchdog's destinations: who goes on from where at the start, and what is where at the end. */
#ifndef PAWL_WATCHDOG_REPLICAS_H
#define PAWL_WATCHDOG_REPLICAS_H

#include <stdbool.h>

#include "store/base/err.h"

struct watchdog;

/* Before anything of the job is chosen or touched: looks at the destinations, fetches the snapshot to go on from
 * where one of them has it and this store has not, and takes the job at each. ERR_FENCED: somebody else was
 * quicker. w->job is read anew. */
int wd_replicas_begin(struct watchdog *w, struct err *err);
/* The job runs: from here on snapshots are copied. */
int wd_replicas_start(struct watchdog *w, struct err *err);
void wd_replicas_nudge(struct watchdog *w);
/* As replicator_environment, for all. */
void wd_replicas_environment(struct watchdog *w, char *const *theirs);
/* Somebody else has resumed the job: told once, and the job ended where the user wants that. */
void wd_replicas_look(struct watchdog *w);
/* Waits, within a bound, until what there is has arrived; says what is where. True: a thread is left that uses the
 * store. */
bool wd_replicas_finish(struct watchdog *w);

#endif
