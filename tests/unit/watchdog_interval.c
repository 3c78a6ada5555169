#include <math.h>
#include <string.h>

#include "unit.h"
#include "watchdog/interval.h"

#define S    1000000000ull
#define HOUR (3600 * S)

static const struct interval_rule rule = {
	.automatic = true, .mtbf_ns = 24 * HOUR, .floor_ns = 10 * S, .ceiling_ns = HOUR};

static struct interval_cost cost_of(double seconds)
{
	return (struct interval_cost){.n = 3, .lost_s = seconds};
}

/* Expected loss per second of work when saving every w seconds: what the choice is to make least.
 */
static double loss(double cost, double mtbf, double w)
{
	return mtbf * (exp((w + cost) / mtbf) - 1) / w - 1;
}

static void test_best(void **state)
{
	static const double costs[] = {0.002, 0.02, 0.5, 3, 40, 200};

	for (size_t i = 0; i < sizeof(costs) / sizeof(costs[0]); i++) {
		struct interval_rule wide = rule;
		struct interval_cost cost = cost_of(costs[i]);
		struct interval_choice c;
		double w;

		wide.floor_ns = 1;
		wide.ceiling_ns = 1000 * HOUR;
		c = interval_choose(&wide, &cost);
		w = (double)c.interval_ns / 1e9;
		assert_int_equal(c.reason, INTERVAL_BEST);
		assert_true(c.measured);
		assert_true(loss(costs[i], 86400, w) < loss(costs[i], 86400, w * 0.9));
		assert_true(loss(costs[i], 86400, w) < loss(costs[i], 86400, w * 1.1));
	}
}

static void test_bounds(void **state)
{
	struct interval_cost cheap = cost_of(0), dear = cost_of(10000);
	struct interval_rule frail = rule;
	struct interval_choice c = interval_choose(&rule, &cheap);

	assert_int_equal(c.reason, INTERVAL_BEST); /* nothing costs nothing */
	assert_in_range(c.interval_ns, 10 * S, 20 * S);
	frail.mtbf_ns = 60 * S;
	c = interval_choose(&frail, &cheap);
	assert_int_equal(c.reason, INTERVAL_FLOOR);
	assert_int_equal(c.interval_ns, 10 * S);
	c = interval_choose(&rule, &dear);
	assert_int_equal(c.reason, INTERVAL_CEILING);
	assert_int_equal(c.interval_ns, HOUR);
	/* Dearer than there is time between failures. */
	frail.ceiling_ns = 2 * HOUR;
	c = interval_choose(&frail, &dear);
	assert_int_equal(c.interval_ns, 60 * S);
}

static void test_guess(void **state)
{
	struct interval_cost none = {0};
	struct interval_choice c = interval_choose(&rule, &none);

	assert_false(c.measured);
	assert_true(c.cost_s == 1.0);
	assert_in_range(c.interval_ns, 400 * S, 430 * S); /* sqrt(2 * 1 * 86400) = 416 */
}

static void test_fixed(void **state)
{
	const struct interval_rule every = {
		.fixed_ns = 300 * S, .mtbf_ns = HOUR, .floor_ns = S, .ceiling_ns = 2 * S};
	struct interval_cost cost = cost_of(5);
	struct interval_choice c = interval_choose(&every, &cost);
	char text[256];

	assert_int_equal(c.interval_ns, 300 * S);
	assert_int_equal(c.reason, INTERVAL_FIXED);
	c.interval_ns = 0;
	assert_string_equal(interval_text(&c, text, sizeof(text)), "never, only on request");
}

/* The first snapshot is a full one and counts until there is another; then old ones fade. */
static void test_note(void **state)
{
	struct interval_cost cost = {0};

	interval_note(&cost, S / 10, 20 * S, 2);
	assert_true(fabs(cost.lost_s - 10.1) < 1e-9);
	interval_note(&cost, S / 100, 2 * S, 2);
	assert_true(fabs(cost.lost_s - 1.01) < 1e-9);
	interval_note(&cost, S / 100, 4 * S, 2);
	assert_true(cost.lost_s > 1.01 && cost.lost_s < 2.01);
	for (int i = 0; i < 50; i++)
		interval_note(&cost, S / 100, 4 * S, 2);
	assert_true(fabs(cost.lost_s - 2.01) < 1e-3);
	assert_int_equal(cost.n, 53);
	interval_note(&cost, 0, 0, 0); /* no core is no reason to divide by zero */
	assert_true(isfinite(cost.lost_s));
}

static void test_text(void **state)
{
	struct interval_cost cost = cost_of(0.5), dear = cost_of(10000);
	struct interval_choice c = interval_choose(&rule, &cost);
	char text[256];

	interval_text(&c, text, sizeof(text));
	assert_non_null(strstr(text, "the best"));
	assert_non_null(strstr(text, "500.0 ms (measured)"));
	c = interval_choose(&rule, &dear);
	assert_non_null(strstr(interval_text(&c, text, sizeof(text)), "the most allowed"));
	assert_string_equal(interval_reason_name(c.reason), "ceiling");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_best),  cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_guess), cmocka_unit_test(test_fixed),
		cmocka_unit_test(test_note),  cmocka_unit_test(test_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
