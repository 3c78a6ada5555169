#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "recovery/recovery.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "watchdog/baseline.h"
#include "watchdog/supervise.h"

struct checkpoint_config wd_checkpoint_config(const struct watchdog *w, pid_t leader_vpid)
{
	const struct watchdog_config *config = w->config;
	struct checkpoint_config result = {
		.root = capsule_root(w->capsule),
		.leader_vpid = leader_vpid,
		.user_namespace = w->capsule->user_namespace,
		.new_ids = w->capsule->plain,
		.terminal = w->streams.terminal_identity,
		.inherited = w->caller.outside,
		.n_inherited = w->caller.n_outside,
		.tracker = config->tracker,
		.codec = config->codec,
		.rules = config->rules,
		.n_rules = config->n_rules,
		.file_size_limit = config->file_size_limit,
		.connections = config->connections,
		.cpu_baseline = w->cpu_baseline,
		.memory_budget = config->memory_budget,
		.nice = config->nice,
		.rate = config->rate,
		.save_dirs = (const char *const *)config->save_dirs,
		.n_save_dirs = config->n_save_dirs,
		.check_model = recovery_check_relations,
	};

	memcpy(result.stream, w->streams.identity, sizeof(result.stream));
	return result;
}

int wd_open_logs(struct watchdog *w, struct err *err)
{
	char path[PATH_MAX];

	store_job_log_path(w->store, &w->job, path, sizeof(path));
	if (!w->log && joblog_open(&w->log, path, err) < 0)
		return -1;
	w->streams.pump.log = w->log;
	if (w->streams.kind[0] != STREAM_PUMPED)
		return 0;
	store_job_stdin_path(w->store, &w->job, path, sizeof(path));
	if (!w->input && stdinlog_open(&w->input, path, err) < 0)
		return -1;
	w->streams.pump.input = w->input;
	return 0;
}

/* What earlier runs have left stays as long as their snapshots do. */
static int begin_logs(struct watchdog *w, struct err *err)
{
	cleanup_free struct snapshot_info *infos = NULL;
	size_t n;

	if (store_snapshot_list(w->store, w->job.name, &infos, &n, err) < 0)
		return -1;
	if (n > 0 && joblog_repair(w->log, err) < 0)
		return -1;
	if (joblog_begin(w->log, n > 0, err) < 0)
		return -1;
	if (!w->input)
		return 0;
	if (stdinlog_begin(w->input, n > 0, err) < 0)
		return -1;
	streams_open_input(&w->streams, stdinlog_size(w->input), 0);
	return 0;
}

/* Jobs on one machine share /tmp, where programs make names of their pids (java's /tmp/hsperfdata_*, temporary files
 * of scripts): so their pids differ, and stay apart for a while. Below 32768, for other machines may give no higher. */
static int first_pids(pid_t watchdog)
{
	const int lowest = 300, span = 32000, step = 19777; /* step/span: about the golden ratio, without a common factor */

	return lowest + (int)((int64_t)watchdog * step % span);
}

static int make_capsule(struct watchdog *w, struct err *err)
{
	const struct streams *s = &w->streams;
	const struct capsule_config config = {
		.plain_root = true,
		.terminal = s->slave,
		.argv = w->config->argv,
		.last_pid = first_pids(getpid()),
		.stream = {s->job_end[0], s->job_end[1], s->job_end[2]},
		.caller = &w->caller,
	};

	return capsule_create(&w->capsule, &config, err);
}

static int execute(struct watchdog *w, pid_t *ret_vpid, struct err *err)
{
	const char *command = w->config->argv[0];
	pid_t pid;

	if (capsule_launch(w->capsule, &pid, ret_vpid, &w->exec_errno, err) == 0) {
		w->job.leader_pid = pid;
		w->started = true;
		return 0;
	}
	if (w->exec_errno == ENOENT && !strchr(command, '/'))
		return err_set(err, ERR_NOT_FOUND, "%s: command not found", command);
	if (w->exec_errno)
		return err_code(err, w->exec_errno, "cannot run %s", command);
	return -1;
}

int wd_launch(struct watchdog *w, struct err *err)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);
	struct checkpoint_config config;
	pid_t vpid;

	w->cpu_baseline = w->config->cpu_baseline;
	if (w->cpu_baseline && baseline_apply(w->cpu_baseline, err) < 0)
		return -1;
	streams_classify(&w->streams, &w->caller, w->config->keep_output);
	if (wd_open_logs(w, err) < 0 || streams_build(&w->streams, NULL, err) < 0 ||
	    make_capsule(w, err) < 0 || wd_note_init(w, err) < 0 || execute(w, &vpid, err) < 0)
		return -1;
	w->job.generation++;
	w->job.first_generation = w->job.generation;
	if (begin_logs(w, err) < 0 || wd_put_running(w, err) < 0)
		return -1;
	streams_close_job_ends(&w->streams);
	caller_release_fds(&w->caller);
	if (capsule_close_streams(w->capsule, err) < 0 || wd_start_services(w, err) < 0)
		return -1;
	config = wd_checkpoint_config(w, vpid);
	snapshotter_attach(w->snapshotter, w->capsule, &config, 0);
	streams_enter_terminal(&w->streams);
	wd_schedule(w, now, now);
	w->state = WD_RUNNING;
	return 0;
}
