/*
 * Putting files back: whatever has become of the file, afterwards it is what the snapshot has, and
 * a damaged store is noticed before anything is touched.
 */
#include "unit.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "recovery/rebuild.h"
#include "store_fixture.h"

#define PAGES 700u /* more than one piece, and a hole in the middle */
#define SIZE  (PAGES * (uint64_t)PAGE - 1000)

struct fixture {
	char dir[PATH_MAX], path[PATH_MAX];
	struct store *store;
	Snap__Snapshot *model;
	struct recovery rec;
	struct file_slot slot;
	char *content;
};

static uint64_t seed_of(uint64_t page)
{
	return page >= 300 && page < 400 ? 0 : page + 1;
}

static uint64_t save_content(struct fixture *f)
{
	struct store_session *session;
	struct snapshot_info info = {.time = 1};
	struct page_table *table;
	struct err err;
	uint64_t root;

	ok(session_begin(&session, f->store, "job", 0, CODEC_LZ4, &err));
	ok(page_table_edit(&table, session, 0, &err));
	for (uint64_t i = 0; i < PAGES; i++) {
		fixture_page(f->content + i * PAGE, seed_of(i));
		if (i == PAGES - 1)
			memset(f->content + SIZE, 0, PAGES * PAGE - SIZE);
		if (seed_of(i))
			ok(page_table_put(table, i, f->content + i * PAGE, 1, NULL, &err));
	}
	ok(page_table_finish(table, &root, &err));
	f->model = fixture_model(root);
	ok(session_publish(session, f->model, &info, &err));
	return root;
}

static void add_file(struct fixture *f, uint64_t root)
{
	Snap__File *file =
		snap_append(&f->model->files, &f->model->n_files, Snap__File, SNAP__FILE__INIT);

	assert_int_equal(snap_set_string(&file->path, f->path), 0);
	file->policy = SNAP__FILE__POLICY__RESTORE;
	file->content = true;
	file->content_root = root;
	file->size = SIZE;
	file->mode = S_IFREG | 0640;
	file->uid = getuid();
	file->gid = getgid();
	file->mtime = 1234567890123456789;
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "%s", fixture_dir());
	snprintf(f->path, sizeof(f->path), "%.*s/sub/dir/file", PATH_MAX - 32, f->dir);
	f->store = fixture_open(f->dir, "job");
	f->content = calloc(PAGES, PAGE);
	assert_non_null(f->content);
	add_file(f, save_content(f));
	f->slot.fd = -1;
	f->rec.store = f->store;
	f->rec.model = f->model;
	f->rec.files = &f->slot;
	f->rec.stubs = calloc(f->model->n_processes, sizeof(*f->rec.stubs));
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	store_close(f->store);
	if (f->slot.fd >= 0)
		close(f->slot.fd);
	fixture_remove(f->dir);
	snap__snapshot__free_unpacked(f->model, NULL);
	free(f->slot.differ.list);
	free(f->rec.stubs);
	free(f->content);
	free(f);
	return 0;
}

static void put_back(struct fixture *f)
{
	struct err err;

	ok(file_verify(&f->rec, 0, &err));
	ok(file_restore(&f->rec, 0, &err));
}

static void assert_content(const struct fixture *f, int fd)
{
	char *found = malloc(SIZE + 1);

	assert_non_null(found);
	assert_int_equal(pread(fd, found, SIZE + 1, 0), SIZE);
	assert_memory_equal(found, f->content, SIZE);
	free(found);
}

static void assert_restored(const struct fixture *f)
{
	int fd = open(f->path, O_RDONLY);
	struct stat st;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0640);
	assert_int_equal(st.st_mtim.tv_sec, 1234567890);
	assert_int_equal(st.st_mtim.tv_nsec, 123456789);
	assert_content(f, fd);
	close(fd);
}

static void test_missing_with_its_directories(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	put_back(f);
	assert_restored(f);
	assert_int_equal(stat(f->path, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 <=
		    SIZE - 99 * (uint64_t)PAGE); /* the hole stays */
}

static void test_untouched_is_not_written(void **state)
{
	struct fixture *f = *state;

	put_back(f);
	f->slot.differ.n = 0;
	put_back(f);
	assert_int_equal(f->slot.differ.n, 0);
	assert_restored(f);
}

static void spoil(struct fixture *f, off_t at, const char *bytes)
{
	int fd = open(f->path, O_WRONLY);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, strlen(bytes), at), strlen(bytes));
	close(fd);
	f->slot.differ.n = 0;
}

static void test_grown(void **state)
{
	struct fixture *f = *state;

	put_back(f);
	spoil(f, SIZE, "more");
	spoil(f, SIZE + 3 * PAGE, "more");
	put_back(f);
	assert_int_equal(f->slot.differ.n, 0);
	assert_restored(f);
}

static void test_cut(void **state)
{
	struct fixture *f = *state;

	put_back(f);
	f->slot.differ.n = 0;
	assert_int_equal(truncate(f->path, 1234567), 0);
	put_back(f);
	assert_restored(f);
}

static void test_changed_in_place(void **state)
{
	struct fixture *f = *state;

	put_back(f);
	spoil(f, 5, "x");
	spoil(f, 350 * PAGE + 7, "in the hole");
	spoil(f, 600 * PAGE - 1, "across");
	put_back(f);
	assert_int_equal(f->slot.differ.n, 3);
	assert_restored(f);
}

static void test_unwritable_file_of_ours(void **state)
{
	struct fixture *f = *state;

	put_back(f);
	spoil(f, 5, "x");
	assert_int_equal(chmod(f->path, 0400), 0);
	put_back(f);
	assert_restored(f);
}

static void test_what_took_its_place_stays(void **state)
{
	struct fixture *f = *state;
	char target[PATH_MAX + 8];
	struct stat st;
	struct err err;

	put_back(f);
	snprintf(target, sizeof(target), "%s.old", f->path);
	assert_int_equal(rename(f->path, target), 0);
	assert_int_equal(symlink(target, f->path), 0);
	assert_fails(file_verify(&f->rec, 0, &err), ERR_UNSUPPORTED, &err);
	assert_non_null(strstr(err.msg, "symbolic link"));
	assert_int_equal(unlink(f->path), 0);
	assert_int_equal(mkdir(f->path, 0700), 0);
	assert_fails(file_verify(&f->rec, 0, &err), ERR_UNSUPPORTED, &err);
	assert_non_null(strstr(err.msg, "directory"));
	assert_int_equal(stat(f->path, &st), 0);
	assert_true(S_ISDIR(st.st_mode));
}

static void test_damage_is_seen_before_anything_is_written(void **state)
{
	struct fixture *f = *state;
	char data[PATH_MAX + 16];
	struct stat st;
	struct err err;
	int fd;

	store_close(f->store);
	snprintf(data, sizeof(data), "%s/data.mdb", f->dir);
	fd = open(data, O_RDWR);
	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	for (off_t at = 64 * 1024; at < st.st_size; at += 20000) /* inside pages and packs alike */
		assert_int_equal(pwrite(fd, "damage", 6, at + 3000), 6);
	close(fd);
	ok(store_open(&f->store, f->dir, STORE_READ, &err));
	f->rec.store = f->store;
	assert_fails(file_verify(&f->rec, 0, &err), ERR_CORRUPT, &err);
	assert_int_equal(stat(f->path, &st), -1);
}

static void test_truncate(void **state)
{
	struct fixture *f = *state;
	struct stat st;
	struct err err;

	put_back(f);
	spoil(f, SIZE, "more");
	ok(file_truncate(&f->rec, 0, &err));
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_size, SIZE);
	assert_int_equal(truncate(f->path, SIZE - 1), 0);
	assert_fails(file_truncate(&f->rec, 0, &err), ERR_UNSUPPORTED, &err);
}

static void test_temporary_has_content_and_no_name(void **state)
{
	struct fixture *f = *state;
	struct err err;
	struct stat st;
	int fd;

	f->model->files[0]->deleted = true;
	ok(file_make_temporary(&f->rec, 0, &err));
	ok(file_open(&f->rec, 0, O_RDONLY, &fd, &err));
	assert_content(f, fd);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_nlink, 0);
	close(fd);
	assert_int_equal(stat(f->path, &st), -1);
}

static void test_identity(void **state)
{
	struct fixture *f = *state;
	struct err err;

	put_back(f);
	ok(file_identify(&f->rec, 0, &err));
	assert_int_equal(f->slot.fd, -1); /* the same content: the file itself */
	spoil(f, 5, "x");
	ok(file_identify(&f->rec, 0, &err));
	assert_true(f->slot.fd >= 0);
	assert_content(f, f->slot.fd);
	close(f->slot.fd);
	f->slot.fd = -1;
	f->model->files[0]->content = false;
	assert_fails(file_identify(&f->rec, 0, &err), ERR_NOT_FOUND, &err);
	assert_non_null(strstr(err.msg, f->path));
}

#define with_files(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		with_files(test_missing_with_its_directories),
		with_files(test_untouched_is_not_written),
		with_files(test_grown),
		with_files(test_cut),
		with_files(test_changed_in_place),
		with_files(test_unwritable_file_of_ours),
		with_files(test_what_took_its_place_stays),
		with_files(test_damage_is_seen_before_anything_is_written),
		with_files(test_truncate),
		with_files(test_temporary_has_content_and_no_name),
		with_files(test_identity),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
