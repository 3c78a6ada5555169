#include "tools/commands.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "recovery/core.h"
#include "store/base/log.h"
#include "store/base/units.h"
#include "tools/loading.h"
#include "tools/report.h"

enum { EXPORT_PID = CLI_OWN };

static const struct cli_option options[] = {
	{'o', "output", "FILE",
	 "the file to write (default JOB@N.core); a directory\ngets one core file of each process"},
	{EXPORT_PID, "pid", "PID", "this process of the job (default: its first one)"},
	CLI_OPTION_JSON,
	CLI_OPTION_STORE,
	CLI_OPTION_ANY_FS,
	CLI_OPTION_HELP,
	CLI_OPTION_END,
};

struct wish {
	const char *output;
	pid_t pid; /* 0: not said */
};

static int set_option(void *ctx, int key, const char *value, struct err *err)
{
	struct wish *wish = ctx;

	if (key == EXPORT_PID)
		return cli_parse_pid(value, &wish->pid, err);
	wish->output = value;
	return 0;
}

static const struct cli_spec spec = {
	.name = "export",
	.operands = "JOB[@N]",
	.about = "Write a process of snapshot N of JOB, or of its latest good one, as an ELF core "
		 "file: gdb\n"
		 "PROGRAM FILE shows its threads, registers, memory and mappings. Pids are those "
		 "that "
		 "the\n"
		 "job has in its capsule ('pawl show').",
	.options = options,
	.set = set_option,
	.least = 1,
	.most = 1,
};

/* One export under way. */
struct exporting {
	struct store *store;
	const Snap__Snapshot *model;
	const struct snapshot_info *info;
	json_t *list; /* NULL: print lines */
};

static json_t *describe(const char *path, int32_t pid, const struct core_result *r)
{
	json_t *o = json_object();

	json_object_set_new(o, "pid", json_integer(pid));
	json_object_set_new(o, "file", report_text(path));
	json_object_set_new(o, "threads", json_integer((json_int_t)r->threads));
	json_object_set_new(o, "regions", json_integer((json_int_t)r->regions));
	json_object_set_new(o, "bytes", json_integer((json_int_t)r->bytes));
	json_object_set_new(o, "regions_missing", json_integer((json_int_t)r->missing));
	return o;
}

static int export_one(const struct exporting *x, int32_t pid, const char *path, struct err *err)
{
	struct core_result result;
	char size[32];

	if (core_export(x->store, x->model, pid, path, &result, err) < 0)
		return -1;
	if (result.missing)
		log_warn("process %d: the content of %zu regions (%s%s) is neither in the snapshot "
			 "nor "
			 "on this machine",
			 pid, result.missing, result.missing_path, result.missing > 1 ? " …" : "");
	if (x->list)
		json_array_append_new(x->list, describe(path, pid, &result));
	else
		printf("%s: process %d, %zu threads, %zu regions, %s\n", path, pid, result.threads,
		       result.regions, format_size(result.bytes, size, sizeof(size)));
	return 0;
}

/* JOB@N.core or, of several, JOB@N.PID.core, in dir. buf of PATH_MAX. */
static int default_path(const struct exporting *x, const char *dir, int32_t pid, char *buf,
			struct err *err)
{
	char number[16] = "";
	int n;

	if (pid)
		snprintf(number, sizeof(number), "%d.", pid);
	n = snprintf(buf, PATH_MAX, "%s/%s@%llu.%score", dir, x->info->job,
		     (unsigned long long)x->info->seq, number);
	return n < PATH_MAX ? 0 : err_set(err, ERR_INVALID, "the directory's name is too long");
}

static int export_all(const struct exporting *x, const char *dir, struct err *err)
{
	char path[PATH_MAX];

	for (size_t i = 0; i < x->model->n_processes; i++) {
		const Snap__Process *p = x->model->processes[i];

		if (p->zombie)
			continue;
		if (default_path(x, dir, p->pid, path, err) < 0 ||
		    export_one(x, p->pid, path, err) < 0)
			return -1;
	}
	return 0;
}

static int export_wished(const struct exporting *x, const struct wish *wish, struct err *err)
{
	const char *dir = wish->output;
	char path[PATH_MAX];
	struct stat st;
	bool is_dir = dir && stat(dir, &st) == 0 && S_ISDIR(st.st_mode);
	int32_t pid = wish->pid;

	if (is_dir && !pid)
		return export_all(x, dir, err);
	if (!pid && x->model->capsule)
		pid = x->model->capsule->leader;
	if (dir && !is_dir)
		return export_one(x, pid, dir, err);
	if (default_path(x, is_dir ? dir : ".", is_dir ? pid : 0, path, err) < 0)
		return -1;
	return export_one(x, pid, strncmp(path, "./", 2) == 0 ? path + 2 : path, err);
}

static int export_snapshot(const struct cli_args *args, const struct wish *wish, json_t *list,
			   struct err *err)
{
	cleanup_store struct store *store = NULL;
	struct snapshot_info info;
	Snap__Snapshot *model = NULL;
	struct exporting x = {.info = &info, .list = list};
	struct jobref ref;
	int result;

	if (jobref_parse(args->operands[0], &ref, err) < 0 ||
	    cli_open_store(args, STORE_READ, &store, err) < 0 ||
	    load_snapshot(store, &ref, &info, &model, err) < 0)
		return -1;
	x.store = store;
	x.model = model;
	result = export_wished(&x, wish, err);
	if (result < 0)
		err_wrap(err, "%s@%llu", info.job, (unsigned long long)info.seq);
	snap__snapshot__free_unpacked(model, NULL);
	return result;
}

int cmd_export(int argc, char **argv)
{
	struct wish wish = {0};
	struct err err = {0};
	struct cli_args args;
	json_t *list = NULL;
	int status;

	if (!cli_begin(&spec, argc, argv, &wish, &args, &status))
		return status;
	if (args.json)
		list = json_array();
	if (export_snapshot(&args, &wish, list, &err) < 0) {
		json_decref(list);
		return cli_fail(&err);
	}
	if (list)
		report_print(list);
	return cli_finish();
}
