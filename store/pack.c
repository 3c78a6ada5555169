#include "store/pack.h"

#include <inttypes.h>
#include <lz4.h>
#include <string.h>
#include <zstd.h>

#include "store/base/search.h"
#include "store/bytes.h"

#define PACK_MAGIC   0x4b434150u /* "PACK" */
#define PACK_VERSION 1u

static uint64_t pack_checksum(const uint8_t *bytes, uint32_t entries, uint32_t count,
			      const struct store_secret *secret)
{
	struct sum_part parts[] = {
		{bytes, 32},
		{bytes + entries, (size_t)count * PACK_ENTRY},
	};

	return checksum_parts(secret, parts, 2);
}

int pack_peek(struct pack_view *ret, const void *bytes, size_t len, uint64_t key, struct err *err)
{
	const uint8_t *p = bytes;
	struct pack_view v = {.bytes = p};

	if (len < PACK_HEADER || get_le32(p) != PACK_MAGIC || get_le32(p + 4) != PACK_VERSION)
		return err_set(err, ERR_CORRUPT, "pack %" PRIu64 ": header is damaged", key);
	v.first = get_le64(p + 8);
	v.span = get_le32(p + 16);
	v.count = get_le32(p + 20);
	v.entries = get_le32(p + 24);
	v.used = get_le32(p + 28);
	if (v.first != key || v.first > UINT64_MAX - v.span)
		return err_set(err, ERR_CORRUPT, "pack %" PRIu64 ": stands under another id", key);
	if (v.used > len || v.entries < PACK_HEADER || v.entries > v.used || v.count == 0 ||
	    v.used - v.entries != (uint64_t)v.count * PACK_ENTRY || v.count - 1 > v.span)
		return err_set(err, ERR_CORRUPT, "pack %" PRIu64 ": table is out of bounds", key);
	*ret = v;
	return 0;
}

int pack_open(struct pack_view *ret, const void *bytes, size_t len, uint64_t key,
	      const struct store_secret *secret, struct err *err)
{
	struct pack_view v;

	if (pack_peek(&v, bytes, len, key, err) < 0)
		return -1;
	if (get_le64(v.bytes + 32) != pack_checksum(v.bytes, v.entries, v.count, secret))
		return err_set(err, ERR_CORRUPT, "pack %" PRIu64 ": checksum does not match", key);
	*ret = v;
	return 0;
}

static struct pack_entry read_entry(const uint8_t *p, uint64_t first)
{
	return (struct pack_entry){
		.id = first + get_le32(p),
		.offset = get_le32(p + 4),
		.len = get_le16(p + 8),
		.codec = p[10],
		.hash = {get_le64(p + 12), get_le64(p + 20)},
	};
}

static void write_entry(uint8_t *p, const struct pack_entry *e, uint32_t offset, uint64_t first)
{
	put_le32(p, (uint32_t)(e->id - first));
	put_le32(p + 4, offset);
	put_le16(p + 8, e->len);
	p[10] = e->codec;
	p[11] = 0;
	put_le64(p + 12, e->hash.lo);
	put_le64(p + 20, e->hash.hi);
}

struct pack_entry pack_entry(const struct pack_view *view, uint32_t i)
{
	return read_entry(view->bytes + view->entries + (size_t)i * PACK_ENTRY, view->first);
}

int64_t pack_find(const struct pack_view *view, uint64_t id)
{
	const uint8_t *table = view->bytes + view->entries;
	uint64_t delta = id - view->first;
	size_t at;

	if (id < view->first || delta > view->span)
		return -1;
	if (view->count - 1 == view->span) /* no gaps */
		return get_le32(table + delta * PACK_ENTRY) == delta ? (int64_t)delta : -1;
	at = COUNT_BEFORE(view->count, i, get_le32(table + i * PACK_ENTRY) < delta);
	return at < view->count && get_le32(table + at * PACK_ENTRY) == delta ? (int64_t)at : -1;
}

int page_decode(const struct stored_page *stored, void *dctx, void *page)
{
	size_t n;

	switch (stored->codec) {
	case CODEC_NONE:
		n = stored->len;
		if (n == STORE_PAGE_SIZE)
			memcpy(page, stored->data, STORE_PAGE_SIZE);
		break;
	case CODEC_LZ4:
		n = (size_t)LZ4_decompress_safe(stored->data, page, stored->len, STORE_PAGE_SIZE);
		break;
	case CODEC_ZSTD:
		n = ZSTD_decompressDCtx(dctx, page, STORE_PAGE_SIZE, stored->data, stored->len);
		break;
	default:
		return -1;
	}
	return n == STORE_PAGE_SIZE ? 0 : -1;
}

int page_unpack(const void *data, size_t len, enum store_codec codec, struct page_hash hash,
		const struct store_secret *secret, void *dctx, void *page)
{
	const struct stored_page stored = {data, (uint16_t)len, (uint8_t)codec};

	if (len > UINT16_MAX || page_decode(&stored, dctx, page) < 0)
		return -1;
	return hash_equal(hash_bytes(secret, page, STORE_PAGE_SIZE), hash) ? 0 : -1;
}

int pack_page(const struct pack_view *view, uint32_t i, const struct store_secret *secret,
	      void *dctx, void *page, struct err *err)
{
	struct pack_entry e = pack_entry(view, i);

	if (e.offset < PACK_HEADER || e.offset > view->entries ||
	    e.len > view->entries - e.offset ||
	    page_unpack(view->bytes + e.offset, e.len, e.codec, e.hash, secret, dctx, page) < 0)
		return err_set(err, ERR_CORRUPT,
			       "stored page %" PRIu64 " in pack %" PRIu64 " is damaged", e.id,
			       view->first);
	return 0;
}

size_t pack_value_len(size_t used)
{
	return (used + 16 + 4095) / 4096 * 4096 - 16;
}

void pack_start(struct pack_builder *builder)
{
	builder->used = PACK_HEADER;
	builder->count = 0;
	builder->first = builder->last = 0;
}

bool pack_has_room(const struct pack_builder *builder, uint64_t id, size_t len)
{
	size_t table = ((size_t)builder->count + 1) * PACK_ENTRY;

	return builder->count < PACK_MAX_PAGES && builder->used + len + table <= PACK_SIZE &&
	       (builder->count == 0 || id - builder->first <= UINT32_MAX);
}

void pack_add(struct pack_builder *builder, const struct pack_entry *entry, const void *data)
{
	if (builder->count == 0)
		builder->first = entry->id;
	builder->last = entry->id;
	write_entry(builder->table + (size_t)builder->count++ * PACK_ENTRY, entry, builder->used, builder->first);
	if (data != builder->bytes + builder->used)
		memcpy(builder->bytes + builder->used, data, entry->len);
	builder->used += entry->len;
}

struct pack_entry pack_built_entry(const struct pack_builder *builder, uint32_t i)
{
	return read_entry(builder->table + (size_t)i * PACK_ENTRY, builder->first);
}

size_t pack_seal(struct pack_builder *builder, const struct store_secret *secret)
{
	uint8_t *p = builder->bytes;
	uint32_t entries = builder->used;
	size_t table = (size_t)builder->count * PACK_ENTRY;
	size_t len = pack_value_len(entries + table);

	memcpy(p + entries, builder->table, table);
	builder->used = entries + (uint32_t)table;
	memset(p + builder->used, 0, len - builder->used);
	put_le32(p, PACK_MAGIC);
	put_le32(p + 4, PACK_VERSION);
	put_le64(p + 8, builder->first);
	put_le32(p + 16, (uint32_t)(builder->last - builder->first));
	put_le32(p + 20, builder->count);
	put_le32(p + 24, entries);
	put_le32(p + 28, builder->used);
	put_le64(p + 32, pack_checksum(p, entries, builder->count, secret));
	return len;
}
