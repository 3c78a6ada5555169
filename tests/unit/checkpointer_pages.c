/*
 * Pages from a process (this one) into a page table: what is read, what is left out, what is cleared.
 */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "checkpointer/pages.h"
#include "store_fixture.h"

#define PAGES 64u

struct fixture {
	char dir[64];
	struct store *store;
	struct store_session *session;
	struct page_table *table;
	char *memory;
	int lock;
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err;

	strcpy(f->dir, "/tmp/pawl-pages-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	assert_int_equal(store_open(&f->store, f->dir, STORE_CREATE, &err), 0);
	assert_int_equal(store_job_lock(f->store, "job", &f->lock, &err), 0);
	assert_int_equal(session_begin(&f->session, f->store, "job", 0, CODEC_LZ4, &err), 0);
	assert_int_equal(page_table_edit(&f->table, f->session, 0, &err), 0);
	f->memory = mmap(NULL, PAGES * STORE_PAGE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(f->memory, MAP_FAILED);
	for (unsigned i = 0; i < PAGES; i++)
		memset(f->memory + i * STORE_PAGE_SIZE, (int)i + 1, STORE_PAGE_SIZE);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	char command[128];

	page_table_free(f->table);
	session_abort(f->session);
	store_job_unlock(f->lock);
	store_close(f->store);
	munmap(f->memory, PAGES * STORE_PAGE_SIZE);
	snprintf(command, sizeof(command), "rm -rf %s", f->dir);
	assert_int_equal(system(command), 0);
	free(f);
	return 0;
}

static struct scan_range range(const struct fixture *f, unsigned first, unsigned n)
{
	uint64_t base = (uint64_t)(uintptr_t)f->memory;

	return (struct scan_range){.start = base + first * STORE_PAGE_SIZE,
				   .end = base + (first + n) * STORE_PAGE_SIZE,
				   .written = true};
}

static int take(const struct fixture *f, const struct scan_result *ranges, struct page_copies *copies,
		enum capture_mode mode, uint64_t *candidates, struct err *err)
{
	const struct page_owner owner = {.pid = getpid(), .table = f->table};

	return pages_capture(&owner, ranges, copies, mode, candidates, err);
}

static int has(const struct fixture *f, unsigned page)
{
	struct err err;

	return page_table_has(f->table, (uint64_t)(uintptr_t)f->memory / STORE_PAGE_SIZE + page, &err);
}

static void fill(struct fixture *f)
{
	struct scan_range all = range(f, 0, PAGES);
	struct scan_result ranges = {&all, 1, 1};
	struct page_copies copies = {.budget = 1};
	uint64_t candidates = 0;
	struct err err;

	assert_int_equal(take(f, &ranges, &copies, CAPTURE_THROUGH, &candidates, &err), 0);
	assert_int_equal(candidates, PAGES);
	page_copies_free(&copies);
}

static void only_written_private_pages_are_read(void **state)
{
	struct fixture *f = *state;
	struct scan_range list[] = {range(f, 0, 2), range(f, 4, 1), range(f, 8, 3)};
	struct scan_result ranges = {list, 3, 3};
	struct page_copies copies = {.budget = 1 << 30};
	uint64_t candidates = 0;
	struct err err;

	list[1].written = false;
	list[2].file = true;
	assert_int_equal(take(f, &ranges, &copies, CAPTURE_FROZEN, &candidates, &err), 0);
	assert_int_equal(candidates, 2);
	assert_int_equal(has(f, 0), 0); /* still waiting */
	assert_int_equal(page_copies_put(&copies, &err), 0);
	assert_int_equal(has(f, 0), 1);
	assert_int_equal(has(f, 1), 1);
	assert_int_equal(has(f, 4), 0);
	assert_int_equal(has(f, 8), 0);
	page_copies_free(&copies);
}

static void unreadable_pages_are_read_by_force(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(mprotect(f->memory + 4096, 4096, PROT_NONE), 0);
	fill(f);
	assert_int_equal(has(f, 1), 1);
}

static void vanished_pages_are_skipped_while_it_runs_and_named_when_it_stands(void **state)
{
	struct fixture *f = *state;
	struct scan_range all = range(f, 0, PAGES);
	struct scan_result ranges = {&all, 1, 1};
	struct page_copies copies = {.budget = 1 << 30};
	uint64_t candidates = 0;
	struct err err;

	assert_int_equal(munmap(f->memory + 3 * 4096, 4096), 0);
	fill(f);
	assert_int_equal(has(f, 2), 1);
	assert_int_equal(has(f, 3), 0);
	assert_int_equal(has(f, 4), 1);
	assert_int_equal(take(f, &ranges, &copies, CAPTURE_FROZEN, &candidates, &err), -1);
	assert_true(err.msg[0] != '\0');
	page_copies_free(&copies);
}

static void what_is_gone_is_cleared_in_whatever_order_it_was_listed(void **state)
{
	struct fixture *f = *state;
	/* Two rounds of a pre-copy one behind the other: not ascending. */
	struct scan_range before[] = {range(f, 30, 10), range(f, 50, 10), range(f, 0, 20), range(f, 30, 30)};
	struct scan_range after[] = {range(f, 5, 10), range(f, 32, 2), range(f, 55, 9)};
	struct scan_result b = {before, 4, 4}, a = {after, 3, 3};
	struct err err;

	fill(f);
	assert_int_equal(pages_clear_gone(f->table, &b, &a, &err), 0);
	for (unsigned i = 0; i < PAGES; i++) {
		int listed = i < 20 || (i >= 30 && i < 60);
		int alive = (i >= 5 && i < 15) || (i >= 32 && i < 34) || i >= 55;

		assert_int_equal(has(f, i), !listed || alive);
	}
}

static void file_pages_do_not_keep_private_copies_alive(void **state)
{
	struct fixture *f = *state;
	struct scan_range before = range(f, 0, 4), after[] = {range(f, 0, 2), range(f, 2, 2)};
	struct scan_result b = {&before, 1, 1}, a = {after, 2, 2};
	struct err err;

	after[0].file = true;
	fill(f);
	assert_int_equal(pages_clear_gone(f->table, &b, &a, &err), 0);
	assert_int_equal(has(f, 0), 0);
	assert_int_equal(has(f, 1), 0);
	assert_int_equal(has(f, 2), 1);
}

static void a_full_budget_is_put_at_once(void **state)
{
	struct fixture *f = *state;
	struct scan_range all = range(f, 0, PAGES);
	struct scan_result ranges = {&all, 1, 1};
	struct page_copies copies = {.budget = 1};
	uint64_t candidates = 0;
	struct err err;

	assert_int_equal(take(f, &ranges, &copies, CAPTURE_FROZEN, &candidates, &err), 0);
	assert_int_equal(has(f, PAGES - 1), 1);
	page_copies_free(&copies);
}

/* Whether the table holds just this content: putting it then changes nothing. */
static bool holds(struct fixture *f, unsigned page, const char *content)
{
	uint64_t changed;
	struct err err;

	assert_int_equal(page_table_put(f->table, (uint64_t)(uintptr_t)f->memory / STORE_PAGE_SIZE + page,
					content, 1, &changed, &err),
			 0);
	return changed == 0;
}

static void buffers_serve_again(void **state)
{
	struct fixture *f = *state;
	struct scan_range all = range(f, 0, PAGES);
	struct scan_result ranges = {&all, 1, 1};
	struct page_copies copies = {.budget = 1 << 30};
	uint64_t candidates = 0;
	struct err err;
	char *first;

	assert_int_equal(take(f, &ranges, &copies, CAPTURE_FROZEN, &candidates, &err), 0);
	assert_int_equal(copies.n, 1);
	first = copies.chunks[0]->data;
	assert_int_equal(copies.used, candidates * STORE_PAGE_SIZE); /* of hundreds of processes each has a chunk */
	page_copies_rest(&copies); /* as after a snapshot that failed */
	assert_int_equal(copies.n, 0);
	assert_int_equal(copies.used, 0);
	assert_int_equal(has(f, 0), 0);
	assert_int_equal(take(f, &ranges, &copies, CAPTURE_FROZEN, &candidates, &err), 0);
	assert_int_equal(copies.n, 1);
	assert_ptr_equal(copies.chunks[0]->data, first);
	assert_int_equal(page_copies_put(&copies, &err), 0);
	assert_int_equal(has(f, PAGES - 1), 1);
	page_copies_free(&copies);
}

static void put_two_copies(struct fixture *f, bool compact)
{
	struct scan_range all = range(f, 0, PAGES), some[] = {range(f, 3, 1), range(f, 7, 5)};
	struct scan_result ranges = {&all, 1, 1}, later = {some, 2, 2};
	struct page_copies copies = {.budget = 1 << 30};
	uint64_t candidates = 0;
	struct session_counts counts;
	struct err err;

	assert_int_equal(take(f, &ranges, &copies, CAPTURE_PRESSED, &candidates, &err), 0);
	for (unsigned i = 0; i < PAGES; i++)
		f->memory[i * STORE_PAGE_SIZE] = 100;
	assert_int_equal(take(f, &later, &copies, CAPTURE_FROZEN, &candidates, &err), 0);
	assert_int_equal(copies.n, 2);
	if (compact) {
		assert_int_equal(page_copies_compact(&copies, &err), 0);
		assert_int_equal(copies.n, 1); /* there was room for both in one */
		assert_int_equal(copies.chunks[0]->n_pages, PAGES);
	}
	assert_int_equal(page_copies_put(&copies, &err), 0);
	session_counts(f->session, &counts);
	assert_int_equal(counts.pages_in, PAGES); /* superseded copies cost nothing */
	for (unsigned i = 0; i < PAGES; i++) {
		if (i != 3 && (i < 7 || i >= 12))
			f->memory[i * STORE_PAGE_SIZE] = (char)(i + 1);
		assert_true(holds(f, i, f->memory + i * STORE_PAGE_SIZE));
	}
	page_copies_free(&copies);
}

static void of_two_copies_the_later_one_counts(void **state)
{
	put_two_copies(*state, false);
}

static void superseded_copies_take_no_room(void **state)
{
	put_two_copies(*state, true);
}

#define MANY 6000u /* chunks enough for several threads */

/* Some compress, some do not, some are zero. */
static void write_page(char *page, unsigned seed)
{
	uint64_t x = seed * 2654435761ull + 1;

	for (unsigned i = 0; i < STORE_PAGE_SIZE / 8; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		((uint64_t *)(void *)page)[i] = seed % 7 == 3 ? 0 : seed % 5 == 1 ? x : seed * 2654435761u + i % 7;
	}
}

static void capture(struct fixture *f, struct scan_range *list, size_t n, struct page_copies *copies,
		    enum capture_mode mode)
{
	struct scan_result ranges = {list, n, n};
	uint64_t candidates = 0;
	struct err err;

	assert_int_equal(take(f, &ranges, copies, mode, &candidates, &err), 0);
}

static void write_every_third(struct fixture *f, unsigned round)
{
	for (unsigned i = 0; i < MANY; i += 3)
		write_page(f->memory + i * STORE_PAGE_SIZE, round * MANY + i);
}

/* Copied as they are, pressed, and only hashed; several threads put them, and which copy of a page counts does not
 * depend on that. */
static void put_many(struct fixture *f, bool compact)
{
	struct page_copies copies = {.budget = 1 << 30};
	struct scan_range all = range(f, 0, MANY), half = range(f, MANY / 4, MANY / 2);
	struct session_counts counts;
	struct err err;

	for (unsigned i = 0; i < MANY; i++)
		write_page(f->memory + i * STORE_PAGE_SIZE, i % 9 ? i : 0);
	capture(f, &all, 1, &copies, CAPTURE_THROUGH);
	for (unsigned i = 0; i < MANY; i++)
		assert_true(holds(f, i, f->memory + i * STORE_PAGE_SIZE));
	write_every_third(f, 1);
	capture(f, &all, 1, &copies, CAPTURE_PRESSED);
	write_every_third(f, 2);
	copies.in_vain = true;
	capture(f, &half, 1, &copies, CAPTURE_PRESSED);
	copies.in_vain = false;
	write_every_third(f, 3);
	capture(f, &half, 1, &copies, CAPTURE_RAW);
	capture(f, &all, 1, &copies, CAPTURE_PRESSED);
	capture(f, &half, 1, &copies, CAPTURE_FROZEN);
	if (compact)
		assert_int_equal(page_copies_compact(&copies, &err), 0);
	assert_int_equal(page_copies_put(&copies, &err), 0);
	session_counts(f->session, &counts);
	assert_int_equal(counts.pages_in, 3 * MANY);
	for (unsigned i = 0; i < MANY; i++)
		assert_true(holds(f, i, f->memory + i * STORE_PAGE_SIZE));
	page_copies_free(&copies);
}

/* By its hash it is known; but what was compressed by whom must be it, too. */
static void check_stored(struct fixture *f)
{
	struct snapshot_info info = {.time = 1};
	static char page[STORE_PAGE_SIZE];
	struct page_reader *reader;
	Snap__Snapshot *model;
	uint64_t root;
	struct err err;

	assert_int_equal(page_table_finish(f->table, &root, &err), 0);
	f->table = NULL;
	model = fixture_model(root);
	assert_int_equal(session_publish(f->session, model, &info, &err), 0);
	f->session = NULL;
	snap__snapshot__free_unpacked(model, NULL);
	assert_int_equal(page_reader_open(&reader, f->store, root, &err), 0);
	for (unsigned i = 0; i < MANY; i++) {
		const char *now = f->memory + i * STORE_PAGE_SIZE;

		assert_int_equal(page_reader_read(reader, (uint64_t)(uintptr_t)now / STORE_PAGE_SIZE, 1, page, &err), 0);
		assert_memory_equal(page, now, STORE_PAGE_SIZE);
	}
	page_reader_close(reader);
}

/* Whatever they held before. */
static void buffers_keep_to_the_budget(void **state)
{
	struct fixture *f = *state;
	struct page_copies copies = {.budget = 16 * CHUNK_BYTES};
	struct scan_range all;
	char *small = f->memory;
	struct err err;

	f->memory = mmap(NULL, MANY * STORE_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(f->memory, MAP_FAILED);
	all = range(f, 0, MANY);
	memset(f->memory, 1, MANY * STORE_PAGE_SIZE);
	capture(f, &all, 1, &copies, CAPTURE_PRESSED);
	assert_int_equal(page_copies_put(&copies, &err), 0);
	assert_true(copies.n_unused > 20); /* a page takes 30 bytes or so */
	capture(f, &all, 1, &copies, CAPTURE_FROZEN);
	assert_true(copies.used + copies.ready <= copies.budget);
	assert_true(copies.used >= copies.budget - 2 * CHUNK_BYTES);
	page_copies_free(&copies);
	munmap(f->memory, MANY * STORE_PAGE_SIZE);
	f->memory = small;
}

static void put_many_in(struct fixture *f, bool compact)
{
	char *small = f->memory;

	f->memory = mmap(NULL, MANY * STORE_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(f->memory, MAP_FAILED);
	put_many(f, compact);
	check_stored(f);
	munmap(f->memory, MANY * STORE_PAGE_SIZE);
	f->memory = small;
}

static void many_chunks_are_put_in_their_order(void **state)
{
	put_many_in(*state, false);
}

static void many_chunks_are_compacted(void **state)
{
	put_many_in(*state, true);
}

int main(void)
{
#define PAGES_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		PAGES_TEST(only_written_private_pages_are_read),
		PAGES_TEST(unreadable_pages_are_read_by_force),
		PAGES_TEST(vanished_pages_are_skipped_while_it_runs_and_named_when_it_stands),
		PAGES_TEST(what_is_gone_is_cleared_in_whatever_order_it_was_listed),
		PAGES_TEST(file_pages_do_not_keep_private_copies_alive),
		PAGES_TEST(a_full_budget_is_put_at_once),
		PAGES_TEST(buffers_serve_again),
		PAGES_TEST(of_two_copies_the_later_one_counts),
		PAGES_TEST(superseded_copies_take_no_room),
		PAGES_TEST(buffers_keep_to_the_budget),
		PAGES_TEST(many_chunks_are_put_in_their_order),
		PAGES_TEST(many_chunks_are_compacted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
