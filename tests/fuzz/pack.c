/* Packs of compressed pages. */
#include "fuzz.h"

#include <lz4.h>
#include <zstd.h>

#include "store/bytes.h"
#include "store/pack.h"

static const struct store_secret secret = {.bytes = {4, 5, 6}};
#define FIRST_ID 1000

static void add_page(struct pack_builder *b, unsigned i)
{
	uint8_t page[STORE_PAGE_SIZE], stored[2 * STORE_PAGE_SIZE];
	struct pack_entry entry = {.id = FIRST_ID + 2 * i, .codec = (uint8_t)(i % 3)};

	for (unsigned j = 0; j < sizeof(page); j++)
		page[j] = (uint8_t)(j / 64 * i);
	entry.hash = hash_bytes(&secret, page, sizeof(page));
	switch (entry.codec) {
	case CODEC_NONE:
		entry.len = sizeof(page);
		memcpy(stored, page, sizeof(page));
		break;
	case CODEC_LZ4:
		entry.len = (uint16_t)LZ4_compress_default((char *)page, (char *)stored,
							   sizeof(page), sizeof(stored));
		break;
	default:
		entry.len = (uint16_t)ZSTD_compress(stored, sizeof(stored), page, sizeof(page), 1);
	}
	pack_add(b, &entry, stored);
}

/* Bytes 0 to 7: the key it is looked up under; then the pack, without the zeroes that fill it up.
 */
size_t fuzz_seed(unsigned i, uint8_t *buf, size_t room)
{
	struct pack_builder b = {.bytes = malloc(PACK_SIZE),
				 .table = malloc(PACK_MAX_PAGES * PACK_ENTRY)};
	size_t used = 0;

	if (!b.bytes || !b.table)
		abort();
	if (i < 3) {
		pack_start(&b);
		for (unsigned n = 0; n < 1 + 3 * i; n++)
			add_page(&b, n + 1);
		pack_seal(&b, &secret);
		used = 8 + b.used;
		if (used > room)
			abort();
		put_le64(buf, b.first);
		memcpy(buf + 8, b.bytes, b.used);
	}
	free(b.bytes);
	free(b.table);
	return used;
}

static void read_pages(const struct pack_view *view, ZSTD_DCtx *dctx)
{
	uint8_t page[STORE_PAGE_SIZE];
	struct err err = {0};

	for (uint32_t i = 0; i < view->count && i < 64; i++) {
		struct pack_entry entry = pack_entry(view, i);
		int64_t at = pack_find(view, entry.id);

		promise(at >= -1 && at < (int64_t)view->count);
		if (pack_page(view, i, &secret, dctx, page, &err) < 0)
			promise(err.kind == ERR_CORRUPT);
		else
			promise(hash_equal(hash_bytes(&secret, page, sizeof(page)), entry.hash));
	}
	promise(pack_find(view, view->first - 1) == -1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct pack_view view;
	struct err err = {0};
	ZSTD_DCtx *dctx;
	uint8_t *copy;
	uint64_t key;

	if (size < 8)
		return 0;
	key = get_le64(data);
	if (pack_open(&view, data + 8, size - 8, key, &secret, &err) < 0)
		promise(err.kind == ERR_CORRUPT);
	if (pack_peek(&view, data + 8, size - 8, key, &err) < 0)
		return 0;
	/* The same with a checksum that is right. */
	copy = malloc(size - 8);
	dctx = ZSTD_createDCtx();
	if (!copy || !dctx)
		abort();
	memcpy(copy, data + 8, size - 8);
	put_le64(copy + 32, checksum_parts(&secret,
					   (struct sum_part[]){{copy, 32},
							       {copy + view.entries,
								(size_t)view.count * PACK_ENTRY}},
					   2));
	promise(pack_open(&view, copy, size - 8, key, &secret, &err) == 0);
	read_pages(&view, dctx);
	ZSTD_freeDCtx(dctx);
	free(copy);
	return 0;
}
