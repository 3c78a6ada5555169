#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "unit.h"
#include "watchdog/policy.h"

#define SECOND 1000000000ull
#define HOUR   (3600 * SECOND)
#define DAY    (24 * HOUR)

static void test_next_due(void **state)
{
	assert_int_equal(policy_next_due(100, 110, 1000), 1100);
	/* Half of the time at most goes to snapshots. */
	assert_int_equal(policy_next_due(100, 900, 1000), 1700);
	assert_int_equal(policy_next_due(100, 5100, 1000), 10100);
	assert_true(policy_next_due(100, 110, 0) == UINT64_MAX);
}

static bool foreign(int status, uint64_t sent, bool terminal, bool stream_gone)
{
	const struct death_facts facts = {status, sent, terminal, stream_gone};

	return policy_foreign_death(&facts);
}

static void test_deaths(void **state)
{
	assert_false(foreign(0, 0, false, false));
	assert_false(foreign(3 << 8, 0, false, false));
	assert_true(foreign(SIGKILL, 0, false, false));
	assert_true(foreign(SIGSEGV | 0x80, 0, false, false));
	assert_true(foreign(SIGTERM, 0, true, true));
	assert_false(foreign(SIGUSR2, 1ull << (SIGUSR2 - 1), false, false));
	assert_true(foreign(SIGKILL, 1ull << (SIGUSR2 - 1), false, false));
	assert_false(foreign(64, 1ull << 63, false, false));
}

static void test_deaths_by_terminal_and_pipe(void **state)
{
	assert_true(foreign(SIGINT, 0, false, false));
	assert_false(foreign(SIGINT, 0, true, false));
	assert_false(foreign(SIGQUIT | 0x80, 0, true, false));
	assert_true(foreign(SIGPIPE, 0, false, false));
	assert_false(foreign(SIGPIPE, 0, false, true));
}

static const uint64_t good[] = {2, 3, 5, 9};

static uint64_t back(const struct retry_state *state, unsigned retries, uint64_t now)
{
	return policy_roll_back(state, retries, now, 10, good, 4);
}

static void test_roll_back_to_newest(void **state)
{
	struct retry_state retry = {0};

	assert_int_equal(back(&retry, 3, 100), 9);
	assert_int_equal(back(&retry, 0, 100), 0);
	assert_int_equal(policy_roll_back(&retry, 3, 100, 10, good, 0), 0);
}

static void test_step_back_when_it_dies_again_soon(void **state)
{
	struct retry_state retry = {0};

	retry_note(&retry, 9, 100);
	assert_int_equal(back(&retry, 5, 105), 5);
	retry_note(&retry, 5, 105);
	assert_int_equal(back(&retry, 5, 110), 3);
	retry_note(&retry, 3, 110);
	retry_note(&retry, 2, 112);
	/* Nothing older is left. */
	assert_int_equal(back(&retry, 5, 115), 0);
}

static void test_soon_is_two_intervals_or_no_snapshot(void **state)
{
	struct retry_state retry = {0};

	retry_note(&retry, 5, 100);
	/* Long after, but without a snapshot since. */
	assert_int_equal(back(&retry, 5, 1000), 3);
	retry.snapshot_since = true;
	assert_int_equal(back(&retry, 5, 119), 3);
	assert_int_equal(back(&retry, 5, 120), 9);
}

static void test_retries_are_counted(void **state)
{
	struct retry_state retry = {0};

	retry_note(&retry, 9, 100);
	retry_note(&retry, 9, 200);
	assert_int_equal(back(&retry, 2, 1000), 0);
	assert_int_equal(back(&retry, 3, 1000), 5);
}

static void test_hang(void **state)
{
	struct hang_state hang = {0};

	assert_false(hang_look(&hang, 50, 1000, 100));
	assert_false(hang_look(&hang, 50, 1099, 100));
	assert_true(hang_look(&hang, 50, 1100, 100));
	assert_false(hang_look(&hang, 51, 1100, 100));
	assert_false(hang_look(&hang, 51, 1199, 100));
	assert_false(hang_look(&hang, 51, 5000, 0));
	hang_reset(&hang);
	assert_false(hang_look(&hang, 51, 9000, 100));
}

/* What a snapshot makes the job's threads execute is no sign of life. */
static void test_hang_ignores_snapshots(void **state)
{
	struct hang_state hang = {0};

	hang_look(&hang, 50, 1000, 100);
	hang_rebase(&hang, 60);
	assert_true(hang_look(&hang, 60, 1100, 100));
}

struct kept {
	struct snapshot_info infos[64];
	bool drop[64];
	size_t n;
};

static void add(struct kept *k, uint64_t time)
{
	k->infos[k->n] = (struct snapshot_info){.seq = k->n + 1, .time = time};
	k->n++;
}

/* The kept ones as "1 4 5 ". */
static const char *thin(struct kept *k, struct retention rule, uint64_t protect, long offset)
{
	static char text[256];
	size_t dropped = policy_retention(k->infos, k->n, &rule, protect, offset, k->drop), n = 0;

	text[0] = '\0';
	for (size_t i = 0; i < k->n; i++) {
		n += k->drop[i];
		if (!k->drop[i])
			sprintf(text + strlen(text), "%d ", (int)k->infos[i].seq);
	}
	assert_int_equal(n, dropped);
	return text;
}

static void test_keep_newest(void **state)
{
	struct kept k = {.n = 0};

	for (int i = 1; i <= 6; i++)
		add(&k, DAY + (uint64_t)i * SECOND);
	assert_string_equal(thin(&k, (struct retention){.keep = 0}, 0, 0), "1 2 3 4 5 6 ");
	assert_string_equal(thin(&k, (struct retention){.keep = 2}, 0, 0), "5 6 ");
	assert_string_equal(thin(&k, (struct retention){.keep = 9}, 0, 0), "1 2 3 4 5 6 ");
	assert_string_equal(thin(&k, (struct retention){.keep = 1}, 3, 0), "3 6 ");
}

static void test_damaged_do_not_count(void **state)
{
	struct kept k = {.n = 0};

	add(&k, DAY);
	add(&k, DAY + 1);
	add(&k, 0);
	add(&k, DAY + 2);
	assert_string_equal(thin(&k, (struct retention){.keep = 2}, 0, 0), "2 4 ");
	assert_string_equal(thin(&k, (struct retention){.keep = 4}, 0, 0), "1 2 3 4 ");
}

static void test_hourly_and_daily(void **state)
{
	struct kept k = {.n = 0};

	add(&k, 10 * DAY + 1 * HOUR);	       /* 1 */
	add(&k, 10 * DAY + 5 * HOUR);	       /* 2: newest of day 10 */
	add(&k, 12 * DAY + 1 * HOUR);	       /* 3 */
	add(&k, 12 * DAY + 1 * HOUR + SECOND); /* 4: newest of its hour */
	add(&k, 12 * DAY + 3 * HOUR);	       /* 5 */
	add(&k, 12 * DAY + 3 * HOUR + SECOND); /* 6: newest of all */
	assert_string_equal(thin(&k, (struct retention){.keep = 1, .keep_hourly = 2}, 0, 0),
			    "4 6 ");
	assert_string_equal(thin(&k, (struct retention){.keep = 1, .keep_daily = 2}, 0, 0), "2 6 ");
	assert_string_equal(thin(&k, (struct retention){1, 3, 1}, 0, 0), "2 4 6 ");
	assert_string_equal(thin(&k, (struct retention){.keep = 1, .keep_daily = 9}, 0, 0), "2 6 ");
}

/* Days are those of the user's clock. */
static void test_days_are_local(void **state)
{
	struct kept k = {.n = 0};

	add(&k, 12 * DAY + 22 * HOUR);
	add(&k, 13 * DAY + 1 * HOUR);
	assert_string_equal(thin(&k, (struct retention){.keep = 1, .keep_daily = 2}, 0, 0), "1 2 ");
	assert_string_equal(thin(&k, (struct retention){.keep = 1, .keep_daily = 2}, 0, 7200),
			    "2 ");
	assert_string_equal(thin(&k, (struct retention){.keep = 1, .keep_daily = 2}, 0, -7200),
			    "2 ");
}

/* As long as rounds get clearly smaller, and are not small yet. */
static void test_rounds_of_a_move(void **state)
{
	assert_true(policy_another_round(UINT64_MAX, 500000));
	assert_true(policy_another_round(500000, 400000));
	assert_false(policy_another_round(500000, 450000));
	assert_false(policy_another_round(400000, 500000));
	assert_false(policy_another_round(UINT64_MAX, 100));
}

static void test_slowing_a_job_down(void **state)
{
	unsigned percent = 0, steps = 0;

	assert_int_equal(policy_slow_down(100000000, 0), 0);
	for (unsigned next; (next = policy_slow_down(3000000000, percent)) != 0; percent = next, steps++)
		assert_true(next > percent && next < 99);
	assert_true(percent > 90);
	assert_int_equal(steps, 2);
	assert_int_equal(policy_slow_down(100000000, 80), 0);
}

static void test_space_is_freed_when_there_is_some(void **state)
{
	/* 1 GiB that compresses to the half, of which 1 MiB changed since. */
	const struct snapshot_info infos[] = {
		{.pages_resident = 262144, .bytes_raw = 1u << 30, .bytes_stored = 1u << 29},
		{.pages_resident = 262144, .bytes_raw = 1u << 20, .bytes_stored = 1u << 19},
	};
	const struct snapshot_info empty[] = {{.pages_resident = 262144}};

	assert_false(policy_frees_now(infos, 2, 1u << 19));
	assert_false(policy_frees_now(infos, 2, (1u << 28) - 1));
	assert_true(policy_frees_now(infos, 2, 1u << 28));
	assert_false(policy_frees_now(infos + 1, 1, 1u << 19)); /* the first one has gone */
	assert_true(policy_frees_now(empty, 1, 0));		/* what it would take cannot be told */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_next_due),
		cmocka_unit_test(test_space_is_freed_when_there_is_some),
		cmocka_unit_test(test_deaths),
		cmocka_unit_test(test_deaths_by_terminal_and_pipe),
		cmocka_unit_test(test_roll_back_to_newest),
		cmocka_unit_test(test_step_back_when_it_dies_again_soon),
		cmocka_unit_test(test_soon_is_two_intervals_or_no_snapshot),
		cmocka_unit_test(test_retries_are_counted),
		cmocka_unit_test(test_hang),
		cmocka_unit_test(test_hang_ignores_snapshots),
		cmocka_unit_test(test_keep_newest),
		cmocka_unit_test(test_damaged_do_not_count),
		cmocka_unit_test(test_hourly_and_daily),
		cmocka_unit_test(test_days_are_local),
		cmocka_unit_test(test_rounds_of_a_move),
		cmocka_unit_test(test_slowing_a_job_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
