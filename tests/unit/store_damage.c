/*
 * Flipped bits: named by verify, refused by every reader, never a crash and never wrong content.
 */
#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store/bytes.h"
#include "store_fixture.h"
#include "unit.h"

#define FILE_FLIPS 400 /* PAWL_FLIPS in the environment: more */
#define PAGES      2500u
#define SNAPSHOTS  3u
#define BASE       0x7ff123u

static struct err err;
static char dir[256];
static struct image images[SNAPSHOTS];

static int setup_group(void **state)
{
	uint64_t random = 1;
	struct store *store;
	unsigned i;

	snprintf(dir, sizeof(dir), "%s", fixture_dir());
	store = fixture_open(dir, "job");
	for (i = 0; i < SNAPSHOTS; i++) {
		images[i] = image_new(PAGES, 1);
		if (i > 0) {
			memcpy(images[i].seed, images[i - 1].seed, PAGES * sizeof(uint64_t));
			image_change(&images[i], 200, &random);
		}
		image_save(store, "job", i, &images[i], i ? &images[i - 1] : NULL, BASE);
	}
	store_close(store);
	return 0;
}

static int teardown_group(void **state)
{
	unsigned i;

	for (i = 0; i < SNAPSHOTS; i++)
		image_free(&images[i]);
	fixture_remove(dir);
	return 0;
}

struct finding {
	unsigned n;
	uint64_t seqs; /* bits of the snapshots named */
	char all[4000];
};

static void note(void *ctx, const char *job, uint64_t seq, const char *line)
{
	struct finding *f = ctx;
	size_t used = strlen(f->all);

	f->n++;
	f->seqs |= 1ull << seq;
	snprintf(f->all + used, sizeof(f->all) - used, "%s@%d: %s\n", job, (int)seq, line);
}

/* ---- in the values, through LMDB ----------------------------------------------------------- */

/* Flips one bit of the value that `at` (counting records) leads to; n: which byte. Returns its length,
 * 0 where there is no such record. Twice the same call restores it. */
static size_t flip_value(const char *db, bool integer_keys, unsigned at, uint64_t byte, unsigned bit,
			 char *ret_key, size_t ret_room)
{
	MDB_val key, value;
	MDB_cursor *cursor;
	size_t len = 0;
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;
	int rc;

	assert_int_equal(mdb_env_create(&env), 0);
	mdb_env_set_maxdbs(env, 8);
	mdb_env_set_mapsize(env, 1u << 30);
	assert_int_equal(mdb_env_open(env, dir, 0, 0600), 0);
	assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
	assert_int_equal(mdb_dbi_open(txn, db, integer_keys ? MDB_INTEGERKEY : 0, &dbi), 0);
	assert_int_equal(mdb_cursor_open(txn, dbi, &cursor), 0);
	rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
	while (rc == 0 && at-- > 0)
		rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
	if (rc == 0) {
		uint8_t *copy = malloc(value.mv_size);

		memcpy(copy, value.mv_data, value.mv_size);
		len = value.mv_size;
		if (strcmp(db, "packs") == 0)
			len = get_le32(copy + 28); /* the padding is nobody's */
		copy[byte % len] ^= (uint8_t)(1u << bit);
		if (integer_keys)
			snprintf(ret_key, ret_room, "%llu",
				 (unsigned long long)get_le64(key.mv_data));
		else
			snprintf(ret_key, ret_room, "%.*s", (int)key.mv_size, (char *)key.mv_data);
		value.mv_data = copy;
		assert_int_equal(mdb_cursor_put(cursor, &key, &value, MDB_CURRENT), 0);
		free(copy);
	}
	mdb_cursor_close(cursor);
	assert_int_equal(mdb_txn_commit(txn), 0);
	mdb_env_close(env);
	return len;
}

/* Whether reading the snapshot gives its image (1), ERR_CORRUPT (0); anything else fails. */
static int readable(struct store *store, uint64_t seq)
{
	if (image_equals(store, "job", seq, &images[seq - 1], BASE, &err))
		return 1;
	if (err.kind != ERR_CORRUPT || strstr(err.msg, "differs"))
		fail_msg("snapshot %d: %s", (int)seq, err.msg);
	return 0;
}

/* What verify and the readers say with one bit of that value flipped; word must be in the report. */
static void check_flip(const char *db, bool integer_keys, unsigned at, uint64_t byte, unsigned bit,
		       const char *word)
{
	struct finding found = {0};
	struct store *store;
	uint64_t problems, seq;
	char key[128];

	if (!flip_value(db, integer_keys, at, byte, bit, key, sizeof(key)))
		return;
	ok(store_open(&store, dir, STORE_READ, &err)); /* what all hangs on is there twice */
	ok(store_verify(store, NULL, 0, note, &found, &problems, &err));
	if (problems == 0 || !strstr(found.all, word))
		fail_msg("%s %s byte %d bit %u: found %u: %s", db, key, (int)byte, bit, found.n,
			 found.all);
	assert_int_equal(problems, found.n);
	/* Whom verify does not name reads whole; whom it names does not. */
	for (seq = 1; seq <= SNAPSHOTS; seq++)
		assert_int_equal(readable(store, seq), !(found.seqs >> seq & 1));
	store_close(store);
	flip_value(db, integer_keys, at, byte, bit, key, sizeof(key));
}

static void test_packs(void **state)
{
	uint64_t random = 2;
	unsigned at, i;

	for (at = 0; at < 10; at++) {
		for (i = 0; i < 4; i++) /* anywhere: nearly all of it is pages */
			check_flip("packs", true, at, 40 + fixture_random(&random) % 10000,
				   (unsigned)(fixture_random(&random) % 8), "stored page");
		for (i = 0; i < 40; i += 3) /* the header */
			check_flip("packs", true, at, i, i % 8, "pack");
	}
}

static void test_nodes(void **state)
{
	uint64_t random = 3;
	unsigned at, i;

	for (at = 0; at < 30; at++)
		for (i = 0; i < 5; i++)
			check_flip("nodes", true, at, fixture_random(&random), i, "page table node");
}

static void test_records(void **state)
{
	uint64_t random = 4;
	unsigned at, i;

	for (at = 0; at < SNAPSHOTS; at++)
		for (i = 0; i < 30; i++)
			check_flip("snapshots", false, at, fixture_random(&random), i % 8, "record");
	for (i = 0; i < 20; i++)
		check_flip("jobs", false, 0, i, i % 8, "record of job 'job'");
	for (at = 0; at < 2; at++)
		for (i = 0; i < 30; i++)
			check_flip("meta", false, at, fixture_random(&random), i % 8, "record");
}

/* Drop and gc get along with damage: nothing is freed while a record does not tell its roots, and
 * removing that snapshot makes it good. */
static void test_gc_with_damaged_record(void **state)
{
	struct store *store;
	char key[128];

	assert_true(flip_value("snapshots", false, 1, 30, 1, key, sizeof(key)) > 0);
	ok(store_open(&store, dir, STORE_WRITE, &err));
	assert_fails(store_gc(store, 0, NULL, &err), ERR_CORRUPT, &err);
	assert_non_null(strstr(err.msg, "job@2"));
	assert_int_equal(readable(store, 1), 1);
	assert_int_equal(readable(store, 3), 1);
	ok(store_snapshot_drop(store, "job", 2, &err));
	ok(store_gc(store, 0, NULL, &err));
	assert_int_equal(readable(store, 1), 1);
	assert_int_equal(readable(store, 3), 1);
	assert_int_equal(fixture_problems(store), 0);
	store_close(store);
}

/* ---- anywhere in the file ------------------------------------------------------------------ */

/* In a child: 0 fine, 1 wrong content or something else unseemly. */
static int open_and_read(void)
{
	struct finding found = {0};
	struct store *store;
	uint64_t problems, seq;

	if (store_open(&store, dir, STORE_READ, &err) < 0)
		return !(err.kind == ERR_CORRUPT || err.kind == ERR_VERSION);
	if (store_verify(store, NULL, 0, note, &found, &problems, &err) < 0)
		return err.kind != ERR_CORRUPT;
	for (seq = 1; seq <= SNAPSHOTS; seq += 2) {
		if (image_equals(store, "job", seq, &images[seq - 1], BASE, &err))
			continue;
		if (strstr(err.msg, "differs") || problems == 0) {
			fprintf(stderr, "snapshot %d: %s; verify: %s\n", (int)seq, err.msg, found.all);
			return 1;
		}
	}
	store_close(store);
	return 0;
}

static void flip_file(int fd, uint64_t offset, unsigned bit)
{
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
	byte ^= (uint8_t)(1u << bit);
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
}

/* Where LMDB's own pages are: not among the packs. Sampled twice as often. */
static uint64_t pick_offset(int fd, uint64_t size, uint64_t *random)
{
	unsigned tries;
	uint64_t offset = 0;
	uint8_t header[16];

	for (tries = 0; tries < 200; tries++) {
		offset = fixture_random(random) % size;
		if (fixture_random(random) % 3 == 0 ||
		    (pread(fd, header, 16, (off_t)(offset & ~4095ull)) == 16 &&
		     get_le64(header) == offset / 4096 && get_le16(header + 10) < 16))
			break;
	}
	return fixture_random(random) % 4 ? offset : (offset & ~4095ull) + offset % 40;
}

static void test_file(void **state)
{
	const char *more = getenv("PAWL_FLIPS");
	int i, flips = more ? atoi(more) : FILE_FLIPS;
	uint64_t random = 99;
	struct stat st;
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/data.mdb", dir);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	for (i = 0; i < flips; i++) {
		uint64_t offset = pick_offset(fd, (uint64_t)st.st_size, &random);
		unsigned bit = (unsigned)(fixture_random(&random) % 8);
		int status;
		pid_t pid;

		flip_file(fd, offset, bit);
		pid = fork();
		if (pid == 0)
			_exit(open_and_read());
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (status != 0)
			fail_msg("offset %llu bit %u: status 0x%x", (unsigned long long)offset, bit,
				 (unsigned)status);
		flip_file(fd, offset, bit);
	}
	close(fd);
	assert_int_equal(open_and_read(), 0);
}

/* ---- and writing into such a file ---------------------------------------------------------- */

/* In a child: whatever comes of it, it ends by itself. */
static void write_and_collect(void)
{
	struct image image = image_new(PAGES, 1);
	struct store_session *session;
	struct page_table *table;
	struct store *store;
	char page[PAGE];
	uint64_t root;

	if (store_open(&store, dir, STORE_WRITE, &err) < 0)
		return;
	if (session_begin(&session, store, "job", SNAPSHOTS, CODEC_LZ4, &err) == 0) {
		Snap__Snapshot *model;

		if (store_snapshot_load(store, "job", SNAPSHOTS, NULL, &model, &err) == 0 &&
		    page_table_edit(&table, session, model->processes[0]->pages_root, &err) == 0) {
			struct snapshot_info info = {.time = 1};
			uint64_t i;
			int rc = 0;

			for (i = 0; i < PAGES && rc == 0; i += 3) {
				fixture_page(page, image.seed[i] + 1);
				rc = page_table_put(table, BASE + i, page, 1, NULL, &err);
			}
			if (page_table_finish(table, &root, &err) == 0 && rc == 0) {
				model->processes[0]->pages_root = root;
				session_publish(session, model, &info, &err);
				session = NULL;
			}
		}
		session_abort(session);
	}
	store_snapshot_drop(store, "job", 1, &err);
	store_gc(store, 0, NULL, &err);
	store_snapshot_drop(store, "job", 2, &err);
	store_gc(store, STORE_GC_COMPACT, NULL, &err);
	store_close(store);
}

static void test_writing(void **state)
{
	const char *more = getenv("PAWL_FLIPS");
	int i, flips = more ? atoi(more) : FILE_FLIPS / 4;
	uint64_t random = 7;
	char path[300], *bytes;
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), "%s/data.mdb", dir);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	bytes = malloc((size_t)st.st_size);
	assert_int_equal(pread(fd, bytes, (size_t)st.st_size, 0), st.st_size);
	for (i = 0; i < flips; i++) {
		uint64_t offset = pick_offset(fd, (uint64_t)st.st_size, &random);
		unsigned bit = (unsigned)(fixture_random(&random) % 8);
		int status;
		pid_t pid;

		flip_file(fd, offset, bit);
		pid = fork();
		if (pid == 0) {
			write_and_collect();
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (status != 0)
			fail_msg("offset %llu bit %u: status 0x%x", (unsigned long long)offset, bit,
				 (unsigned)status);
		close(fd); /* compacting has put another file there */
		fd = open(path, O_RDWR | O_TRUNC);
		assert_int_equal(pwrite(fd, bytes, (size_t)st.st_size, 0), st.st_size);
	}
	close(fd);
	free(bytes);
	assert_int_equal(open_and_read(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_packs),
		cmocka_unit_test(test_nodes),
		cmocka_unit_test(test_records),
		cmocka_unit_test(test_file),
		cmocka_unit_test(test_writing),
		cmocka_unit_test(test_gc_with_damaged_record),
	};

	return cmocka_run_group_tests(tests, setup_group, teardown_group);
}
