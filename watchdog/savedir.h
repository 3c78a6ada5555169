/*
 * savedir.h: which directories may belong to a job (--save-dir).
 *
 * What is in such a directory is removed at a recovery where the snapshot does not have it. So
 * directories that hold more than a job's files are refused by name.
 */
#ifndef PAWL_WATCHDOG_SAVEDIR_H
#define PAWL_WATCHDOG_SAVEDIR_H

#include "store/base/err.h"

/* The directory's absolute path without symbolic links, malloc'ed; it need not exist yet.
 * ERR_INVALID says why it may not belong to a job. */
int savedir_resolve(const char *text, char **ret, struct err *err);
/* ERR_INVALID where the directory is the store's, or in it. A store inside the directory is passed
 * over. */
int savedir_check_store(const char *path, const char *store, struct err *err);
/* Why no job can own the directory `path` (absolute) of a user with that home directory (may be
 * NULL); NULL: it can. Pure. */
const char *savedir_refusal(const char *path, const char *home);

#endif
