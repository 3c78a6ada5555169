/*
 * Hashes of stored pages that are kept in memory: which is found, what a merged pack supersedes, and from one user to
 * the next.
 */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "store/source.h"
#include "store/txn.h"

static const struct store_secret secret;

struct made_pack {
	uint8_t bytes[PACK_SIZE], table[PACK_MAX_PAGES * PACK_ENTRY];
	struct pack_view view;
};

static struct page_hash hash_of(uint64_t id)
{
	return (struct page_hash){.lo = id * 3, .hi = ~id};
}

/* Pages with every step-th id from first to last. */
static struct made_pack *make_pack(uint64_t first, uint64_t last, unsigned step)
{
	struct made_pack *made = calloc(1, sizeof(*made));
	struct pack_builder builder = {.bytes = made->bytes, .table = made->table};
	struct err err;
	size_t len;

	pack_start(&builder);
	for (uint64_t id = first; id <= last; id += step)
		pack_add(&builder, &(struct pack_entry){.id = id, .hash = hash_of(id), .len = 4}, "page");
	len = pack_seal(&builder, &secret);
	assert_int_equal(pack_peek(&made->view, made->bytes, len, first, &err), 0);
	return made;
}

static void add(struct hash_cache *cache, uint64_t first, uint64_t last, unsigned step)
{
	struct made_pack *made = make_pack(first, last, step);

	hash_cache_add(cache, &made->view);
	free(made); /* it is copied */
}

static bool has(struct hash_cache *cache, uint64_t id)
{
	struct page_hash hash;

	if (!hash_cache_find(cache, id, &hash))
		return false;
	assert_true(hash_equal(hash, hash_of(id)));
	return true;
}

static void test_finds_what_was_added(void **state)
{
	struct hash_cache cache = {0};

	assert_false(has(&cache, 100));
	add(&cache, 300, 400, 1);
	add(&cache, 100, 200, 2); /* in any order */
	assert_true(has(&cache, 300) && has(&cache, 400) && has(&cache, 150));
	assert_false(has(&cache, 151) || has(&cache, 99) || has(&cache, 201) || has(&cache, 401));
	hash_cache_clear(&cache);
}

/* Where several packs were merged, those that are in it hide it no longer. */
static void test_a_merged_pack_supersedes(void **state)
{
	struct hash_cache cache = {0};

	add(&cache, 100, 199, 1);
	add(&cache, 200, 299, 1);
	add(&cache, 300, 399, 1);
	add(&cache, 100, 298, 2);
	assert_int_equal(cache.n, 2);
	assert_true(has(&cache, 100) && has(&cache, 250) && has(&cache, 298) && has(&cache, 301));
	assert_false(has(&cache, 101) || has(&cache, 251));
	hash_cache_clear(&cache);
}

/* By the size of the snapshot; what is used stays longest. */
static void test_keeps_what_is_used(void **state)
{
	struct hash_cache cache = {0};
	uint64_t first = 1000, n = 0;

	hash_cache_expect(&cache, 100000);
	for (; n < 1000; n++, first += 300) {
		add(&cache, first, first + 299, 1);
		assert_true(has(&cache, first) && cache.pages <= 150000);
		assert_true(has(&cache, 1000)); /* asked for again and again */
	}
	assert_true(cache.pages > 75000); /* not too much at once */
	assert_int_equal(cache.pages, cache.n * 300);
	assert_false(has(&cache, 1300));
	assert_true(has(&cache, first - 300 * 200));
	hash_cache_expect(&cache, 1000000);
	for (; n < 2000; n++, first += 300)
		add(&cache, first, first + 299, 1);
	assert_true(cache.pages > 300000);
	hash_cache_clear(&cache);
}

/* Of pages that are written again and again, only the last hash is asked for. */
static void test_what_is_superseded_goes_first(void **state)
{
	struct hash_cache cache = {0};
	uint64_t first = 1000;

	hash_cache_expect(&cache, 100000);
	for (unsigned n = 0; n < 300; n++)
		add(&cache, first + n * 300, first + n * 300 + 299, 1);
	for (uint64_t id = first, new = 200000; id < 80000; new += 300) {
		for (unsigned i = 0; i < 300; i++, id++)
			if (id % 3)
				hash_cache_supersede(&cache, id);
		add(&cache, new, new + 299, 1);
		assert_true(cache.pages <= 150000);
	}
	hash_cache_supersede(&cache, 5); /* is not there */
	for (uint64_t id = first; id < first + 90000; id++)
		assert_true(has(&cache, id) || (id % 3 && id < 80300));
	assert_false(has(&cache, first + 1));
	assert_true(cache.pages < 150000);
	for (unsigned n = 0; n < 1000; n++) /* and where that does not do, the others */
		add(&cache, 400000 + n * 300, 400000 + n * 300 + 299, 1);
	assert_true(cache.pages <= 150000 && cache.superseded == 0);
	hash_cache_clear(&cache);
}

static void test_goes_from_one_to_the_next(void **state)
{
	struct store store = {.hashes_mutex = PTHREAD_MUTEX_INITIALIZER};
	struct hash_cache *first = hash_cache_take(&store), *second = hash_cache_take(&store), *again;

	assert_non_null(first);
	assert_ptr_not_equal(first, second); /* two at once do not share it */
	add(first, 100, 199, 1);
	add(first, 200, 299, 1);
	hash_cache_keep(&store, first);
	add(second, 300, 399, 1);
	hash_cache_keep(&store, second); /* knows less */
	hash_cache_keep(&store, NULL);
	again = hash_cache_take(&store);
	assert_true(has(again, 150) && has(again, 250));
	hash_cache_keep(&store, again);
	hash_cache_forget(&store);
	assert_null(store.kept_hashes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_finds_what_was_added),
		cmocka_unit_test(test_a_merged_pack_supersedes),
		cmocka_unit_test(test_keeps_what_is_used),
		cmocka_unit_test(test_what_is_superseded_goes_first),
		cmocka_unit_test(test_goes_from_one_to_the_next),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
