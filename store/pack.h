/*
 * pack.h: the bytes of a pack: some hundred compressed pages under ascending ids. Pure.
 *
 * A pack's value is n*4096-16 bytes, so that with LMDB's page header it fills n pages exactly. Layout:
 * FORMAT.md, "Packs". Header and entry table carry a checksum; each page's bytes are checked by the
 * page's hash.
 */
#ifndef PAWL_STORE_PACK_H
#define PAWL_STORE_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/hash.h"

#define PACK_HEADER 40u
#define PACK_ENTRY  28u
#define PACK_SIZE   (256u * 4096u - 16u)

struct pack_view {
	const uint8_t *bytes;
	uint64_t first;
	uint32_t span;    /* last id - first */
	uint32_t count;
	uint32_t entries; /* offset of the entry table */
	uint32_t used;
};

struct pack_entry {
	uint64_t id;
	uint32_t offset;
	uint16_t len;
	uint8_t codec; /* enum store_codec */
	struct page_hash hash;
};

/* Header only: enough to know which ids may be inside. Not yet checksummed. */
int pack_peek(struct pack_view *ret, const void *bytes, size_t len, uint64_t key, struct err *err);
/* Header and table, checksum included. Messages start with "pack KEY". */
int pack_open(struct pack_view *ret, const void *bytes, size_t len, uint64_t key,
	      const struct store_secret *secret, struct err *err);
/* i < count. */
struct pack_entry pack_entry(const struct pack_view *view, uint32_t i);
/* Index of id's entry, or -1. */
int64_t pack_find(const struct pack_view *view, uint64_t id);
/* Decompresses entry i into page (4096 bytes) and checks its hash. dctx: a ZSTD_DCtx. */
int pack_page(const struct pack_view *view, uint32_t i, const struct store_secret *secret,
	      void *dctx, void *page, struct err *err);

/* A page as it is stored. */
struct stored_page {
	const void *data;
	uint16_t len;
	uint8_t codec; /* enum store_codec */
};

/* Its content, unchecked. -1: it does not decompress to a page. dctx: a ZSTD_DCtx. */
int page_decode(const struct stored_page *stored, void *dctx, void *page);

/* One stored page, alone. -1: it does not decompress to a page with that hash. */
int page_unpack(const void *data, size_t len, enum store_codec codec, struct page_hash hash,
		const struct store_secret *secret, void *dctx, void *page);

/* Pages per pack at most: bounds the builder's table. An entry alone takes PACK_ENTRY bytes. */
#define PACK_MAX_PAGES 16384u

struct pack_builder {
	uint8_t *bytes; /* PACK_SIZE; the caller's */
	uint8_t *table; /* entries, PACK_MAX_PAGES * PACK_ENTRY; the caller's */
	uint64_t first, last;
	uint32_t used, count;
};

void pack_start(struct pack_builder *builder);
bool pack_has_room(const struct pack_builder *builder, uint64_t id, size_t len);
/* There is room and id is greater than the last. The entry's offset does not count. */
void pack_add(struct pack_builder *builder, const struct pack_entry *entry, const void *data);
/* Entry i of a pack that is being built. */
struct pack_entry pack_built_entry(const struct pack_builder *builder, uint32_t i);
/* Completes header and table; returns the value's length (count > 0). */
size_t pack_seal(struct pack_builder *builder, const struct store_secret *secret);
/* Length of the value that holds used bytes. */
size_t pack_value_len(size_t used);

#endif
