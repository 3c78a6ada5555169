#include <string.h>

#include "tools/jobref.h"
#include "unit.h"

static void check(const char *text, const char *job, uint64_t seq)
{
	struct jobref ref = {0};
	struct err err = {0};

	assert_int_equal(jobref_parse(text, &ref, &err), 0);
	assert_string_equal(ref.job, job);
	assert_int_equal(ref.seq, seq);
}

static void test_good_names(void **state)
{
	check("sim", "sim", 0);
	check("sim@1", "sim", 1);
	check("a.b_c+d-2@18446744073709551615", "a.b_c+d-2", UINT64_MAX);
	check("0@7", "0", 7);
}

static void test_bad_names(void **state)
{
	static const char *const cases[] = {
		"",
		"@",
		"@1",
		"sim@",
		"sim@0",
		"sim@01",
		"sim@-1",
		"sim@1x",
		"sim@ 1",
		"s im",
		"-sim",
		".sim",
		"a/b",
		"sim@1@2",
		"sim@x",
		"\xc3\xa4",
		"sim@18446744073709551616",
		"sim@99999999999999999999999",
	};
	char longest[300];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct jobref ref = {.seq = 42};
		struct err err = {0};

		assert_fails(jobref_parse(cases[i], &ref, &err), ERR_INVALID, &err);
		assert_int_equal(ref.seq, 42);
	}
	memset(longest, 'a', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	for (size_t len = 101; len < sizeof(longest); len += 7) {
		struct jobref ref;
		struct err err = {0};

		assert_fails(jobref_parse(longest + sizeof(longest) - 1 - len, &ref, &err),
			     ERR_INVALID, &err);
	}
}

static void test_job_or_snapshot_only(void **state)
{
	struct jobref ref;
	struct err err = {0};

	assert_int_equal(jobref_parse_job("sim", &ref, &err), 0);
	assert_fails(jobref_parse_job("sim@3", &ref, &err), ERR_INVALID, &err);
	assert_int_equal(jobref_parse_snapshot("sim@3", &ref, &err), 0);
	assert_int_equal(ref.seq, 3);
	assert_fails(jobref_parse_snapshot("sim", &ref, &err), ERR_INVALID, &err);
	assert_non_null(strstr(err.msg, "pawl list sim"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good_names),
		cmocka_unit_test(test_bad_names),
		cmocka_unit_test(test_job_or_snapshot_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
