/*
 * new_ids.h: whether a process can go on under another pid, its threads under other tids: what of
 * the model depends on the old ones.
 *
 * Where no capsule can be had, recovery cannot choose them. What a program itself remembers nobody
 * can know. The memory's part: checkpointer/tracee/thread_id.h.
 */
#ifndef PAWL_STORE_NEW_IDS_H
#define PAWL_STORE_NEW_IDS_H

#include "store/base/err.h"
#include "store/snapshot.h"

/* ERR_UNSUPPORTED names what depends on them. Pure. */
int new_ids_check(const Snap__Snapshot *model, struct err *err);

#endif
