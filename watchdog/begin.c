#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/hold.h"
#include "watchdog/jobname.h"
#include "watchdog/move.h"
#include "watchdog/savedir.h"
#include "watchdog/signals.h"
#include "watchdog/supervise.h"

static int take_signals(struct watchdog *w, struct err *err)
{
	sigset_t handled;

	if (caller_capture(&w->caller, err) < 0)
		return -1;
	w->captured = true;
	signals_block(&handled);
	w->signals = signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK);
	if (w->signals < 0)
		return err_sys(err, "cannot handle signals");
	return 0;
}

static int take_given_name(struct watchdog *w, const char *name, struct err *err)
{
	bool recover = w->config->mode == LAUNCH_RECOVER;

	if (job_name_check(name, err) < 0)
		return -1;
	/* The lock would make the job. */
	w->job_is_new = store_job_get(w->store, name, &w->job, err) < 0;
	if (w->job_is_new && ((recover && !w->config->from) || err->kind != ERR_NOT_FOUND))
		return -1;
	job_info_clear(&w->job);
	return store_job_lock(w->store, name, &w->lock, err);
}

static bool same_target(const struct job_info *job, const void *ctx)
{
	return attach_target_is(ctx, job);
}

static int take_free_name(struct watchdog *w, char name[128], struct err *err)
{
	cleanup_free char *cwd = getcwd(NULL, 0);
	const struct jobname_command command = {w->config->argv, cwd};
	struct jobname_claim claim = {.same = jobname_same_command, .ctx = &command};

	if (!cwd)
		return err_sys(err, "cannot tell the current directory");
	if (w->config->attach_pid)
		claim = (struct jobname_claim){w->target.argv[0], same_target, &w->target};
	else
		claim.command = w->config->argv[0];
	return jobname_take(w->store, &claim, name, &w->lock, &w->job_is_new, err);
}

/* It would run twice, and the files it writes would be rolled back under it. */
static int check_not_running(struct watchdog *w, struct err *err)
{
	if (w->config->attach_pid || w->config->dry_run || !attached_still_runs(&w->job))
		return 0;
	return err_set(err, ERR_BUSY,
		       "job '%s' still runs, unwatched, as process %d: watch it again (pawl attach %d), or "
		       "end it first",
		       w->job.name, w->job.leader_pid, w->job.leader_pid);
}

/* It would run twice. Who names a snapshot knows what he does. */
static int check_not_moved(struct watchdog *w, struct err *err)
{
	const struct watchdog_config *config = w->config;

	if (!w->job.moved_to[0] || config->recover_seq || wd_is_offer(w) || config->dry_run ||
	    config->mode == LAUNCH_FRESH)
		return 0;
	if (w->job.moving && move_settle(w->store, &w->job, err) < 0)
		return err_wrap(err,
				"job '%s' was being moved when its watchdog ended, and whether it goes on there cannot "
				"be told now (to go on here in any case: 'pawl recover %s@%" PRIu64 "')",
				w->job.name, w->job.name, w->job.last_seq);
	if (!w->job.moved_to[0])
		return 0;
	return err_set(err, ERR_FENCED,
		       "job '%s' was moved to %s and goes on there; to go back to what is here, name "
		       "the snapshot ('pawl recover %s@%" PRIu64 "')",
		       w->job.name, w->job.moved_to, w->job.name, w->job.last_seq);
}

/* The job's lock is ours: nobody takes it from the holder any more. */
static int check_hold(struct watchdog *w, struct err *err)
{
	struct hold_view view;
	bool held;

	if (!w->config->hold)
		return 0;
	if (store_hold_look(w->store, w->job.name, &view, err) < 0)
		return -1;
	held = memcmp(view.token, w->config->hold, HOLD_TOKEN) == 0;
	job_info_clear(&view.job);
	return held ? 0
		    : err_set(err, ERR_FENCED, "job '%s' has been taken by %s", w->job.name,
			      view.holder);
}

static int take_job(struct watchdog *w, struct err *err)
{
	const struct watchdog_config *config = w->config;
	int flags = config->store_flags |
		    (config->mode == LAUNCH_RECOVER && !config->from ? STORE_WRITE : STORE_CREATE);
	char name[128];
	int taken;

	if (store_open(&w->store, config->store_dir, flags, err) < 0 ||
	    (wd_is_offer(w) && wd_await_start(w, err) < 0))
		return -1;
	for (size_t i = 0; i < config->n_save_dirs; i++)
		if (savedir_check_store(config->save_dirs[i], config->store_dir, err) < 0)
			return -1;
	if (config->name)
		snprintf(name, sizeof(name), "%s", config->name);
	taken = config->name ? take_given_name(w, name, err) : take_free_name(w, name, err);
	if (taken < 0 || store_job_get(w->store, name, &w->job, err) < 0)
		return -1;
	if (wd_await_earlier(w, err) < 0 || check_not_running(w, err) < 0 || check_not_moved(w, err) < 0)
		return -1;
	return check_hold(w, err);
}

/* Nothing of a crashed run is left: it has no pid any more until it has been recovered. */
static int forget_leader(struct watchdog *w, struct err *err)
{
	const struct watchdog_config *config = w->config;

	if (w->job.state != JOB_RUNNING || config->attach_pid || config->dry_run || config->mode == LAUNCH_FRESH)
		return 0;
	w->job.leader_pid = 0;
	return store_job_put(w->store, &w->job, err);
}

int wd_begin(struct watchdog *w, struct err *err)
{
	pid_t pid = w->config->attach_pid;

	sdnotify_open(&w->notify);
	if (take_signals(w, err) < 0)
		return -1;
	if (pid && attach_target_read(&w->target, pid, err) < 0)
		return err_wrap(err, "cannot attach");
	if (take_job(w, err) < 0 || forget_leader(w, err) < 0)
		return -1;
	wd_account_begin(w);
	if (w->job.watchdog_pid && w->job.state == JOB_RUNNING)
		log_debug("the last watchdog of job %s ended without a word", w->job.name);
	return 0;
}

/* ---- where to start from ------------------------------------------------------------------- */

static int add_candidate(struct resume *resume, uint64_t seq, struct err *err)
{
	uint64_t *more = realloc(resume->seqs, (resume->n + 1) * sizeof(*more));

	if (!more)
		return err_sys(err, "list of snapshots");
	resume->seqs = more;
	resume->seqs[resume->n++] = seq;
	return 0;
}

/* `run` goes on only with the current run's snapshots, `recover` with whatever the job has. */
bool wd_may_use(const struct watchdog *w, const struct snapshot_info *info)
{
	if (w->config->mode == LAUNCH_RECOVER)
		return true;
	return info->time == 0 || info->generation >= w->job.first_generation;
}

static int list_candidates(struct watchdog *w, struct err *err)
{
	cleanup_free struct snapshot_info *infos = NULL;
	size_t n, i;

	if (store_snapshot_list(w->store, w->job.name, &infos, &n, err) < 0)
		return -1;
	for (i = n; i-- > 0;)
		if (wd_may_use(w, &infos[i]) && add_candidate(&w->resume, infos[i].seq, err) < 0)
			return -1;
	return 0;
}

int wd_choose_start(struct watchdog *w, struct err *err)
{
	const struct watchdog_config *config = w->config;

	if (w->recover_seq)
		return add_candidate(&w->resume, w->recover_seq, err);
	if (config->mode == LAUNCH_FRESH)
		return 0;
	if (config->mode == LAUNCH_RESUME_OR_START &&
	    (w->job.state == JOB_FINISHED || w->job.state == JOB_NEW))
		return 0;
	if (list_candidates(w, err) < 0)
		return -1;
	if (w->resume.n == 0 && config->mode == LAUNCH_RECOVER)
		return err_set(err, ERR_NOT_FOUND, "job '%s' has no snapshot", w->job.name);
	return 0;
}

int wd_newest_of_run(const struct watchdog *w, struct snapshot_info *ret, size_t *ret_all, struct err *err)
{
	cleanup_free struct snapshot_info *infos = NULL;
	size_t n;

	*ret = (struct snapshot_info){0};
	if (store_snapshot_list(w->store, w->job.name, &infos, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (infos[i].time && infos[i].generation >= w->job.first_generation)
			*ret = infos[i];
	if (ret_all)
		*ret_all = n;
	return 0;
}

/* ---- services ------------------------------------------------------------------------------ */

int wd_start_services(struct watchdog *w, struct err *err)
{
	const struct snapshotter_config config = {
		.store = w->store,
		.job = w->job.name,
		.options = w->config,
		.pump = &w->streams.pump,
		.hook_mask = &w->caller.mask,
	};
	char path[PATH_MAX];
	struct err why;

	if (!w->snapshotter && snapshotter_start(&w->snapshotter, &config, err) < 0)
		return -1;
	if (wd_replicas_start(w, err) < 0)
		return -1;
	store_job_socket_path(w->store, &w->job, path, sizeof(path));
	/* Without it the job is as safe as with it. */
	if (!w->control && control_open(&w->control, path, &why) < 0)
		log_warn("`pawl snapshot` and `pawl stop` will not reach this job: %s", why.msg);
	return 0;
}

/* Replaces the list of texts of a job's record by a copy of `from`. */
static int set_texts(char ***list, size_t *n_list, char *const *from, struct err *err)
{
	size_t n = 0;
	char **copy;

	while (from[n])
		n++;
	copy = calloc(n + 1, sizeof(*copy));
	if (!copy)
		return err_sys(err, "the job's record");
	while (*n_list > 0)
		free((*list)[--*n_list]);
	free(*list);
	*list = copy;
	for (; *n_list < n; (*n_list)++)
		if (!(copy[*n_list] = strdup(from[*n_list])))
			return err_sys(err, "the job's record");
	return 0;
}

static int describe_command(struct watchdog *w, struct err *err)
{
	char *cwd;

	if (!w->config->argv || w->resume.n > 0)
		return 0;
	if (set_texts(&w->job.argv, &w->job.argc, w->config->argv, err) < 0)
		return -1;
	cwd = getcwd(NULL, 0);
	if (!cwd)
		return err_sys(err, "cannot tell the current directory");
	free(w->job.cwd);
	w->job.cwd = cwd;
	return 0;
}

int wd_put_running(struct watchdog *w, struct err *err)
{
	char *const *options = w->config->options;

	if (describe_command(w, err) < 0 ||
	    (options && set_texts(&w->job.options, &w->job.n_options, options, err) < 0))
		return -1;
	w->job.state = JOB_RUNNING;
	w->job.moved_to[0] = '\0';
	w->job.moving = false;
	w->job.watchdog_pid = getpid();
	return store_job_put(w->store, &w->job, err);
}
