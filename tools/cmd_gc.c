#include "tools/commands.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>

#include "store/base/units.h"
#include "tools/cli.h"
#include "tools/report.h"

enum { GC_COMPACT = CLI_OWN, GC_SALVAGE };

struct gc_options {
	bool compact, salvage;
};

static const struct cli_option options[] = {
	{GC_COMPACT, "compact", NULL,
	 "also give the space back to the file system;\nneeds to be the only user of the store"},
	{GC_SALVAGE, "salvage", NULL,
	 "make a store that cannot be opened anew, with every\nsnapshot that can still be read whole; the damaged\n"
	 "file stays beside it as data.mdb.damaged"},
	CLI_OPTION_JSON,
	CLI_OPTION_STORE,
	CLI_OPTION_ANY_FS,
	CLI_OPTION_HELP,
	CLI_OPTION_END,
};

static int set(void *ctx, int key, const char *value, struct err *err)
{
	struct gc_options *o = ctx;

	if (key == GC_COMPACT)
		o->compact = true;
	else
		o->salvage = true;
	return 0;
}

static const struct cli_spec spec = {
	.name = "gc",
	.operands = "",
	.about = "Free what no snapshot refers to any more. The space is used again by later "
		 "snapshots;\n"
		 "the store's file keeps its size unless --compact is given. Jobs may run "
		 "meanwhile.",
	.options = options,
	.set = set,
};

static void print_stats(const struct gc_stats *gc, const struct store_usage *usage)
{
	char freed[32], returned[32], file[32], reusable[32];

	printf("freed %s", format_size(gc->bytes_freed, freed, sizeof(freed)));
	if (gc->bytes_returned)
		printf(", given back %s",
		       format_size(gc->bytes_returned, returned, sizeof(returned)));
	printf("; the store has %s, of which %s are free\n",
	       format_size(usage->file_bytes, file, sizeof(file)),
	       format_size(usage->free_bytes, reusable, sizeof(reusable)));
}

static json_t *stats_json(const struct gc_stats *gc, const struct store_usage *usage)
{
	return json_pack(
		"{sIsIsIsIsIsIsIsI}", "bytes_freed", (json_int_t)gc->bytes_freed, "bytes_returned",
		(json_int_t)gc->bytes_returned, "packs_freed", (json_int_t)gc->packs_freed,
		"packs_compacted", (json_int_t)gc->packs_compacted, "nodes_freed",
		(json_int_t)gc->nodes_freed, "snapshots_freed", (json_int_t)gc->snapshots_freed,
		"store_bytes", (json_int_t)usage->file_bytes, "store_free_bytes",
		(json_int_t)usage->free_bytes);
}

static int salvage(const struct cli_args *args)
{
	struct salvage_stats stats;
	struct err err = {0};
	char dir[PATH_MAX];

	if (cli_store_dir(args, dir, sizeof(dir), &err) < 0 ||
	    store_salvage(dir, args->any_fs ? STORE_ANY_FS : 0, &stats, &err) < 0)
		return cli_fail(&err);
	if (args->json)
		report_print(json_pack("{sIsIsI}", "jobs", (json_int_t)stats.jobs, "snapshots",
				       (json_int_t)stats.snapshots, "lost", (json_int_t)stats.lost));
	else
		printf("saved %" PRIu64 " snapshots of %" PRIu64 " jobs, %" PRIu64 " are lost; the damaged file is "
		       "%s/data.mdb.damaged\n",
		       stats.snapshots, stats.jobs, stats.lost, dir);
	return cli_finish();
}

int cmd_gc(int argc, char **argv)
{
	cleanup_store struct store *store = NULL;
	struct store_usage usage = {0};
	struct gc_stats stats = {0};
	struct err err = {0};
	struct cli_args args;
	struct gc_options o = {0};
	int status;

	if (!cli_begin(&spec, argc, argv, &o, &args, &status))
		return status;
	if (o.salvage)
		return salvage(&args);
	if (cli_open_store(&args, STORE_WRITE, &store, &err) < 0 ||
	    store_gc(store, STORE_GC_THOROUGH | (o.compact ? STORE_GC_COMPACT : 0), &stats, &err) < 0 ||
	    store_usage(store, &usage, &err) < 0)
		return cli_fail(&err);
	if (args.json)
		report_print(stats_json(&stats, &usage));
	else
		print_stats(&stats, &usage);
	return cli_finish();
}
