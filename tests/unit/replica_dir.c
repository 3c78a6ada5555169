/*
 * A replica in a directory: snapshots go there and come back equal, one of many takes a job, what is
 * damaged is noticed, whoever is killed leaves both sides whole.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/replica/destination.h"
#include "store/replicas.h"
#include "store_fixture.h"
#include "unit.h"

#define PAGES	    1500u
#define RACERS	    24
#define KILL_ROUNDS 12 /* PAWL_KILL_ROUNDS in the environment: more */

static struct err err;
static char dir[200], here[300], there[300], target[320];

static int setup(void **state)
{
	snprintf(dir, sizeof(dir), "%s", fixture_dir());
	snprintf(here, sizeof(here), "%s/here", dir);
	snprintf(there, sizeof(there), "%s/there", dir);
	snprintf(target, sizeof(target), "dir:%s/replica", dir);
	return 0;
}

static int teardown(void **state)
{
	umount2(dir, MNT_DETACH); /* of test_full, also where it failed */
	fixture_remove(dir);
	return 0;
}

static struct destination *open_target(void)
{
	struct destination *d;

	ok(destination_open(&d, target, &err));
	return d;
}

static struct image image_at(unsigned round)
{
	struct image image = image_new(PAGES, 1);
	uint64_t random = 3;

	for (unsigned i = 1; i < round; i++)
		image_change(&image, PAGES / 10, &random);
	return image;
}

/* Snapshot `round` of the job, against the one before. */
static struct snapshot_info save_round(struct store *store, unsigned round)
{
	struct image image = image_at(round), old = image_at(round ? round - 1 : 0);
	struct snapshot_info info =
		image_save(store, "job", round - 1, &image, round > 1 ? &old : NULL, 4096);

	image_free(&image);
	image_free(&old);
	return info;
}

static void expect_round(struct store *store, uint64_t seq, unsigned round)
{
	struct image image = image_at(round);

	if (!image_equals(store, "job", seq, &image, 4096, &err))
		fail_msg("%s", err.msg);
	image_free(&image);
}

static void take(struct destination *d, struct store *store, struct replica_hold *hold)
{
	struct replica_job seen;
	struct job_info job;
	bool there_already = destination_look(d, "job", &seen, &err) == 0;

	if (!there_already)
		assert_int_equal(err.kind, ERR_NOT_FOUND);
	ok(store_job_get(store, "job", &job, &err));
	ok(destination_take(d, &job, there_already ? &seen : NULL, hold, &err));
	job_info_clear(&job);
	if (there_already)
		replica_job_clear(&seen);
}

static uint64_t bytes_below(const char *path)
{
	char command[400];
	cleanup_file FILE *f = NULL;
	FILE *p;
	uint64_t bytes = 0;

	snprintf(command, sizeof(command), "du -sb --apparent-size '%s'", path);
	p = popen(command, "r");
	assert_non_null(p);
	assert_int_equal(fscanf(p, "%lu", &bytes), 1);
	pclose(p);
	return bytes;
}

/* ---- there and back ------------------------------------------------------------------------ */

static void test_there_and_back(void **state)
{
	struct store *a = fixture_open(here, "job"), *b = NULL;
	struct destination *d = open_target(), *e = open_target();
	struct replica_stats first, second, same, stats;
	struct replica_hold hold;
	struct replica_job seen;

	save_round(a, 1);
	take(d, a, &hold);
	ok(destination_push(d, &hold, a, 1, NULL, &first, &err));
	save_round(a, 2);
	ok(destination_push(d, &hold, a, 2, NULL, &second, &err));
	ok(destination_push(d, &hold, a, 2, NULL, &same, &err));
	assert_true(first.pages > PAGES / 2);
	assert_true(second.pages <= PAGES / 10);
	assert_int_equal(same.pages, 0);
	ok(destination_look(e, "job", &seen, &err));
	assert_int_equal(seen.n_snapshots, 2);
	assert_memory_equal(seen.token, hold.token, REPLICA_TOKEN);
	replica_job_clear(&seen);
	ok(store_open(&b, there, STORE_CREATE, &err));
	ok(destination_pull(e, "job", 0, b, NULL, &stats, &err));
	assert_int_equal(stats.seq, 2);
	ok(destination_pull(e, "job", 1, b, NULL, &stats, &err));
	expect_round(b, 2, 2);
	expect_round(b, 1, 1);
	assert_int_equal(fixture_problems(b), 0);
	ok(destination_pull(e, "job", 2, b, NULL, &stats, &err));
	assert_int_equal(stats.pages, 0);
	assert_fails(destination_pull(e, "job", 7, b, NULL, &stats, &err), ERR_NOT_FOUND, &err);
	assert_fails(destination_pull(e, "other", 0, b, NULL, &stats, &err), ERR_NOT_FOUND, &err);
	store_close(a);
	store_close(b);
	destination_close(d);
	destination_close(e);
}

/* A new process sends what is new, and no more; a store that was put back to an earlier state gives the same ids
 * to other pages, and everything is sent. */
static void test_incarnations(void **state)
{
	struct store *a = fixture_open(here, "job"), *b = NULL;
	struct destination *d = open_target();
	struct replica_stats stats;
	struct replica_hold hold;
	char command[1200];

	save_round(a, 1);
	take(d, a, &hold);
	ok(destination_push(d, &hold, a, 1, NULL, &stats, &err));
	destination_close(d);
	store_close(a);
	snprintf(command, sizeof(command), "cp -a '%s' '%s/old'", here, dir);
	assert_int_equal(system(command), 0);
	ok(store_open(&a, here, STORE_WRITE, &err));
	save_round(a, 2);
	d = open_target();
	ok(destination_push(d, &hold, a, 2, NULL, &stats, &err));
	assert_true(stats.pages <= PAGES / 10);
	destination_close(d);
	store_close(a);
	snprintf(command, sizeof(command), "rm -rf '%s' && mv '%s/old' '%s'", here, dir, here);
	assert_int_equal(system(command), 0);
	ok(store_open(&a, here, STORE_WRITE, &err));
	save_round(a, 2);
	save_round(a, 3);
	d = open_target();
	ok(destination_push(d, &hold, a, 3, NULL, &stats, &err));
	ok(store_open(&b, there, STORE_CREATE, &err));
	ok(destination_pull(d, "job", 3, b, NULL, &stats, &err));
	expect_round(b, 3, 3);
	ok(destination_pull(d, "job", 2, b, NULL, &stats, &err));
	expect_round(b, 2, 2);
	store_close(a);
	store_close(b);
	destination_close(d);
}

/* Thinned, the replica stays within a few times of what its snapshots need. */
static void test_bounded(void **state)
{
	struct store *a = fixture_open(here, "job"), *b = NULL;
	struct destination *d = open_target();
	struct replica_stats stats;
	struct replica_hold hold;
	uint64_t settled = 0;

	take(d, a, &hold);
	for (unsigned i = 1; i <= 40; i++) {
		uint64_t seq = i - 2;

		save_round(a, i);
		ok(destination_push(d, &hold, a, i, NULL, &stats, &err));
		if (i > 2)
			ok(destination_drop(d, &hold, &seq, 1, &err));
		if (i == 3)
			settled = bytes_below(target + 4);
	}
	assert_true(bytes_below(target + 4) < 5 * settled);
	ok(store_open(&b, there, STORE_CREATE, &err));
	ok(destination_pull(d, "job", 0, b, NULL, &stats, &err));
	expect_round(b, 40, 40);
	ok(destination_pull(d, "job", 39, b, NULL, &stats, &err));
	expect_round(b, 39, 39);
	assert_fails(destination_pull(d, "job", 38, b, NULL, &stats, &err), ERR_NOT_FOUND, &err);
	store_close(a);
	store_close(b);
	destination_close(d);
}

/* ---- fencing ------------------------------------------------------------------------------- */

static void test_fenced(void **state)
{
	struct store *a = fixture_open(here, "job");
	struct destination *d = open_target(), *e = open_target();
	struct replica_hold old, new;
	struct replica_job seen;
	struct replica_stats stats;
	struct job_info job;
	uint64_t seq = 1;

	save_round(a, 1);
	take(d, a, &old);
	ok(destination_push(d, &old, a, 1, NULL, &stats, &err));
	ok(destination_look(e, "job", &seen, &err));
	save_round(a, 2);
	ok(store_job_get(a, "job", &job, &err));
	ok(destination_push(d, &old, a, 2, NULL, &stats, &err));
	/* Something was published since the look. */
	assert_fails(destination_take(e, &job, &seen, &new, &err), ERR_FENCED, &err);
	take(e, a, &new);
	save_round(a, 3);
	assert_fails(destination_push(d, &old, a, 3, NULL, &stats, &err), ERR_FENCED, &err);
	assert_fails(destination_drop(d, &old, &seq, 1, &err), ERR_FENCED, &err);
	assert_fails(destination_put_job(d, &old, &job, &err), ERR_FENCED, &err);
	assert_fails(destination_take(d, &job, NULL, &old, &err), ERR_FENCED, &err);
	ok(destination_push(e, &new, a, 3, NULL, &stats, &err));
	replica_job_clear(&seen);
	job_info_clear(&job);
	store_close(a);
	destination_close(d);
	destination_close(e);
}

/* Whoever did not get the answer knows its hold by the token, and may ask once more. */
static void test_taken_by_a_noted_token(void **state)
{
	struct store *a = fixture_open(here, "job");
	struct destination *d = open_target();
	const char *name = destination_text(d);
	struct replica_state *states;
	struct replica_hold hold, again;
	uint8_t token[REPLICA_TOKEN];
	struct replica_job seen;
	struct job_info job;
	size_t n;

	save_round(a, 1);
	ok(store_job_get(a, "job", &job, &err));
	ok(replica_token_make(token, &err));
	ok(store_replica_taking(a, "job", name, token, &err));
	ok(destination_take_as(d, &job, NULL, token, &hold, &err));
	assert_memory_equal(hold.token, token, REPLICA_TOKEN);
	ok(destination_take_as(d, &job, NULL, token, &again, &err));
	assert_memory_equal(again.token, token, REPLICA_TOKEN);
	ok(destination_look(d, "job", &seen, &err));
	ok(store_replicas_get(a, "job", &states, &n, &err));
	assert_int_equal(n, 1);
	assert_true(replica_state_owns(&states[0], seen.token));
	token[0] ^= 1;
	assert_false(replica_state_owns(&states[0], token));
	memset(token, 0, sizeof(token));
	assert_false(replica_state_owns(&states[0], token));
	replica_states_free(states, n);
	replica_job_clear(&seen);
	job_info_clear(&job);
	store_close(a);
	destination_close(d);
}

/* Many that have seen the same: exactly one wins, round after round. */
static void test_race(void **state)
{
	struct store *a = fixture_open(here, "job");
	struct destination *d = open_target();
	struct replica_hold hold;
	struct job_info job;

	take(d, a, &hold);
	ok(store_job_get(a, "job", &job, &err));
	store_close(a);
	for (int round = 0; round < 10; round++) {
		pid_t pids[RACERS];
		int gate[2], winners = 0;
		struct replica_job seen;
		char c;

		ok(destination_look(d, "job", &seen, &err));
		assert_int_equal(pipe(gate), 0);
		for (int i = 0; i < RACERS; i++) {
			pids[i] = fork();
			if (pids[i] == 0) {
				struct destination *mine;
				struct replica_hold got;

				close(gate[1]);
				if (destination_open(&mine, target, &err) < 0 ||
				    read(gate[0], &c, 1) != 0)
					_exit(2);
				if (destination_take(mine, &job, &seen, &got, &err) == 0)
					_exit(0);
				_exit(err.kind == ERR_FENCED ? 1 : 2);
			}
		}
		close(gate[0]);
		close(gate[1]);
		for (int i = 0; i < RACERS; i++) {
			int status;

			assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
			assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 2);
			winners += WEXITSTATUS(status) == 0;
		}
		assert_int_equal(winners, 1);
		replica_job_clear(&seen);
	}
	job_info_clear(&job);
	destination_close(d);
}

/* ---- damage -------------------------------------------------------------------------------- */

/* Any byte of any file: the snapshot comes back equal, or not at all with a message. */
static void damage_file(const char *path, unsigned *detected)
{
	struct stat st;
	int fd = open(path, O_RDWR | O_CLOEXEC);
	uint64_t random = 9;

	assert_true(fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0);
	for (int i = 0; i < 5; i++) {
		off_t at = (off_t)(fixture_random(&random) % (uint64_t)st.st_size);
		struct destination *d = open_target();
		struct replica_stats stats;
		struct store *b = NULL;
		uint8_t byte, bad;

		assert_int_equal(pread(fd, &byte, 1, at), 1);
		bad = byte ^ (uint8_t)(1u << (i % 8));
		assert_int_equal(pwrite(fd, &bad, 1, at), 1);
		ok(store_open(&b, there, STORE_CREATE, &err));
		if (destination_pull(d, "job", 1, b, NULL, &stats, &err) == 0) {
			expect_round(b, 1, 1);
		} else {
			assert_true(err.kind == ERR_CORRUPT || err.kind == ERR_VERSION);
			*detected += 1;
		}
		assert_int_equal(fixture_problems(b), 0);
		store_close(b);
		destination_close(d);
		fixture_remove(there);
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	}
	close(fd);
}

static void damage_all(const char *path, unsigned *detected)
{
	cleanup_dir DIR *folder = opendir(path);
	struct dirent *entry;

	assert_non_null(folder);
	while ((entry = readdir(folder))) {
		char file[1000];

		if (entry->d_name[0] == '.')
			continue;
		snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
		if (entry->d_type == DT_DIR)
			damage_all(file, detected);
		else
			damage_file(file, detected);
	}
}

static void test_damage(void **state)
{
	struct store *a = fixture_open(here, "job");
	struct destination *d = open_target();
	struct replica_stats stats;
	struct replica_hold hold;
	unsigned detected = 0;

	save_round(a, 1);
	take(d, a, &hold);
	ok(destination_push(d, &hold, a, 1, NULL, &stats, &err));
	destination_close(d);
	store_close(a);
	damage_all(target + 4, &detected);
	assert_true(detected >= 5);
}

/* The one file of a folder of the replica's job. */
static void path_of(const char *folder, char *buf, size_t len)
{
	char path[500];
	cleanup_dir DIR *d = NULL;
	struct dirent *entry;

	snprintf(path, sizeof(path), "%s/jobs/job/%s", target + 4, folder);
	d = opendir(path);
	assert_non_null(d);
	while ((entry = readdir(d)) && entry->d_name[0] == '.')
		;
	assert_non_null(entry);
	snprintf(buf, len, "%s/%s", path, entry->d_name);
}

static void copy(const char *from, const char *to)
{
	char command[2000];

	snprintf(command, sizeof(command), "cp '%s' '%s'", from, to);
	assert_int_equal(system(command), 0);
}

/* Links to elsewhere, FIFOs and folders where files belong, cut files: refused, nothing else touched. */
static void test_hostile(void **state)
{
	static const char *const folders[] = {"heads", "snapshots", "packs"};
	struct store *a = fixture_open(here, "job"), *b = NULL;
	struct destination *d = open_target();
	char file[1000], aside[710], outside[300];
	struct replica_stats stats;
	struct replica_hold hold;
	struct stat st;

	save_round(a, 1);
	take(d, a, &hold);
	ok(destination_push(d, &hold, a, 1, NULL, &stats, &err));
	ok(store_open(&b, there, STORE_CREATE, &err));
	snprintf(outside, sizeof(outside), "%s/outside", dir);
	for (size_t i = 0; i < 3; i++) {
		/* The newest head is the last of two: the file whose damage counts. */
		if (i == 0)
			snprintf(file, sizeof(file), "%s/jobs/job/heads/0000000000000002", target + 4);
		else
			path_of(folders[i], file, sizeof(file));
		snprintf(aside, sizeof(aside), "%s/aside", dir);
		assert_int_equal(rename(file, aside), 0);
		assert_int_equal(symlink(aside, file), 0);
		assert_fails(destination_pull(d, "job", 0, b, NULL, &stats, &err), ERR_CORRUPT, &err);
		assert_int_equal(unlink(file), 0);
		assert_int_equal(mkfifo(file, 0600), 0);
		assert_fails(destination_pull(d, "job", 0, b, NULL, &stats, &err), ERR_CORRUPT, &err);
		assert_int_equal(unlink(file), 0);
		assert_int_equal(rename(aside, file), 0);
		assert_int_equal(stat(file, &st), 0);
		copy(file, aside);
		assert_int_equal(truncate(file, st.st_size / 2 - 3), 0);
		assert_fails(destination_pull(d, "job", 0, b, NULL, &stats, &err), ERR_CORRUPT, &err);
		copy(aside, file);
	}
	ok(destination_pull(d, "job", 0, b, NULL, &stats, &err));
	assert_int_equal(access(outside, F_OK), -1);
	snprintf(file, sizeof(file), "%s/jobs", target + 4);
	assert_int_equal(rename(file, outside), 0);
	assert_int_equal(symlink(outside, file), 0);
	assert_fails(destination_pull(d, "job", 0, b, NULL, &stats, &err), ERR_CORRUPT, &err);
	assert_int_equal(chmod(target + 4, 0777), 0);
	assert_fails(destination_pull(d, "job", 0, b, NULL, &stats, &err), ERR_DENIED, &err);
	assert_int_equal(fixture_problems(b), 0);
	store_close(a);
	store_close(b);
	destination_close(d);
}

/* A mount that went away is not a new replica. */
static void test_unreachable(void **state)
{
	struct store *a = fixture_open(here, "job");
	struct destination *d = open_target();
	struct replica_stats stats;
	struct replica_hold hold;
	char aside[400];

	save_round(a, 1);
	take(d, a, &hold);
	snprintf(aside, sizeof(aside), "%s.away", target + 4);
	assert_int_equal(rename(target + 4, aside), 0);
	assert_fails(destination_push(d, &hold, a, 1, NULL, &stats, &err), ERR_UNREACHABLE, &err);
	assert_int_equal(mkdir(target + 4, 0700), 0);
	assert_fails(destination_push(d, &hold, a, 1, NULL, &stats, &err), ERR_UNREACHABLE, &err);
	assert_int_equal(rmdir(target + 4), 0);
	assert_int_equal(rename(aside, target + 4), 0);
	ok(destination_push(d, &hold, a, 1, NULL, &stats, &err));
	store_close(a);
	destination_close(d);
	assert_fails(destination_check("rsync://x", &err), ERR_INVALID, &err);
	assert_fails(destination_check("dir:", &err), ERR_INVALID, &err);
	assert_fails(destination_check("dir:x/y", &err), ERR_INVALID, &err);
}

/* ---- kills --------------------------------------------------------------------------------- */

static void push_and_pull(const struct replica_hold *hold, unsigned round)
{
	struct destination *d = open_target();
	struct replica_stats stats;
	struct store *a = NULL, *b = NULL;

	if (store_open(&a, here, STORE_WRITE, &err) < 0 ||
	    destination_push(d, hold, a, round, NULL, &stats, &err) < 0 ||
	    store_open(&b, there, STORE_CREATE, &err) < 0 ||
	    destination_pull(d, "job", round, b, NULL, &stats, &err) < 0) {
		fprintf(stderr, "round %u: %s\n", round, err.msg);
		_exit(1);
	}
	_exit(0);
}

static unsigned kill_rounds(void)
{
	const char *text = getenv("PAWL_KILL_ROUNDS");

	return text ? (unsigned)atoi(text) : KILL_ROUNDS;
}

static void test_kills(void **state)
{
	struct store *a = fixture_open(here, "job"), *b = NULL;
	struct destination *d = open_target();
	unsigned rounds = kill_rounds(), killed = 0;
	struct replica_hold hold;
	uint64_t random = 77;

	take(d, a, &hold);
	destination_close(d);
	store_close(a);
	for (unsigned round = 1; round <= rounds; round++) {
		int status;

		ok(store_open(&a, here, STORE_WRITE, &err));
		save_round(a, round);
		store_close(a);
		for (int tries = 0; tries < 2; tries++) {
			useconds_t delay = (useconds_t)(fixture_random(&random) % 40000);
			pid_t pid = fork();

			if (pid == 0)
				push_and_pull(&hold, round);
			if (tries == 0) {
				usleep(delay);
				kill(pid, SIGKILL);
			}
			assert_int_equal(waitpid(pid, &status, 0), pid);
			killed += WIFSIGNALED(status);
			assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
		}
		ok(store_open(&b, there, STORE_WRITE, &err));
		expect_round(b, round, round);
		assert_int_equal(fixture_problems(b), 0);
		store_close(b);
	}
	ok(store_open(&a, here, STORE_WRITE, &err));
	assert_int_equal(fixture_problems(a), 0);
	store_close(a);
	print_message("%u of %u were killed on the way\n", killed, rounds);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_there_and_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_incarnations, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fenced, setup, teardown),
		cmocka_unit_test_setup_teardown(test_taken_by_a_noted_token, setup, teardown),
		cmocka_unit_test_setup_teardown(test_race, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damage, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unreachable, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kills, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
