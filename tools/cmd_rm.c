#include "tools/commands.h"

#include "tools/cli.h"
#include "tools/jobref.h"

static const struct cli_option options[] = {
	CLI_OPTION_STORE,
	CLI_OPTION_ANY_FS,
	CLI_OPTION_HELP,
	CLI_OPTION_END,
};

static const struct cli_spec spec = {
	.name = "rm",
	.operands = "JOB[@N]...",
	.about = "Drop jobs with all their snapshots and logs, or single snapshots. The later "
		 "snapshots of\n"
		 "a job do not need the earlier ones. 'pawl gc' frees the space. A job that runs "
		 "is not\n"
		 "dropped.",
	.options = options,
	.least = 1,
	.most = -1,
};

static int drop(struct store *store, const struct jobref *ref, struct err *err)
{
	if (ref->seq)
		return store_snapshot_drop(store, ref->job, ref->seq, err);
	return store_job_drop(store, ref->job, err);
}

int cmd_rm(int argc, char **argv)
{
	cleanup_store struct store *store = NULL;
	struct err err = {0};
	struct jobref ref;
	struct cli_args args;
	int status, failed = 0;

	if (!cli_begin(&spec, argc, argv, NULL, &args, &status))
		return status;
	/* All names first: a typing error must not leave half of it done. */
	for (int i = 0; i < args.n_operands; i++)
		if (jobref_parse(args.operands[i], &ref, &err) < 0)
			return cli_fail(&err);
	if (cli_open_store(&args, STORE_WRITE, &store, &err) < 0)
		return cli_fail(&err);
	/* As rm(1): what cannot be dropped does not keep the rest. */
	for (int i = 0; i < args.n_operands; i++)
		if (jobref_parse(args.operands[i], &ref, &err) < 0 || drop(store, &ref, &err) < 0)
			failed = cli_fail(&err);
	status = cli_finish();
	return failed ? failed : status;
}
