#include "store/hash.h"

#include <string.h>

uint64_t checksum_parts(const struct store_secret *secret, const struct sum_part *parts, size_t n)
{
	XXH3_state_t state;
	size_t i;

	if (secret)
		XXH3_64bits_reset_withSecret(&state, secret->bytes, sizeof(secret->bytes));
	else
		XXH3_64bits_reset(&state);
	for (i = 0; i < n; i++)
		XXH3_64bits_update(&state, parts[i].data, parts[i].len);
	return XXH3_64bits_digest(&state);
}

bool page_is_zero(const void *page)
{
	const char *p = page;

	/* Equal to itself shifted by 16 bytes, and those are zero: memcmp does the fast part. */
	static const char zeroes[16];

	return memcmp(p, zeroes, sizeof(zeroes)) == 0 &&
	       memcmp(p, p + sizeof(zeroes), STORE_PAGE_SIZE - sizeof(zeroes)) == 0;
}
