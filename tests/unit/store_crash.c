/*
 * Writers that are killed, writers side by side, disks that are full: what was published stays whole.
 * Children are forked before the store is opened in them or us (LMDB's rule).
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "store_fixture.h"
#include "unit.h"

#define KILL_ROUNDS 40 /* PAWL_KILL_ROUNDS in the environment: more */

static struct err err;
static char dir[256];

static int setup(void **state)
{
	snprintf(dir, sizeof(dir), "%s", fixture_dir());
	return 0;
}

static int teardown(void **state)
{
	umount2(dir, MNT_DETACH); /* of test_full_tmpfs, also where it failed */
	fixture_remove(dir);
	return 0;
}

/* The image of snapshot seq, whoever wrote it: a function of job and seq alone. */
static struct image image_at(unsigned job, uint64_t seq)
{
	struct image image = image_new(1200, 1 + job);
	uint64_t i, random = job;

	for (i = 0; i < seq; i++)
		image_change(&image, 300, &random);
	return image;
}

/* All but the newest three: a predecessor that was killed may have left more. */
static int drop_old(struct store *store, const char *job)
{
	struct snapshot_info *list;
	size_t i, n;
	int rc = 0;

	if (store_snapshot_list(store, job, &list, &n, &err) < 0)
		return -1;
	for (i = 0; i + 3 < n && rc == 0; i++)
		rc = store_snapshot_drop(store, job, list[i].seq, &err);
	free(list);
	return rc;
}

/* Saves, drops and collects until it is killed or has made `most` snapshots. */
static void write_snapshots(const char *job, unsigned number, unsigned most)
{
	struct store *store = fixture_open(dir, job);
	struct job_info info;
	unsigned i;

	for (i = 0; i < most; i++) {
		struct image image, old;
		uint64_t seq;

		if (store_job_get(store, job, &info, &err) < 0)
			_exit(1);
		seq = info.last_seq;
		job_info_clear(&info);
		image = image_at(number, seq + 1);
		old = image_at(number, seq);
		image_save(store, job, seq, &image, seq ? &old : NULL, 77);
		if (drop_old(store, job) < 0)
			_exit(2);
		if (seq % 2 && store_gc(store, seq % 8 == 7 ? STORE_GC_COMPACT : 0, NULL, &err) < 0 &&
		    err.kind != ERR_BUSY)
			_exit(3);
		image_free(&image);
		image_free(&old);
	}
	store_close(store);
}

static void check_snapshots(struct store *store, const char *job, unsigned number)
{
	struct snapshot_info *list;
	struct job_info info;
	size_t i, n;

	ok(store_job_get(store, job, &info, &err));
	ok(store_snapshot_list(store, job, &list, &n, &err));
	if (info.last_seq > 0)
		assert_true(n >= 1 && list[n - 1].seq == info.last_seq);
	for (i = 0; i < n; i++) {
		struct image image = image_at(number, list[i].seq);

		assert_int_not_equal(list[i].time, 0);
		if (!image_equals(store, job, list[i].seq, &image, 77, &err))
			fail_msg("%s@%d: %s", job, (int)list[i].seq, err.msg);
		image_free(&image);
	}
	job_info_clear(&info);
	free(list);
}

static pid_t start_writer(const char *job, unsigned number, unsigned most)
{
	pid_t pid = fork();

	if (pid == 0) {
		write_snapshots(job, number, most);
		_exit(0);
	}
	return pid;
}

static void test_sigkill(void **state)
{
	const char *more = getenv("PAWL_KILL_ROUNDS");
	int round, rounds = more ? atoi(more) : KILL_ROUNDS;
	uint64_t random = (uint64_t)time(NULL), seed = random;

	for (round = 0; round < rounds; round++) {
		struct timespec pause = {.tv_nsec = (long)(fixture_random(&random) % 60000000)};
		pid_t one = start_writer("one", 1, 1000), two = start_writer("two", 2, 1000);
		struct store_usage usage;
		struct store *store;

		nanosleep(&pause, NULL);
		kill(one, SIGKILL);
		kill(two, SIGKILL);
		waitpid(one, NULL, 0);
		waitpid(two, NULL, 0);
		store = fixture_open(dir, "one");
		store_close(store);
		store = fixture_open(dir, "two");
		if (fixture_problems(store) != 0)
			fail_msg("round %d of seed %llu", round, (unsigned long long)seed);
		check_snapshots(store, "one", 1);
		check_snapshots(store, "two", 2);
		ok(store_gc(store, 0, NULL, &err));
		if (fixture_problems(store) != 0)
			fail_msg("after gc, round %d of seed %llu", round, (unsigned long long)seed);
		ok(store_usage(store, &usage, &err));
		assert_true(usage.file_bytes < 60u << 20);
		store_close(store);
	}
	/* What the dead left behind is gone: when all snapshots are, so is everything. */
	{
		struct store *store = fixture_open(dir, NULL);
		struct store_usage usage;

		ok(store_job_drop(store, "one", &err));
		ok(store_job_drop(store, "two", &err));
		ok(store_gc(store, 0, NULL, &err));
		ok(store_usage(store, &usage, &err));
		assert_int_equal(usage.packs, 0);
		assert_int_equal(usage.nodes, 0);
		store_close(store);
	}
}

static void test_two_writers(void **state)
{
	pid_t one = start_writer("one", 1, 30), two = start_writer("two", 2, 30);
	struct store *store;
	int status;

	assert_int_equal(waitpid(one, &status, 0), one);
	assert_int_equal(status, 0);
	assert_int_equal(waitpid(two, &status, 0), two);
	assert_int_equal(status, 0);
	store = fixture_open(dir, NULL);
	check_snapshots(store, "one", 1);
	check_snapshots(store, "two", 2);
	assert_int_equal(fixture_problems(store), 0);
	store_close(store);
}

/* ---- full disks ---------------------------------------------------------------------------- */

/* Tries to save an image of n pages; returns 0 or the kind of error. */
static enum err_kind try_to_save(struct store *store, uint64_t n, uint64_t seed)
{
	struct snapshot_info info = {.time = 1};
	struct store_session *session;
	struct page_table *table;
	Snap__Snapshot *model;
	uint64_t i, root;
	char page[PAGE];
	int rc = 0;

	if (session_begin(&session, store, "job", 0, CODEC_LZ4, &err) < 0)
		return err.kind;
	ok(page_table_edit(&table, session, 0, &err));
	for (i = 0; i < n && rc == 0; i++) {
		fixture_page(page, seed + i);
		rc = page_table_put(table, i, page, 1, NULL, &err);
	}
	if (rc < 0) {
		enum err_kind kind = err.kind;

		assert_true(page_table_put(table, i, page, 1, NULL, &err) < 0);
		page_table_free(table);
		session_abort(session);
		return kind;
	}
	if (page_table_finish(table, &root, &err) < 0) {
		enum err_kind kind = err.kind;

		session_abort(session);
		return kind;
	}
	model = fixture_model(root);
	rc = session_publish(session, model, &info, &err);
	snap__snapshot__free_unpacked(model, NULL);
	return rc < 0 ? err.kind : ERR_NONE;
}

/* The store in dir has room for about 40 MB. */
static void fill_up(void)
{
	struct image image = image_new(2000, 5);
	struct store *store = fixture_open(dir, "job");
	unsigned i;

	image_save(store, "job", 0, &image, NULL, 0);
	for (i = 0; i < 4; i++) {
		assert_int_equal(try_to_save(store, 40000, 1000000 * (i + 1)), ERR_FULL);
		assert_true(strlen(err.msg) > 0);
		if (!image_equals(store, "job", 1, &image, 0, &err))
			fail_msg("%s", err.msg);
		assert_int_equal(fixture_problems(store), 0);
	}
	/* There is room again for what fits. */
	assert_int_equal(try_to_save(store, 3000, 99), ERR_NONE);
	ok(store_snapshot_drop(store, "job", 2, &err));
	ok(store_gc(store, 0, NULL, &err));
	assert_int_equal(try_to_save(store, 3000, 77777), ERR_NONE);
	if (!image_equals(store, "job", 1, &image, 0, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(fixture_problems(store), 0);
	store_close(store);
	image_free(&image);
}

static void test_file_size_limit(void **state)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct rlimit limit = {40u << 20, 40u << 20};

		signal(SIGXFSZ, SIG_IGN);
		setrlimit(RLIMIT_FSIZE, &limit);
		fill_up();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void test_full_tmpfs(void **state)
{
	if (mount("pawl-unit", dir, "tmpfs", 0, "size=40m,mode=0700") < 0) {
		print_message("no mount: %s\n", strerror(errno));
		skip();
	}
	fill_up();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_two_writers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sigkill, setup, teardown),
		cmocka_unit_test_setup_teardown(test_file_size_limit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_tmpfs, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
