/*
 * The pure parts: frames, nodes, packs, snapshot heads, id sets, the walk over LMDB's file. Round
 * trips, refusals, and some thousand damaged inputs each, which must be refused or decode: under ASan
 * and UBSan this is a short fuzz run.
 */
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "store/bytes.h"
#include "store/catalogue.h"
#include "store/dedup.h"
#include "store/idset.h"
#include "store/lmdbfile.h"
#include "store/node.h"
#include "store/pack.h"
#include "store/record.h"
#include "store_fixture.h"
#include "unit.h"

static struct err err;
static struct store_secret secret;

static int setup_group(void **state)
{
	uint64_t random = 17;
	size_t i;

	for (i = 0; i < sizeof(secret.bytes); i++)
		secret.bytes[i] = (uint8_t)fixture_random(&random);
	return 0;
}

static void test_varint(void **state)
{
	static const uint64_t values[] = {0, 1, 127, 128, 16383, 16384, 1ull << 62, UINT64_MAX};
	uint8_t buf[16];
	size_t i;

	for (i = 0; i < sizeof(values) / sizeof(*values); i++) {
		const uint8_t *p = buf, *end = put_varint(buf, values[i]);
		uint64_t back;

		assert_true(get_varint(&p, end, &back));
		assert_int_equal(back, values[i]);
		assert_ptr_equal(p, end);
		p = buf;
		assert_false(get_varint(&p, end - 1, &back));
		assert_int_equal(unzigzag(zigzag(values[i])), values[i]);
	}
	memset(buf, 0xff, sizeof(buf));
	{
		const uint8_t *p = buf;
		uint64_t back;

		assert_false(get_varint(&p, buf + sizeof(buf), &back)); /* more than 64 bits */
	}
}

static void test_frame(void **state)
{
	uint8_t record[FRAME_HEADER + 20];
	struct frame frame;
	size_t i;

	memset(record, 'x', sizeof(record));
	frame_seal(record, 20, MAGIC_JOB, "key", 3, &secret);
	assert_int_equal(frame_open(&frame, record, sizeof(record), MAGIC_JOB, UINT32_MAX, "key", 3,
				    &secret, &err), 0);
	assert_int_equal(frame.len, 20);
	assert_ptr_equal(frame.payload, record + FRAME_HEADER);
	assert_fails(frame_open(&frame, record, sizeof(record), MAGIC_JOB, UINT32_MAX, "kex", 3,
				&secret, &err), ERR_CORRUPT, &err);
	assert_fails(frame_open(&frame, record, sizeof(record), MAGIC_SESSION, UINT32_MAX, "key", 3,
				&secret, &err), ERR_CORRUPT, &err);
	for (i = 0; i < sizeof(record); i++)
		assert_fails(frame_open(&frame, record, i, MAGIC_JOB, UINT32_MAX, "key", 3, &secret,
					&err), ERR_CORRUPT, &err);
	for (i = 0; i < sizeof(record) * 8; i++) {
		record[i / 8] ^= (uint8_t)(1u << i % 8);
		assert_fails(frame_open(&frame, record, sizeof(record), MAGIC_JOB, UINT32_MAX, "key",
					3, &secret, &err), ERR_CORRUPT, &err);
		record[i / 8] ^= (uint8_t)(1u << i % 8);
	}
}

/* One flipped bit anywhere in a doubled frame does no harm, and is seen; cut ones are refused. */
static void test_doubled_frame(void **state)
{
	uint8_t record[2 * (FRAME_HEADER + 20)], payload[20];
	struct frame frame;
	bool spoilt;
	size_t i;

	memset(record, 'x', sizeof(record));
	memset(payload, 'x', sizeof(payload));
	frame_seal_twice(record, 20, MAGIC_NEXT, "key", 3, NULL);
	ok(frame_open_twice(&frame, record, sizeof(record), MAGIC_NEXT, "key", 3, NULL, &spoilt,
			    &err));
	assert_false(spoilt);
	for (i = 0; i < sizeof(record) * 8; i++) {
		record[i / 8] ^= (uint8_t)(1u << i % 8);
		ok(frame_open_twice(&frame, record, sizeof(record), MAGIC_NEXT, "key", 3, NULL,
				    &spoilt, &err));
		assert_true(spoilt);
		assert_int_equal(frame.len, 20);
		assert_memory_equal(frame.payload, payload, 20);
		record[i / 8] ^= (uint8_t)(1u << i % 8);
	}
	for (i = 0; i < sizeof(record) - 1; i++)
		assert_fails(frame_open_twice(&frame, record, i, MAGIC_NEXT, "key", 3, NULL, NULL,
					      &err), ERR_CORRUPT, &err);
	assert_fails(frame_open_twice(&frame, record, sizeof(record), MAGIC_NEXT, "kez", 3, NULL,
				      NULL, &err), ERR_CORRUPT, &err);
}

/* ---- nodes --------------------------------------------------------------------------------- */

static void check_node(const uint64_t slots[NODE_SLOTS], unsigned level, size_t most)
{
	uint64_t back[NODE_SLOTS];
	uint8_t buf[NODE_MAX_RECORD];
	size_t len = node_encode(slots, buf);

	assert_in_range(len, 1, most);
	if (node_decode(buf, len, level, back, &err) < 0)
		fail_msg("%s", err.msg);
	assert_memory_equal(slots, back, sizeof(back));
	assert_fails(node_decode(buf, len - 1, level, back, &err), ERR_CORRUPT, &err);
	buf[len] = 0;
	assert_fails(node_decode(buf, len + 1, level, back, &err), ERR_CORRUPT, &err);
}

static void test_nodes(void **state)
{
	uint64_t slots[NODE_SLOTS] = {0}, random = 3;
	unsigned i, round;

	check_node(slots, 0, 2);
	for (i = 0; i < NODE_SLOTS; i++)
		slots[i] = 1000000 + i;
	check_node(slots, 0, 6); /* a fresh leaf is a few bytes */
	check_node(slots, 3, 6);
	for (i = 0; i < NODE_SLOTS; i++)
		slots[i] = ID_ZERO;
	check_node(slots, 0, 2);
	slots[511] = UINT64_MAX - 1;
	slots[0] = UINT64_MAX - 1;
	slots[1] = ID_FIRST;
	check_node(slots, 0, 40);
	for (round = 0; round < 300; round++) {
		for (i = 0; i < NODE_SLOTS; i++)
			slots[i] = fixture_random(&random) % 3 ? slots[i ? i - 1 : 0] + 1
				   : fixture_random(&random) % 2 ? fixture_random(&random) % 3
								 : fixture_random(&random) >> 2;
		check_node(slots, 0, NODE_MAX_RECORD - 16);
	}
}

static void test_node_level(void **state)
{
	uint64_t slots[NODE_SLOTS] = {[3] = ID_ZERO}, back[NODE_SLOTS];
	uint8_t record[NODE_MAX_RECORD], key[8];
	unsigned level;
	size_t len = node_encode(slots, record + FRAME_HEADER);

	put_le64(key, 42);
	frame_seal(record, len, MAGIC_NODE(0u), key, 8, &secret);
	assert_int_equal(node_open(record, FRAME_HEADER + len, 42, &secret, &level, back, &err), 0);
	assert_int_equal(level, 0);
	assert_fails(node_open(record, FRAME_HEADER + len, 43, &secret, &level, back, &err),
		     ERR_CORRUPT, &err);
	assert_non_null(strstr(err.msg, "page table node 43"));
	frame_seal(record, len, MAGIC_NODE(1u), key, 8, &secret); /* no zero pages up there */
	assert_fails(node_open(record, FRAME_HEADER + len, 42, &secret, &level, back, &err),
		     ERR_CORRUPT, &err);
	frame_seal(record, len, MAGIC_NODE(8u), key, 8, &secret);
	assert_fails(node_open(record, FRAME_HEADER + len, 42, &secret, &level, back, &err),
		     ERR_CORRUPT, &err);
}

/* Right checksum, wrong payload: what a forger or a later bug could write. */
static void test_node_fuzz(void **state)
{
	uint64_t slots[NODE_SLOTS], random = 5;
	uint8_t buf[64];
	unsigned round, i;

	for (round = 0; round < 200000; round++) {
		size_t len = fixture_random(&random) % sizeof(buf);
		uint8_t *exact = malloc(len ? len : 1);

		for (i = 0; i < len; i++)
			exact[i] = (uint8_t)(fixture_random(&random) >> (random % 2 ? 0 : 57));
		node_decode(exact, len, round % 3, slots, &err);
		free(exact);
	}
}

/* ---- packs --------------------------------------------------------------------------------- */

static size_t build_pack(struct pack_builder *b, unsigned n, uint64_t gap)
{
	char page[PAGE], out[PAGE + 200];
	uint64_t id = 1000;
	unsigned i;

	pack_start(b);
	for (i = 0; i < n; i++, id += 1 + (gap ? i % gap : 0)) {
		struct pack_entry e = {.id = id, .codec = (uint8_t)(i % 3)};

		fixture_page(page, i + 1);
		e.hash = hash_bytes(&secret, page, PAGE);
		if (e.codec == CODEC_NONE)
			memcpy(out, page, e.len = PAGE);
		else if (e.codec == CODEC_LZ4)
			e.len = (uint16_t)LZ4_compress_default(page, out, PAGE, sizeof(out));
		else
			e.len = (uint16_t)ZSTD_compress(out, sizeof(out), page, PAGE, 1);
		if (!pack_has_room(b, id, e.len))
			break;
		pack_add(b, &e, out);
	}
	return pack_seal(b, &secret);
}

static void test_packs(void **state)
{
	struct pack_builder b = {.bytes = malloc(PACK_SIZE),
				 .table = malloc((size_t)PACK_MAX_PAGES * PACK_ENTRY)};
	void *dctx = ZSTD_createDCtx();
	static const uint64_t gaps[] = {0, 4};
	size_t g;

	for (g = 0; g < 2; g++) {
		size_t len = build_pack(&b, 5000, gaps[g]);
		struct pack_view view;
		char page[PAGE], back[PAGE];
		uint32_t i;

		assert_in_range(len, PACK_SIZE - 4096, PACK_SIZE);
		assert_int_equal((len + 16) % 4096, 0);
		assert_int_equal(pack_open(&view, b.bytes, len, 1000, &secret, &err), 0);
		assert_true(view.count > 300);
		for (i = 0; i < view.count; i++) {
			struct pack_entry e = pack_entry(&view, i);

			assert_int_equal(pack_find(&view, e.id), i);
			fixture_page(page, i + 1);
			assert_int_equal(pack_page(&view, i, &secret, dctx, back, &err), 0);
			assert_memory_equal(page, back, PAGE);
		}
		assert_int_equal(pack_find(&view, 999), -1);
		assert_int_equal(pack_find(&view, view.first + view.span + 1), -1);
		if (gaps[g])
			assert_int_equal(pack_find(&view, 1001), -1);
		assert_fails(pack_open(&view, b.bytes, len, 1001, &secret, &err), ERR_CORRUPT, &err);
	}
	ZSTD_freeDCtx(dctx);
	free(b.bytes);
	free(b.table);
}

static void test_small_pack_is_small(void **state)
{
	struct pack_builder b = {.bytes = malloc(PACK_SIZE),
				 .table = malloc((size_t)PACK_MAX_PAGES * PACK_ENTRY)};

	assert_int_equal(build_pack(&b, 1, 0), PAGE * 2 - 16); /* one raw page */
	free(b.bytes);
	free(b.table);
}

/* Every decoder call on a damaged pack is refused or gives bytes that match their hash. With the header
 * sealed anew after the damage, so that the checksum does not stand before the bounds checks. */
static void test_pack_fuzz(void **state)
{
	struct pack_builder b = {.bytes = malloc(PACK_SIZE),
				 .table = malloc((size_t)PACK_MAX_PAGES * PACK_ENTRY)};
	void *dctx = ZSTD_createDCtx();
	size_t len = build_pack(&b, 12, 3), round;
	uint8_t *copy = malloc(len);
	uint64_t random = 8;
	char page[PAGE];

	for (round = 0; round < 30000; round++) {
		struct pack_view view;
		uint32_t i, entries = get_le32(b.bytes + 24);
		int flips = 1 + (int)(fixture_random(&random) % 3);

		memcpy(copy, b.bytes, len);
		while (flips-- > 0) {
			size_t at = round % 2 ? entries + fixture_random(&random) % 336
					      : fixture_random(&random) % 32;

			copy[at] ^= (uint8_t)(1u << fixture_random(&random) % 8);
		}
		if (pack_peek(&view, copy, len, 1000, &err) < 0)
			continue;
		for (i = 0; i < view.count; i++) {
			struct pack_entry e = pack_entry(&view, i);

			pack_find(&view, e.id);
			if (pack_page(&view, i, &secret, dctx, page, &err) == 0)
				assert_true(hash_equal(hash_bytes(&secret, page, PAGE), e.hash));
		}
		assert_true(memcmp(copy, b.bytes, len) == 0 ||
			    pack_open(&view, copy, len, 1000, &secret, &err) < 0);
	}
	ZSTD_freeDCtx(dctx);
	free(copy);
	free(b.bytes);
	free(b.table);
}

/* ---- snapshot records ---------------------------------------------------------------------- */

static void test_snapshot_record(void **state)
{
	struct snapshot_info info = {.time = 5, .parent = 1, .pages_changed = 77, .final = true,
				     .tracker = "pagemap", .processes = 1, .threads = 9};
	struct snapshot_key key = snapshot_key(3, 2);
	struct store store = {.secret = secret};
	Snap__Snapshot *model = fixture_model(4711), *back;
	struct snapshot_head head;
	uint8_t *record;
	uint64_t random = 1;
	size_t len, i;

	assert_int_equal(snapshot_record_make(&store, &key, &info, model, &record, &len, &err), 0);
	assert_int_equal(info.bytes_stored, len);
	assert_int_equal(snapshot_head_open(&head, &key, record, len, &secret, &err), 0);
	assert_int_equal(head.n_roots, 1);
	assert_int_equal(get_le64(head.roots), 4711);
	assert_int_equal(head.info.pages_changed, 77);
	assert_int_equal(head.info.threads, 9);
	assert_true(head.info.final);
	assert_string_equal(head.info.tracker, "pagemap");
	assert_int_equal(snapshot_model_open(&head, &secret, &back, &err), 0);
	assert_string_equal(back->processes[0]->cwd, "/tmp");
	snap__snapshot__free_unpacked(back, NULL);
	for (i = 0; i < len * 8; i++) { /* every single bit */
		record[i / 8] ^= (uint8_t)(1u << i % 8);
		if (snapshot_head_open(&head, &key, record, len, &secret, &err) == 0)
			assert_fails(snapshot_model_open(&head, &secret, &back, &err), ERR_CORRUPT,
				     &err);
		record[i / 8] ^= (uint8_t)(1u << i % 8);
	}
	for (i = 0; i < len; i++)
		assert_fails(snapshot_head_open(&head, &key, record, i, &secret, &err), ERR_CORRUPT,
			     &err);
	/* Lengths that lie, under a right checksum. */
	for (i = 0; i < 20000; i++) {
		uint8_t *copy = malloc(len);
		size_t at = FRAME_HEADER + 96 + fixture_random(&random) % 56;

		memcpy(copy, record, len);
		copy[at] ^= (uint8_t)(1u << fixture_random(&random) % 8);
		frame_seal(copy, get_le32(copy + 4), MAGIC_SNAPSHOT, key.bytes, 16, &secret);
		if (snapshot_head_open(&head, &key, copy, len, &secret, &err) == 0 &&
		    snapshot_model_open(&head, &secret, &back, &err) == 0)
			snap__snapshot__free_unpacked(back, NULL);
		free(copy);
	}
	free(record);
	snap__snapshot__free_unpacked(model, NULL);
}

/* ---- small structures ---------------------------------------------------------------------- */

static void test_idset(void **state)
{
	struct idset set = {0};
	struct id_ranges ranges = {0};

	assert_int_equal(idset_add(&set, 5), 1);
	assert_int_equal(idset_add(&set, 5), 0);
	assert_int_equal(idset_add(&set, 32768), 1);
	assert_int_equal(idset_add(&set, 32767), 1);
	assert_int_equal(idset_add(&set, 10000000), 1);
	assert_true(idset_has(&set, 32767));
	assert_false(idset_has(&set, 6));
	assert_false(idset_has(&set, UINT64_MAX));
	assert_int_equal(idset_count(&set, 0, UINT64_MAX - 1), 4);
	assert_int_equal(idset_count(&set, 5, 5), 1);
	assert_int_equal(idset_count(&set, 6, 32766), 0);
	assert_int_equal(idset_count(&set, 6, 32768), 2);
	idset_clear(&set);
	assert_int_equal(id_ranges_add(&ranges, 10, 20), 0);
	assert_true(id_ranges_meet(&ranges, 19, 30));
	assert_false(id_ranges_meet(&ranges, 20, 30));
	assert_true(id_ranges_meet(&ranges, 0, 10));
	assert_false(id_ranges_meet(&ranges, 0, 9));
	id_ranges_clear(&ranges);
}

static void test_dedup(void **state)
{
	struct dedup table = {0};
	uint64_t random = 6, state0 = random, i, found = 0;

	for (i = 0; i < 100000; i++) {
		struct page_hash hash = {fixture_random(&random), i};

		dedup_add(&table, hash, i + 2);
	}
	random = state0;
	for (i = 0; i < 100000; i++) {
		struct page_hash hash = {fixture_random(&random), i};
		uint64_t id = dedup_find(&table, hash);

		assert_true(id == 0 || id == i + 2);
		found += id != 0;
		hash.hi++;
		assert_int_equal(dedup_find(&table, hash), 0);
	}
	assert_true(found > 99900);
	dedup_clear(&table);
}

/* Hashes that crowd in one place of a small table are all kept: there are other places in a larger one. */
static void test_dedup_crowded(void **state)
{
	struct dedup table = {0};
	uint64_t random = 7;

	for (uint64_t i = 0; i < 600; i++)
		dedup_add(&table, (struct page_hash){fixture_random(&random), i}, i + 1);
	for (uint64_t i = 0; i < 100; i++)
		dedup_add(&table, (struct page_hash){i * 4096 + 77, 1000 + i}, 1000 + i);
	for (uint64_t i = 0; i < 100; i++)
		assert_int_equal(dedup_find(&table, (struct page_hash){i * 4096 + 77, 1000 + i}), 1000 + i);
	dedup_clear(&table);
}

/* ---- LMDB's file --------------------------------------------------------------------------- */

struct memory {
	const uint8_t *bytes;
	size_t len;
};

static ssize_t read_memory(void *ctx, void *buf, size_t len, uint64_t offset)
{
	struct memory *m = ctx;

	if (offset >= m->len)
		return 0;
	if (len > m->len - offset)
		len = m->len - offset;
	memcpy(buf, m->bytes + offset, len);
	return (ssize_t)len;
}

static void test_lmdb_walk(void **state)
{
	struct image image = image_new(600, 4);
	char dir[256], path[300];
	struct memory memory;
	struct lmdbfile_source source = {&memory, read_memory, 0};
	struct store *store;
	uint8_t *bytes;
	uint64_t txnid, random = 2, i;
	FILE *f;

	snprintf(dir, sizeof(dir), "%s", fixture_dir());
	store = fixture_open(dir, "job");
	image_save(store, "job", 0, &image, NULL, 5);
	store_close(store);
	snprintf(path, sizeof(path), "%s/data.mdb", dir);
	f = fopen(path, "r");
	bytes = malloc(8 << 20);
	memory = (struct memory){bytes, fread(bytes, 1, 8 << 20, f)};
	fclose(f);
	source.size = memory.len;
	txnid = get_le64(bytes + 16 + 128);
	if (get_le64(bytes + 4096 + 16 + 128) > txnid)
		txnid = get_le64(bytes + 4096 + 16 + 128);
	assert_int_equal(lmdbfile_walk(&source, txnid, true, &err), 1);
	assert_int_equal(lmdbfile_walk(&source, txnid + 2, true, &err), 0);
	for (i = 0; i < 20000; i++) {
		size_t at = fixture_random(&random) % memory.len;
		uint8_t bit = (uint8_t)(1u << fixture_random(&random) % 8);

		if (i % 2)
			at = (at & ~4095ul) + at % 200;
		bytes[at] ^= bit;
		lmdbfile_walk(&source, txnid, true, &err);
		bytes[at] ^= bit;
	}
	/* Cut anywhere within what is used: noticed. */
	for (i = 4096; i < memory.len - 40 * 4096; i += 8192) {
		struct memory cut = {bytes, i};
		struct lmdbfile_source short_source = {&cut, read_memory, i};

		assert_int_equal(lmdbfile_walk(&short_source, txnid, true, &err), -1);
		assert_true(err.kind == ERR_CORRUPT);
	}
	free(bytes);
	image_free(&image);
	fixture_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_varint),
		cmocka_unit_test(test_frame),
		cmocka_unit_test(test_doubled_frame),
		cmocka_unit_test(test_nodes),
		cmocka_unit_test(test_node_level),
		cmocka_unit_test(test_node_fuzz),
		cmocka_unit_test(test_packs),
		cmocka_unit_test(test_small_pack_is_small),
		cmocka_unit_test(test_pack_fuzz),
		cmocka_unit_test(test_snapshot_record),
		cmocka_unit_test(test_idset),
		cmocka_unit_test(test_dedup),
		cmocka_unit_test(test_dedup_crowded),
		cmocka_unit_test(test_lmdb_walk),
	};

	return cmocka_run_group_tests(tests, setup_group, NULL);
}
