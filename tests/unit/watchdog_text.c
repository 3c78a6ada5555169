/* The small pure ones: names, the progress line, carriage returns, answers of the control socket.
 */
#include <stdio.h>
#include <string.h>

#include "unit.h"
#include "watchdog/control.h"
#include "watchdog/jobname.h"
#include "watchdog/progress.h"
#include "watchdog/pump_flows.h"

static void test_job_names(void **state)
{
	static const struct {
		const char *command, *name;
		unsigned number;
	} cases[] = {
		{"sim", "sim", 1},     {"./sim", "sim", 1},    {"/usr/bin/python3", "python3", 2},
		{"a b:c", "a-b-c", 1}, {"-x", "x", 1},	       {"..hidden", "hidden", 1},
		{"/", "job", 1},       {"\xc3\xa4", "job", 1}, {"dir/", "dir-", 1},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char name[128], expected[140];
		struct err err;

		jobname_make(cases[i].command, cases[i].number, name, sizeof(name));
		snprintf(expected, sizeof(expected), cases[i].number > 1 ? "%s-2" : "%s",
			 cases[i].name);
		assert_string_equal(name, expected);
		assert_int_equal(job_name_check(name, &err), 0);
	}
}

static void test_long_command(void **state)
{
	char command[1000], name[128];
	struct err err;

	memset(command, 'x', sizeof(command) - 1);
	command[sizeof(command) - 1] = '\0';
	jobname_make(command, 9999, name, sizeof(name));
	assert_int_equal(job_name_check(name, &err), 0);
	assert_non_null(strstr(name, "-9999"));
}

static void test_progress(void **state)
{
	struct progress p = {.started = 0};
	char text[400];

	assert_string_equal(progress_text(&p, "sim", 5000000000ull, 0, text, sizeof(text)),
			    "pawl: sim 5.0 s, no snapshot yet");
	p.has_last = true;
	p.last = (struct snapshot_info){
		.seq = 7, .time = 100, .pause_us = 2500, .bytes_stored = 3 << 20};
	assert_string_equal(
		progress_text(&p, "sim", 60000000000ull, 2000000100, text, sizeof(text)),
		"pawl: sim 1m 00s, snapshot @7 2.0 s ago (pause 2.5 ms, stored 3.0 MiB)");
}

/* Feeds the pieces one after the other, as reads of a terminal give them. */
static const char *without_cr(const char *const *pieces)
{
	static char all[256];
	bool held = false;
	size_t n = 0;

	for (; *pieces; pieces++) {
		char buf[64];
		size_t len = strlen(*pieces);

		memcpy(buf + 1, *pieces, len);
		len = drop_cr(buf, len, &held);
		memcpy(all + n, buf, len);
		n += len;
	}
	snprintf(all + n, sizeof(all) - n, "%s", held ? "(held)" : "");
	return all;
}

#define pieces(...) ((const char *const[]){__VA_ARGS__, NULL})

static void test_drop_cr(void **state)
{
	assert_string_equal(without_cr(pieces("a\r\nb\r\n")), "a\nb\n");
	assert_string_equal(without_cr(pieces("a\r", "\nb")), "a\nb");
	assert_string_equal(without_cr(pieces("10%\r20%\r\n")), "10%\r20%\n");
	assert_string_equal(without_cr(pieces("10%\r", "20%")), "10%\r20%");
	assert_string_equal(without_cr(pieces("a\r\r\n")), "a\r\n");
	assert_string_equal(without_cr(pieces("\r", "\r", "\n")), "\r\n");
	assert_string_equal(without_cr(pieces("end\r")), "end(held)");
	assert_string_equal(without_cr(pieces("", "x")), "x");
}

static void test_snapshot_as_json(void **state)
{
	struct snapshot_info info = {.job = "sim",
				     .seq = 3,
				     .parent = 2,
				     .time = 1763830000123456789ull,
				     .generation = 4,
				     .pause_us = 5,
				     .wall_us = 6,
				     .pages_resident = 7,
				     .pages_candidate = 8,
				     .pages_changed = 9,
				     .bytes_raw = 10,
				     .bytes_stored = 11,
				     .tracker = "pagemap",
				     .final = true,
				     .processes = 12,
				     .threads = 13};
	struct snapshot_info back = {0};
	json_t *object = control_pack_snapshot(&info), *again;
	struct err err = {0};

	assert_int_equal(control_unpack_snapshot(object, &back, &err), 0);
	assert_int_equal(back.time, info.time);
	assert_string_equal(back.tracker, info.tracker);
	again = control_pack_snapshot(&back);
	assert_int_equal(json_object_size(again), 16);
	assert_true(json_equal(object, again));
	json_decref(again);
	json_object_del(object, "pause_us");
	assert_fails(control_unpack_snapshot(object, &back, &err), ERR_CORRUPT, &err);
	json_decref(object);
	assert_fails(control_unpack_snapshot(NULL, &back, &err), ERR_CORRUPT, &err);
}

static void test_status_as_json(void **state)
{
	const struct job_status status = {
		.state = "running",
		.interval = {.interval_ns = 42, .reason = INTERVAL_FLOOR, .measured = true, .cost_s = 0.5, .mtbf_s = 60},
		.next_ns = 7,
	};
	struct job_status back;
	json_t *object = control_pack_status(&status);
	struct err err = {0};

	assert_int_equal(control_unpack_status(object, &back, &err), 0);
	assert_string_equal(back.state, "running");
	assert_int_equal(back.interval.interval_ns, 42);
	assert_int_equal(back.interval.reason, INTERVAL_FLOOR);
	assert_true(back.interval.measured && back.interval.cost_s == 0.5 && back.interval.mtbf_s == 60);
	assert_int_equal(back.next_ns, 7);
	json_object_del(object, "next_ns");
	assert_int_equal(control_unpack_status(object, &back, &err), 0);
	assert_true(back.next_ns == UINT64_MAX);
	json_object_set_new(object, "interval_reason", json_integer(99));
	assert_fails(control_unpack_status(object, &back, &err), ERR_CORRUPT, &err);
	json_decref(object);
	assert_fails(control_unpack_status(NULL, &back, &err), ERR_CORRUPT, &err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_job_names),	 cmocka_unit_test(test_long_command),
		cmocka_unit_test(test_status_as_json),	 cmocka_unit_test(test_progress),	 cmocka_unit_test(test_drop_cr),
		cmocka_unit_test(test_snapshot_as_json),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
