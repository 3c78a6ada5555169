/*
 * lookout.h: objects that no snapshot can hold, noticed when they appear and not when the first snapshot
 * after hours of work fails.
 *
 * A look reads the links in /proc/PID/fd of every process, about 2 µs a descriptor, and stops nothing. It
 * is for objects that programs make once and keep (io_uring instances, userfaultfds); what comes and goes is
 * the snapshot's business.
 */
#ifndef PAWL_CHECKPOINTER_LOOKOUT_H
#define PAWL_CHECKPOINTER_LOOKOUT_H

#include "checkpointer/tree_root.h"
#include "store/base/err.h"

/* 0: nothing was seen. -1: ERR_UNSUPPORTED names process, descriptor and object. Processes that end
 * meanwhile, or may not be looked at, count as having none. */
int lookout(const struct tree_root *root, struct err *err);

#endif
