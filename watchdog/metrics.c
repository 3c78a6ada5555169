#include "watchdog/metrics.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"

void metrics_taken(struct metrics *m, const struct snapshot_info *info, uint64_t cpu_ns)
{
	m->snapshots++;
	m->pause_us += info->pause_us;
	m->wall_us += info->wall_us;
	m->cpu_ns += cpu_ns;
	m->bytes_new += info->bytes_raw;
	m->bytes_stored += info->bytes_stored;
	m->pages_changed += info->pages_changed;
	if (info->pause_us > m->longest_pause_us)
		m->longest_pause_us = info->pause_us;
	m->last = *info;
	m->has_last = true;
}

/* ---- text ---------------------------------------------------------------------------------- */

/* Of a label's value only these three are special. */
static void put_label(FILE *out, const char *name, const char *value)
{
	fprintf(out, "%s=\"", name);
	for (; *value; value++) {
		if (*value == '\\' || *value == '"')
			fprintf(out, "\\%c", *value);
		else if (*value == '\n')
			fputs("\\n", out);
		else
			fputc(*value, out);
	}
	fputc('"', out);
}

static void put(FILE *out, const struct metrics *m, const char *name, const char *type,
		const char *help, double value)
{
	fprintf(out, "# HELP pawl_%s %s\n# TYPE pawl_%s %s\npawl_%s{", name, help, name, type,
		name);
	put_label(out, "job", m->job);
	fputc(',', out);
	put_label(out, "store", m->store);
	fprintf(out, "} %.17g\n", value);
}

static void put_totals(FILE *out, const struct metrics *m)
{
	const struct {
		const char *name, *help;
		double value;
	} all[] = {
		{"snapshots_total", "Snapshots taken.", (double)m->snapshots},
		{"snapshot_failures_total", "Snapshots that failed.", (double)m->failures},
		{"restarts_total", "Times the job was recovered from a snapshot.",
		 (double)m->restarts},
		{"snapshot_pause_seconds_total", "Time the job stood still.",
		 (double)m->pause_us / 1e6},
		{"snapshot_wall_seconds_total", "Time from request to durable.",
		 (double)m->wall_us / 1e6},
		{"snapshot_cpu_seconds_total", "CPU time of pawl for snapshots.",
		 (double)m->cpu_ns / 1e9},
		{"snapshot_new_bytes_total", "New content, before compression.",
		 (double)m->bytes_new},
		{"snapshot_stored_bytes_total", "Bytes added to the store.",
		 (double)m->bytes_stored},
		{"snapshot_changed_pages_total", "Pages that had changed.",
		 (double)m->pages_changed},
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		put(out, m, all[i].name, "counter", all[i].help, all[i].value);
}

static void put_last(FILE *out, const struct metrics *m, uint64_t now)
{
	const struct snapshot_info *s = &m->last;
	const struct {
		const char *name, *help;
		double value;
	} all[] = {
		{"last_snapshot_number", "N of the last good snapshot JOB@N.", (double)s->seq},
		{"last_snapshot_timestamp_seconds", "When it was taken.", (double)s->time / 1e9},
		{"last_snapshot_age_seconds", "Its age when this was written.",
		 now > s->time ? (double)(now - s->time) / 1e9 : 0},
		{"last_snapshot_pause_seconds", "How long the job stood still.",
		 (double)s->pause_us / 1e6},
		{"last_snapshot_wall_seconds", "From request to durable.",
		 (double)s->wall_us / 1e6},
		{"last_snapshot_new_bytes", "New content, before compression.",
		 (double)s->bytes_raw},
		{"last_snapshot_stored_bytes", "Bytes added to the store.",
		 (double)s->bytes_stored},
		{"last_snapshot_changed_pages", "Pages that had changed.",
		 (double)s->pages_changed},
		{"last_snapshot_resident_pages", "Pages the job had.", (double)s->pages_resident},
	};

	for (size_t i = 0; m->has_last && i < sizeof(all) / sizeof(all[0]); i++)
		put(out, m, all[i].name, "gauge", all[i].help, all[i].value);
}

static void put_state(FILE *out, const struct metrics *m, uint64_t now)
{
	const struct interval_choice *c = &m->interval;

	put(out, m, "job_running", "gauge", "Whether the job runs.", m->running);
	put(out, m, "job_generation", "gauge", "Launches and recoveries of the job so far.",
	    (double)m->generation);
	if (m->has_exit)
		put(out, m, "job_exit_status", "gauge", "What pawl has exited with.",
		    m->exit_status);
	put(out, m, "longest_pause_seconds", "gauge", "Longest pause of a snapshot.",
	    (double)m->longest_pause_us / 1e6);
	put(out, m, "snapshot_interval_seconds", "gauge",
	    "Time between snapshots; 0: only on request.", (double)c->interval_ns / 1e9);
	put(out, m, "snapshot_interval_auto", "gauge",
	    "How it is chosen: 0 by the user, 1 the best for cost and mtbf, 2 the floor, 3 the "
	    "ceiling.",
	    (double)c->reason);
	if (c->reason != INTERVAL_FIXED) {
		put(out, m, "snapshot_cost_seconds", "gauge",
		    "Time of the job that a snapshot costs.", c->cost_s);
		put(out, m, "mtbf_seconds", "gauge", "Mean time between failures, as told.",
		    c->mtbf_s);
	}
	put(out, m, "metrics_timestamp_seconds", "gauge", "When this was written.",
	    (double)now / 1e9);
}

int metrics_text(const struct metrics *m, uint64_t now, char **ret, struct err *err)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		return err_sys(err, "metrics");
	put_totals(out, m);
	put_last(out, m, now);
	put_state(out, m, now);
	if (fclose(out) != 0) {
		free(text);
		return err_sys(err, "metrics");
	}
	*ret = text;
	return 0;
}

/* ---- file ---------------------------------------------------------------------------------- */

/* node_exporter takes files that end with ".prom": the new one does not. */
static int name_new(const char *path, char *buf, size_t len, struct err *err)
{
	const char *slash = strrchr(path, '/');
	int dir = slash ? (int)(slash - path + 1) : 0;

	if ((size_t)snprintf(buf, len, "%.*s.%s.%d", dir, path, path + dir, getpid()) >= len)
		return err_set(err, ERR_INVALID, "%s: the name is too long", path);
	return 0;
}

int metrics_write(const char *path, const char *text, struct err *err)
{
	cleanup_fd int fd = -1;
	char fresh[PATH_MAX];

	if (name_new(path, fresh, sizeof(fresh), err) < 0)
		return -1;
	unlink(fresh); /* of a dead process with our number */
	fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0)
		return err_sys(err, "cannot write metrics to %s", path);
	if (fchmod(fd, 0644) < 0 || write_full(fd, text, strlen(text)) < 0 ||
	    rename(fresh, path) < 0) {
		err_sys(err, "cannot write metrics to %s", path);
		unlink(fresh);
		return -1;
	}
	return 0;
}
