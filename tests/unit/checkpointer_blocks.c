/*
 * Contents by blocks: what changed since it was read ahead is found, wherever it is; holes stay
 * holes.
 */
#include "unit.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "checkpointer/content_blocks.h"
#include "store_fixture.h"

#define SIZE (5 * BLOCK_BYTES + 3 * PAGE + 100)

static struct err err;

static int make_file(void)
{
	int fd = memfd_create("blocks", MFD_CLOEXEC);
	char page[PAGE];

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, SIZE), 0);
	for (uint64_t at = 0; at < SIZE; at += PAGE) {
		fixture_page(page, at + 1);
		/* A hole in the second block, and all of the third. */
		if (at >= BLOCK_BYTES + 8 * PAGE && at < 3 * BLOCK_BYTES)
			continue;
		assert_true(pwrite(fd, page, SIZE - at < PAGE ? SIZE - at : PAGE, (off_t)at) > 0);
	}
	return fd;
}

static void write_at(int fd, uint64_t at, const char *text)
{
	assert_int_equal(pwrite(fd, text, strlen(text), (off_t)at), strlen(text));
}

/* Publishes root and compares what can be read from it with the file. */
static void check_stored(struct store *store, struct store_session *session, uint64_t root, int fd)
{
	struct snapshot_info info = {.time = 1};
	Snap__Snapshot *model = fixture_model(root);
	char stored[PAGE], now[PAGE];
	struct page_reader *reader;
	struct page_run run;
	off_t size = lseek(fd, 0, SEEK_END);

	ok(session_publish(session, model, &info, &err));
	snap__snapshot__free_unpacked(model, NULL);
	ok(page_reader_open(&reader, store, root, &err));
	for (off_t at = 0; at < size; at += PAGE) {
		memset(now, 0, sizeof(now));
		assert_true(pread(fd, now, PAGE, at) > 0);
		ok(page_reader_read(reader, (uint64_t)at / PAGE, 1, stored, &err));
		assert_memory_equal(stored, now, PAGE);
	}
	assert_int_equal(page_reader_next(reader, ((uint64_t)size + PAGE - 1) / PAGE, &run, &err),
			 0);
	page_reader_close(reader);
}

static void change_nothing(int fd)
{
}

static void change_pages(int fd)
{
	write_at(fd, 5, "first page");
	write_at(fd, 4 * BLOCK_BYTES + 17, "fifth block");
	write_at(fd, 2 * BLOCK_BYTES + 9 * PAGE, "in the hole");
	write_at(fd, SIZE - 3, "end, and beyond it");
}

static void grow(int fd)
{
	write_at(fd, SIZE + 2 * BLOCK_BYTES, "far behind the end");
}

static void cut(int fd)
{
	assert_int_equal(ftruncate(fd, BLOCK_BYTES + 3 * PAGE + 1), 0);
}

static void punch(int fd)
{
	assert_int_equal(
		fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BLOCK_BYTES + PAGE),
		0);
}

static void run_case(struct store *store, void (*change)(int fd), bool same)
{
	int fd = make_file();
	struct content_source source = {.fd = fd, .size = SIZE};
	struct content_digests *digests;
	struct store_session *session;
	uint64_t before, after;

	ok(session_begin(&session, store, "job", 0, CODEC_LZ4, &err));
	ok(blocks_capture(session, &source, 0, &before, &digests, &err));
	assert_non_null(digests);
	change(fd);
	source.size = (uint64_t)lseek(fd, 0, SEEK_END);
	ok(blocks_capture_changed(session, &source, digests, &after, &err));
	assert_int_equal(before == after, same);
	content_digests_free(digests);
	check_stored(store, session, after, fd);
	close(fd);
}

static void test_unchanged(void **state)
{
	run_case(*state, change_nothing, true);
}

static void test_changed(void **state)
{
	run_case(*state, change_pages, false);
	run_case(*state, grow, false);
	run_case(*state, cut, false);
	run_case(*state, punch, false);
}

/* Through mappings, of which one reaches beyond the end of the file; the rest of the file is not
 * mapped. */
static void test_mappings(void **state)
{
	int fd = make_file();
	char *low = mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, PAGE);
	char *high = mmap(NULL, BLOCK_BYTES, PROT_READ, MAP_SHARED, fd, 5 * BLOCK_BYTES);
	const struct file_piece pieces[] = {
		{getpid(), (uintptr_t)low, PAGE, BLOCK_BYTES},
		{getpid(), (uintptr_t)high, 5 * BLOCK_BYTES, BLOCK_BYTES},
	};
	struct content_source source = {
		.fd = -1, .pieces = pieces, .n_pieces = 2, .size = 6 * BLOCK_BYTES};
	struct content_digests *digests;
	struct store_session *session;
	uint64_t root, last;

	assert_true(low != MAP_FAILED && high != MAP_FAILED);
	ok(session_begin(&session, *state, "job", 0, CODEC_LZ4, &err));
	ok(blocks_capture(session, &source, 0, &root, &digests, &err));
	low[7 * PAGE] = 'x';
	ok(blocks_capture_changed(session, &source, digests, &root, &err));
	content_digests_free(digests);
	assert_int_equal(ftruncate(fd, 5 * BLOCK_BYTES + 2 * PAGE), 0);
	source.clear_rest = true;
	ok(blocks_capture(session, &source, root, &last, NULL, &err));
	assert_int_not_equal(root, last);
	/* What is not mapped is not part of it. */
	for (uint64_t at = 0; at < 5 * BLOCK_BYTES; at += PAGE)
		if (at < PAGE || at >= PAGE + BLOCK_BYTES)
			assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
						   (off_t)at, PAGE),
					 0);
	check_stored(*state, session, last, fd);
	munmap(low, BLOCK_BYTES);
	munmap(high, BLOCK_BYTES);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_unchanged, fixture_set_up, fixture_tear_down),
		cmocka_unit_test_setup_teardown(test_changed, fixture_set_up, fixture_tear_down),
		cmocka_unit_test_setup_teardown(test_mappings, fixture_set_up, fixture_tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
