#include <string.h>

#include "store/base/units.h"
#include "unit.h"

static void test_durations(void **state)
{
	static const struct {
		const char *text;
		uint64_t ns;
	} cases[] = {
		{"30s", 30 * NSEC_PER_SEC},	{"5m", 300 * NSEC_PER_SEC},
		{"5min", 300 * NSEC_PER_SEC},	{"2h", 7200 * NSEC_PER_SEC},
		{"1d", 86400 * NSEC_PER_SEC},	{"500ms", NSEC_PER_SEC / 2},
		{"1.5s", 3 * NSEC_PER_SEC / 2}, {"90", 90 * NSEC_PER_SEC},
		{".5", NSEC_PER_SEC / 2},	{"007s", 7 * NSEC_PER_SEC},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct err err = {0};
		uint64_t ns = 0;

		assert_int_equal(parse_duration(cases[i].text, &ns, &err), 0);
		assert_int_equal(ns, cases[i].ns);
	}
}

static void test_bad_durations_name_the_text(void **state)
{
	static const char *const cases[] = {"",	    "0",
					    "0s",   "-5",
					    "10x",  "abc",
					    " 5s",  "5 s",
					    "5s ",  "1.2.3s",
					    "inf",  "nan",
					    "0x5",  "1e3",
					    "+5",   "5mm",
					    "200y", "99999d",
					    ".",    "5S",
					    "1d2h", "9999999999999999999999999999999999999s"};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct err err = {0};
		uint64_t ns = 42;

		assert_fails(parse_duration(cases[i], &ns, &err), ERR_INVALID, &err);
		assert_int_equal(ns, 42);
		assert_non_null(strstr(err.msg, cases[i]));
	}
}

static void test_sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} cases[] = {
		{"4096", 4096},	      {"512K", 512 << 10}, {"64M", 64 << 20},
		{"4G", 4ull << 30},   {"1T", 1ull << 40},  {"1KiB", 1024},
		{"2GiB", 2ull << 30}, {"1.5K", 1536},	   {"10B", 10},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct err err = {0};
		uint64_t bytes = 0;

		assert_int_equal(parse_size(cases[i].text, &bytes, &err), 0);
		assert_int_equal(bytes, cases[i].bytes);
	}
}

static void test_bad_sizes(void **state)
{
	static const char *const cases[] = {"",	   "0",	       "-1", "G",  "10Q",
					    "1GG", "9999999T", "K1", "1 K"};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct err err = {0};
		uint64_t bytes = 42;

		assert_fails(parse_size(cases[i], &bytes, &err), ERR_INVALID, &err);
		assert_int_equal(bytes, 42);
	}
}

static void check_size(uint64_t bytes, const char *text)
{
	char buf[32];

	assert_string_equal(format_size(bytes, buf, sizeof(buf)), text);
}

static void check_duration(uint64_t ns, const char *text)
{
	char buf[32];

	assert_string_equal(format_duration(ns, buf, sizeof(buf)), text);
}

static void test_formats(void **state)
{
	check_size(0, "0 B");
	check_size(1023, "1023 B");
	check_size(1536, "1.5 KiB");
	check_size(3ull << 30, "3.0 GiB");
	check_size(512ull << 20, "512 MiB");
	check_duration(3200000, "3.2 ms");
	check_duration(4100 * 1000000ull, "4.1 s");
	check_duration(65 * NSEC_PER_SEC, "1m 05s");
	check_duration(7500 * NSEC_PER_SEC, "2h 05m");
	check_duration(90000 * NSEC_PER_SEC, "1d 01h");
}

static void test_extremes_fit_the_buffer(void **state)
{
	char buf[32];

	assert_true(strlen(format_size(UINT64_MAX, buf, sizeof(buf))) < sizeof(buf) - 1);
	assert_true(strlen(format_duration(UINT64_MAX, buf, sizeof(buf))) < sizeof(buf) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_durations),
		cmocka_unit_test(test_bad_durations_name_the_text),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_bad_sizes),
		cmocka_unit_test(test_formats),
		cmocka_unit_test(test_extremes_fit_the_buffer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
