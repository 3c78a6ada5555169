#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "watchdog/supervise.h"

bool wd_is_attached(const struct watchdog *w)
{
	return w->capsule && w->capsule->root.attached;
}

/* The name may be that of an earlier run which somebody still means to go on with. */
static int check_name_is_free(const struct watchdog *w, uint64_t newest, struct err *err)
{
	bool over = w->job.state == JOB_FINISHED || w->job.state == JOB_NEW;

	if (over || !newest || w->config->mode == LAUNCH_FRESH ||
	    attach_target_is(&w->target, &w->job))
		return 0;
	return err_set(err, ERR_BUSY,
		       "job '%s' is another one, that can go on from %s@%" PRIu64
		       ": choose another name (-n), or start it over with --fresh",
		       w->job.name, w->job.name, newest);
}

static void describe_target(struct watchdog *w)
{
	struct job_info *job = &w->job;

	while (job->argc > 0)
		free(job->argv[--job->argc]);
	free(job->argv);
	free(job->cwd);
	job->argv = steal_ptr(&w->target.argv);
	job->argc = w->target.argc;
	job->cwd = steal_ptr(&w->target.cwd);
	w->target.argc = 0;
	job->leader_pid = w->target.pid;
	job->leader_start = w->target.start_time;
	job->attached = true;
}

static int begin_log(struct watchdog *w, bool keep, struct err *err)
{
	if (wd_open_logs(w, err) < 0 || (keep && joblog_repair(w->log, err) < 0))
		return -1;
	return joblog_begin(w->log, keep, err);
}

/* A process that was watched before goes on with its snapshots; any other is a new run. */
static int take_over(struct watchdog *w, uint64_t *ret_parent, struct err *err)
{
	bool again = attach_target_is(&w->target, &w->job);
	struct snapshot_info newest;
	size_t n;

	if (wd_newest_of_run(w, &newest, &n, err) < 0 || check_name_is_free(w, newest.seq, err) < 0)
		return -1;
	*ret_parent = newest.seq;
	w->job.generation++;
	if (!again || w->config->mode == LAUNCH_FRESH) {
		w->job.first_generation = w->job.generation;
		*ret_parent = 0;
	}
	describe_target(w);
	if (begin_log(w, n > 0, err) < 0 || wd_put_running(w, err) < 0)
		return -1;
	w->started = true;
	return 0;
}

static int find_streams(struct watchdog *w, struct err *err)
{
	struct attached_streams found;

	if (attached_streams_find(&found, &w->capsule->root, err) < 0)
		return -1;
	memcpy(w->streams.identity, found.stream, sizeof(found.stream));
	w->streams.terminal_identity = found.terminal;
	free(w->caller.outside);
	w->caller.outside = steal_ptr(&found.outside);
	w->caller.n_outside = found.n_outside;
	attached_streams_clear(&found);
	return 0;
}

int wd_attach(struct watchdog *w, struct err *err)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC), parent;
	struct checkpoint_config config;

	if (attached_create(&w->capsule, &w->target, err) < 0 || find_streams(w, err) < 0 ||
	    take_over(w, &parent, err) < 0)
		return -1;
	caller_release_fds(&w->caller);
	if (wd_start_services(w, err) < 0)
		return -1;
	config = wd_checkpoint_config(w, w->job.leader_pid);
	snapshotter_attach(w->snapshotter, w->capsule, &config, parent);
	wd_schedule(w, now, now);
	w->state = WD_RUNNING;
	log_info("job %s: process %d is watched from now on", w->job.name, w->job.leader_pid);
	return 0;
}
