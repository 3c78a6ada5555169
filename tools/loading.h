/*
 * loading.h: the snapshot that JOB or JOB@N names, out of the store.
 */
#ifndef PAWL_TOOLS_LOADING_H
#define PAWL_TOOLS_LOADING_H

#include "tools/cli.h"
#include "tools/jobref.h"

/* ref->seq 0: the latest good one; damaged ones are passed over, and named. The model is freed by
 * snap__snapshot__free_unpacked. */
int load_snapshot(struct store *store, const struct jobref *ref, struct snapshot_info *ret_info,
		  Snap__Snapshot **ret_model, struct err *err);

#endif
