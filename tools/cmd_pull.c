#include <limits.h>
#include <stdlib.h>

#include "tools/cmd_replicas.h"
#include "tools/commands.h"
#include "tools/jobref.h"
#include "tools/launch_options.h"

static const struct cli_option options[] = {
	CLI_OPTION_JSON, CLI_OPTION_STORE, CLI_OPTION_ANY_FS, CLI_OPTION_HELP, CLI_OPTION_END,
};

static const struct cli_spec spec = {
	.name = "pull",
	.operands = "JOB[@N] DEST",
	.about = "Fetch snapshot N of JOB, or its latest, from DEST (dir:/PATH or "
		 "ssh://[USER@]HOST[/STORE])\n"
		 "into the store, which is made where it is missing. It keeps its number where that "
		 "is free.\n"
		 "'pawl recover' then goes on from it; 'pawl recover --from DEST' does both.",
	.options = options,
	.least = 2,
	.most = 2,
};

static int pull(const struct cli_args *args, struct err *err)
{
	cleanup_store struct store *store = NULL;
	cleanup_destination struct destination *d = NULL;
	struct replica_stats stats;
	struct replica_job seen;
	char dir[PATH_MAX];
	struct jobref ref;
	int lock, rc;

	if (jobref_parse(args->operands[0], &ref, err) < 0 ||
	    destination_open(&d, args->operands[1], err) < 0 ||
	    /* Before a job is made here that is not there. */
	    destination_look(d, ref.job, &seen, err) < 0)
		return -1;
	replica_job_clear(&seen);
	if (cli_store_dir(args, dir, sizeof(dir), err) < 0 || launch_make_parent(dir, err) < 0 ||
	    store_open(&store, dir, STORE_CREATE | (args->any_fs ? STORE_ANY_FS : 0), err) < 0 ||
	    store_job_lock(store, ref.job, &lock, err) < 0)
		return -1;
	rc = destination_pull(d, ref.job, ref.seq, store, &transfer_watch, &stats, err);
	if (rc == 0)
		rc = note_replica(store, d, ref.job, NULL, err);
	store_job_unlock(lock);
	if (rc < 0)
		return -1;
	print_transfer("comes from", ref.job, d, &stats, args->json);
	return 0;
}

int cmd_pull(int argc, char **argv)
{
	struct err err = {0};
	struct cli_args args;
	int status;

	if (!cli_begin(&spec, argc, argv, NULL, &args, &status))
		return status;
	return pull(&args, &err) < 0 ? cli_fail(&err) : cli_finish();
}
