#include "watchdog/watchdog.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/units.h"
#include "store/replica/ssh_connect.h"
#include "watchdog/signals.h"
#include "watchdog/supervise.h"

#define BACKGROUND_LOOK_NS (NSEC_PER_SEC / 2)
#define SAME_SIGNAL_NS	   (NSEC_PER_SEC / 100)
#define HANG_LOOKS	   16

/* ---- job control --------------------------------------------------------------------------- */

/* Left stopped for a debugger (recover --stopped), or about to be: the terminal is the caller's. */
static bool stands(const struct watchdog *w)
{
	return w->state == WD_STANDING || (w->config->recover_stopped && w->resume.model);
}

/* The job was stopped at the caller's terminal: so is pawl, with the default action, as the shell
 * expects; the rest of a pipeline too. In an orphaned group (no shell to continue it) the kernel
 * drops the signal, and the job is continued at once. */
static void stop_self(struct watchdog *w)
{
	sigset_t tstp;

	progress_clear(&w->progress);
	streams_leave_terminal(&w->streams);
	sigemptyset(&tstp);
	sigaddset(&tstp, SIGTSTP);
	if (w->streams.terminal)
		kill(0, SIGTSTP);
	else
		raise(SIGTSTP);
	sigprocmask(SIG_UNBLOCK, &tstp, NULL);
	sigprocmask(SIG_BLOCK, &tstp, NULL);
	streams_enter_terminal(&w->streams);
	wd_signal_group(w, SIGCONT);
}

static void leader_stopped(struct watchdog *w)
{
	bool passed_on = w->sent & 1ull << (SIGTSTP - 1);

	w->suspended = true;
	w->sent &= ~(1ull << (SIGTSTP - 1));
	if ((w->streams.outer.raw || passed_on) && !stands(w))
		stop_self(w);
}

/* The shell has changed the terminal's settings while we were stopped. */
static void continued(struct watchdog *w)
{
	w->streams.outer.raw = false;
	if (stands(w))
		return;
	streams_enter_terminal(&w->streams);
	if (w->streams.outer.fd >= 0)
		pty_copy_size(w->streams.pump.out[JOBLOG_TERMINAL - 1].job_fd, w->streams.outer.fd);
	if (w->suspended && !w->config->recover_stopped)
		wd_signal_group(w, SIGCONT);
}

/* ---- what has happened --------------------------------------------------------------------- */

/* timeout(1) signals its child and then its whole group: the child twice, within microseconds. */
static void interrupt(struct watchdog *w, int signo)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);

	if (w->stop_signal && now - w->stop_signal_at < SAME_SIGNAL_NS)
		return;
	w->stop_signal = signo;
	w->stop_signal_at = now;
	/* A second request ends a job that is ours, and lets one go that is not. */
	if (wd_is_attached(w) && w->state != WD_RUNNING && w->state != WD_SNAPSHOT)
		wd_handle(w, WE_LEAVE);
	else
		wd_handle(w, WE_INTERRUPT);
}

/* An attached job has its own terminal: these keys mean pawl itself. */
static bool on_key_beside_job(struct watchdog *w, int signo)
{
	if (signo == SIGQUIT)
		wd_handle(w, WE_LEAVE);
	else if (signo == SIGTSTP)
		raise(SIGSTOP);
	return signo == SIGQUIT || signo == SIGTSTP;
}

static void on_signal(struct watchdog *w, const struct signalfd_siginfo *info)
{
	int signo = (int)info->ssi_signo;

	if (wd_is_attached(w) && on_key_beside_job(w, signo))
		return;
	switch (signo) {
	case SIGINT:
	case SIGTERM:
	case SIGHUP:
		interrupt(w, signo);
		break;
	case SIGUSR1:
		wd_handle(w, WE_REQUEST);
		break;
	case SIGWINCH:
		if (w->streams.outer.fd >= 0)
			pty_copy_size(w->streams.pump.out[JOBLOG_TERMINAL - 1].job_fd,
				      w->streams.outer.fd);
		break;
	case SIGCONT:
		continued(w);
		break;
	case SIGTSTP:
		wd_signal_group(w, signo);
		break;
	default:
		if (!signal_is_passed_on(signo))
			break;
		/* A key at a terminal signals the group, kill(2) what it names. */
		if (info->ssi_code == SI_KERNEL)
			wd_signal_group(w, signo);
		else
			wd_signal_leader(w, signo);
	}
}

static void read_signals(struct watchdog *w)
{
	struct signalfd_siginfo info;

	while (w->state != WD_OVER && read(w->signals, &info, sizeof(info)) == sizeof(info))
		on_signal(w, &info);
}

static void read_capsule(struct watchdog *w)
{
	struct capsule_event event;

	while (w->state != WD_OVER && w->capsule && !w->capsule->gone &&
	       capsule_next_event(w->capsule, &event)) {
		switch (event.kind) {
		case CAPSULE_LEADER_EXITED:
		case CAPSULE_GONE:
			wd_leader_ended(w, &event);
			return;
		case CAPSULE_LEADER_STOPPED:
			leader_stopped(w);
			break;
		case CAPSULE_LEADER_CONTINUED:
			w->suspended = false;
			wd_handle(w, WE_CONTINUED);
			break;
		}
	}
}

/* The same reasons once in a row: a short interval would repeat them for days. */
static bool said_already(struct watchdog *w, struct snap_result *result)
{
	bool said = strcmp(result->err.msg, w->last_failure) == 0 &&
		    refusals_equal(&result->refused, &w->last_refused);

	snprintf(w->last_failure, sizeof(w->last_failure), "%s", result->err.msg);
	refusals_clear(&w->last_refused);
	w->last_refused = result->refused;
	result->refused = (struct refusals){0};
	return said;
}

static void report_failure(struct watchdog *w, struct snap_result *result)
{
	progress_clear(&w->progress);
	if (result->ok) {
		w->last_failure[0] = '\0';
		refusals_clear(&w->last_refused);
		return;
	}
	if (result->err.kind == ERR_GONE || said_already(w, result))
		return;
	if (w->last_refused.n < 2)
		log_warn("job %s was not saved: %s", w->job.name, result->err.msg);
	for (size_t i = 0; w->last_refused.n > 1 && i < w->last_refused.n; i++)
		log_warn("job %s was not saved (%zu of %zu reasons): %s", w->job.name, i + 1,
			 w->last_refused.n, w->last_refused.texts[i]);
}

static void taken(struct watchdog *w, struct snap_result *result)
{
	bool refused =
		!result->ok && result->err.kind == ERR_UNSUPPORTED && w->config->unsupported_fails;

	wd_account(w, result);
	wd_schedule(w, result->started, result->finished);
	if (w->capsule)
		hang_rebase(&w->hang, capsule_cpu_ns(w->capsule));
	if (result->ok) {
		w->retry.snapshot_since = true;
		w->progress.last = w->final = result->info;
		w->progress.has_last = true;
		log_debug("snapshot %s@%" PRIu64, w->job.name, result->info.seq);
		wd_replicas_nudge(w);
	}
	report_failure(w, result);
	if (refused)
		wd_fail(w, &result->err);
	if (w->control)
		control_answer_snapshot(w->control, result->ok ? &result->info : NULL,
					&result->err);
	if (!result->ok && w->state == WD_STOPPING && w->control)
		control_answer_stop_failed(w->control, &result->err);
	if (!result->ok && w->state == WD_STOPPING && w->move_to) {
		wd_move_to(w, NULL, NULL);
		wd_handle(w, WE_STAYED);
		return;
	}
	wd_handle(w, result->ok ? WE_TAKEN : refused ? WE_REFUSED : WE_FAILED);
}

static void rebuilt(struct watchdog *w, const struct snap_result *result)
{
	struct err err = result->err;

	if (w->state == WD_CANCELLED) {
		wd_handle(w, result->ok ? WE_REBUILT : WE_REBUILD_FAILED);
		return;
	}
	if (result->ok && wd_is_offer(w)) {
		wd_offer(w, &result->built);
		return;
	}
	if (result->ok && wd_release(w, &result->built, &err) == 0) {
		wd_handle(w, WE_REBUILT);
		return;
	}
	wd_drop_ahead(w);
	wd_handle(w, wd_resume_failed(w, &err) < 0 ? WE_NO_CANDIDATE : WE_REBUILD_FAILED);
}

static void released(struct watchdog *w, const struct snap_result *result)
{
	if (!result->ok) {
		log_error("cannot let job %s run: %s", w->job.name, result->err.msg);
		capsule_kill(w->capsule);
	}
	wd_resume_done(w);
}

static void read_result(struct watchdog *w)
{
	struct snap_result result;

	if (!w->snapshotter || !snapshotter_result(w->snapshotter, &result))
		return;
	switch (result.op) {
	case SNAP_TAKE:
		taken(w, &result);
		break;
	case SNAP_REBUILD:
		rebuilt(w, &result);
		break;
	case SNAP_RELEASE:
		released(w, &result);
		break;
	}
}

static json_t *describe(const struct watchdog *w)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);
	struct job_status status = {.interval = w->interval, .next_ns = UINT64_MAX};
	json_t *object;

	if (w->due != UINT64_MAX && !w->suspended)
		status.next_ns = w->due > now ? w->due - now : 0;
	snprintf(status.state, sizeof(status.state), "%s",
		 w->suspended ? "suspended" : wd_state_name(w->state));
	object = control_pack_status(&status);
	json_object_set_new(object, "job", json_string(w->job.name));
	json_object_set_new(object, "pid", json_integer(w->job.leader_pid));
	json_object_set_new(object, "generation", json_integer((json_int_t)w->job.generation));
	return object;
}

/* Where a stop is under way already, or nothing runs, there is nothing to move. */
static int may_move(const struct watchdog *w, struct err *err)
{
	if (w->state == WD_RUNNING || w->state == WD_SNAPSHOT || w->state == WD_UNSTOPPABLE)
		return 0;
	return err_set(err, ERR_BUSY, "job '%s' cannot be moved now: it is %s", w->job.name, wd_state_name(w->state));
}

/* Takes destination. */
static void move_to(struct watchdog *w, char *destination, char *const *theirs)
{
	char **environment = NULL;
	struct err err;

	if (may_move(w, &err) < 0 || (theirs && ssh_environment_as(theirs, &environment, &err) < 0)) {
		free(destination);
		control_refuse_move(w->control, &err);
		return;
	}
	wd_move_to(w, destination, environment);
	wd_handle(w, WE_STOP);
}

static void read_control(struct watchdog *w, const struct pollfd *fds, size_t n)
{
	struct control_wishes wishes;

	if (!w->control || n == 0)
		return;
	wishes = control_read(w->control, fds, n);
	if (wishes.environment)
		wd_replicas_environment(w, wishes.environment);
	if (wishes.status)
		control_answer_status(w->control, describe(w));
	w->urgent |= wishes.urgent;
	if (wishes.snapshot)
		wd_handle(w, WE_REQUEST);
	if (wishes.move_to)
		move_to(w, wishes.move_to, wishes.environment);
	if (wishes.stop)
		wd_handle(w, WE_STOP);
	free(wishes.environment);
}

/* ---- time ---------------------------------------------------------------------------------- */

static void look_for_hanging(struct watchdog *w, uint64_t now)
{
	uint64_t timeout = w->config->hang_timeout_ns;

	if (timeout == 0 || now < w->next_hang_look)
		return;
	w->next_hang_look = now + timeout / HANG_LOOKS;
	if (w->suspended)
		hang_reset(&w->hang);
	else if ((w->state == WD_RUNNING || w->state == WD_UNSTOPPABLE) &&
		 hang_look(&w->hang, capsule_cpu_ns(w->capsule), now, timeout)) {
		hang_reset(&w->hang);
		wd_handle(w, WE_HUNG);
	}
}

static bool wants_terminal(const struct watchdog *w)
{
	return w->streams.terminal && w->streams.outer.keys && !w->streams.outer.raw && !stands(w);
}

static void look_at_clock(struct watchdog *w)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);

	if (now >= w->due && !w->suspended)
		wd_handle(w, WE_DUE);
	look_for_hanging(w, now);
	if (w->snapshotter)
		snapshotter_care(w->snapshotter, now);
	wd_look(w, now);
	wd_write_metrics(w, now);
	if (wants_terminal(w))
		streams_enter_terminal(&w->streams);
	if (pump_stalled(&w->streams.pump))
		pump_retry(&w->streams.pump);
	w->hanging_up = pump_hang_up(&w->streams.pump, now);
	if (w->streams.pump.wrote_line_start)
		progress_draw(&w->progress, w->job.name, now);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static int poll_timeout(const struct watchdog *w)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC), at = UINT64_MAX;

	if ((w->state == WD_RUNNING || w->state == WD_UNSTOPPABLE) && !w->suspended)
		at = w->due;
	if (w->config->hang_timeout_ns)
		at = earlier(at, w->next_hang_look);
	if (w->state == WD_OFFERED)
		at = earlier(at, w->offer_until);
	if (w->snapshotter)
		at = earlier(at, snapshotter_next_care(w->snapshotter));
	at = earlier(at, wd_next_look(w));
	if (w->config->metrics)
		at = earlier(at, w->metrics_due);
	at = earlier(at, wd_next_tell(w));
	if (wants_terminal(w))
		at = earlier(at, now + BACKGROUND_LOOK_NS);
	if (w->progress.enabled || pump_stalled(&w->streams.pump))
		at = earlier(at, now + NSEC_PER_SEC);
	if (w->hanging_up)
		at = earlier(at, now + PUMP_GRACE_NS / 2);
	if (at == UINT64_MAX)
		return -1;
	if (at <= now)
		return 0;
	at = (at - now + 999999) / 1000000;
	return at > 3600 * 1000 ? 3600 * 1000 : (int)at;
}

/* ---- the loop ------------------------------------------------------------------------------ */

struct sources {
	struct pollfd fds[PUMP_MAX_POLL + CONTROL_MAX_POLL + 5];
	size_t n_pump, n_control, n;
};

static void gather(struct watchdog *w, struct sources *s)
{
	s->n_pump = pump_poll(&w->streams.pump, s->fds);
	s->n_control = w->control ? control_poll(w->control, s->fds + s->n_pump) : 0;
	s->n = s->n_pump + s->n_control;
	s->fds[s->n++] = (struct pollfd){.fd = w->signals, .events = POLLIN};
	if (w->snapshotter)
		s->fds[s->n++] =
			(struct pollfd){.fd = snapshotter_fd(w->snapshotter), .events = POLLIN};
	if (w->lazy && !w->lazy_told)
		s->fds[s->n++] = (struct pollfd){.fd = lazy_fd(w->lazy), .events = POLLIN};
	if (w->n_replicas)
		s->fds[s->n++] = (struct pollfd){.fd = w->replica_wake, .events = POLLIN};
	if (w->capsule && !w->capsule->gone)
		s->fds[s->n++] = (struct pollfd){.fd = w->capsule->events, .events = POLLIN};
	if (w->state == WD_OFFERED)
		s->fds[s->n++] = (struct pollfd){.fd = w->config->confirm_fd, .events = POLLIN};
}

static bool terminal_output_waits(struct watchdog *w, const struct sources *s)
{
	int master = w->streams.pump.out[JOBLOG_TERMINAL - 1].job_fd;
	size_t i;

	for (i = 0; i < s->n_pump; i++)
		if (s->fds[i].fd == master && s->fds[i].revents & POLLIN)
			return true;
	return false;
}

/* Results before the leader's end: a final snapshot explains the end that it brings. */
static void turn(struct watchdog *w)
{
	struct sources s;

	wd_tell_service(w);
	gather(w, &s);
	if (poll(s.fds, s.n, poll_timeout(w)) < 0)
		return;
	if (terminal_output_waits(w, &s))
		progress_clear(&w->progress);
	pump_move(&w->streams.pump, s.fds, s.n_pump);
	read_result(w);
	if (w->state != WD_OVER)
		wd_look_at_lazy(w);
	if (w->state != WD_OVER)
		read_capsule(w);
	if (w->state != WD_OVER)
		read_signals(w);
	if (w->state != WD_OVER)
		read_control(w, s.fds + s.n_pump, s.n_control);
	if (w->state != WD_OVER)
		wd_look_at_offer(w);
	if (w->state != WD_OVER)
		wd_replicas_look(w);
	if (w->state != WD_OVER)
		look_at_clock(w);
}

/* Where the job itself writes to the terminal, that is its own. */
static void start_progress(struct watchdog *w)
{
	w->progress.started = clock_ns(CLOCK_MONOTONIC);
	w->progress.enabled = w->config->progress && isatty(STDERR_FILENO) &&
			      !(w->streams.terminal && isatty(STDOUT_FILENO));
}

static bool has_finished(struct watchdog *w)
{
	w->finished_before = w->config->once && w->job.state == JOB_FINISHED;
	return w->finished_before;
}

static int start(struct watchdog *w, struct err *err)
{
	int found;

	w->recover_seq = w->config->from ? 0 : w->config->recover_seq;
	if (wd_begin(w, err) < 0)
		return -1;
	if (has_finished(w))
		return 0;
	if (wd_replicas_begin(w, err) < 0)
		return -1;
	/* It may have ended on another machine. */
	if (has_finished(w))
		return 0;
	if (!w->config->attach_pid && wd_choose_start(w, err) < 0)
		return -1;
	if (w->config->dry_run)
		return wd_dry_run(w, err);
	if (w->config->attach_pid)
		return wd_attach(w, err);
	if (w->resume.n == 0)
		return wd_launch(w, err);
	caller_release_fds(&w->caller);
	w->state = WD_RECOVERING;
	found = wd_resume_next(w, err);
	return found > 0 ? 0 : -1;
}

static void run(struct watchdog *w)
{
	struct err why;

	streams_init(&w->streams);
	if (start(w, &why) < 0) {
		w->state = WD_OVER;
		wd_fail(w, &why);
	} else if (w->finished_before) {
		log_info("job %s has finished already", w->job.name);
		wd_tell_service(w);
	} else if (w->config->dry_run) {
		w->stopped = true;
	} else {
		start_progress(w);
	}
	while (w->state != WD_OVER)
		turn(w);
}

int watchdog_run(const struct watchdog_config *config, int *ret_exit, struct err *err)
{
	struct watchdog *w = calloc(1, sizeof(*w));
	int result;

	if (!w) {
		*ret_exit = PAWL_EXIT_FAILED;
		return err_sys(err, "watchdog");
	}
	*w = (struct watchdog){.config = config,
			       .lock = -1,
			       .signals = -1,
			       .replica_wake = -1,
			       .notify.fd = -1,
			       .state = WD_OVER};
	run(w);
	result = wd_finish(w, ret_exit, err);
	if (result == 0 && config->dry_run)
		*ret_exit = 0;
	if (!w->abandoned)
		free(w);
	return result;
}
