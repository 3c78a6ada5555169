/*
 * move.h: the last step of a migration: the job stands still here, and goes on there or here, once.
 *
 * The destination recovers the job only for the bearer of the token that we took there, and ends it again
 * unless we confirm that it may go on (store/wire/serve.h). We end it here only after that was
 * acknowledged. Where the connection breaks in between, we look whether it runs there, and take the job
 * from whoever is about to start it, before it goes on here.
 */
#ifndef PAWL_WATCHDOG_MOVE_H
#define PAWL_WATCHDOG_MOVE_H

#include "store/store.h"

struct move;

/* Connects and takes the job there; the job runs on meanwhile. destination: ssh://… ERR_BUSY: it runs
 * there. */
int move_begin(struct move **ret, struct store *store, const char *job, const char *destination,
	       struct err *err);
/* The job stands still, and is saved as number seq. 0: it runs there and must end here; -1: it must go on here. */
int move_leave(struct move *move, uint64_t seq, struct err *err);
void move_end(struct move *move); /* takes NULL */

#endif
