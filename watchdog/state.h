/*
 * state.h: what a watchdog does next, as a table of states and events. Pure.
 *
 * The loop gathers what happened, turns it into one event, looks up (state, event), moves to the
 * next state and carries out the action. An event that a state does not list is without consequence
 * there.
 */
#ifndef PAWL_WATCHDOG_STATE_H
#define PAWL_WATCHDOG_STATE_H

enum wd_state {
	WD_SAME = 0,	  /* only in the table: stay */
	WD_RECOVERING,	  /* the job is being rebuilt, nothing of it runs */
	WD_OFFERED,	  /* rebuilt; waits for the word of the machine that hands it over */
	WD_RUNNING,	  /* the job runs, no snapshot is under way */
	WD_STANDING,	  /* rebuilt and left stopped for a debugger (recover --stopped) */
	WD_SNAPSHOT,	  /* a snapshot is being taken or stored; the job runs */
	WD_STOP_PENDING,  /* a stop waits for the snapshot that is under way */
	WD_STOPPING,	  /* the final snapshot is being taken */
	WD_STOPPING_GONE, /* … and the job is gone; the snapshot's outcome says which end it was */
	WD_UNSTOPPABLE,	  /* the final snapshot failed, the job runs on; the next stop ends it */
	WD_ROLL_BACK,	  /* the job died; going back waits for the snapshot that is under way */
	WD_ENDING,	  /* killed on request, its end has not been seen yet */
	WD_CANCELLED,	  /* a stop came during the rebuild; waits for its outcome */
	WD_LEAVING,	  /* an attached job is let go; waits for the snapshot that is given up */
	WD_LEAVING_FINAL, /* … which was the final one: where it was too late to give it up, the job is
			   * stopped after all */
	WD_OVER,
	WD_N_STATES,
};

enum wd_event {
	WE_NONE = 0,
	WE_DUE,		   /* the schedule wants a snapshot */
	WE_REQUEST,	   /* somebody wants one now */
	WE_STOP,	   /* final snapshot, then end; asking twice is asking once */
	WE_INTERRUPT,	   /* the same by a signal: a second one ends the job at once */
	WE_TAKEN,	   /* the snapshot is durable */
	WE_FAILED,	   /* the snapshot failed, the job is unharmed */
	WE_REFUSED,	   /* … of something unsupported (also seen before any snapshot), and policy says to end the job */
	WE_EXITED,	   /* the job ended, for good */
	WE_DIED,	   /* the job died, and policy says to roll it back */
	WE_LEAVE,	   /* the attached job is to run on without us */
	WE_STAYED,	   /* the job was to go on elsewhere and did not: it runs on */
	WE_HUNG,	   /* the job has used no CPU time for too long */
	WE_REBUILT,	   /* the job stands rebuilt, stopped */
	WE_OFFERED,	   /* … but may not run yet */
	WE_REBUILD_FAILED, /* nothing of it is left */
	WE_NO_CANDIDATE,   /* there is no snapshot left to rebuild from */
	WE_DAMAGED,	   /* memory that is still to come cannot be read any more, and policy does not roll back */
	WE_STANDS,	   /* it is left stopped, as asked for */
	WE_CONTINUED,	   /* whoever looked at it has let it go on */
	WE_N_EVENTS,
};

enum wd_action {
	WA_NONE = 0,
	WA_TAKE,	   /* start a snapshot */
	WA_TAKE_FINAL,	   /* start the final one */
	WA_REMEMBER,	   /* another snapshot is wanted as soon as this one is done */
	WA_KILL_HUNG,	   /* kill the leader: its death is then an ordinary one */
	WA_KILL,	   /* kill the job at the user's wish */
	WA_KILL_REFUSED,   /* kill the job, pawl fails */
	WA_CANCEL,	   /* give up the snapshot that is under way */
	WA_LEAVE,	   /* over: the attached job runs on */
	WA_RECOVER,	   /* rebuild from the next candidate */
	WA_RELEASE,	   /* let the rebuilt job run */
	WA_REPORT_STANDING, /* say that there is no snapshot while it stands */
	WA_REPORT_RUN_ON,  /* say that the job could not be stopped and runs on */
	WA_FINISH_EXITED,  /* over: the job's own status */
	WA_FINISH_STOPPED, /* over: stopped by the final snapshot, resumable */
	WA_FINISH_UNRUN,   /* over: stopped, resumable from the snapshot that it already has */
	WA_FINISH_FAILED,  /* over: pawl gives up */
};

struct wd_step {
	enum wd_state next;
	enum wd_action action;
};

/* The step for an event in a state; .next is never WD_SAME. Total: any pair is allowed. */
struct wd_step wd_step(enum wd_state state, enum wd_event event);

/* For debug messages and tests. */
const char *wd_state_name(enum wd_state state);
const char *wd_event_name(enum wd_event event);

#endif
