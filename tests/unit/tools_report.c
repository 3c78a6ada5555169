#include <string.h>

#include "tools/report.h"
#include "unit.h"

static void test_time_is_rfc_3339(void **state)
{
	char buf[40];

	assert_string_equal(report_time(0, buf, sizeof(buf)), "1970-01-01T00:00:00.000000Z");
	assert_string_equal(report_time(1767225600250000999ull, buf, sizeof(buf)),
			    "2026-01-01T00:00:00.250000Z");
	assert_true(strlen(report_time(UINT64_MAX, buf, sizeof(buf))) < sizeof(buf));
}

static void test_age(void **state)
{
	char buf[32];

	assert_string_equal(report_age(5000000000ull, 2000000000ull, buf, sizeof(buf)), "3.0 s");
	assert_string_equal(report_age(5000000000ull, 0, buf, sizeof(buf)), "-");
	/* A clock that was set back. */
	assert_string_equal(report_age(1, 5000000000ull, buf, sizeof(buf)), "0 us");
}

static void check_text(const char *bytes, size_t len, const char *expect)
{
	json_t *value = report_bytes(bytes, len);

	assert_string_equal(json_string_value(value), expect);
	json_decref(value);
}

static void test_any_bytes_become_text(void **state)
{
	json_t *value;

	check_text("plain\n", 6, "plain\n");
	check_text("gr\xc3\xbc\xc3\x9f", 6, "gr\xc3\xbc\xc3\x9f");
	check_text("a\xff"
		   "b",
		   3, "a\\xffb");
	check_text("\xc3", 1, "\\xc3");
	value = report_bytes("a\0b", 3);
	assert_int_equal(json_string_length(value), 3);
	json_decref(value);
}

static void test_snapshot_has_the_promised_fields(void **state)
{
	static const char *const fields[] = {
		"job",
		"seq",
		"time",
		"pause_us",
		"wall_us",
		"pages_resident",
		"pages_candidate",
		"pages_changed",
		"bytes_raw",
		"bytes_stored",
		"parent",
		"tracker",
	};
	struct snapshot_info info = {
		.job = "sim",
		.seq = 7,
		.parent = 6,
		.time = 1767225600000000000ull,
		.pause_us = 1,
		.wall_us = 2,
		.pages_resident = 3,
		.pages_candidate = 4,
		.pages_changed = 5,
		.bytes_raw = 6,
		.bytes_stored = 1ull << 40,
		.tracker = "pagemap",
	};
	json_t *o = report_snapshot(&info);

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		assert_non_null(json_object_get(o, fields[i]));
	assert_string_equal(json_string_value(json_object_get(o, "job")), "sim");
	assert_int_equal(json_integer_value(json_object_get(o, "seq")), 7);
	assert_int_equal(json_integer_value(json_object_get(o, "parent")), 6);
	assert_int_equal(json_integer_value(json_object_get(o, "bytes_stored")), 1ll << 40);
	assert_string_equal(json_string_value(json_object_get(o, "time")),
			    "2026-01-01T00:00:00.000000Z");
	json_decref(o);
	info.parent = 0;
	info.time = 0;
	o = report_snapshot(&info);
	assert_true(json_is_null(json_object_get(o, "parent")));
	assert_true(json_is_null(json_object_get(o, "time")));
	json_decref(o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_time_is_rfc_3339),
		cmocka_unit_test(test_age),
		cmocka_unit_test(test_any_bytes_become_text),
		cmocka_unit_test(test_snapshot_has_the_promised_fields),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
