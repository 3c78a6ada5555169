/* The bytes of a snapshot's record: pure, but for snapshot_record_make's use of the secret. */
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "store/base/cleanup.h"
#include "store/bytes.h"
#include "store/catalogue.h"
#include "store/record.h"

/* Offsets in the frame's payload. */
enum {
	AT_PARENT = 0,
	AT_TIME = 8,
	AT_GENERATION = 16,
	AT_PAUSE = 24,
	AT_WALL = 32,
	AT_RESIDENT = 40,
	AT_CANDIDATE = 48,
	AT_CHANGED = 56,
	AT_RAW = 64,
	AT_STORED = 72,
	AT_TRACKER = 80, /* 16 bytes, zero-padded */
	AT_FLAGS = 96,
	AT_PROCESSES = 100,
	AT_THREADS = 104,
	AT_N_ROOTS = 108,
	AT_MODEL_LEN = 112,
	AT_MODEL_STORED = 120,
	AT_MODEL_HASH = 128,
	AT_ROOTS = 144,
};
#define FLAG_FINAL     1u
#define MODEL_LEN_MOST (1ull << 31)

static void write_head(uint8_t *p, const struct snapshot_info *info)
{
	put_le64(p + AT_PARENT, info->parent);
	put_le64(p + AT_TIME, info->time);
	put_le64(p + AT_GENERATION, info->generation);
	put_le64(p + AT_PAUSE, info->pause_us);
	put_le64(p + AT_WALL, info->wall_us);
	put_le64(p + AT_RESIDENT, info->pages_resident);
	put_le64(p + AT_CANDIDATE, info->pages_candidate);
	put_le64(p + AT_CHANGED, info->pages_changed);
	put_le64(p + AT_RAW, info->bytes_raw);
	put_le64(p + AT_STORED, info->bytes_stored);
	memset(p + AT_TRACKER, 0, sizeof(info->tracker));
	memcpy(p + AT_TRACKER, info->tracker, strnlen(info->tracker, sizeof(info->tracker) - 1));
	put_le32(p + AT_FLAGS, info->final ? FLAG_FINAL : 0);
	put_le32(p + AT_PROCESSES, info->processes);
	put_le32(p + AT_THREADS, info->threads);
}

static void read_head(const uint8_t *p, struct snapshot_info *info)
{
	*info = (struct snapshot_info){
		.parent = get_le64(p + AT_PARENT),
		.time = get_le64(p + AT_TIME),
		.generation = get_le64(p + AT_GENERATION),
		.pause_us = get_le64(p + AT_PAUSE),
		.wall_us = get_le64(p + AT_WALL),
		.pages_resident = get_le64(p + AT_RESIDENT),
		.pages_candidate = get_le64(p + AT_CANDIDATE),
		.pages_changed = get_le64(p + AT_CHANGED),
		.bytes_raw = get_le64(p + AT_RAW),
		.bytes_stored = get_le64(p + AT_STORED),
		.final = get_le32(p + AT_FLAGS) & FLAG_FINAL,
		.processes = get_le32(p + AT_PROCESSES),
		.threads = get_le32(p + AT_THREADS),
	};
	memcpy(info->tracker, p + AT_TRACKER, sizeof(info->tracker) - 1);
}

int snapshot_head_open(struct snapshot_head *ret, const struct snapshot_key *key,
		       const void *record, size_t len, const struct store_secret *secret,
		       struct err *err)
{
	struct snapshot_head head = {0};
	struct frame frame;
	uint64_t stored;
	size_t model_at;

	if (frame_open(&frame, record, len, MAGIC_SNAPSHOT, UINT32_MAX, key->bytes,
		       sizeof(key->bytes), secret, err) < 0)
		return -1;
	if (frame.len < AT_ROOTS)
		return err_set(err, ERR_CORRUPT, "is too short");
	read_head(frame.payload, &head.info);
	head.n_roots = get_le32(frame.payload + AT_N_ROOTS);
	head.roots = frame.payload + AT_ROOTS;
	head.model_len = get_le64(frame.payload + AT_MODEL_LEN);
	head.model_hash.lo = get_le64(frame.payload + AT_MODEL_HASH);
	head.model_hash.hi = get_le64(frame.payload + AT_MODEL_HASH + 8);
	stored = get_le64(frame.payload + AT_MODEL_STORED);
	model_at = FRAME_HEADER + frame.len;
	if (frame.len - AT_ROOTS != (uint64_t)head.n_roots * 8 || stored != len - model_at ||
	    head.model_len > MODEL_LEN_MOST)
		return err_set(err, ERR_CORRUPT, "has impossible lengths");
	head.model = (const uint8_t *)record + model_at;
	head.model_stored = stored;
	*ret = head;
	return 0;
}

int snapshot_model_open(const struct snapshot_head *head, const struct store_secret *secret,
			Snap__Snapshot **ret, struct err *err)
{
	cleanup_free uint8_t *raw = NULL;
	Snap__Snapshot *model;
	size_t n;

	if (!hash_equal(hash_bytes(secret, head->model, head->model_stored), head->model_hash))
		return err_set(err, ERR_CORRUPT, "model's checksum does not match");
	/* Before that much memory is taken: what the frame says of itself. */
	if (ZSTD_getFrameContentSize(head->model, head->model_stored) != head->model_len)
		return err_set(err, ERR_CORRUPT, "model's length does not match");
	raw = malloc(head->model_len + 1);
	if (!raw)
		return err_sys(err, "model of %llu bytes", (unsigned long long)head->model_len);
	n = ZSTD_decompress(raw, head->model_len, head->model, head->model_stored);
	if (ZSTD_isError(n) || n != head->model_len)
		return err_set(err, ERR_CORRUPT, "model does not decompress");
	model = snap__snapshot__unpack(NULL, n, raw);
	if (!model)
		return err_set(err, ERR_CORRUPT, "model does not decode");
	*ret = model;
	return 0;
}

static int compare_ids(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

struct root_list {
	uint64_t *roots;
	size_t n, room;
};

static int add_root(void *ctx, uint64_t *root, struct err *err)
{
	struct root_list *list = ctx;

	if (*root == 0)
		return 0;
	if (list->n == list->room) {
		size_t room = list->room ? 2 * list->room : 16;
		uint64_t *more = reallocarray(list->roots, room, sizeof(*more));

		if (!more)
			return err_sys(err, "roots");
		list->roots = more;
		list->room = room;
	}
	list->roots[list->n++] = *root;
	return 0;
}

int snapshot_roots(const Snap__Snapshot *model, uint64_t **ret, size_t *ret_n, struct err *err)
{
	struct root_list list = {0};
	size_t i, distinct = 0;

	/* add_root only reads. */
	if (snap_each_root((Snap__Snapshot *)model, add_root, &list, err) < 0) {
		free(list.roots);
		return -1;
	}
	if (!list.roots && !(list.roots = calloc(1, sizeof(*list.roots))))
		return err_sys(err, "roots");
	qsort(list.roots, list.n, sizeof(*list.roots), compare_ids);
	for (i = 0; i < list.n; i++)
		if (distinct == 0 || list.roots[distinct - 1] != list.roots[i])
			list.roots[distinct++] = list.roots[i];
	*ret = list.roots;
	*ret_n = distinct;
	return 0;
}

/* Serialised and compressed behind `room` bytes that are left for the head. */
static int compress_model(const Snap__Snapshot *model, size_t room, uint8_t **ret, size_t *ret_len,
			  size_t *ret_raw, struct err *err)
{
	size_t raw_len = snap__snapshot__get_packed_size(model);
	cleanup_free uint8_t *raw = malloc(raw_len + 1);
	cleanup_free uint8_t *record = malloc(room + ZSTD_compressBound(raw_len));
	size_t n;

	if (!raw || !record)
		return err_sys(err, "snapshot's model of %zu bytes", raw_len);
	if (raw_len > MODEL_LEN_MOST)
		return err_set(err, ERR_UNSUPPORTED, "the snapshot's model is too large");
	snap__snapshot__pack(model, raw);
	n = ZSTD_compress(record + room, ZSTD_compressBound(raw_len), raw, raw_len, 3);
	if (ZSTD_isError(n))
		return err_set(err, ERR_SYSTEM, "cannot compress the snapshot's model: %s",
			       ZSTD_getErrorName(n));
	*ret = steal_ptr(&record);
	*ret_len = room + n;
	*ret_raw = raw_len;
	return 0;
}

int snapshot_record_make(struct store *store, const struct snapshot_key *key,
			 struct snapshot_info *info, const Snap__Snapshot *model, uint8_t **ret,
			 size_t *ret_len, struct err *err)
{
	cleanup_free uint64_t *roots = NULL;
	size_t n_roots, i, head_len, len = 0, raw_len = 0;
	struct page_hash hash;
	uint8_t *record = NULL, *p;

	if (snapshot_roots(model, &roots, &n_roots, err) < 0)
		return -1;
	head_len = FRAME_HEADER + AT_ROOTS + n_roots * 8;
	if (compress_model(model, head_len, &record, &len, &raw_len, err) < 0)
		return -1;
	p = record + FRAME_HEADER;
	info->bytes_stored += len;
	write_head(p, info);
	put_le32(p + AT_N_ROOTS, (uint32_t)n_roots);
	for (i = 0; i < n_roots; i++)
		put_le64(p + AT_ROOTS + i * 8, roots[i]);
	put_le64(p + AT_MODEL_LEN, raw_len);
	put_le64(p + AT_MODEL_STORED, len - head_len);
	hash = hash_bytes(&store->secret, record + head_len, len - head_len);
	put_le64(p + AT_MODEL_HASH, hash.lo);
	put_le64(p + AT_MODEL_HASH + 8, hash.hi);
	frame_seal(record, head_len - FRAME_HEADER, MAGIC_SNAPSHOT, key->bytes, sizeof(key->bytes),
		   &store->secret);
	*ret = record;
	*ret_len = len;
	return 0;
}
