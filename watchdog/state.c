#include "watchdog/state.h"

/* clang-format off */
static const struct wd_step steps[WD_N_STATES][WE_N_EVENTS] = {
	[WD_RECOVERING] = {
		[WE_REQUEST] = {WD_SAME, WA_REMEMBER},
		[WE_REBUILT] = {WD_RUNNING, WA_RELEASE},
		[WE_OFFERED] = {WD_OFFERED, WA_NONE},
		[WE_REBUILD_FAILED] = {WD_RECOVERING, WA_RECOVER},
		[WE_NO_CANDIDATE] = {WD_OVER, WA_FINISH_FAILED},
		[WE_STOP] = {WD_CANCELLED, WA_KILL},
		[WE_INTERRUPT] = {WD_CANCELLED, WA_KILL},
	},
	/* Nothing of it has run here. */
	[WD_OFFERED] = {
		[WE_REQUEST] = {WD_SAME, WA_REMEMBER},
		[WE_REBUILT] = {WD_RUNNING, WA_RELEASE},
		[WE_NO_CANDIDATE] = {WD_OVER, WA_FINISH_FAILED},
		[WE_STOP] = {WD_OVER, WA_FINISH_UNRUN},
		[WE_INTERRUPT] = {WD_OVER, WA_FINISH_UNRUN},
	},
	[WD_RUNNING] = {
		[WE_DAMAGED] = {WD_ENDING, WA_KILL_REFUSED},
		[WE_REFUSED] = {WD_ENDING, WA_KILL_REFUSED},
		[WE_DUE] = {WD_SNAPSHOT, WA_TAKE},
		[WE_REQUEST] = {WD_SNAPSHOT, WA_TAKE},
		[WE_STOP] = {WD_STOPPING, WA_TAKE_FINAL},
		[WE_INTERRUPT] = {WD_STOPPING, WA_TAKE_FINAL},
		[WE_EXITED] = {WD_OVER, WA_FINISH_EXITED},
		[WE_DIED] = {WD_RECOVERING, WA_RECOVER},
		[WE_HUNG] = {WD_SAME, WA_KILL_HUNG},
		[WE_LEAVE] = {WD_OVER, WA_LEAVE},
		[WE_STANDS] = {WD_STANDING, WA_NONE},
	},
	/* Nothing has run since the snapshot: the job goes on from that. A new one would have it stopped, and
	 * so would whatever is recovered from it. */
	[WD_STANDING] = {
		[WE_DAMAGED] = {WD_ENDING, WA_KILL_REFUSED},
		[WE_REQUEST] = {WD_SAME, WA_REPORT_STANDING},
		[WE_STOP] = {WD_OVER, WA_FINISH_UNRUN},
		[WE_INTERRUPT] = {WD_OVER, WA_FINISH_UNRUN},
		[WE_EXITED] = {WD_OVER, WA_FINISH_EXITED},
		[WE_DIED] = {WD_OVER, WA_FINISH_EXITED},
		[WE_CONTINUED] = {WD_RUNNING, WA_NONE},
	},
	[WD_SNAPSHOT] = {
		[WE_DAMAGED] = {WD_ENDING, WA_KILL_REFUSED},
		[WE_REQUEST] = {WD_SAME, WA_REMEMBER},
		[WE_STOP] = {WD_STOP_PENDING, WA_NONE},
		[WE_INTERRUPT] = {WD_STOP_PENDING, WA_NONE},
		[WE_TAKEN] = {WD_RUNNING, WA_NONE},
		[WE_FAILED] = {WD_RUNNING, WA_NONE},
		[WE_REFUSED] = {WD_ENDING, WA_KILL_REFUSED},
		[WE_EXITED] = {WD_OVER, WA_FINISH_EXITED},
		[WE_DIED] = {WD_ROLL_BACK, WA_NONE},
		[WE_LEAVE] = {WD_LEAVING, WA_CANCEL},
	},
	[WD_STOP_PENDING] = {
		[WE_DAMAGED] = {WD_ENDING, WA_KILL_REFUSED},
		[WE_INTERRUPT] = {WD_ENDING, WA_KILL},
		[WE_TAKEN] = {WD_STOPPING, WA_TAKE_FINAL},
		[WE_FAILED] = {WD_STOPPING, WA_TAKE_FINAL},
		[WE_REFUSED] = {WD_ENDING, WA_KILL_REFUSED},
		[WE_EXITED] = {WD_OVER, WA_FINISH_EXITED},
		[WE_DIED] = {WD_OVER, WA_FINISH_EXITED},
		[WE_LEAVE] = {WD_LEAVING, WA_CANCEL},
	},
	[WD_STOPPING] = {
		[WE_DAMAGED] = {WD_ENDING, WA_KILL_REFUSED},
		[WE_INTERRUPT] = {WD_ENDING, WA_KILL},
		[WE_TAKEN] = {WD_OVER, WA_FINISH_STOPPED},
		[WE_FAILED] = {WD_UNSTOPPABLE, WA_REPORT_RUN_ON},
		[WE_STAYED] = {WD_RUNNING, WA_NONE},
		[WE_REFUSED] = {WD_ENDING, WA_KILL_REFUSED},
		[WE_EXITED] = {WD_STOPPING_GONE, WA_NONE},
		[WE_DIED] = {WD_STOPPING_GONE, WA_NONE},
		[WE_LEAVE] = {WD_LEAVING_FINAL, WA_CANCEL},
	},
	[WD_STOPPING_GONE] = {
		[WE_TAKEN] = {WD_OVER, WA_FINISH_STOPPED},
		[WE_FAILED] = {WD_OVER, WA_FINISH_EXITED},
		[WE_REFUSED] = {WD_OVER, WA_FINISH_EXITED},
	},
	[WD_UNSTOPPABLE] = {
		[WE_DAMAGED] = {WD_ENDING, WA_KILL_REFUSED},
		[WE_REFUSED] = {WD_ENDING, WA_KILL_REFUSED},
		[WE_DUE] = {WD_SNAPSHOT, WA_TAKE},
		[WE_REQUEST] = {WD_SNAPSHOT, WA_TAKE},
		[WE_STOP] = {WD_STOPPING, WA_TAKE_FINAL},
		[WE_INTERRUPT] = {WD_ENDING, WA_KILL},
		[WE_EXITED] = {WD_OVER, WA_FINISH_EXITED},
		[WE_DIED] = {WD_OVER, WA_FINISH_EXITED},
		[WE_HUNG] = {WD_SAME, WA_KILL_HUNG},
		[WE_LEAVE] = {WD_OVER, WA_LEAVE},
	},
	[WD_ROLL_BACK] = {
		[WE_REQUEST] = {WD_SAME, WA_REMEMBER},
		[WE_TAKEN] = {WD_RECOVERING, WA_RECOVER},
		[WE_FAILED] = {WD_RECOVERING, WA_RECOVER},
		[WE_REFUSED] = {WD_OVER, WA_FINISH_FAILED},
		[WE_STOP] = {WD_OVER, WA_FINISH_UNRUN},
		[WE_INTERRUPT] = {WD_OVER, WA_FINISH_UNRUN},
	},
	[WD_ENDING] = {
		[WE_EXITED] = {WD_OVER, WA_FINISH_EXITED},
		[WE_DIED] = {WD_OVER, WA_FINISH_EXITED},
		[WE_LEAVE] = {WD_OVER, WA_LEAVE},
	},
	[WD_CANCELLED] = {
		[WE_REBUILT] = {WD_OVER, WA_FINISH_UNRUN},
		[WE_REBUILD_FAILED] = {WD_OVER, WA_FINISH_UNRUN},
	},
	[WD_LEAVING] = {
		[WE_TAKEN] = {WD_OVER, WA_LEAVE},
		[WE_FAILED] = {WD_OVER, WA_LEAVE},
		[WE_REFUSED] = {WD_OVER, WA_LEAVE},
		[WE_EXITED] = {WD_OVER, WA_FINISH_EXITED},
		[WE_DIED] = {WD_OVER, WA_FINISH_EXITED},
	},
	[WD_LEAVING_FINAL] = {
		[WE_TAKEN] = {WD_OVER, WA_FINISH_STOPPED},
		[WE_FAILED] = {WD_OVER, WA_LEAVE},
		[WE_REFUSED] = {WD_OVER, WA_LEAVE},
		[WE_EXITED] = {WD_STOPPING_GONE, WA_NONE},
		[WE_DIED] = {WD_STOPPING_GONE, WA_NONE},
	},
};
/* clang-format on */

struct wd_step wd_step(enum wd_state state, enum wd_event event)
{
	struct wd_step step = steps[state][event];

	if (step.next == WD_SAME)
		step.next = state;
	return step;
}

const char *wd_state_name(enum wd_state state)
{
	static const char *const names[WD_N_STATES] = {
		[WD_SAME] = "same",
		[WD_RECOVERING] = "recovering",
		[WD_OFFERED] = "offered",
		[WD_RUNNING] = "running",
		[WD_STANDING] = "standing",
		[WD_SNAPSHOT] = "snapshot",
		[WD_STOP_PENDING] = "stop pending",
		[WD_STOPPING] = "stopping",
		[WD_STOPPING_GONE] = "stopping, gone",
		[WD_UNSTOPPABLE] = "unstoppable",
		[WD_ROLL_BACK] = "roll back",
		[WD_ENDING] = "ending",
		[WD_CANCELLED] = "cancelled",
		[WD_LEAVING] = "leaving",
		[WD_LEAVING_FINAL] = "leaving, final",
		[WD_OVER] = "over",
	};

	return names[state];
}

const char *wd_event_name(enum wd_event event)
{
	static const char *const names[WE_N_EVENTS] = {
		[WE_NONE] = "none",
		[WE_DUE] = "due",
		[WE_REQUEST] = "request",
		[WE_STOP] = "stop",
		[WE_INTERRUPT] = "interrupt",
		[WE_TAKEN] = "taken",
		[WE_FAILED] = "failed",
		[WE_STAYED] = "stayed",
		[WE_REFUSED] = "refused",
		[WE_EXITED] = "exited",
		[WE_DIED] = "died",
		[WE_LEAVE] = "leave",
		[WE_HUNG] = "hung",
		[WE_REBUILT] = "rebuilt",
		[WE_OFFERED] = "offered",
		[WE_REBUILD_FAILED] = "rebuild failed",
		[WE_NO_CANDIDATE] = "no candidate",
		[WE_DAMAGED] = "damaged",
		[WE_STANDS] = "stands",
		[WE_CONTINUED] = "continued",
	};

	return names[event];
}
