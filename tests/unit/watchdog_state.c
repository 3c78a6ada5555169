#include <string.h>

#include "unit.h"
#include "watchdog/state.h"

static void expect(enum wd_state from, enum wd_event event, enum wd_state next,
		   enum wd_action action)
{
	struct wd_step step = wd_step(from, event);

	if (step.next != next || step.action != action)
		fail_msg("%s + %s: %s, action %d", wd_state_name(from), wd_event_name(event),
			 wd_state_name(step.next), step.action);
}

static void test_table_is_total(void **state)
{
	for (int s = WD_SAME + 1; s < WD_N_STATES; s++) {
		assert_non_null(wd_state_name((enum wd_state)s));
		for (int e = WE_NONE; e < WE_N_EVENTS; e++) {
			struct wd_step step = wd_step((enum wd_state)s, (enum wd_event)e);

			assert_non_null(wd_event_name((enum wd_event)e));
			assert_int_not_equal(step.next, WD_SAME);
			assert_true(step.next < WD_N_STATES);
		}
	}
}

/* Nothing happens any more once it is over, and nothing comes of no event. */
static void test_over_is_final(void **state)
{
	for (int e = WE_NONE; e < WE_N_EVENTS; e++)
		expect(WD_OVER, (enum wd_event)e, WD_OVER, WA_NONE);
	for (int s = WD_SAME + 1; s < WD_N_STATES; s++)
		expect((enum wd_state)s, WE_NONE, (enum wd_state)s, WA_NONE);
}

/* One command at a time: the snapshot thread is asked only where it is known to be idle. */
static void test_no_snapshot_during_a_snapshot(void **state)
{
	static const enum wd_state busy[] = {WD_RECOVERING, WD_SNAPSHOT,      WD_STOP_PENDING,
					     WD_STOPPING,   WD_STOPPING_GONE, WD_ROLL_BACK,
					     WD_ENDING,	    WD_CANCELLED,     WD_OVER};
	static const enum wd_event wishes[] = {WE_DUE, WE_REQUEST, WE_STOP, WE_INTERRUPT};

	for (size_t s = 0; s < sizeof(busy) / sizeof(busy[0]); s++) {
		for (size_t e = 0; e < sizeof(wishes) / sizeof(wishes[0]); e++) {
			enum wd_action action = wd_step(busy[s], wishes[e]).action;

			assert_int_not_equal(action, WA_TAKE);
			assert_int_not_equal(action, WA_TAKE_FINAL);
		}
	}
}

/* What another machine hands over does not run before the word, and leaves nothing behind without it. */
static void test_offered(void **state)
{
	expect(WD_RECOVERING, WE_OFFERED, WD_OFFERED, WA_NONE);
	expect(WD_OFFERED, WE_REBUILT, WD_RUNNING, WA_RELEASE);
	expect(WD_OFFERED, WE_NO_CANDIDATE, WD_OVER, WA_FINISH_FAILED);
	expect(WD_OFFERED, WE_STOP, WD_OVER, WA_FINISH_UNRUN);
	expect(WD_OFFERED, WE_INTERRUPT, WD_OVER, WA_FINISH_UNRUN);
	expect(WD_OFFERED, WE_DUE, WD_OFFERED, WA_NONE);
}

/* What stands for a debugger is not saved as stopped, and is ended without a snapshot. */
static void test_standing(void **state)
{
	expect(WD_RUNNING, WE_STANDS, WD_STANDING, WA_NONE);
	expect(WD_STANDING, WE_DUE, WD_STANDING, WA_NONE);
	expect(WD_STANDING, WE_HUNG, WD_STANDING, WA_NONE);
	expect(WD_STANDING, WE_REQUEST, WD_STANDING, WA_REPORT_STANDING);
	expect(WD_STANDING, WE_STOP, WD_OVER, WA_FINISH_UNRUN);
	expect(WD_STANDING, WE_INTERRUPT, WD_OVER, WA_FINISH_UNRUN);
	expect(WD_STANDING, WE_CONTINUED, WD_RUNNING, WA_NONE);
	expect(WD_RUNNING, WE_CONTINUED, WD_RUNNING, WA_NONE);
}

static void test_periodic(void **state)
{
	expect(WD_RUNNING, WE_DUE, WD_SNAPSHOT, WA_TAKE);
	expect(WD_SNAPSHOT, WE_DUE, WD_SNAPSHOT, WA_NONE);
	expect(WD_SNAPSHOT, WE_REQUEST, WD_SNAPSHOT, WA_REMEMBER);
	expect(WD_SNAPSHOT, WE_TAKEN, WD_RUNNING, WA_NONE);
	expect(WD_SNAPSHOT, WE_FAILED, WD_RUNNING, WA_NONE);
	/* Whatever is under way: without its memory the job cannot go on. */
	expect(WD_RUNNING, WE_DAMAGED, WD_ENDING, WA_KILL_REFUSED);
	expect(WD_SNAPSHOT, WE_DAMAGED, WD_ENDING, WA_KILL_REFUSED);
	expect(WD_STOPPING, WE_DAMAGED, WD_ENDING, WA_KILL_REFUSED);
	expect(WD_STANDING, WE_DAMAGED, WD_ENDING, WA_KILL_REFUSED);
	expect(WD_RECOVERING, WE_DAMAGED, WD_RECOVERING, WA_NONE);
	expect(WD_SNAPSHOT, WE_REFUSED, WD_ENDING, WA_KILL_REFUSED);
	expect(WD_RUNNING, WE_REFUSED, WD_ENDING, WA_KILL_REFUSED);
}

static void test_stop(void **state)
{
	static const enum wd_event stops[] = {WE_STOP, WE_INTERRUPT};

	for (size_t i = 0; i < 2; i++) {
		expect(WD_RUNNING, stops[i], WD_STOPPING, WA_TAKE_FINAL);
		expect(WD_SNAPSHOT, stops[i], WD_STOP_PENDING, WA_NONE);
	}
	expect(WD_STOP_PENDING, WE_TAKEN, WD_STOPPING, WA_TAKE_FINAL);
	expect(WD_STOP_PENDING, WE_FAILED, WD_STOPPING, WA_TAKE_FINAL);
	expect(WD_STOPPING, WE_TAKEN, WD_OVER, WA_FINISH_STOPPED);
	expect(WD_STOPPING, WE_EXITED, WD_STOPPING_GONE, WA_NONE);
	expect(WD_STOPPING_GONE, WE_TAKEN, WD_OVER, WA_FINISH_STOPPED);
	expect(WD_STOPPING_GONE, WE_FAILED, WD_OVER, WA_FINISH_EXITED);
}

static void test_second_signal_ends_at_once(void **state)
{
	static const enum wd_state stopping[] = {WD_STOP_PENDING, WD_STOPPING, WD_UNSTOPPABLE};

	for (size_t i = 0; i < 3; i++)
		expect(stopping[i], WE_INTERRUPT, WD_ENDING, WA_KILL);
	expect(WD_STOPPING, WE_STOP, WD_STOPPING, WA_NONE);
	expect(WD_ENDING, WE_EXITED, WD_OVER, WA_FINISH_EXITED);
}

static void test_failed_stop_runs_on(void **state)
{
	expect(WD_STOPPING, WE_FAILED, WD_UNSTOPPABLE, WA_REPORT_RUN_ON);
	expect(WD_UNSTOPPABLE, WE_DUE, WD_SNAPSHOT, WA_TAKE);
	expect(WD_UNSTOPPABLE, WE_STOP, WD_STOPPING, WA_TAKE_FINAL);
	expect(WD_UNSTOPPABLE, WE_EXITED, WD_OVER, WA_FINISH_EXITED);
}

static void test_roll_back(void **state)
{
	expect(WD_RUNNING, WE_DIED, WD_RECOVERING, WA_RECOVER);
	expect(WD_SNAPSHOT, WE_DIED, WD_ROLL_BACK, WA_NONE);
	expect(WD_ROLL_BACK, WE_FAILED, WD_RECOVERING, WA_RECOVER);
	expect(WD_RECOVERING, WE_REBUILD_FAILED, WD_RECOVERING, WA_RECOVER);
	expect(WD_RECOVERING, WE_NO_CANDIDATE, WD_OVER, WA_FINISH_FAILED);
	expect(WD_RECOVERING, WE_REBUILT, WD_RUNNING, WA_RELEASE);
	expect(WD_RECOVERING, WE_INTERRUPT, WD_CANCELLED, WA_KILL);
	expect(WD_CANCELLED, WE_REBUILT, WD_OVER, WA_FINISH_UNRUN);
	expect(WD_CANCELLED, WE_REBUILD_FAILED, WD_OVER, WA_FINISH_UNRUN);
	/* It goes back, or is to: stopped, it goes on from a snapshot that it has. */
	expect(WD_ROLL_BACK, WE_STOP, WD_OVER, WA_FINISH_UNRUN);
	expect(WD_ROLL_BACK, WE_INTERRUPT, WD_OVER, WA_FINISH_UNRUN);
}

/* Whoever wants the job to end does not get it back. */
static void test_no_roll_back_while_stopping(void **state)
{
	static const enum wd_state stopping[] = {WD_STOP_PENDING, WD_STOPPING, WD_UNSTOPPABLE,
						 WD_ENDING};

	for (size_t i = 0; i < 4; i++) {
		struct wd_step step = wd_step(stopping[i], WE_DIED);

		assert_int_not_equal(step.next, WD_RECOVERING);
		assert_int_not_equal(step.next, WD_ROLL_BACK);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table_is_total),
		cmocka_unit_test(test_over_is_final),
		cmocka_unit_test(test_no_snapshot_during_a_snapshot),
		cmocka_unit_test(test_offered),
		cmocka_unit_test(test_standing),
		cmocka_unit_test(test_periodic),
		cmocka_unit_test(test_stop),
		cmocka_unit_test(test_second_signal_ends_at_once),
		cmocka_unit_test(test_failed_stop_runs_on),
		cmocka_unit_test(test_roll_back),
		cmocka_unit_test(test_no_roll_back_while_stopping),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
