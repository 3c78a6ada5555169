/*
 * halfpage.h: the pages of the jobs that checkpointers are measured with: half of each compresses,
 * and no two are the same.
 */
#ifndef PAWL_TESTS_BENCH_HALFPAGE_H
#define PAWL_TESTS_BENCH_HALFPAGE_H

#include <stdint.h>

#define PAGE_WORDS  512
#define RANDOM_PART 256 /* words of a page that do not compress */

static inline uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

/* The content of page `index` after it was rewritten as `version`. */
static inline void write_page(uint64_t *page, uint64_t index, uint64_t version)
{
	uint64_t x = mix(index * 0x9e3779b97f4a7c15ull + version + 1) | 1;

	for (int i = 0; i < RANDOM_PART; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		page[i] = x;
	}
	for (int i = RANDOM_PART; i < PAGE_WORDS; i++)
		page[i] = version;
}

#endif
