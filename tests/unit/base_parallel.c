/* Every item once, and all of them done when the call returns. */
#include "unit.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "store/base/parallel.h"

#define MANY 5000

struct count {
	atomic_int done[MANY];
};

static void count(void *ctx, size_t i)
{
	struct count *c = ctx;

	c->done[i]++;
}

static void check(size_t n, size_t worth)
{
	struct count *c = calloc(1, sizeof(*c));

	assert_non_null(c);
	parallel_do(n, worth, count, c);
	for (size_t i = 0; i < MANY; i++)
		assert_int_equal(c->done[i], i < n);
	free(c);
}

static void every_item_is_done_once(void **state)
{
	static const size_t sizes[] = {0, 1, 7, 8, 9, 63, 64, 65, 1000, MANY};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (size_t worth = 1; worth < 10000; worth *= 7)
			check(sizes[i], worth);
}

static void the_callers_signals_stay_as_they_were(void **state)
{
	sigset_t before, after;

	sigemptyset(&before);
	sigaddset(&before, SIGUSR2);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	check(MANY, 1);
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	for (int s = 1; s < 32; s++)
		assert_int_equal(sigismember(&after, s), s == SIGUSR2);
}

struct failing {
	atomic_int shares, failures;
};

static int fail_but_once(void *ctx, struct err *err)
{
	struct failing *f = ctx;

	if (f->shares++ == 0)
		return 0;
	f->failures++;
	return err_set(err, ERR_CORRUPT, "a share failed");
}

static void a_share_that_fails_is_told(void **state)
{
	struct failing f = {0};
	struct err err = {0};

	assert_int_equal(parallel_run(0, fail_but_once, &f, &err), 0);
	assert_int_equal(f.shares, 1);
	assert_int_equal(parallel_run(3, fail_but_once, &f, &err), -1);
	assert_int_equal(err.kind, ERR_CORRUPT);
	assert_int_equal(f.failures, f.shares - 1);
	assert_true(parallel_cpus() >= 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_item_is_done_once),
		cmocka_unit_test(the_callers_signals_stay_as_they_were),
		cmocka_unit_test(a_share_that_fails_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
