#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "store/base/io.h"
#include "store/base/log.h"
#include "watchdog/supervise.h"

void wd_fail(struct watchdog *w, const struct err *err)
{
	w->failure = *err;
	w->failed = true;
}

void wd_move_to(struct watchdog *w, char *destination, char **environment)
{
	free(w->move_to);
	free(w->move_environment);
	w->move_to = destination;
	w->move_environment = environment;
}

static void take(struct watchdog *w, bool end)
{
	const struct snap_command command = {
		.op = SNAP_TAKE, .end = end, .move_to = end ? w->move_to : NULL,
		.environment = w->move_environment,
		.urgent = w->urgent, .lazy = w->lazy};

	w->wanted = w->urgent = false;
	hang_look(&w->hang, capsule_cpu_ns(w->capsule), clock_ns(CLOCK_MONOTONIC), 0);
	if (w->control)
		control_arm(w->control);
	snapshotter_post(w->snapshotter, &command);
}

static void kill_leader(struct watchdog *w)
{
	log_warn("job %s has used no CPU time for too long: killing it", w->job.name);
	if (w->job.leader_pid <= 0 || kill(w->job.leader_pid, SIGKILL) < 0)
		capsule_kill(w->capsule);
}

static void recover(struct watchdog *w)
{
	struct err err;
	int found = wd_resume_next(w, &err);

	if (found > 0)
		return;
	wd_fail(w, &err);
	wd_handle(w, WE_NO_CANDIDATE);
}

/* A job that is not ours to end is left as it is. */
static void kill_job(struct watchdog *w)
{
	capsule_kill(w->capsule);
	if (wd_is_attached(w))
		wd_handle(w, WE_LEAVE);
}

static void finish_failed(struct watchdog *w)
{
	w->failed = true;
	kill_job(w);
}

static void report_run_on(struct watchdog *w)
{
	log_error("job %s is not stopped, for it could not be saved: it runs on (stop again to end "
		  "it "
		  "without a final snapshot)",
		  w->job.name);
	w->stop_signal = 0;
}

static void report_standing(struct watchdog *w)
{
	struct err err;

	err_set(&err, ERR_BUSY,
		"job '%s' stands stopped since its recovery: it can be saved when it goes on (kill -CONT %d)",
		w->job.name, w->job.leader_pid);
	if (w->control) {
		control_arm(w->control);
		control_answer_snapshot(w->control, NULL, &err);
	}
}

static void act(struct watchdog *w, enum wd_action action)
{
	switch (action) {
	case WA_NONE:
	case WA_RELEASE: /* done by the result's handler, which has what was built */
		break;
	case WA_TAKE:
		take(w, false);
		break;
	case WA_TAKE_FINAL:
		take(w, true);
		break;
	case WA_REMEMBER:
		w->wanted = true;
		break;
	case WA_KILL_HUNG:
		kill_leader(w);
		break;
	case WA_KILL:
		kill_job(w);
		break;
	case WA_CANCEL:
		snapshotter_cancel(w->snapshotter);
		break;
	case WA_LEAVE:
		w->left_alone = true;
		break;
	case WA_KILL_REFUSED:
		finish_failed(w);
		break;
	case WA_RECOVER:
		recover(w);
		break;
	case WA_REPORT_STANDING:
		report_standing(w);
		break;
	case WA_REPORT_RUN_ON:
		report_run_on(w);
		break;
	case WA_FINISH_STOPPED:
		w->stopped = true;
		break;
	case WA_FINISH_UNRUN:
		w->stopped = w->unrun = true;
		break;
	case WA_FINISH_FAILED:
		w->failed = true;
		break;
	case WA_FINISH_EXITED:
		break;
	}
}

void wd_handle(struct watchdog *w, enum wd_event event)
{
	struct wd_step step = wd_step(w->state, event);

	if (step.next != w->state)
		log_debug("%s: %s -> %s", wd_event_name(event), wd_state_name(w->state),
			  wd_state_name(step.next));
	w->state = step.next;
	act(w, step.action);
	if (w->state == WD_RUNNING && w->wanted)
		wd_handle(w, WE_REQUEST);
}

void wd_leader_ended(struct watchdog *w, const struct capsule_event *end)
{
	const struct death_facts facts = {
		.status = end->status,
		.sent = w->sent,
		.terminal = w->streams.terminal,
		.stream_gone = pump_reader_gone(&w->streams.pump),
	};
	char what[96];
	bool back;

	if (w->state == WD_RECOVERING || w->state == WD_CANCELLED || w->state == WD_ROLL_BACK)
		return;
	if (w->state == WD_OFFERED) {
		wd_handle(w, WE_NO_CANDIDATE);
		return;
	}
	w->wait_status = end->status;
	w->status_unknown = end->unknown;
	w->left_behind = end->left_behind;
	/* A stop that is under way outweighs: then the death is not looked into. */
	snprintf(what, sizeof(what), "died of signal %d (%s)", WTERMSIG(end->status),
		 strsignal(WTERMSIG(end->status)));
	back = (w->state == WD_RUNNING || w->state == WD_SNAPSHOT) &&
	       policy_foreign_death(&facts) && wd_plan_roll_back(w, what);
	wd_handle(w, back ? WE_DIED : WE_EXITED);
}

void wd_signal_leader(struct watchdog *w, int signo)
{
	w->sent |= 1ull << (signo - 1);
	if (w->job.leader_pid > 0)
		kill(w->job.leader_pid, signo);
}

void wd_signal_group(struct watchdog *w, int signo)
{
	int master = w->streams.pump.out[JOBLOG_TERMINAL - 1].job_fd;
	pid_t group = master >= 0 ? pty_foreground(master) : 0;

	if (group <= 0)
		group = w->job.leader_pid;
	if (group <= 0 || kill(-group, signo) < 0)
		wd_signal_leader(w, signo);
	w->sent |= 1ull << (signo - 1);
}
