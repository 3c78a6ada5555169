#include <sched.h>
#include <string.h>
#include <sys/resource.h>

#include "checkpointer/yielding.h"
#include "unit.h"

#define S   1000000000ull
#define MIB (1024 * 1024)

/* However it is cut, the average of ten seconds stays below the rate and comes near it. */
static void test_rate(void **state)
{
	static const uint64_t pieces[] = {4096, MIB, 7 * MIB};

	for (size_t i = 0; i < 3; i++) {
		struct yielding y = {.rate = 100 * MIB};
		uint64_t now = 1000 * S, bytes = 0;

		while (now < 1010 * S) {
			now += yield_wait_ns(&y, pieces[i], now);
			bytes += pieces[i];
		}
		assert_in_range(bytes, 990ull * MIB, 1015ull * MIB);
	}
}

/* A rest is not saved up. */
static void test_burst(void **state)
{
	struct yielding y = {.rate = 100 * MIB};
	uint64_t now = 1000 * S, bytes = 0;

	yield_wait_ns(&y, MIB, now);
	now += 60 * S;
	while (yield_wait_ns(&y, MIB, now) == 0)
		bytes += MIB;
	assert_in_range(bytes, MIB, 10 * MIB);
}

static void test_no_limit(void **state)
{
	struct yielding y = {0};

	for (int i = 0; i < 1000; i++)
		assert_int_equal(yield_wait_ns(&y, 1ull << 40, 5), 0);
}

struct seen {
	int policy, nice, result;
};

static int look(void *arg, struct err *err)
{
	struct seen *seen = arg;

	seen->policy = sched_getscheduler(0);
	seen->nice = getpriority(PRIO_PROCESS, 0);
	return seen->result < 0 ? err_set(err, ERR_GONE, "as told") : 0;
}

static void test_priority(void **state)
{
	struct yielding how = {.nice = 3};
	int own = getpriority(PRIO_PROCESS, 0), policy = sched_getscheduler(0);
	struct seen seen = {0};
	struct err err;

	assert_int_equal(yield_run(&how, look, &seen, &err), 0);
	assert_int_equal(seen.nice, own + 3 > 19 ? 19 : own + 3);
	how.nice = YIELD_IDLE;
	assert_int_equal(yield_run(&how, look, &seen, &err), 0);
	assert_int_equal(seen.policy, SCHED_IDLE);
	how.nice = 0;
	seen.result = -1;
	assert_fails(yield_run(&how, look, &seen, &err), ERR_GONE, &err);
	how.nice = 1;
	assert_fails(yield_run(&how, look, &seen, &err), ERR_GONE, &err);
	/* The caller's own stays. */
	assert_int_equal(getpriority(PRIO_PROCESS, 0), own);
	assert_int_equal(sched_getscheduler(0), policy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rate),
		cmocka_unit_test(test_burst),
		cmocka_unit_test(test_no_limit),
		cmocka_unit_test(test_priority),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
