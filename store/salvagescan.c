#include "store/salvagescan.h"

#include <stdbool.h>

#include "store/bytes.h"
#include "store/pack.h"
#include "store/record.h"

/* LMDB 0.9, as in lmdbfile.c. */
#define PAGE_BYTES  4096u
#define PAGE_HEADER 16u
#define F_BIGDATA   0x01u
#define MAGIC_PACK  MAGIC('P', 'A', 'C', 'K')

struct scan {
	const uint8_t *file;
	uint64_t size;
	found_fn *fn;
	void *ctx;
};

/* The entry at that place of the page. False: nothing that could be one. */
static bool entry_at(const struct scan *scan, const uint8_t *page, unsigned at, struct found_record *ret)
{
	const uint8_t *node = page + at;
	unsigned key_len, room;
	uint64_t overflow;
	uint32_t len;

	if (at < PAGE_HEADER || at > PAGE_BYTES - 8)
		return false;
	key_len = get_le16(node + 6);
	room = PAGE_BYTES - 8 - at;
	if (key_len == 0 || key_len > room)
		return false;
	room -= key_len;
	len = get_le32(node);
	*ret = (struct found_record){node + 8, node + 8 + key_len, key_len, len};
	if (!(get_le16(node + 4) & F_BIGDATA))
		return len <= room;
	if (room < 8)
		return false;
	overflow = get_le64(ret->value);
	if (overflow >= scan->size / PAGE_BYTES ||
	    len > scan->size - overflow * PAGE_BYTES - PAGE_HEADER)
		return false;
	ret->value = scan->file + overflow * PAGE_BYTES + PAGE_HEADER;
	return true;
}

/* A flipped bit in the page's header or in one entry's place does not hide the others. */
static int scan_leaf(const struct scan *scan, const uint8_t *page, struct err *err)
{
	unsigned at;

	for (at = PAGE_HEADER; at < PAGE_BYTES; at += 2) {
		unsigned entry = get_le16(page + at);
		struct found_record found;

		if (!entry_at(scan, page, entry, &found))
			continue;
		if (scan->fn(scan->ctx, &found, err) < 0)
			return -1;
	}
	return 0;
}

int salvage_scan(const uint8_t *file, uint64_t size, found_fn *fn, void *ctx, struct err *err)
{
	const struct scan scan = {file, size, fn, ctx};
	uint64_t at;

	for (at = 0; size - at >= PAGE_BYTES; at += PAGE_BYTES) {
		const uint8_t *value = file + at + PAGE_HEADER;
		const uint64_t left = size - at - PAGE_HEADER;
		struct found_record pack = {value + 8, value, 8, left < PACK_SIZE ? left : PACK_SIZE};

		if ((get_le32(value) == MAGIC_PACK ? fn(ctx, &pack, err)
						   : scan_leaf(&scan, file + at, err)) < 0)
			return -1;
	}
	return 0;
}
