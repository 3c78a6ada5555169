#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/log.h"
#include "watchdog/supervise.h"

void wd_retire_capsule(struct watchdog *w)
{
	if (!w->capsule)
		return;
	pump_drain(&w->streams.pump);
	capsule_destroy(w->capsule);
	w->capsule = NULL;
	lazy_free(w->lazy);
	w->lazy = NULL;
	streams_detach(&w->streams);
}

/* A slow reader gets all of the output; a signal ends the wait. */
static void flush_output(struct watchdog *w)
{
	while (pump_has_pending(&w->streams.pump)) {
		struct pollfd fds[PUMP_MAX_POLL + 1];
		size_t n = pump_poll(&w->streams.pump, fds);
		struct signalfd_siginfo info;

		fds[n] = (struct pollfd){.fd = w->signals, .events = POLLIN};
		if (poll(fds, n + 1, -1) < 0 && errno != EINTR)
			return;
		pump_move(&w->streams.pump, fds, n);
		if (fds[n].revents && read(w->signals, &info, sizeof(info)) == sizeof(info) &&
		    (info.ssi_signo == SIGINT || info.ssi_signo == SIGTERM ||
		     info.ssi_signo == SIGHUP))
			return;
	}
}

/* The outcome of a snapshot of a job that is dead by its user's wish is not waited for; one of a
 * job that has ended by itself gets a moment, for the sake of an orderly end. An attached job may live,
 * and must not end with the thread that holds it. */
static int patience_ms(const struct watchdog *w)
{
	if (w->stopped || wd_is_attached(w))
		return -1;
	return w->stop_signal ? 300 : 2000;
}

static void end_job(struct watchdog *w)
{
	if (w->capsule) {
		if (w->left_behind && !w->stopped)
			log_warn("job %s left processes behind, which %s", w->job.name,
				 wd_is_attached(w) ? "run on unwatched" : "end with it");
		pump_drain(&w->streams.pump);
		capsule_kill(w->capsule);
	}
	flush_output(w);
	w->abandoned = !snapshotter_finish(w->snapshotter, patience_ms(w));
	/* The capsule's end would wait for the thread that traces it; the process's end takes both.
	 */
	if (!w->abandoned)
		wd_retire_capsule(w);
	pump_drain(&w->streams.pump);
	flush_output(w);
	streams_leave_terminal(&w->streams);
	progress_clear(&w->progress);
}

static int status_to_exit(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int exit_code(const struct watchdog *w)
{
	if (w->exec_errno == ENOENT)
		return PAWL_EXIT_NO_COMMAND;
	if (w->exec_errno)
		return PAWL_EXIT_CANNOT_RUN;
	if (w->finished_before)
		return w->job.exit_status;
	if (w->stopped)
		return w->config->stop_exit_code;
	if (w->failed || !w->started || w->status_unknown)
		return PAWL_EXIT_FAILED;
	if (w->left_alone)
		return w->stop_signal ? 128 + w->stop_signal : 0;
	/* Ended at once by the second request: by that signal, for the caller. */
	if (w->state == WD_OVER && w->stop_signal && WIFSIGNALED(w->wait_status) &&
	    WTERMSIG(w->wait_status) == SIGKILL)
		return 128 + w->stop_signal;
	return status_to_exit(w->wait_status);
}

static void put_job(struct watchdog *w)
{
	struct err err;

	if (store_job_put(w->store, &w->job, &err) < 0)
		log_warn("the end of job %s is not recorded: %s", w->job.name, err.msg);
}

/* What the moving has noted: it goes on there, or only the destination knows. */
static void keep_mark(struct watchdog *w)
{
	struct job_info noted;
	struct err err;

	if (store_job_get(w->store, w->job.name, &noted, &err) < 0)
		return;
	memcpy(w->job.moved_to, noted.moved_to, sizeof(w->job.moved_to));
	w->job.moving = noted.moving;
	job_info_clear(&noted);
	if (w->job.moving)
		log_warn("job %s may go on at %s: it is asked when the job is resumed here", w->job.name, w->move_to);
	else if (w->stopped)
		log_info("job %s goes on at %s", w->job.name, w->move_to);
}

static void put_end(struct watchdog *w)
{
	if (!w->started && (!w->unrun || wd_is_offer(w)))
		return;
	w->job.watchdog_pid = 0;
	if (w->left_alone) {
		put_job(w);
		return;
	}
	if (w->stopped)
		w->job.state = JOB_STOPPED;
	else if (!w->failed && !w->status_unknown && WIFEXITED(w->wait_status))
		w->job.state = JOB_FINISHED;
	else
		w->job.state = JOB_FAILED;
	if (w->move_to)
		keep_mark(w);
	w->job.exit_status = exit_code(w);
	w->job.leader_pid = 0;
	w->job.attached = false;
	put_job(w);
}

static void why_no_snapshot(const struct watchdog *w, struct err *ret)
{
	if (w->failed)
		*ret = w->failure;
	else if (w->stopped && wd_is_offer(w))
		err_set(ret, ERR_GONE, "job '%s' had not come here yet: it goes on where it was", w->job.name);
	else if (w->stopped)
		err_set(ret, ERR_GONE, "job '%s' has no snapshot any more", w->job.name);
	else
		err_set(ret, ERR_GONE, "job '%s' has ended by itself", w->job.name);
}

/* Answers go out only when the job's lock is free: who asked may take it at once. */
static void release_job(struct watchdog *w)
{
	bool drop = w->job_is_new && !w->started && w->lock >= 0;
	struct err err;

	control_unlink(w->control);
	store_job_unlock(w->lock);
	if (drop && store_job_drop(w->store, w->job.name, &err) < 0)
		log_debug("cannot remove job %s again: %s", w->job.name, err.msg);
	why_no_snapshot(w, &err);
	if (w->control)
		control_answer_end(w->control, w->stopped && w->final.seq ? &w->final : NULL, &err);
	control_close(w->control);
}

static void close_all(struct watchdog *w)
{
	struct err err;

	if (w->log && joblog_flush(w->log, &err) < 0)
		log_warn("output is missing from the job's log: %s", err.msg);
	joblog_close(w->log);
	stdinlog_close(w->input);
	streams_clear(&w->streams);
	free(w->resume.seqs);
	wd_move_to(w, NULL, NULL);
	if (w->resume.model)
		snap__snapshot__free_unpacked(w->resume.model, NULL);
	job_info_clear(&w->job);
	attach_target_clear(&w->target);
	refusals_clear(&w->last_refused);
	free(w->replicas);
	wd_drop_ahead(w);
	store_close(w->store);
	cleanup_fd_p(&w->replica_wake);
	cleanup_fd_p(&w->signals);
	if (w->captured) {
		caller_restore(&w->caller);
		caller_clear(&w->caller);
	}
}

/* Only now the store has what a snapshot that was under way has come to. */
static void find_final(struct watchdog *w)
{
	struct err err;

	w->final = (struct snapshot_info){0};
	if (!wd_is_offer(w) && wd_goes_on_from(w, &w->final, &err) < 0)
		log_warn("%s", err.msg);
}

int wd_finish(struct watchdog *w, int *ret_exit, struct err *err)
{
	bool had_job = w->started || w->stopped, left = false;

	end_job(w);
	if (w->unrun)
		find_final(w);
	wd_tell_notices(w);
	if (w->left_alone)
		log_info("job %s runs on unwatched as process %d (pawl attach %d watches it again)",
			 w->job.name, w->job.leader_pid, w->job.leader_pid);
	if (w->status_unknown && !w->stopped)
		log_error("job %s has ended; how, this kernel does not tell (Linux 6.15)", w->job.name);
	if (w->stopped && w->final.seq && !w->move_to)
		log_info("job %s is stopped; it goes on from %s@%" PRIu64, w->job.name, w->job.name,
			 w->final.seq);
	if (w->store) {
		put_end(w);
		left = wd_replicas_finish(w);
		wd_account_end(w, exit_code(w));
		release_job(w);
	}
	wd_tell_end(w);
	*ret_exit = exit_code(w);
	if (w->failed && had_job)
		log_error("%s", w->failure.msg);
	else if (w->failed)
		*err = w->failure;
	had_job |= !w->failed;
	w->abandoned |= left; /* a thread of theirs is at work in the store */
	if (!w->abandoned)
		close_all(w);
	return had_job ? 0 : -1;
}
