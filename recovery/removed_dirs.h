/*
 * removed_dirs.h: directories that no path leads to any more. Private to recovery/.
 */
#ifndef PAWL_RECOVERY_REMOVED_DIRS_H
#define PAWL_RECOVERY_REMOVED_DIRS_H

#include "recovery/batch.h"

/* The process makes p->cwd, enters it, and removes it again. */
int queue_removed_directory(struct recovery *rec, struct batch *b, const Snap__Process *p, struct err *err);
/* flags: of open(2). Nothing that was made stays, also on failure. *ret_fd is the caller's. */
int removed_directory_open(struct recovery *rec, const Snap__File *file, int flags, int *ret_fd, struct err *err);

#endif
