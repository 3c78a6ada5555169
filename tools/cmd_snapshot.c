#include "tools/commands.h"

#include <stdio.h>

#include "store/base/units.h"
#include "tools/cli.h"
#include "tools/jobref.h"
#include "tools/report.h"
#include "watchdog/watchdog.h"

static const struct cli_option options[] = {
	CLI_OPTION_JSON, CLI_OPTION_STORE, CLI_OPTION_ANY_FS, CLI_OPTION_HELP, CLI_OPTION_END,
};

static const struct cli_spec snapshot_spec = {
	.name = "snapshot",
	.operands = "JOB",
	.about = "Save the running JOB now. Returns when the snapshot is durable, and prints its "
		 "name,\n"
		 "how long the job stood still, and the bytes that were stored.",
	.options = options,
	.least = 1,
	.most = 1,
};

static const struct cli_spec stop_spec = {
	.name = "stop",
	.operands = "JOB",
	.about = "Save the running JOB a last time, then end it. Returns when it has ended. 'pawl "
		 "run' of\n"
		 "the same name, or 'pawl recover JOB', goes on from there.",
	.options = options,
	.least = 1,
	.most = 1,
};

typedef int control(struct store *store, const char *job, struct snapshot_info *ret,
		    struct err *err);

static void print_result(const struct snapshot_info *info)
{
	char pause[32], stored[32];

	printf("%s@%llu  pause %s  stored %s\n", info->job, (unsigned long long)info->seq,
	       format_duration(info->pause_us * 1000, pause, sizeof(pause)),
	       format_size(info->bytes_stored, stored, sizeof(stored)));
}

/* control_… does not know of jobs that exist but do not run, and of those that do not exist. */
static int control_job(const struct cli_args *args, control *action, struct snapshot_info *ret,
		       struct err *err)
{
	cleanup_store struct store *store = NULL;
	struct job_info job;
	struct jobref ref;
	bool locked;

	if (jobref_parse_job(args->operands[0], &ref, err) < 0 ||
	    cli_open_store(args, STORE_READ, &store, err) < 0 ||
	    cli_get_job(store, ref.job, &job, err) < 0)
		return -1;
	locked = store_job_is_locked(store, &job);
	job_info_clear(&job);
	if (!locked)
		return err_set(err, ERR_NOT_FOUND,
			       "job %s does not run ('pawl list' shows its state)", ref.job);
	if (action(store, ref.job, ret, err) < 0)
		return err_wrap(err, "job %s was not %s", ref.job,
				action == control_stop ? "stopped" : "saved");
	return 0;
}

static int run(const struct cli_spec *spec, int argc, char **argv, control *action)
{
	struct snapshot_info info = {0};
	struct err err = {0};
	struct cli_args args;
	int status;

	if (!cli_begin(spec, argc, argv, NULL, &args, &status))
		return status;
	if (control_job(&args, action, &info, &err) < 0)
		return cli_fail(&err);
	if (args.json)
		report_print(report_snapshot(&info));
	else
		print_result(&info);
	return cli_finish();
}

int cmd_snapshot(int argc, char **argv)
{
	return run(&snapshot_spec, argc, argv, control_snapshot);
}

int cmd_stop(int argc, char **argv)
{
	return run(&stop_spec, argc, argv, control_stop);
}
