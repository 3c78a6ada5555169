#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/io.h"
#include "unit.h"
#include "watchdog/metrics.h"

#define S 1000000000ull

static struct metrics some(void)
{
	const struct snapshot_info first = {.seq = 1,
					    .time = 1000 * S,
					    .pause_us = 9000,
					    .wall_us = 2000000,
					    .bytes_raw = 8192,
					    .bytes_stored = 5000,
					    .pages_changed = 2,
					    .pages_resident = 70};
	struct snapshot_info second = first;
	struct metrics m = {.job = "sim",
			    .store = "/srv/store",
			    .running = true,
			    .generation = 2,
			    .interval = {.interval_ns = 60 * S}};

	second.seq = 2;
	second.time = 1060 * S;
	second.pause_us = 4000;
	metrics_taken(&m, &first, S / 2);
	metrics_taken(&m, &second, S / 4);
	return m;
}

/* The value of the sample with that name and the labels of some(); fails where it is not there
 * exactly once. */
static double value(const char *text, const char *name)
{
	char line[128];
	const char *at;
	double found;

	snprintf(line, sizeof(line), "\npawl_%s{job=\"sim\",store=\"/srv/store\"} ", name);
	at = strstr(text, line);
	assert_non_null(at);
	assert_null(strstr(at + 1, line));
	assert_int_equal(sscanf(at + strlen(line), "%lf", &found), 1);
	return found;
}

static char *text_of(const struct metrics *m)
{
	struct err err;
	char *text;

	assert_int_equal(metrics_text(m, 1090 * S, &text, &err), 0);
	return text;
}

static void test_values(void **state)
{
	struct metrics m = some();
	char *text = text_of(&m);

	assert_true(value(text, "snapshots_total") == 2);
	assert_true(value(text, "snapshot_pause_seconds_total") == 0.013);
	assert_true(value(text, "snapshot_cpu_seconds_total") == 0.75);
	assert_true(value(text, "snapshot_stored_bytes_total") == 10000);
	assert_true(value(text, "last_snapshot_number") == 2);
	assert_true(value(text, "last_snapshot_age_seconds") == 30);
	assert_true(value(text, "last_snapshot_timestamp_seconds") == 1060);
	assert_true(value(text, "last_snapshot_pause_seconds") == 0.004);
	assert_true(value(text, "last_snapshot_resident_pages") == 70);
	assert_true(value(text, "longest_pause_seconds") == 0.009);
	assert_true(value(text, "snapshot_interval_seconds") == 60);
	assert_true(value(text, "job_running") == 1);
	assert_null(strstr(text, "exit_status"));
	assert_null(strstr(text, "pawl_mtbf"));
	assert_int_equal(text[strlen(text) - 1], '\n');
	free(text);
}

static void test_nothing_yet(void **state)
{
	struct metrics m = {.job = "sim", .store = "/srv/store"};
	char *text = text_of(&m);

	assert_true(value(text, "snapshots_total") == 0);
	assert_null(strstr(text, "last_snapshot"));
	free(text);
}

static void test_labels(void **state)
{
	struct metrics m = some();
	char *text;

	m.store = "/a\"b\\c\nd";
	text = text_of(&m);
	assert_non_null(strstr(text, "store=\"/a\\\"b\\\\c\\nd\"} "));
	free(text);
}

static void test_file(void **state)
{
	char dir[] = "/tmp/pawl-metrics.XXXXXX", path[64], gone[80];
	struct err err;
	struct stat st;
	char *text;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/job.prom", dir);
	snprintf(gone, sizeof(gone), "%s/none/job.prom", dir);
	assert_int_equal(metrics_write(path, "first\n", &err), 0);
	assert_int_equal(metrics_write(path, "second\n", &err), 0);
	assert_int_equal(read_text(-1, path, &text, NULL, &err), 0);
	assert_string_equal(text, "second\n");
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0644);
	assert_fails(metrics_write(gone, "x", &err), ERR_NOT_FOUND, &err);
	free(text);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(dir), 0); /* nothing else is left */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_nothing_yet),
		cmocka_unit_test(test_labels),
		cmocka_unit_test(test_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
