#include "store/indexrun.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "store/bytes.h"
#include "store/record.h"

#define MAGIC_RUN MAGIC('I', 'D', 'X', 1)
#define ID_BYTES  6u

static uint64_t run_checksum(const uint8_t *bytes, size_t count, uint64_t key,
			     const struct store_secret *secret)
{
	uint8_t key_bytes[8];
	struct sum_part parts[] = {
		{key_bytes, sizeof(key_bytes)},
		{bytes, 8},
		{bytes + RUN_HEADER, count * RUN_ENTRY},
	};

	put_le64(key_bytes, key);
	return checksum_parts(secret, parts, 3);
}

int run_peek(struct index_run *ret, const void *bytes, size_t len, uint64_t key, struct err *err)
{
	const uint8_t *p = bytes;
	uint32_t count;

	if (len < RUN_HEADER || get_le32(p) != MAGIC_RUN)
		return err_set(err, ERR_CORRUPT, "index run %" PRIu64 ": header is damaged", key);
	count = get_le32(p + 4);
	if (count == 0 || count > RUN_MOST || len < RUN_HEADER + (size_t)count * RUN_ENTRY)
		return err_set(err, ERR_CORRUPT, "index run %" PRIu64 ": is out of bounds", key);
	*ret = (struct index_run){p + RUN_HEADER, p + RUN_HEADER + (size_t)count * 4, count};
	return 0;
}

int run_open(struct index_run *ret, const void *bytes, size_t len, uint64_t key,
	     const struct store_secret *secret, struct err *err)
{
	struct index_run run;

	if (run_peek(&run, bytes, len, key, err) < 0)
		return -1;
	if (get_le64((const uint8_t *)bytes + 8) != run_checksum(bytes, run.count, key, secret))
		return err_set(err, ERR_CORRUPT, "index run %" PRIu64 ": checksum does not match", key);
	*ret = run;
	return 0;
}

static uint32_t print_at(const struct index_run *run, size_t i)
{
	return get_le32(run->prints + i * 4);
}

struct index_entry run_entry(const struct index_run *run, uint32_t i)
{
	const uint8_t *id = run->ids + (size_t)i * ID_BYTES;

	return (struct index_entry){print_at(run, i),
				    (uint64_t)get_le32(id) | (uint64_t)get_le16(id + 4) << 32};
}

/* Hashes are spread evenly: a print's place is known to within the square root of their number. */
uint32_t run_find(const struct index_run *run, uint32_t print)
{
	size_t guess = (size_t)((uint64_t)print * run->count >> 32), step = 64;
	size_t low = guess > step ? guess - step : 0;
	size_t high = guess + step < run->count ? guess + step : run->count;

	for (; low > 0 && print_at(run, low) >= print; step *= 2)
		low = low > step ? low - step : 0;
	for (; high < run->count && print_at(run, high - 1) < print; step *= 2)
		high = high + step < run->count ? high + step : run->count;
	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (print_at(run, mid) < print)
			low = mid + 1;
		else
			high = mid;
	}
	return (uint32_t)low;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = ((const struct index_entry *)a)->print, y = ((const struct index_entry *)b)->print;

	return (x > y) - (x < y);
}

void index_sort(struct index_entry *entries, size_t n)
{
	if (n > 1)
		qsort(entries, n, sizeof(*entries), compare);
}

void run_merge(struct index_entry *ret, const struct index_entry *entries, size_t n,
	       const struct index_run *run)
{
	uint32_t i = 0;

	while (n > 0 || i < run->count) {
		if (n > 0 && (i == run->count || entries->print <= print_at(run, i))) {
			*ret++ = *entries++;
			n--;
		} else {
			*ret++ = run_entry(run, i++);
		}
	}
}

size_t run_len(size_t n)
{
	return pack_value_len(RUN_HEADER + n * RUN_ENTRY);
}

void run_seal(void *bytes, const struct index_entry *entries, size_t n, uint64_t key,
	      const struct store_secret *secret)
{
	uint8_t *p = bytes, *prints = p + RUN_HEADER, *ids = prints + n * 4;
	size_t i;

	put_le32(p, MAGIC_RUN);
	put_le32(p + 4, (uint32_t)n);
	for (i = 0; i < n; i++) {
		put_le32(prints + i * 4, entries[i].print);
		put_le32(ids + i * ID_BYTES, (uint32_t)entries[i].id);
		put_le16(ids + i * ID_BYTES + 4, (uint16_t)(entries[i].id >> 32));
	}
	memset(ids + n * ID_BYTES, 0, run_len(n) - RUN_HEADER - n * RUN_ENTRY);
	put_le64(p + 8, run_checksum(p, n, key, secret));
}
