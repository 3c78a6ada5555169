/*
 * shared_pages.h: content of shared memory that no descriptor leads to, read through the mappings of it.
 */
#ifndef PAWL_CHECKPOINTER_SHARED_PAGES_H
#define PAWL_CHECKPOINTER_SHARED_PAGES_H

#include "checkpointer/collect.h"

/* Into a table against that of `base`: *ret_root. In the pause, with the executors there. Pages that were
 * never touched are neither read nor made (reading a hole through a mapping would fill it). */
int shared_pages_capture(struct collection *c, const Snap__File *f, const struct file_source *s,
			 struct store_session *session, uint64_t base, uint64_t *ret_root, struct err *err);

#endif
