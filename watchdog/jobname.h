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

/* Whose name it is to be. */
struct jobname_claim {
	const char *command;
	/* Whether the record is about the same: its name is taken over where it does not run. */
	bool (*same)(const struct job_info *job, const void *ctx);
	const void *ctx;
};

/* For the `same` above: the same command in the same directory. ctx: struct jobname_command. */
struct jobname_command {
	char *const *argv;
	const char *cwd;
};
bool jobname_same_command(const struct job_info *job, const void *ctx);

/* Takes the lock of the first of NAME, NAME-2, NAME-3 … that is unknown, or about the same and not
 * running. name of 128. */
int jobname_take(struct store *store, const struct jobname_claim *claim, char *name, int *ret_lock,
		 bool *ret_new, struct err *err);

#endif
