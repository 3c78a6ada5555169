#include "tools/commands.h"

#include <stdio.h>
#include <stdlib.h>

#include "tools/cli.h"
#include "tools/jobref.h"
#include "tools/report.h"
#include "watchdog/trial.h"

enum { OPT_TRIAL = CLI_OWN };

static const struct cli_option options[] = {
	{OPT_TRIAL, "trial", NULL,
	 "also rebuild the processes of JOB@N (JOB: its newest), stopped and\n"
	 "beside the job, compare their memory, and end them; files,\n"
	 "sockets and other things outside are left alone"},
	CLI_OPTION_JSON, CLI_OPTION_STORE, CLI_OPTION_ANY_FS, CLI_OPTION_HELP, CLI_OPTION_END,
};

static int set(void *ctx, int key, const char *value, struct err *err)
{
	*(bool *)ctx = key == OPT_TRIAL;
	return 0;
}

static const struct cli_spec spec = {
	.name = "verify",
	.operands = "[JOB[@N]]",
	.about = "Check every record, page table and page of a snapshot, of all snapshots of JOB, "
		 "or of\n"
		 "the whole store. Exit status 1 when something is damaged; each line names what.",
	.options = options,
	.most = 1,
	.set = set,
};

struct findings {
	json_t *list; /* NULL: print lines */
};

static void report(void *ctx, const char *job, uint64_t seq, const char *line)
{
	struct findings *f = ctx;
	json_t *o;

	if (!f->list) {
		if (job && seq)
			printf("%s@%llu: %s\n", job, (unsigned long long)seq, line);
		else
			printf("%s: %s\n", job ? job : "store", line);
		return;
	}
	o = json_object();
	json_object_set_new(o, "job", job ? report_text(job) : json_null());
	json_object_set_new(o, "seq", seq ? json_integer((json_int_t)seq) : json_null());
	json_object_set_new(o, "problem", report_text(line));
	json_array_append_new(f->list, o);
}

/* Says what was tried. */
static int try_it(struct store *store, const struct jobref *ref, struct findings *f, uint64_t *problems,
		  struct err *err)
{
	struct trial_result result;
	uint64_t more = 0;

	if (trial_run(store, ref->job, ref->seq, report, f, &more, &result, err) < 0)
		return -1;
	*problems += more;
	if (!f->list && more == 0)
		printf("%s@%llu: rebuilt %u process%s, %llu pages as stored\n", ref->job,
		       (unsigned long long)result.seq, result.processes, result.processes == 1 ? "" : "es",
		       (unsigned long long)result.pages);
	return 0;
}

static int check(const struct cli_args *args, bool trial, struct findings *f, uint64_t *ret_problems,
		 struct err *err)
{
	cleanup_store struct store *store = NULL;
	struct jobref ref = {0};
	struct job_info job;

	if (trial && !args->n_operands)
		return err_set(err, ERR_INVALID, "verify --trial: say which job");
	if (args->n_operands && jobref_parse(args->operands[0], &ref, err) < 0)
		return -1;
	if (cli_open_store(args, STORE_READ, &store, err) < 0)
		return -1;
	if (args->n_operands) {
		if (cli_get_job(store, ref.job, &job, err) < 0)
			return -1;
		job_info_clear(&job);
	}
	if (store_verify(store, args->n_operands ? ref.job : NULL, ref.seq, report, f, ret_problems, err) < 0)
		return -1;
	return trial && *ret_problems == 0 ? try_it(store, &ref, f, ret_problems, err) : 0;
}

int cmd_verify(int argc, char **argv)
{
	struct findings findings = {0};
	struct err err = {0};
	struct cli_args args;
	uint64_t problems = 0;
	bool trial = false;
	int status, ret;

	if (!cli_begin(&spec, argc, argv, &trial, &args, &status))
		return status;
	if (args.json)
		findings.list = json_array();
	ret = check(&args, trial, &findings, &problems, &err);
	if (ret < 0) {
		json_decref(findings.list);
		return cli_fail(&err);
	}
	if (args.json)
		report_print(json_pack("{sIso}", "problems", (json_int_t)problems, "list",
				       findings.list));
	else if (problems == 0)
		printf("no problem found\n");
	status = cli_finish();
	return problems ? EXIT_FAILURE : status;
}
