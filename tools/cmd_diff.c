#include "tools/commands.h"

#include <stdio.h>

#include "store/base/units.h"
#include "tools/diff.h"
#include "tools/loading.h"
#include "tools/report.h"

static const struct cli_option options[] = {
	CLI_OPTION_JSON, CLI_OPTION_STORE, CLI_OPTION_ANY_FS, CLI_OPTION_HELP, CLI_OPTION_END,
};

static const struct cli_spec spec = {
	.name = "diff",
	.operands = "JOB[@A] JOB[@B]",
	.about = "Tell what is different in snapshot B: regions and pages by process and mapping, "
		 "processes,\n"
		 "threads, descriptors and files that are new, gone or changed.",
	.options = options,
	.least = 2,
	.most = 2,
};

struct loaded {
	struct snapshot_info info;
	Snap__Snapshot *model;
};

static int load(struct store *store, const char *text, struct loaded *ret, struct err *err)
{
	struct jobref ref;

	if (jobref_parse(text, &ref, err) < 0)
		return -1;
	return load_snapshot(store, &ref, &ret->info, &ret->model, err);
}

static void print_head(const struct loaded *a, const struct loaded *b)
{
	char text[32] = "";

	if (a->model->clocks && b->model->clocks &&
	    b->model->clocks->monotonic > a->model->clocks->monotonic)
		format_duration(b->model->clocks->monotonic - a->model->clocks->monotonic, text,
				sizeof(text));
	printf("%s@%llu -> %s@%llu%s%s\n", a->info.job, (unsigned long long)a->info.seq,
	       b->info.job, (unsigned long long)b->info.seq,
	       *text ? ", by the job's clock after " : "", text);
}

static int print(struct store *store, const struct loaded *a, const struct loaded *b, bool json,
		 struct err *err)
{
	struct diff diff;
	json_t *o;

	if (diff_make(&diff, store, a->model, b->model, err) < 0)
		return -1;
	if (json) {
		o = json_pack("{soso}", "a", report_snapshot(&a->info), "b",
			      report_snapshot(&b->info));
		json_object_set_new(o, "difference", diff_json(&diff));
		report_print(o);
	} else {
		print_head(a, b);
		diff_print(&diff);
	}
	diff_clear(&diff);
	return 0;
}

static int compare(const struct cli_args *args, struct err *err)
{
	cleanup_store struct store *store = NULL;
	struct loaded a = {0}, b = {0};
	int result = -1;

	if (cli_open_store(args, STORE_READ, &store, err) == 0 &&
	    load(store, args->operands[0], &a, err) == 0 &&
	    load(store, args->operands[1], &b, err) == 0)
		result = print(store, &a, &b, args->json, err);
	if (a.model)
		snap__snapshot__free_unpacked(a.model, NULL);
	if (b.model)
		snap__snapshot__free_unpacked(b.model, NULL);
	return result;
}

int cmd_diff(int argc, char **argv)
{
	struct err err = {0};
	struct cli_args args;
	int status;

	if (!cli_begin(&spec, argc, argv, NULL, &args, &status))
		return status;
	return compare(&args, &err) < 0 ? cli_fail(&err) : cli_finish();
}
