#include "tools/commands.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store/base/io.h"
#include "tools/cli.h"
#include "tools/jobref.h"
#include "tools/report.h"
#include "watchdog/joblog.h"

#define FOLLOW_LOOK_US 200000

enum { LOG_STREAM = CLI_OWN };

struct log_options {
	bool follow, times;
	bool mid_line; /* what was printed last did not end its line */
	int stream;    /* 0: all */
};

static const struct cli_option options[] = {
	{'f', "follow", NULL, "go on until the job has ended"},
	{'t', "times", NULL, "put the time before each line"},
	{LOG_STREAM, "stream", "STREAM", "only this one: stdout, stderr or terminal"},
	CLI_OPTION_JSON,
	CLI_OPTION_STORE,
	CLI_OPTION_ANY_FS,
	CLI_OPTION_HELP,
	CLI_OPTION_END,
};

static const char *const stream_names[] = {
	[JOBLOG_STDOUT] = "stdout",
	[JOBLOG_STDERR] = "stderr",
	[JOBLOG_TERMINAL] = "terminal",
};

static int set(void *ctx, int key, const char *value, struct err *err)
{
	struct log_options *o = ctx;

	if (key == 'f') {
		o->follow = true;
		return 0;
	}
	if (key == 't') {
		o->times = true;
		return 0;
	}
	for (int i = JOBLOG_STDOUT; i <= JOBLOG_TERMINAL; i++) {
		if (strcmp(value, stream_names[i]) == 0) {
			o->stream = i;
			return 0;
		}
	}
	return err_set(err, ERR_INVALID, "--stream: '%s' is not stdout, stderr or terminal", value);
}

static const struct cli_spec spec = {
	.name = "log",
	.operands = "JOB",
	.about = "Print what JOB has written to the standard streams that pawl keeps (those that "
		 "are not\n"
		 "regular files), as of its current state: after a recovery, what had been written "
		 "after\n"
		 "the snapshot is gone from the log, as it is from the job. Standard error goes to "
		 "standard\n"
		 "error. With --json: one object a line, with time, stream and text.",
	.options = options,
	.least = 1,
	.most = 1,
	.set = set,
};

static void print_json(const struct joblog_record *record)
{
	json_t *o = json_object();
	char time[40];

	json_object_set_new(o, "time", json_string(report_time(record->time, time, sizeof(time))));
	json_object_set_new(o, "stream", json_string(stream_names[record->stream]));
	json_object_set_new(o, "text", report_bytes(record->data, record->len));
	json_dumpf(o, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER);
	putchar('\n');
	json_decref(o);
}

/* The time stands before each line: that of the piece its first byte came in. */
static void print_lines(struct log_options *o, const struct joblog_record *record, FILE *to)
{
	const char *p = record->data, *end = p + record->len;
	char time[40];

	report_time(record->time, time, sizeof(time));
	while (p < end) {
		const char *newline = memchr(p, '\n', (size_t)(end - p));
		const char *next = newline ? newline + 1 : end;

		if (!o->mid_line)
			fprintf(to, "%s ", time);
		fwrite(p, 1, (size_t)(next - p), to);
		o->mid_line = !newline;
		p = next;
	}
}

static void print_record(struct log_options *o, bool json, const struct joblog_record *record)
{
	FILE *to = record->stream == JOBLOG_STDERR ? stderr : stdout;

	if (o->stream && o->stream != (int)record->stream)
		return;
	if (json)
		print_json(record);
	else if (o->times)
		print_lines(o, record, to);
	else
		fwrite(record->data, 1, record->len, to);
}

/* Everything up to the end of the log as of now. *offset: where to go on. A log that a recovery has
 * cut shorter goes on where it was cut. */
static int print_some(const char *path, struct log_options *o, bool json, uint64_t *offset,
		      struct err *err)
{
	struct joblog_reader *reader = NULL;
	struct joblog_record record;
	struct stat st;
	int ret;

	if (*offset && stat(path, &st) == 0 && (uint64_t)st.st_size < *offset)
		*offset = (uint64_t)st.st_size;
	if (joblog_reader_open(&reader, path, *offset, err) < 0)
		return err->kind == ERR_NOT_FOUND ? 0 : -1; /* nothing has been written */
	while ((ret = joblog_read(reader, &record, err)) > 0)
		print_record(o, json, &record);
	*offset = joblog_reader_offset(reader);
	joblog_reader_close(reader);
	return ret;
}

static int print_log(const struct cli_args *args, struct log_options *o, struct err *err)
{
	cleanup_store struct store *store = NULL;
	char path[PATH_MAX];
	struct job_info job;
	struct jobref ref;
	uint64_t offset = 0;
	bool locked = true;

	if (jobref_parse_job(args->operands[0], &ref, err) < 0 ||
	    cli_open_store(args, STORE_READ, &store, err) < 0)
		return -1;
	for (bool first = true; first || (o->follow && locked); first = false) {
		if (!first)
			usleep(FOLLOW_LOOK_US);
		if (cli_get_job(store, ref.job, &job, err) < 0)
			return -1;
		/* Asked first: what is written before the job ends is printed. */
		locked = store_job_is_locked(store, &job);
		store_job_log_path(store, &job, path, sizeof(path));
		job_info_clear(&job);
		if (print_some(path, o, args->json, &offset, err) < 0)
			return -1;
		if (fflush(stdout) != 0)
			return err_sys(err, "cannot write to standard output");
	}
	return 0;
}

int cmd_log(int argc, char **argv)
{
	struct log_options o = {0};
	struct err err = {0};
	struct cli_args args;
	int status;

	if (!cli_begin(&spec, argc, argv, &o, &args, &status))
		return status;
	return print_log(&args, &o, &err) < 0 ? cli_fail(&err) : cli_finish();
}
