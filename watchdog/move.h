/*
 * move.h: the last step of a migration: the job stands still here, and goes on there or here, once.
 *
 * FORMAT.md, "Handing a job over", has the steps. The destination rebuilds the job and waits. Before we say that it
 * may go on there, whatever fails has it go on here, at once. From then on only the destination knows: its record
 * of the job is of a later generation, or it is not and we take the job there, after which it cannot become so.
 * Where the destination does not answer, the job stands still here until it does.
 */
#ifndef PAWL_WATCHDOG_MOVE_H
#define PAWL_WATCHDOG_MOVE_H

#include <stdatomic.h>
#include <stdint.h>

#include "store/store.h"

struct move;

/* Connects and takes the job there; the job runs on meanwhile. destination: ssh://…, environment: that ssh is
 * started in, must stay until move_end; NULL: ours. ERR_BUSY: it runs there. cancelled (may be NULL): set, no answer is waited for any more. */
int move_begin(struct move **ret, struct store *store, const char *job, const char *destination,
	       char **environment, const atomic_bool *cancelled, struct err *err);
/* The job runs: sends that snapshot, so that less is left for the last one. *ret_pages: what was to be sent. */
int move_ahead(struct move *move, uint64_t seq, uint64_t *ret_pages, struct err *err);
/* The job stands still, and is saved as number seq. 0: it runs there and must end here; -1: it must go on here, or
 * (cancelled) ends here without anybody knowing more than that it may run there: job_info.moving stays. */
int move_leave(struct move *move, uint64_t seq, struct err *err);
void move_end(struct move *move); /* takes NULL */

/* The job's watchdog ended with job->moving set. Asks the destination (as long as ssh waits) and notes in record and
 * *job what it says: afterwards it is moved or it is not. -1: it does not answer, or not yet. The caller has the
 * job's lock. */
int move_settle(struct store *store, struct job_info *job, struct err *err);

#endif
