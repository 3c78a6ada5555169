/*
 * removed_dirs.h: what is no regular file, and no path leads to any more: directories, symbolic links, sockets and
 * FIFOs. Private to recovery/.
 */
#ifndef PAWL_RECOVERY_REMOVED_DIRS_H
#define PAWL_RECOVERY_REMOVED_DIRS_H

#include "recovery/batch.h"

/* Into rec->files[index].fd, unless it is there: all who have it get the same one. Opened for reading where it is a
 * directory, else with O_PATH. Nothing that was made stays, also on failure. */
int removed_make(struct recovery *rec, size_t index, struct err *err);
/* The process's working directory is p->cwd_file. Needs its socket. */
int stub_enter_removed(struct recovery *rec, struct stub *stub, struct err *err);
/* For where that is not known: the process makes p->cwd, enters it, and removes it again. */
int queue_removed_directory(struct recovery *rec, struct batch *b, const Snap__Process *p, struct err *err);

#endif
