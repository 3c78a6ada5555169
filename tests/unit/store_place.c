/* Opening: whose store, where, what kind of file; and the catalogue of jobs. */
#include <fcntl.h>
#include <limits.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store_fixture.h"
#include "unit.h"

static struct err err;
static char dir[256];
static char path[400];

static int setup(void **state)
{
	snprintf(dir, sizeof(dir), "%s", fixture_dir());
	return 0;
}

static int teardown(void **state)
{
	fixture_remove(dir);
	return 0;
}

static const char *in_dir(const char *name)
{
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void test_missing(void **state)
{
	struct store *store;

	assert_fails(store_open(&store, in_dir("none"), STORE_READ, &err), ERR_NOT_FOUND, &err);
	assert_fails(store_open(&store, in_dir("none"), STORE_WRITE, &err), ERR_NOT_FOUND, &err);
	assert_fails(store_open(&store, dir, STORE_WRITE, &err), ERR_NOT_FOUND, &err);
	assert_int_equal(access(in_dir("none"), F_OK), -1);
	assert_int_equal(access(in_dir("data.mdb"), F_OK), -1);
}

static void test_modes(void **state)
{
	static const char *const names[] = {"", "logs", "run", "locks"};
	struct store *store;
	struct stat st;
	size_t i;

	ok(store_open(&store, in_dir("a/b/store"), STORE_CREATE, &err));
	assert_string_equal(store_dir(store), in_dir("a/b/store"));
	for (i = 0; i < 4; i++) {
		char at[600];

		snprintf(at, sizeof(at), "%s/%s", store_dir(store), names[i]);
		assert_int_equal(stat(at, &st), 0);
		assert_int_equal(st.st_mode & 07777, 0700);
	}
	assert_int_equal(stat(in_dir("a/b/store/data.mdb"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(stat(in_dir("a/b/store/lock.mdb"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	store_close(store);
}

static void test_writable_by_others(void **state)
{
	struct store *store = fixture_open(dir, "job");

	store_close(store);
	assert_int_equal(chmod(dir, 0770), 0);
	assert_fails(store_open(&store, dir, STORE_READ, &err), ERR_DENIED, &err);
	assert_int_equal(chmod(dir, 0702), 0);
	assert_fails(store_open(&store, dir, STORE_CREATE, &err), ERR_DENIED, &err);
	assert_int_equal(chmod(dir, 0700), 0);
	assert_int_equal(chmod(in_dir("data.mdb"), 0666), 0);
	assert_fails(store_open(&store, dir, STORE_READ, &err), ERR_DENIED, &err);
	assert_int_equal(chmod(in_dir("data.mdb"), 0600), 0);
	ok(store_open(&store, dir, STORE_READ, &err));
	store_close(store);
}

static void test_of_somebody_else(void **state)
{
	struct store *store = fixture_open(dir, "job");

	store_close(store);
	if (geteuid() != 0 || chown(dir, 12345, 12345) < 0)
		skip();
	assert_fails(store_open(&store, dir, STORE_WRITE, &err), ERR_DENIED, &err);
	ok(store_open(&store, dir, STORE_READ, &err)); /* root may look */
	store_close(store);
	assert_int_equal(chown(dir, 0, 0), 0);
}

static void test_not_ours(void **state)
{
	struct store *store;
	FILE *f = fopen(in_dir("thesis.tex"), "w");

	fclose(f);
	assert_fails(store_open(&store, dir, STORE_CREATE, &err), ERR_INVALID, &err);
	assert_non_null(strstr(err.msg, "thesis.tex"));
}

static void overwrite(const char *name, off_t offset, const void *bytes, size_t len)
{
	int fd = open(in_dir(name), O_WRONLY);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, len, offset), len);
	close(fd);
}

static void test_truncated(void **state)
{
	struct image image = image_new(700, 3);
	struct store *store = fixture_open(dir, "job");
	struct stat st;
	off_t size;

	image_save(store, "job", 0, &image, NULL, 0);
	store_close(store);
	assert_int_equal(stat(in_dir("data.mdb"), &st), 0);
	for (size = st.st_size - 4096 * 60; size >= 0; size = size > 9000 ? size * 2 / 3 : size - 1000) {
		assert_int_equal(truncate(in_dir("data.mdb"), size), 0);
		if (store_open(&store, dir, STORE_CREATE, &err) == 0)
			fail_msg("opened when cut to %ld of %ld", (long)size, (long)st.st_size);
		assert_true(err.kind == ERR_CORRUPT || err.kind == ERR_VERSION);
	}
	assert_int_equal(truncate(in_dir("data.mdb"), 0), 0);
	assert_fails(store_open(&store, dir, STORE_CREATE, &err), ERR_CORRUPT, &err);
	image_free(&image);
}

static void test_foreign(void **state)
{
	struct store *store = fixture_open(dir, "job");
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;
	char junk[8192];

	store_close(store);
	memset(junk, 'x', sizeof(junk));
	overwrite("data.mdb", 0, junk, sizeof(junk));
	assert_fails(store_open(&store, dir, STORE_READ, &err), ERR_VERSION, &err);
	/* LMDB's, but not ours */
	assert_int_equal(unlink(in_dir("data.mdb")), 0);
	assert_int_equal(mdb_env_create(&env), 0);
	assert_int_equal(mdb_env_open(env, dir, 0, 0600), 0);
	assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
	assert_int_equal(mdb_dbi_open(txn, NULL, 0, &dbi), 0);
	assert_int_equal(mdb_put(txn, dbi, &(MDB_val){1, "k"}, &(MDB_val){1, "v"}, 0), 0);
	assert_int_equal(mdb_txn_commit(txn), 0);
	mdb_env_close(env);
	assert_fails(store_open(&store, dir, STORE_WRITE, &err), ERR_VERSION, &err);
}

/* A store of the future says so, whatever else is in its record. */
static void test_future_version(void **state)
{
	struct store *store = fixture_open(dir, "job");
	MDB_val key = {5, "store"}, value;
	uint8_t record[600];
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;

	store_close(store);
	assert_int_equal(mdb_env_create(&env), 0);
	assert_int_equal(mdb_env_set_maxdbs(env, 8), 0);
	assert_int_equal(mdb_env_open(env, dir, 0, 0600), 0);
	assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
	assert_int_equal(mdb_dbi_open(txn, "meta", 0, &dbi), 0);
	assert_int_equal(mdb_get(txn, dbi, &key, &value), 0);
	memcpy(record, value.mv_data, value.mv_size);
	record[16] = 2; /* version, behind the frame's header, in both copies */
	record[value.mv_size / 2 + 16] = 2;
	value.mv_data = record;
	assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
	assert_int_equal(mdb_txn_commit(txn), 0);
	mdb_env_close(env);
	assert_fails(store_open(&store, dir, STORE_READ, &err), ERR_VERSION, &err);
	assert_non_null(strstr(err.msg, "newer"));
}

static void test_small_address_space(void **state)
{
	int status;
	pid_t pid;

#ifdef __SANITIZE_ADDRESS__
	skip(); /* its shadow does not fit */
#endif
	pid = fork();
	if (pid == 0) {
		struct rlimit limit = {1u << 30, 1u << 30};
		struct image image = image_new(700, 3);
		struct store *store;

		setrlimit(RLIMIT_AS, &limit);
		store = fixture_open(dir, "job");
		image_save(store, "job", 0, &image, NULL, 0);
		_exit(image_equals(store, "job", 1, &image, 0, &err) ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void test_reading_does_not_write(void **state)
{
	struct store *store = fixture_open(dir, "job");
	struct store_session *session;
	struct job_info info;
	int lock;

	store_close(store);
	ok(store_open(&store, dir, STORE_READ, &err));
	ok(store_job_get(store, "job", &info, &err));
	assert_fails(session_begin(&session, store, "job", 0, CODEC_LZ4, &err), ERR_INVALID, &err);
	assert_fails(store_job_put(store, &info, &err), ERR_INVALID, &err);
	assert_fails(store_job_lock(store, "new", &lock, &err), ERR_INVALID, &err);
	assert_fails(store_gc(store, 0, NULL, &err), ERR_INVALID, &err);
	job_info_clear(&info);
	store_close(store);
}

/* ---- jobs ---------------------------------------------------------------------------------- */

static void test_job_names(void **state)
{
	static const char *const good[] = {"a", "Z9._+-", "job-1", "_x"};
	static const char *const bad[] = {"", "-x", ".x", "a b", "a/b", "a@1", "\xc3\xa4", "a\n"};
	char longest[102];
	size_t i;

	memset(longest, 'a', sizeof(longest));
	longest[100] = '\0';
	ok(job_name_check(longest, &err));
	longest[100] = 'a';
	longest[101] = '\0';
	assert_fails(job_name_check(longest, &err), ERR_INVALID, &err);
	for (i = 0; i < sizeof(good) / sizeof(*good); i++)
		ok(job_name_check(good[i], &err));
	for (i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		assert_int_equal(job_name_check(bad[i], &err), -1);
		assert_int_equal(err.kind, ERR_INVALID);
	}
}

static void test_job_record(void **state)
{
	struct store *store = fixture_open(dir, NULL);
	char *argv[] = {"./sim", "", "caf\xe9", NULL}, *options[] = {"--interval=5m", "--files=fail:*", NULL};
	struct job_info info, *list;
	uint64_t id, created;
	size_t n;
	int lock;

	assert_fails(store_job_get(store, "sim", &info, &err), ERR_NOT_FOUND, &err);
	ok(store_job_lock(store, "sim", &lock, &err));
	ok(store_job_get(store, "sim", &info, &err));
	assert_int_equal(info.state, JOB_NEW);
	assert_true(store_job_is_locked(store, &info));
	id = info.id;
	created = info.created;
	job_info_clear(&info);
	info = (struct job_info){.id = id, .state = JOB_RUNNING, .exit_status = -3, .generation = 4,
				 .first_generation = 3, .watchdog_pid = 123, .leader_pid = 124,
				 .init_pid = 122, .init_start = 99,
				 .argv = argv, .argc = 3, .cwd = "/home/x",
				 .options = options, .n_options = 2};
	strcpy(info.name, "sim");
	ok(store_job_put(store, &info, &err));
	ok(store_job_get(store, "sim", &info, &err));
	assert_string_equal(info.name, "sim");
	assert_int_equal(info.created, created);
	assert_int_equal(info.state, JOB_RUNNING);
	assert_int_equal(info.exit_status, -3);
	assert_int_equal(info.generation, 4);
	assert_int_equal(info.first_generation, 3);
	assert_int_equal(info.watchdog_pid, 123);
	assert_int_equal(info.leader_pid, 124);
	assert_int_equal(info.init_pid, 122);
	assert_int_equal(info.init_start, 99);
	assert_int_equal(info.argc, 3);
	assert_string_equal(info.argv[1], "");
	assert_string_equal(info.argv[2], "caf\xe9");
	assert_null(info.argv[3]);
	assert_int_equal(info.n_options, 2);
	assert_string_equal(info.options[1], "--files=fail:*");
	assert_null(info.options[2]);
	assert_string_equal(info.cwd, "/home/x");
	assert_fails(store_job_drop(store, "sim", &err), ERR_BUSY, &err);
	assert_non_null(strstr(err.msg, "123"));
	store_job_unlock(lock);
	assert_false(store_job_is_locked(store, &info));
	ok(store_job_list(store, &list, &n, &err));
	assert_int_equal(n, 1);
	assert_string_equal(list[0].name, "sim");
	job_info_clear(&list[0]);
	free(list);
	ok(store_job_drop(store, "sim", &err));
	assert_fails(store_job_put(store, &info, &err), ERR_NOT_FOUND, &err);
	/* The same name again is another job. */
	ok(store_job_lock(store, "sim", &lock, &err));
	assert_fails(store_job_put(store, &info, &err), ERR_NOT_FOUND, &err);
	job_info_clear(&info);
	ok(store_job_get(store, "sim", &info, &err));
	assert_true(info.id > id);
	job_info_clear(&info);
	store_job_unlock(lock);
	store_close(store);
}

static void test_job_lock_is_exclusive(void **state)
{
	struct store *store = fixture_open(dir, "job");
	int one, two;

	ok(store_job_lock(store, "job", &one, &err));
	assert_fails(store_job_lock(store, "job", &two, &err), ERR_BUSY, &err);
	store_job_unlock(one);
	ok(store_job_lock(store, "job", &two, &err));
	store_job_unlock(two);
	store_job_unlock(-1);
	store_close(store);
}

static void test_drop_removes_files(void **state)
{
	struct store *store = fixture_open(dir, "job");
	char log[PATH_MAX], in[PATH_MAX], socket[PATH_MAX];
	struct job_info info;

	ok(store_job_get(store, "job", &info, &err));
	store_job_log_path(store, &info, log, sizeof(log));
	store_job_stdin_path(store, &info, in, sizeof(in));
	store_job_socket_path(store, &info, socket, sizeof(socket));
	fclose(fopen(log, "w"));
	fclose(fopen(in, "w"));
	ok(store_job_drop(store, "job", &err));
	assert_int_equal(access(log, F_OK), -1);
	assert_int_equal(access(in, F_OK), -1);
	assert_true(strcmp(log, in) != 0 && strcmp(log, socket) != 0);
	job_info_clear(&info);
	store_close(store);
}

/* ---- snapshots in the catalogue ------------------------------------------------------------ */

static void test_snapshot_catalogue(void **state)
{
	struct store *store = fixture_open(dir, "job");
	struct image image = image_new(20, 3);
	struct snapshot_info *list, info;
	struct store_session *session;
	struct job_info job;
	uint64_t problems;
	size_t n, i;

	ok(store_snapshot_list(store, "job", &list, &n, &err));
	assert_int_equal(n, 0);
	free(list);
	assert_fails(store_snapshot_load(store, "job", 0, &info, NULL, &err), ERR_NOT_FOUND, &err);
	assert_fails(store_snapshot_list(store, "nojob", &list, &n, &err), ERR_NOT_FOUND, &err);
	assert_fails(store_verify(store, "nojob", 0, NULL, NULL, &problems, &err), ERR_NOT_FOUND,
		     &err);
	assert_fails(session_begin(&session, store, "nojob", 0, CODEC_LZ4, &err), ERR_NOT_FOUND,
		     &err);
	assert_fails(session_begin(&session, store, "job", 1, CODEC_LZ4, &err), ERR_NOT_FOUND, &err);
	for (i = 0; i < 12; i++) {
		struct store *other = store;
		int lock;

		info = image_save(store, "job", i, &image, NULL, 0);
		assert_int_equal(info.seq, i + 1);
		assert_int_equal(info.parent, i);
		assert_string_equal(info.job, "job");
		ok(store_job_lock(other, "another", &lock, &err));
		store_job_unlock(lock);
		image_save(other, "another", 0, &image, NULL, 0);
	}
	ok(store_snapshot_drop(store, "job", 3, &err));
	assert_fails(store_snapshot_drop(store, "job", 3, &err), ERR_NOT_FOUND, &err);
	assert_fails(store_snapshot_drop(store, "job", 0, &err), ERR_INVALID, &err);
	ok(store_snapshot_drop(store, "job", 12, &err));
	ok(store_snapshot_list(store, "job", &list, &n, &err));
	assert_int_equal(n, 10);
	for (i = 0; i < n; i++)
		assert_int_equal(list[i].seq, i < 2 ? i + 1 : i + 2);
	free(list);
	ok(store_snapshot_load(store, "job", 0, &info, NULL, &err));
	assert_int_equal(info.seq, 11);
	/* A number is never given out again, nor set back by a watchdog's older knowledge. */
	ok(store_job_get(store, "job", &job, &err));
	assert_int_equal(job.last_seq, 12);
	job.last_seq = 1;
	ok(store_job_put(store, &job, &err));
	job_info_clear(&job);
	assert_int_equal(image_save(store, "job", 11, &image, NULL, 0).seq, 13);
	assert_int_equal(fixture_problems(store), 0);
	ok(store_verify(store, "job", 0, NULL, NULL, &problems, &err));
	assert_int_equal(problems, 0);
	ok(store_verify(store, "job", 13, NULL, NULL, &problems, &err));
	assert_int_equal(problems, 0);
	image_free(&image);
	store_close(store);
}

/* A job that changes nothing costs at most 64 KiB a snapshot, and one of a few pages not much more. */
static void test_small_snapshots(void **state)
{
	struct store *store = fixture_open(dir, "job");
	struct image image = image_new(50000, 3), old = image_new(50000, 3);
	struct store_usage before, after;
	uint64_t i, random = 1;

	image_save(store, "job", 0, &image, NULL, 0);
	ok(store_usage(store, &before, &err));
	for (i = 1; i <= 50; i++)
		image_save(store, "job", i, &image, &old, 0);
	ok(store_usage(store, &after, &err));
	assert_true(after.file_bytes - before.file_bytes < 50 * 16384);
	before = after;
	for (i = 51; i <= 70; i++) {
		memcpy(old.seed, image.seed, image.n * sizeof(uint64_t));
		image_change(&image, 5, &random);
		image_save(store, "job", i, &image, &old, 0);
	}
	ok(store_usage(store, &after, &err));
	assert_true(after.file_bytes - before.file_bytes < 20 * 65536);
	image_free(&image);
	image_free(&old);
	store_close(store);
}

/* Models that name page tables that are not there are refused before they are in the catalogue. */
static void test_bad_root(void **state)
{
	struct store *store = fixture_open(dir, "job");
	struct snapshot_info info = {.time = 1};
	struct store_session *session;
	Snap__Snapshot *model = fixture_model(12345);

	ok(session_begin(&session, store, "job", 0, CODEC_LZ4, &err));
	assert_int_equal(session_publish(session, model, &info, &err), -1);
	assert_fails(store_snapshot_load(store, "job", 0, &info, NULL, &err), ERR_NOT_FOUND, &err);
	snap__snapshot__free_unpacked(model, NULL);
	store_close(store);
}

int main(void)
{
#define STORE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		STORE_TEST(test_missing),
		STORE_TEST(test_modes),
		STORE_TEST(test_writable_by_others),
		STORE_TEST(test_of_somebody_else),
		STORE_TEST(test_not_ours),
		STORE_TEST(test_truncated),
		STORE_TEST(test_foreign),
		STORE_TEST(test_future_version),
		STORE_TEST(test_small_address_space),
		STORE_TEST(test_reading_does_not_write),
		STORE_TEST(test_job_names),
		STORE_TEST(test_job_record),
		STORE_TEST(test_job_lock_is_exclusive),
		STORE_TEST(test_drop_removes_files),
		STORE_TEST(test_snapshot_catalogue),
		STORE_TEST(test_small_snapshots),
		STORE_TEST(test_bad_root),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
