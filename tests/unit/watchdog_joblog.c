#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "unit.h"
#include "watchdog/joblog.h"
#include "watchdog/stdinlog.h"

/* A file in a directory of its own. */
static int set_up(void **state)
{
	char *path = malloc(PATH_MAX);

	strcpy(path, "/tmp/pawl-joblog-XXXXXX");
	if (!mkdtemp(path))
		return -1;
	strcat(path, "/log");
	*state = path;
	return 0;
}

static int tear_down(void **state)
{
	char *path = *state;

	unlink(path);
	*strrchr(path, '/') = '\0';
	rmdir(path);
	free(path);
	return 0;
}

static struct joblog *open_log(const char *path)
{
	struct joblog *log;
	struct err err = {0};

	assert_int_equal(joblog_open(&log, path, &err), 0);
	return log;
}

static void append(struct joblog *log, enum joblog_stream stream, const char *text)
{
	struct err err = {0};

	assert_int_equal(joblog_append(log, stream, text, strlen(text), &err), 0);
}

/* All records as "1:text 2:text "; what ended it in *ret. */
static const char *read_log(const char *path, uint64_t from, int *ret)
{
	static char text[1024];
	struct joblog_reader *reader;
	struct joblog_record record;
	struct err err = {0};

	text[0] = '\0';
	assert_int_equal(joblog_reader_open(&reader, path, from, &err), 0);
	while ((*ret = joblog_read(reader, &record, &err)) == 1)
		sprintf(text + strlen(text), "%d:%.*s ", record.stream, (int)record.len,
			(const char *)record.data);
	joblog_reader_close(reader);
	return text;
}

static void test_round_trip(void **state)
{
	struct joblog *log = open_log(*state);
	uint64_t bytes[4];
	struct err err;
	struct stat st;
	int end;

	append(log, JOBLOG_STDOUT, "one");
	append(log, JOBLOG_STDERR, "two");
	append(log, JOBLOG_STDOUT, "three");
	assert_string_equal(read_log(*state, 0, &end), "1:one 2:two 1:three ");
	assert_int_equal(end, 0);
	assert_int_equal(joblog_count(*state, 0, bytes, &err), 0);
	assert_int_equal(bytes[JOBLOG_STDOUT], 8);
	assert_int_equal(bytes[JOBLOG_STDERR], 3);
	assert_int_equal(stat(*state, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal((uint64_t)st.st_size, joblog_bytes(log));
	joblog_close(log);
}

static void test_truncate_to_a_snapshot(void **state)
{
	struct joblog *log = open_log(*state);
	struct err err = {0};
	uint64_t at;
	int end;

	append(log, JOBLOG_STDOUT, "kept");
	at = joblog_bytes(log);
	append(log, JOBLOG_STDOUT, "undone");
	assert_int_equal(joblog_truncate(log, at, &err), 0);
	append(log, JOBLOG_STDOUT, "again");
	assert_string_equal(read_log(*state, 0, &end), "1:kept 1:again ");
	assert_int_equal(joblog_truncate(log, UINT64_MAX, &err), 0);
	assert_string_equal(read_log(*state, 0, &end), "1:kept 1:again ");
	joblog_close(log);
}

static void test_runs(void **state)
{
	struct joblog *log = open_log(*state);
	struct err err = {0};
	uint64_t at;
	int end;

	append(log, JOBLOG_STDOUT, "first");
	at = joblog_bytes(log);
	assert_int_equal(joblog_begin(log, true, &err), 0);
	append(log, JOBLOG_STDOUT, "second");
	assert_string_equal(read_log(*state, 0, &end), "1:second ");
	assert_string_equal(read_log(*state, JOBLOG_HEADER_BYTES, &end), "1:first 1:second ");
	/* Back into the first run: it is the current one again. */
	assert_int_equal(joblog_truncate(log, at - 1, &err), 0);
	joblog_close(log);
	log = open_log(*state);
	assert_int_equal(joblog_repair(log, &err), 0);
	assert_int_equal(joblog_bytes(log), JOBLOG_HEADER_BYTES);
	assert_int_equal(joblog_begin(log, false, &err), 0);
	append(log, JOBLOG_TERMINAL, "third");
	assert_string_equal(read_log(*state, 0, &end), "3:third ");
	joblog_close(log);
}

/* Every length of the file is a valid log of the whole records in it, and can be repaired. */
static void test_cut_anywhere(void **state)
{
	struct joblog *log = open_log(*state);
	struct err err = {0};
	uint64_t first, second;

	append(log, JOBLOG_STDOUT, "one");
	first = joblog_bytes(log);
	append(log, JOBLOG_STDOUT, "two");
	second = joblog_bytes(log);
	joblog_close(log);
	for (uint64_t size = second; size-- > JOBLOG_HEADER_BYTES;) {
		int end;

		assert_int_equal(truncate(*state, (off_t)size), 0);
		assert_string_equal(read_log(*state, 0, &end), size >= first ? "1:one " : "");
		assert_int_equal(end, 0);
	}
	assert_int_equal(truncate(*state, 10), 0);
	log = open_log(*state);
	assert_int_equal(joblog_bytes(log), JOBLOG_HEADER_BYTES);
	joblog_close(log);
	assert_int_equal(err.kind, ERR_NONE);
}

static void flip(const char *path, uint64_t at)
{
	int fd = open(path, O_RDWR);
	char c;

	assert_int_equal(pread(fd, &c, 1, (off_t)at), 1);
	c ^= 0x10;
	assert_int_equal(pwrite(fd, &c, 1, (off_t)at), 1);
	close(fd);
}

static void test_damage_is_found(void **state)
{
	struct joblog *log = open_log(*state);
	uint64_t bytes;

	append(log, JOBLOG_STDOUT, "one");
	append(log, JOBLOG_STDOUT, "two");
	bytes = joblog_bytes(log);
	joblog_close(log);
	for (uint64_t at = 0; at < bytes; at++) {
		struct joblog_reader *reader;
		struct joblog_record record;
		struct err err = {0};
		int end = -1;

		flip(*state, at);
		if (at < JOBLOG_HEADER_BYTES) {
			assert_fails(joblog_reader_open(&reader, *state, 0, &err),
				     at < 8 ? ERR_VERSION : ERR_CORRUPT, &err);
		} else {
			assert_int_equal(joblog_reader_open(&reader, *state, 0, &err), 0);
			while ((end = joblog_read(reader, &record, &err)) == 1)
				assert_memory_equal(record.data, "one", 3);
			joblog_reader_close(reader);
			/* A length that is too large reads as a record that is being written. */
			if (end != 0)
				assert_int_equal(err.kind, ERR_CORRUPT);
		}
		flip(*state, at);
	}
}

static void test_no_log(void **state)
{
	struct joblog_reader *reader;
	struct err err = {0};

	assert_fails(joblog_reader_open(&reader, *state, 0, &err), ERR_NOT_FOUND, &err);
}

/* ---- kept input ---------------------------------------------------------------------------- */

static struct stdinlog *open_input(const char *path)
{
	struct stdinlog *log;
	struct err err = {0};

	assert_int_equal(stdinlog_open(&log, path, &err), 0);
	return log;
}

static void test_input_positions(void **state)
{
	struct stdinlog *log = open_input(*state);
	struct err err = {0};
	char buf[16] = {0};

	assert_int_equal(stdinlog_append(log, "abcdef", 6, &err), 0);
	assert_int_equal(stdinlog_size(log), 6);
	assert_int_equal(stdinlog_read(log, 2, buf, sizeof(buf)), 4);
	assert_string_equal(buf, "cdef");
	assert_false(stdinlog_ended(log));
	assert_int_equal(stdinlog_set_end(log, &err), 0);
	stdinlog_close(log);
	log = open_input(*state);
	assert_true(stdinlog_ended(log));
	assert_int_equal(stdinlog_size(log), 6);
	stdinlog_close(log);
}

static void test_input_of_runs(void **state)
{
	struct stdinlog *log = open_input(*state);
	struct err err = {0};

	assert_int_equal(stdinlog_append(log, "first", 5, &err), 0);
	assert_int_equal(stdinlog_begin(log, true, &err), 0);
	assert_int_equal(stdinlog_start(log), 5);
	assert_int_equal(stdinlog_append(log, "second", 6, &err), 0);
	/* Within the current run nothing is lost. */
	assert_int_equal(stdinlog_resume(log, 7, &err), 0);
	assert_int_equal(stdinlog_size(log), 11);
	/* Back into the first run: its input ends where it ended. */
	assert_int_equal(stdinlog_resume(log, 3, &err), 0);
	assert_int_equal(stdinlog_size(log), 5);
	assert_true(stdinlog_ended(log));
	assert_int_equal(stdinlog_begin(log, false, &err), 0);
	assert_int_equal(stdinlog_size(log), 0);
	assert_false(stdinlog_ended(log));
	stdinlog_close(log);
}

static void test_input_is_forgotten(void **state)
{
	static char block[1 << 20];
	struct stdinlog *log = open_input(*state);
	struct err err = {0};
	struct stat before, after;
	char c = 0;

	memset(block, 'x', sizeof(block));
	assert_int_equal(stdinlog_append(log, block, sizeof(block), &err), 0);
	assert_int_equal(stdinlog_sync(log, &err), 0);
	assert_int_equal(stat(*state, &before), 0);
	stdinlog_forget(log, sizeof(block) - 100);
	assert_int_equal(stat(*state, &after), 0);
	if (after.st_blocks >= before.st_blocks)
		skip(); /* this file system has no holes */
	assert_int_equal(stdinlog_read(log, sizeof(block) - 100, &c, 1), 1);
	assert_int_equal(c, 'x');
	stdinlog_close(log);
	log = open_input(*state);
	assert_int_equal(stdinlog_size(log), sizeof(block));
	stdinlog_close(log);
}

static void test_foreign_input_is_refused(void **state)
{
	struct stdinlog *log = open_input(*state);
	struct err err = {0};

	stdinlog_close(log);
	flip(*state, 9);
	assert_int_equal(truncate(*state, 8192), 0);
	assert_fails(stdinlog_open(&log, *state, &err), ERR_CORRUPT, &err);
	flip(*state, 0);
	assert_fails(stdinlog_open(&log, *state, &err), ERR_VERSION, &err);
}

#define with_file(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		with_file(test_round_trip),
		with_file(test_truncate_to_a_snapshot),
		with_file(test_runs),
		with_file(test_cut_anywhere),
		with_file(test_damage_is_found),
		with_file(test_no_log),
		with_file(test_input_positions),
		with_file(test_input_of_runs),
		with_file(test_input_is_forgotten),
		with_file(test_foreign_input_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
