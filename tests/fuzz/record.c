/* Framed records: snapshots, jobs, sessions. */
#include "fuzz.h"

#include <zstd.h>

#include "store/bytes.h"
#include "store/catalogue.h"
#include "store/record.h"

static const struct store_secret secret = {.bytes = {7, 8, 9}};

/* Offsets in a snapshot record's payload (FORMAT.md, "Snapshots"). */
enum {
	AT_N_ROOTS = 108,
	AT_MODEL_LEN = 112,
	AT_MODEL_STORED = 120,
	AT_MODEL_HASH = 128,
	AT_ROOTS = 144
};

static size_t seed_snapshot(uint8_t *buf)
{
	Snap__Snapshot model = SNAP__SNAPSHOT__INIT;
	Snap__Clocks clocks = SNAP__CLOCKS__INIT;
	uint8_t raw[256];
	size_t len, stored;

	clocks.realtime = 123456789;
	model.clocks = &clocks;
	len = snap__snapshot__pack(&model, raw);
	memset(buf, 0, AT_ROOTS + 8);
	put_le32(buf + AT_N_ROOTS, 1);
	put_le64(buf + AT_ROOTS, 5);
	stored = ZSTD_compress(buf + AT_ROOTS + 8, 512, raw, len, 1);
	put_le64(buf + AT_MODEL_LEN, len);
	put_le64(buf + AT_MODEL_STORED, stored);
	return AT_ROOTS + 8 + stored;
}

static size_t seed_job(uint8_t *buf)
{
	Cat__Job job = CAT__JOB__INIT;
	ProtobufCBinaryData argv[2] = {{3, (uint8_t *)"sim"}, {1, (uint8_t *)"x"}};

	job.id = 3;
	job.argv = argv;
	job.n_argv = 2;
	return cat__job__pack(&job, buf);
}

static size_t seed_session(uint8_t *buf)
{
	Cat__Session session = CAT__SESSION__INIT;
	uint64_t pages[4] = {2, 100, 300, 400};

	session.job = 3;
	session.pages = pages;
	session.n_pages = 4;
	return cat__session__pack(&session, buf);
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t room)
{
	if (room < 4096)
		return 0;
	switch (i) {
	case 0:
		return seed_snapshot(buf);
	case 1:
		return seed_job(buf);
	case 2:
		return seed_session(buf);
	default:
		return 0;
	}
}

/* The input as a snapshot's record, with every checksum right. */
static void open_snapshot(const uint8_t *data, size_t size)
{
	size_t payload = size, model_at;
	struct snapshot_key key = {{1}};
	struct snapshot_head head;
	Snap__Snapshot *model;
	struct err err = {0};
	uint8_t *record = malloc(FRAME_HEADER + size);
	struct page_hash hash;

	if (!record)
		abort();
	memcpy(record + FRAME_HEADER, data, size);
	if (size >= AT_ROOTS) {
		model_at = AT_ROOTS + 8 * (size_t)get_le32(data + AT_N_ROOTS);
		if (model_at <= size) {
			payload = model_at;
			hash = hash_bytes(&secret, data + model_at, size - model_at);
			put_le64(record + FRAME_HEADER + AT_MODEL_HASH, hash.lo);
			put_le64(record + FRAME_HEADER + AT_MODEL_HASH + 8, hash.hi);
		}
	}
	frame_seal(record, payload, MAGIC_SNAPSHOT, key.bytes, sizeof(key.bytes), &secret);
	if (snapshot_head_open(&head, &key, record, FRAME_HEADER + size, &secret, &err) < 0) {
		promise(err.kind == ERR_CORRUPT);
	} else if (head.model_len < 1 << 24) { /* more is only memory */
		promise(memchr(head.info.tracker, '\0', sizeof(head.info.tracker)));
		if (snapshot_model_open(&head, &secret, &model, &err) == 0)
			snap__snapshot__free_unpacked(model, NULL);
		else
			promise(err.kind == ERR_CORRUPT);
	}
	free(record);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct frame frame;
	struct err err = {0};

	if (frame_open(&frame, data, size, MAGIC_JOB, UINT32_MAX, "sim", 3, &secret, &err) == 0)
		promise(frame.len <= size - FRAME_HEADER);
	else
		promise(err.kind == ERR_CORRUPT);
	cat__job__free_unpacked(cat__job__unpack(NULL, size, data), NULL);
	cat__session__free_unpacked(cat__session__unpack(NULL, size, data), NULL);
	cat__dropped__free_unpacked(cat__dropped__unpack(NULL, size, data), NULL);
	open_snapshot(data, size);
	return 0;
}
