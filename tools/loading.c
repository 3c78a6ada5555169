#include "tools/loading.h"

#include "store/base/cleanup.h"
#include "store/base/log.h"

static int load_latest_good(struct store *store, const char *job, struct snapshot_info *ret_info,
			    Snap__Snapshot **ret_model, struct err *err)
{
	cleanup_free struct snapshot_info *list = NULL;
	size_t n = 0;

	if (store_snapshot_list(store, job, &list, &n, err) < 0)
		return -1;
	err_set(err, ERR_NOT_FOUND, "job %s has no snapshots yet", job);
	while (n-- > 0) {
		if (store_snapshot_load(store, job, list[n].seq, ret_info, ret_model, err) == 0)
			return 0;
		if (err->kind != ERR_CORRUPT)
			return -1;
		log_warn("%s", err->msg);
	}
	return -1;
}

int load_snapshot(struct store *store, const struct jobref *ref, struct snapshot_info *ret_info,
		  Snap__Snapshot **ret_model, struct err *err)
{
	struct job_info job;

	if (cli_get_job(store, ref->job, &job, err) < 0)
		return -1;
	job_info_clear(&job);
	return ref->seq ? store_snapshot_load(store, ref->job, ref->seq, ret_info, ret_model, err)
			: load_latest_good(store, ref->job, ret_info, ret_model, err);
}
