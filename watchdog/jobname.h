/* jobname.h: a name for a job that was given none. */
#ifndef PAWL_WATCHDOG_JOBNAME_H
#define PAWL_WATCHDOG_JOBNAME_H

#include <stdbool.h>
#include <stddef.h>

#include "store/base/err.h"
#include "store/store.h"

/* The command's base name with what a job's name may not have replaced by '-', and for number > 1
 * "-N" after it. Pure. buf of 128. */
void jobname_make(const char *command, unsigned number, char *buf, size_t len);

/* Takes the lock of the first of NAME, NAME-2, NAME-3 … that is free for this command: unknown, or
 * the same command in the same directory and not running. name of 128. */
int jobname_take(struct store *store, char *const *argv, char *name, int *ret_lock, bool *ret_new,
		 struct err *err);

#endif
