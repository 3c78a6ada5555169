#include "tools/commands.h"

#include "store/replica/destination.h"
#include "tools/jobref.h"
#include "tools/launch_options.h"

/* The job's record, for the options it was launched with. Where there is none to be had, the
 * watchdog says why. */
static void read_job(const struct cli_args *args, const char *name, struct job_info *ret)
{
	cleanup_store struct store *store = NULL;
	struct err ignored;

	*ret = (struct job_info){0};
	if (cli_open_store(args, STORE_READ, &store, &ignored) == 0 &&
	    store_job_get(store, name, ret, &ignored) < 0)
		*ret = (struct job_info){0};
}

/* What the destination knows of it. */
static void read_job_there(const char *from, const char *name, struct job_info *ret)
{
	struct replica_job seen = {0};
	struct destination *d;
	struct err ignored;

	if (destination_open(&d, from, &ignored) < 0)
		return;
	if (destination_look(d, name, &seen, &ignored) == 0) {
		*ret = seen.job;
		seen.job = (struct job_info){0};
	}
	replica_job_clear(&seen);
	destination_close(d);
}

/* As the job was launched, but for what is said now. */
static int go_on(const struct jobref *ref, const char *from, int argc, char **argv,
		 const struct cli_args *first)
{
	struct launch_options options;
	struct cli_args args;
	struct job_info job;
	int status;

	read_job(first, ref->job, &job);
	if (from && !job.n_options) {
		job_info_clear(&job);
		read_job_there(from, ref->job, &job);
	}
	launch_options_init(&options);
	launch_options_recall(&options, job.options);
	if (cli_begin(&recover_spec, argc, argv, &options, &args, &status)) {
		options.config.name = ref->job;
		options.config.recover_seq = ref->seq;
		options.config.mode = LAUNCH_RECOVER;
		status = launch(&options, &args);
	}
	launch_options_clear(&options);
	job_info_clear(&job);
	return status;
}

int cmd_recover(int argc, char **argv)
{
	struct launch_options options;
	struct jobref ref;
	struct cli_args args;
	struct err err = {0};
	int status;
	const char *from;
	bool valid;

	launch_options_init(&options);
	valid = cli_begin(&recover_spec, argc, argv, &options, &args, &status);
	from = options.config.from; /* stands in argv */
	launch_options_clear(&options);
	if (!valid)
		return status;
	if (jobref_parse(args.operands[0], &ref, &err) < 0)
		return cli_fail(&err);
	return go_on(&ref, from, argc, argv, &args);
}
