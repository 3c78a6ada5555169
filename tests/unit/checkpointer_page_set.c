/* The set of pages: each is new once, whatever its neighbours and whoever else has one of the same number. */
#include "unit.h"

#include "checkpointer/page_set.h"

static const char owners[2];

static void a_page_is_new_once(void **state)
{
	struct page_set set = {0};

	(void)state;
	for (unsigned owner = 0; owner < 2; owner++)
		for (uint64_t page = 0; page < 2 * PAGE_SET_STRETCH; page++)
			assert_int_equal(page_set_add(&set, &owners[owner], page), 1);
	for (unsigned owner = 0; owner < 2; owner++)
		for (uint64_t page = 0; page < 2 * PAGE_SET_STRETCH; page++)
			assert_int_equal(page_set_add(&set, &owners[owner], page), 0);
	assert_int_equal(set.used, 4);
	page_set_clear(&set);
	assert_int_equal(page_set_add(&set, &owners[0], 0), 1);
	page_set_clear(&set);
}

/* Each in a stretch of its own, all over the address space, while the set grows. */
static void pages_far_apart(void **state)
{
	struct page_set set = {0};
	const uint64_t n = 5000, step = (1ull << 35) / n / PAGE_SET_STRETCH * PAGE_SET_STRETCH;

	(void)state;
	for (uint64_t i = 0; i < n; i++)
		assert_int_equal(page_set_add(&set, &owners[i % 2], i * step), 1);
	for (uint64_t i = 0; i < n; i++) {
		assert_int_equal(page_set_add(&set, &owners[i % 2], i * step), 0);
		assert_int_equal(page_set_add(&set, &owners[i % 2], i * step + 1), 1);
	}
	assert_int_equal(set.used, n);
	page_set_clear(&set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_page_is_new_once),
		cmocka_unit_test(pages_far_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
