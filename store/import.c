/* What comes from another store. */
#include <stdlib.h>

#include "store/base/cleanup.h"
#include "store/store.h"

int store_snapshot_same(struct store *store, const char *job, uint64_t time, uint64_t generation,
			uint64_t *ret_seq, struct err *err)
{
	cleanup_free struct snapshot_info *infos = NULL;
	size_t n, i;

	if (store_snapshot_list(store, job, &infos, &n, err) < 0)
		return -1;
	for (i = 0; i < n; i++)
		if (time && infos[i].time == time && infos[i].generation == generation) {
			*ret_seq = infos[i].seq;
			return 1;
		}
	return 0;
}

/* Makes the job where it is missing: whoever takes its lock does that. */
static int ensure(struct store *store, const char *name, struct job_info *ret, struct err *err)
{
	int lock;

	if (store_job_get(store, name, ret, err) == 0)
		return 0;
	if (err->kind != ERR_NOT_FOUND || store_job_lock(store, name, &lock, err) < 0)
		return -1;
	store_job_unlock(lock);
	return store_job_get(store, name, ret, err);
}

int store_job_import(struct store *store, const struct job_info *from, struct err *err)
{
	struct job_info here, merged;
	int rc = 0;

	if (ensure(store, from->name, &here, err) < 0)
		return -1;
	if (here.state == JOB_NEW || here.generation < from->generation) {
		merged = *from;
		merged.id = here.id;
		merged.created = here.created;
		merged.last_seq = here.last_seq;
		merged.watchdog_pid = merged.leader_pid = merged.init_pid = 0;
		merged.attached = false;
		rc = store_job_put(store, &merged, err);
	}
	job_info_clear(&here);
	return rc;
}
