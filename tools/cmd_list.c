#include "tools/commands.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/units.h"
#include "store/replicas.h"
#include "tools/cli.h"
#include "tools/jobref.h"
#include "tools/report.h"
#include "watchdog/watchdog.h"

static const struct cli_option options[] = {
	CLI_OPTION_JSON, CLI_OPTION_STORE, CLI_OPTION_ANY_FS, CLI_OPTION_HELP, CLI_OPTION_END,
};

static const struct cli_spec spec = {
	.name = "list",
	.operands = "[JOB]",
	.about = "List the jobs of the store, or the snapshots of JOB.\n"
		 "\n"
		 "States: new, running, recovering (being rebuilt), stopped (saved and ended on\n"
		 "request), finished (ended by itself), failed (given up), crashed (its watchdog is\n"
		 "gone). Jobs that are stopped, failed or crashed and have a snapshot go on with\n"
		 "'pawl recover JOB'.",
	.options = options,
	.most = 1,
};

struct replicas_known {
	struct replica_state *states;
	size_t n;
};

/* What a row of the table needs of a job. */
struct row {
	const struct job_info *job;
	const char *state;
	bool running;
	size_t snapshots;
	uint64_t last_seq, last_time, last_pause_us, bytes;
	bool answers; /* its watchdog has told its status */
	struct job_status status;
};

static int fill_row(struct store *store, const struct job_info *job, struct row *ret,
		    struct err *err)
{
	cleanup_free struct snapshot_info *list = NULL;
	struct row row = {.job = job, .state = report_state(store, job)};
	struct err ignored;

	if (store_snapshot_list(store, job->name, &list, &row.snapshots, err) < 0)
		return -1;
	row.running = strcmp(row.state, "running") == 0;
	for (size_t i = 0; i < row.snapshots; i++)
		row.bytes += list[i].bytes_stored;
	if (row.snapshots) {
		const struct snapshot_info *last = &list[row.snapshots - 1];

		row.last_seq = last->seq;
		row.last_time = last->time;
		row.last_pause_us = last->pause_us;
	}
	if (row.running)
		row.answers = control_status(store, job->name, &row.status, &ignored) == 0;
	*ret = row;
	return 0;
}

static json_t *row_json(const struct row *row)
{
	const struct job_info *job = row->job;
	json_t *o = json_object(), *argv = json_array();
	char time[40];

	json_object_set_new(o, "name", report_text(job->name));
	json_object_set_new(o, "state", json_string(row->state));
	json_object_set_new(o, "pid",
			    row->running && job->leader_pid ? json_integer(job->leader_pid)
							    : json_null());
	json_object_set_new(o, "snapshots", json_integer((json_int_t)row->snapshots));
	json_object_set_new(o, "last_snapshot",
			    row->last_seq ? json_integer((json_int_t)row->last_seq) : json_null());
	json_object_set_new(o, "last_time",
			    row->last_time
				    ? json_string(report_time(row->last_time, time, sizeof(time)))
				    : json_null());
	json_object_set_new(o, "bytes_stored", json_integer((json_int_t)row->bytes));
	json_object_set_new(o, "watchdog_pid",
			    row->running ? json_integer(job->watchdog_pid) : json_null());
	json_object_set_new(o, "exit_status",
			    job->state == JOB_FINISHED ? json_integer(job->exit_status)
						       : json_null());
	json_object_set_new(o, "generation", json_integer((json_int_t)job->generation));
	json_object_set_new(o, "interval",
			    row->answers ? report_interval(&row->status) : json_null());
	for (size_t i = 0; i < job->argc; i++)
		json_array_append_new(argv, report_text(job->argv[i]));
	json_object_set_new(o, "argv", argv);
	json_object_set_new(o, "cwd", report_text(job->cwd ? job->cwd : ""));
	return o;
}

static void print_table(const struct row *rows, size_t n)
{
	char pid[16], last[64], pause[32], size[32], age[32];
	uint64_t now = clock_ns(CLOCK_REALTIME);
	int width = 4;

	for (size_t i = 0; i < n; i++)
		if ((int)strlen(rows[i].job->name) > width)
			width = (int)strlen(rows[i].job->name);
	printf("%-*s  %-10s %8s %9s  %-18s %9s %9s\n", width, "NAME", "STATE", "PID", "SNAPSHOTS",
	       "LAST", "PAUSE", "SIZE");
	for (size_t i = 0; i < n; i++) {
		const struct row *r = &rows[i];

		strcpy(pid, "-");
		strcpy(last, "-");
		strcpy(pause, "-");
		if (r->running && r->job->leader_pid)
			snprintf(pid, sizeof(pid), "%d", r->job->leader_pid);
		if (r->last_seq) {
			snprintf(last, sizeof(last), "@%llu, %s ago",
				 (unsigned long long)r->last_seq,
				 report_age(now, r->last_time, age, sizeof(age)));
			format_duration(r->last_pause_us * 1000, pause, sizeof(pause));
		}
		printf("%-*s  %-10s %8s %9zu  %-18s %9s %9s\n", width, r->job->name, r->state, pid,
		       r->snapshots, last, pause, format_size(r->bytes, size, sizeof(size)));
	}
}

static void print_rows(const struct row *rows, size_t n, bool json)
{
	json_t *list;

	if (!json) {
		if (n)
			print_table(rows, n);
		else
			fprintf(stderr, "pawl: no jobs ('pawl run -- CMD' starts one)\n");
		return;
	}
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, row_json(&rows[i]));
	report_print(list);
}

/* A job that is dropped while we look is not an error, it is not there. */
static int fill_rows(struct store *store, const struct job_info *jobs, size_t n, struct row *rows,
		     size_t *ret_filled, struct err *err)
{
	size_t filled = 0;

	for (size_t i = 0; i < n; i++) {
		if (fill_row(store, &jobs[i], &rows[filled], err) == 0)
			filled++;
		else if (err->kind != ERR_NOT_FOUND)
			return -1;
	}
	*ret_filled = filled;
	return 0;
}

static int list_jobs(struct store *store, bool json, struct err *err)
{
	cleanup_free struct row *rows = NULL;
	struct job_info *jobs = NULL;
	size_t n = 0, filled = 0;
	int ret;

	if (store_job_list(store, &jobs, &n, err) < 0)
		return -1;
	rows = calloc(n + 1, sizeof(*rows));
	ret = rows ? fill_rows(store, jobs, n, rows, &filled, err)
		   : err_sys(err, "cannot list jobs");
	if (ret == 0)
		print_rows(rows, filled, json);
	for (size_t i = 0; i < n; i++)
		job_info_clear(&jobs[i]);
	free(jobs);
	return ret;
}

static bool is_here(const struct snapshot_info *list, size_t n, const struct replica_mark *mark)
{
	for (size_t i = 0; i < n; i++)
		if (list[i].time == mark->time && list[i].generation == mark->generation)
			return true;
	return false;
}

/* Snapshots that are at a destination only, as of the last contact. */
static void print_elsewhere(const struct replicas_known *known, const struct snapshot_info *list,
			    size_t n)
{
	char age[32];

	for (size_t i = 0; i < known->n; i++) {
		const struct replica_state *s = &known->states[i];

		for (size_t k = 0; k < s->n_marks; k++)
			if (!is_here(list, n, &s->marks[k]))
				printf("%5llu  %-12s not here; at %s\n",
				       (unsigned long long)s->marks[k].seq,
				       report_age(clock_ns(CLOCK_REALTIME), s->marks[k].time, age,
						  sizeof(age)),
				       s->destination);
	}
	for (size_t i = 0; i < known->n; i++)
		if (known->states[i].error)
			printf("not replicated now: %s\n", known->states[i].error);
}

static void print_snapshots(const struct snapshot_info *list, size_t n,
			    const struct replicas_known *known)
{
	char age[32], pause[32], wall[32], stored[32];
	uint64_t now = clock_ns(CLOCK_REALTIME);

	printf("%5s  %-12s %9s %9s %10s %10s %9s  %s\n", "SEQ", "AGE", "PAUSE", "WALL", "PAGES",
	       "CHANGED", "STORED", "TRACKER");
	for (size_t i = 0; i < n; i++) {
		const struct snapshot_info *s = &list[i];

		if (s->time == 0) {
			printf("%5llu  damaged ('pawl verify %s@%llu' tells more)\n",
			       (unsigned long long)s->seq, s->job, (unsigned long long)s->seq);
			continue;
		}
		printf("%5llu  %-12s %9s %9s %10llu %10llu %9s  %s%s", (unsigned long long)s->seq,
		       report_age(now, s->time, age, sizeof(age)),
		       format_duration(s->pause_us * 1000, pause, sizeof(pause)),
		       format_duration(s->wall_us * 1000, wall, sizeof(wall)),
		       (unsigned long long)s->pages_resident, (unsigned long long)s->pages_changed,
		       format_size(s->bytes_stored, stored, sizeof(stored)), s->tracker,
		       s->final ? ", final" : "");
		for (size_t k = 0; k < known->n; k++)
			if (replica_state_has(&known->states[k], s->time, s->generation))
				printf(", also at %s", known->states[k].destination);
		printf("\n");
	}
}

static json_t *snapshots_json(const struct snapshot_info *list, size_t n,
			      const struct replicas_known *known)
{
	json_t *array = json_array();

	for (size_t i = 0; i < n; i++) {
		json_t *o = report_snapshot(&list[i]);

		json_object_set_new(o, "durable",
				    report_places(known->states, known->n, list[i].time,
						  list[i].generation, true));
		json_array_append_new(array, o);
	}
	for (size_t i = 0; i < known->n; i++)
		for (size_t k = 0; k < known->states[i].n_marks; k++) {
			const struct replica_mark *mark = &known->states[i].marks[k];

			if (!is_here(list, n, mark))
				json_array_append_new(
					array, json_pack("{s:I, s:I, s:[s]}", "seq",
							 (json_int_t)mark->seq, "generation",
							 (json_int_t)mark->generation, "durable",
							 known->states[i].destination));
		}
	return array;
}

/* When the next one comes, and why then. */
static void print_schedule(struct store *store, const char *job)
{
	struct job_status status;
	char text[256], next[32];
	struct err ignored;

	if (control_status(store, job, &status, &ignored) < 0)
		return;
	printf("interval: %s", interval_text(&status.interval, text, sizeof(text)));
	if (status.next_ns != UINT64_MAX)
		printf("; next in %s", format_duration(status.next_ns, next, sizeof(next)));
	putchar('\n');
}

static int list_snapshots(struct store *store, const char *text, bool json, struct err *err)
{
	cleanup_free struct snapshot_info *list = NULL;
	struct job_info info;
	struct replicas_known known;
	bool running;
	struct jobref ref;
	size_t n = 0;

	if (jobref_parse_job(text, &ref, err) < 0 || cli_get_job(store, ref.job, &info, err) < 0)
		return -1;
	running = strcmp(report_state(store, &info), "running") == 0;
	job_info_clear(&info);
	if (store_snapshot_list(store, ref.job, &list, &n, err) < 0 ||
	    store_replicas_get(store, ref.job, &known.states, &known.n, err) < 0)
		return -1;
	if (!json && n)
		print_snapshots(list, n, &known);
	else if (!json)
		fprintf(stderr, "pawl: job %s has no snapshots yet\n", ref.job);
	if (json)
		report_print(snapshots_json(list, n, &known));
	else
		print_elsewhere(&known, list, n);
	if (!json && running)
		print_schedule(store, ref.job);
	replica_states_free(known.states, known.n);
	return 0;
}

/* Nobody has run anything yet: the default store is not there, and that is not an error. */
static bool no_store_yet(const struct cli_args *args)
{
	char dir[PATH_MAX];
	struct stat st;
	struct err err;

	return !args->store && !getenv("PAWL_STORE") &&
	       cli_store_dir(args, dir, sizeof(dir), &err) == 0 && stat(dir, &st) < 0 &&
	       errno == ENOENT;
}

int cmd_list(int argc, char **argv)
{
	cleanup_store struct store *store = NULL;
	struct err err = {0};
	struct cli_args args;
	int status, ret;

	if (!cli_begin(&spec, argc, argv, NULL, &args, &status))
		return status;
	if (args.n_operands == 0 && no_store_yet(&args)) {
		print_rows(NULL, 0, args.json);
		return cli_finish();
	}
	if (cli_open_store(&args, STORE_READ, &store, &err) < 0)
		return cli_fail(&err);
	ret = args.n_operands ? list_snapshots(store, args.operands[0], args.json, &err)
			      : list_jobs(store, args.json, &err);
	return ret < 0 ? cli_fail(&err) : cli_finish();
}
