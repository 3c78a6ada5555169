#include "tools/commands.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "checkpointer/tracee/arch.h"
#include "store/base/io.h"
#include "store/base/units.h"
#include "tools/cli.h"
#include "tools/loading.h"
#include "tools/objects.h"
#include "tools/report.h"

enum { SHOW_OBJECTS = CLI_OWN };

static const struct cli_option options[] = {
	{SHOW_OBJECTS, "objects", NULL, "list every object that the job held, by process"},
	CLI_OPTION_JSON, CLI_OPTION_STORE, CLI_OPTION_ANY_FS, CLI_OPTION_HELP, CLI_OPTION_END,
};

static int set_option(void *ctx, int key, const char *value, struct err *err)
{
	bool *objects = ctx;

	*objects = true;
	return 0;
}

static const struct cli_spec spec = {
	.name = "show",
	.operands = "JOB[@N]",
	.about = "Describe snapshot N of JOB, or its latest good one: when it was taken and what "
		 "it cost,\n"
		 "its processes, and the files it holds.",
	.options = options,
	.set = set_option,
	.least = 1,
	.most = 1,
};

/* ---- the file table ------------------------------------------------------------------------ */

static const char *file_kind(const Snap__File *file)
{
	switch (file->kind) {
	case SNAP__FILE__KIND__REGULAR:
		return "file";
	case SNAP__FILE__KIND__DIRECTORY:
		return "directory";
	case SNAP__FILE__KIND__CHARACTER:
	case SNAP__FILE__KIND__BLOCK:
		return "device";
	case SNAP__FILE__KIND__FIFO:
		return "fifo";
	case SNAP__FILE__KIND__MEMFD:
		return "memfd";
	case SNAP__FILE__KIND__SHARED_ANONYMOUS:
	case SNAP__FILE__KIND__SYSV:
		return "shared memory";
	case SNAP__FILE__KIND__SOCKET:
		return "socket";
	default:
		return "unknown";
	}
}

/* What recovery does with it, as a user would say it. */
static const char *file_policy_text(const Snap__File *file)
{
	if (file->in_tree)
		return "of the job";
	switch (file->policy) {
	case SNAP__FILE__POLICY__INPUT:
		return "input";
	case SNAP__FILE__POLICY__IDENTITY:
		return file->content ? "must match" : "must be there";
	case SNAP__FILE__POLICY__RESTORE:
		return "put back";
	case SNAP__FILE__POLICY__TRUNCATE:
		return "cut back";
	case SNAP__FILE__POLICY__LEAVE:
		return "left alone";
	default:
		return "unknown";
	}
}

static json_t *files_json(const Snap__Snapshot *model)
{
	json_t *list = json_array();

	for (size_t i = 0; i < model->n_files; i++) {
		const Snap__File *file = model->files[i];
		json_t *o = json_object();

		json_object_set_new(o, "path", report_text(file->path));
		json_object_set_new(o, "kind", json_string(file_kind(file)));
		json_object_set_new(o, "recovery", json_string(file_policy_text(file)));
		json_object_set_new(o, "size", json_integer((json_int_t)file->size));
		json_object_set_new(o, "deleted", json_boolean(file->deleted));
		json_object_set_new(o, "content", json_boolean(file->content));
		json_array_append_new(list, o);
	}
	return list;
}

static void print_files(const Snap__Snapshot *model)
{
	char size[32];

	for (size_t i = 0; i < model->n_files; i++) {
		const Snap__File *file = model->files[i];

		printf("  %-13s %-13s %9s  %s%s\n", file_kind(file), file_policy_text(file),
		       format_size(file->size, size, sizeof(size)),
		       *file->path ? file->path : "(no name)", file->deleted ? " (deleted)" : "");
	}
}

static json_t *trees_json(const Snap__Snapshot *model)
{
	json_t *list = json_array();

	for (size_t i = 0; i < model->n_trees; i++) {
		const Snap__Tree *tree = model->trees[i];
		json_t *o = json_object();

		json_object_set_new(o, "path", report_text(tree->path));
		json_object_set_new(o, "files", json_integer((json_int_t)tree->files));
		json_object_set_new(o, "size", json_integer((json_int_t)tree->bytes));
		json_object_set_new(o, "exists", json_boolean(tree->objects > 0));
		json_array_append_new(list, o);
	}
	return list;
}

static void print_trees(const Snap__Snapshot *model)
{
	char size[32];

	for (size_t i = 0; i < model->n_trees; i++) {
		const Snap__Tree *tree = model->trees[i];

		if (tree->objects)
			printf("  directory     put back      %9s  %s with %llu files\n",
			       format_size(tree->bytes, size, sizeof(size)), tree->path,
			       (unsigned long long)tree->files);
		else
			printf("  directory     not there yet             %s\n", tree->path);
	}
}

/* ---- processes ----------------------------------------------------------------------------- */

static uint64_t mapped_bytes(const Snap__Process *process)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < process->n_regions; i++)
		sum += process->regions[i]->end - process->regions[i]->start;
	return sum;
}

static const char *process_name(const Snap__Process *process)
{
	return process->n_threads ? process->threads[0]->comm : "?";
}

static json_t *processes_json(const Snap__Snapshot *model)
{
	json_t *list = json_array();

	for (size_t i = 0; i < model->n_processes; i++) {
		const Snap__Process *p = model->processes[i];
		json_t *o = json_object();

		json_object_set_new(o, "pid", json_integer(p->pid));
		json_object_set_new(o, "name", report_text(process_name(p)));
		json_object_set_new(o, "threads", json_integer((json_int_t)p->n_threads));
		json_object_set_new(o, "regions", json_integer((json_int_t)p->n_regions));
		json_object_set_new(o, "mapped_bytes", json_integer((json_int_t)mapped_bytes(p)));
		json_object_set_new(o, "descriptors", json_integer((json_int_t)p->n_fds));
		json_object_set_new(o, "cwd", report_text(p->cwd));
		json_array_append_new(list, o);
	}
	return list;
}

static void print_processes(const Snap__Snapshot *model)
{
	char size[32];

	for (size_t i = 0; i < model->n_processes; i++) {
		const Snap__Process *p = model->processes[i];

		printf("  %d %s: %zu threads, %zu regions, %s mapped, %zu descriptors, in %s\n",
		       p->pid, process_name(p), p->n_threads, p->n_regions,
		       format_size(mapped_bytes(p), size, sizeof(size)), p->n_fds, p->cwd);
	}
}

/* ---- the whole ----------------------------------------------------------------------------- */

static void print_cpu(const Snap__Host *host)
{
	printf("cpu       %s, x86-64-v%u", *host->cpu ? host->cpu : "?",
	       arch_cpu_level(host->cpuid, host->n_cpuid));
	if (host->cpu_baseline)
		printf("; the job is kept to x86-64-v%u", host->cpu_baseline);
	putchar('\n');
}

static void print_info(const struct snapshot_info *info, const Snap__Host *host)
{
	char time[40], age[32], pause[32], wall[32], raw[32], stored[32];

	printf("%s@%llu\n", info->job, (unsigned long long)info->seq);
	printf("taken     %s (%s ago)%s\n", report_time(info->time, time, sizeof(time)),
	       report_age(clock_ns(CLOCK_REALTIME), info->time, age, sizeof(age)),
	       info->final ? ", when the job was stopped" : "");
	if (host)
		printf("on        %s, Linux %s %s\n", host->hostname, host->kernel, host->machine);
	if (host)
		print_cpu(host);
	printf("cost      pause %s, %s until durable\n",
	       format_duration(info->pause_us * 1000, pause, sizeof(pause)),
	       format_duration(info->wall_us * 1000, wall, sizeof(wall)));
	printf("pages     %llu resident, %llu looked at, %llu changed (tracker: %s)\n",
	       (unsigned long long)info->pages_resident, (unsigned long long)info->pages_candidate,
	       (unsigned long long)info->pages_changed, info->tracker);
	printf("stored    %s, of %s new content\n",
	       format_size(info->bytes_stored, stored, sizeof(stored)),
	       format_size(info->bytes_raw, raw, sizeof(raw)));
	if (info->parent)
		printf("parent    %s@%llu\n", info->job, (unsigned long long)info->parent);
}

/* What the job stood still for; the parts that took no time are left out. */
static const struct {
	const char *name, *key;
	size_t at;
} pause_parts[] = {
	{"arming", "arm", offsetof(Snap__Pause, arm)},
	{"freeze", "freeze", offsetof(Snap__Pause, freeze)},
	{"description", "describe", offsetof(Snap__Pause, describe)},
	{"page tables", "scan", offsetof(Snap__Pause, scan)},
	{"pages", "copy", offsetof(Snap__Pause, copy)},
	{"files", "files", offsetof(Snap__Pause, files)},
	{"streams", "streams", offsetof(Snap__Pause, streams)},
	{"release", "release", offsetof(Snap__Pause, release)},
};
#define N_PAUSE_PARTS (sizeof(pause_parts) / sizeof(pause_parts[0]))

static uint64_t pause_part(const Snap__Pause *pause, size_t i)
{
	return *(const uint64_t *)(const void *)((const char *)pause + pause_parts[i].at);
}

static void print_pause(const Snap__Pause *pause)
{
	const char *comma = "";
	char text[32];

	if (!pause)
		return;
	printf("pause     ");
	for (size_t i = 0; i < N_PAUSE_PARTS; i++) {
		if (pause_part(pause, i) == 0)
			continue;
		printf("%s%s %s", comma, pause_parts[i].name,
		       format_duration(pause_part(pause, i) * 1000, text, sizeof(text)));
		comma = ", ";
	}
	printf("\n");
}

static json_t *pause_json(const Snap__Pause *pause)
{
	json_t *o = json_object();

	for (size_t i = 0; pause && i < N_PAUSE_PARTS; i++)
		json_object_set_new(o, pause_parts[i].key, json_integer((json_int_t)pause_part(pause, i)));
	return o;
}

static void print_places(const json_t *places)
{
	printf("durable  ");
	for (size_t i = 0; i < json_array_size(places); i++)
		printf("%s %s", i ? "," : "", json_string_value(json_array_get(places, i)));
	printf("\n");
}

static void print_snapshot(const struct snapshot_info *info, const Snap__Snapshot *model,
			   const json_t *places)
{
	print_info(info, model->host);
	print_places(places);
	print_pause(model->pause);
	printf("processes\n");
	print_processes(model);
	printf("files\n");
	print_files(model);
	print_trees(model);
}

static json_t *snapshot_json(const struct snapshot_info *info, const Snap__Snapshot *model,
			     const struct object_list *objects)
{
	json_t *o = report_snapshot(info);

	if (model->host) {
		json_object_set_new(o, "hostname", report_text(model->host->hostname));
		json_object_set_new(o, "kernel", report_text(model->host->kernel));
		json_object_set_new(o, "machine", report_text(model->host->machine));
		json_object_set_new(o, "cpu", report_text(model->host->cpu));
		json_object_set_new(o, "cpu_level",
				    json_integer(arch_cpu_level(model->host->cpuid, model->host->n_cpuid)));
		json_object_set_new(o, "cpu_baseline", json_integer(model->host->cpu_baseline));
	}
	json_object_set_new(o, "pause_parts_us", pause_json(model->pause));
	json_object_set_new(o, "process_list", processes_json(model));
	json_object_set_new(o, "file_list", files_json(model));
	json_object_set_new(o, "directory_list", trees_json(model));
	json_object_set_new(o, "object_list", objects_json(objects));
	return o;
}

static int print(const struct snapshot_info *info, const Snap__Snapshot *model, json_t *places,
		 bool json, bool objects, struct err *err)
{
	struct object_list list;
	json_t *o;

	if (objects_list(&list, model, NULL, err) < 0)
		return -1;
	if (json) {
		o = snapshot_json(info, model, &list);
		json_object_set(o, "durable", places);
		report_print(o);
	} else if (objects) {
		objects_print(&list, model);
	} else {
		print_snapshot(info, model, places);
	}
	objects_clear(&list);
	return 0;
}

static int show(const struct cli_args *args, bool objects, struct err *err)
{
	cleanup_store struct store *store = NULL;
	Snap__Snapshot *model = NULL;
	struct replica_state *states;
	struct snapshot_info info;
	struct jobref ref;
	size_t n_states;
	json_t *places;
	int ret;

	if (jobref_parse(args->operands[0], &ref, err) < 0 ||
	    cli_open_store(args, STORE_READ, &store, err) < 0 ||
	    load_snapshot(store, &ref, &info, &model, err) < 0)
		return -1;
	ret = store_replicas_get(store, ref.job, &states, &n_states, err);
	if (ret == 0) {
		places = report_places(states, n_states, info.time, info.generation, true);
		ret = print(&info, model, places, args->json, objects, err);
		json_decref(places);
		replica_states_free(states, n_states);
	}
	snap__snapshot__free_unpacked(model, NULL);
	return ret;
}

int cmd_show(int argc, char **argv)
{
	struct err err = {0};
	struct cli_args args;
	bool objects = false;
	int status;

	if (!cli_begin(&spec, argc, argv, &objects, &args, &status))
		return status;
	return show(&args, objects, &err) < 0 ? cli_fail(&err) : cli_finish();
}
