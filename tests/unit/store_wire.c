/* A snapshot from one store to another: complete, against a base, negotiated, broken off, damaged. */
#include <lz4.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "store/base/io.h"
#include "store/bytes.h"
#include "store/hash.h"
#include "store/wire/queue.h"
#include "store/wire/wire.h"
#include "store_fixture.h"
#include "unit.h"

#define PAGES 2000u
#define BASE  4096u

static struct err err;

struct pair {
	struct store *a, *b;
	char dir_a[256], dir_b[256];
	struct image image;
};

static int set_up(void **state)
{
	struct pair *p = calloc(1, sizeof(*p));

	snprintf(p->dir_a, sizeof(p->dir_a), "%s", fixture_dir());
	snprintf(p->dir_b, sizeof(p->dir_b), "%s", fixture_dir());
	p->a = fixture_open(p->dir_a, "job");
	if (store_open(&p->b, p->dir_b, STORE_CREATE, &err) < 0)
		return -1;
	p->image = image_new(PAGES, 3);
	image_save(p->a, "job", 0, &p->image, NULL, BASE);
	*state = p;
	return 0;
}

static int tear_down(void **state)
{
	struct pair *p = *state;

	store_close(p->a);
	store_close(p->b);
	fixture_remove(p->dir_a);
	fixture_remove(p->dir_b);
	image_free(&p->image);
	free(p);
	return 0;
}

/* Another snapshot in a, of which `changes` pages are new. */
static void save_another(struct pair *p, uint64_t parent, unsigned changes)
{
	struct image old = image_new(PAGES, 3);
	uint64_t random = 17 + parent;

	memcpy(old.seed, p->image.seed, PAGES * sizeof(*old.seed));
	image_change(&p->image, changes, &random);
	image_save(p->a, "job", parent, &p->image, &old, BASE);
	image_free(&old);
}

/* ---- one way ------------------------------------------------------------------------------- */

/* A file with the stream. */
static int sent(struct pair *p, uint64_t seq, uint64_t base)
{
	const struct wire_send_options options = {.base = base};
	int fd = memfd_create("stream", MFD_CLOEXEC);
	struct wire_stats stats;
	struct wire_channel ch;

	wire_channel_init(&ch, -1, fd);
	ok(wire_open(&ch, 0, &err));
	ok(wire_send_snapshot(&ch, 0, p->a, "job", seq, &options, &stats, &err));
	wire_channel_clear(&ch);
	return fd;
}

static int receive(struct store *store, int fd, const char *name, struct wire_stats *stats)
{
	const struct wire_receive_options options = {.name = name, .codec = CODEC_LZ4};
	struct wire_channel ch;
	uint32_t flags;
	int rc;

	lseek(fd, 0, SEEK_SET);
	wire_channel_init(&ch, fd, -1);
	rc = wire_accept(&ch, &flags, &err);
	if (rc == 0)
		rc = wire_receive_snapshot(&ch, flags, NULL, store, &options, stats, &err);
	wire_channel_clear(&ch);
	return rc;
}

static void assert_image(struct store *store, const char *job, uint64_t seq,
			 const struct image *image)
{
	if (!image_equals(store, job, seq, image, BASE, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(fixture_problems(store), 0);
}

static void test_complete(void **state)
{
	struct pair *p = *state;
	struct snapshot_info from, to;
	struct wire_stats stats;
	int fd = sent(p, 1, 0);

	ok(receive(p->b, fd, NULL, &stats));
	assert_int_equal(stats.seq, 1);
	assert_false(stats.present);
	assert_image(p->b, "job", 1, &p->image);
	ok(store_snapshot_load(p->a, "job", 1, &from, NULL, &err));
	ok(store_snapshot_load(p->b, "job", 1, &to, NULL, &err));
	assert_int_equal(from.time, to.time);
	assert_int_equal(from.generation, to.generation);
	assert_string_equal(from.tracker, to.tracker);
	/* Again: nothing to do. */
	ok(receive(p->b, fd, NULL, &stats));
	assert_true(stats.present);
	/* Under another name it is another job's. */
	ok(receive(p->b, fd, "other", &stats));
	assert_image(p->b, "other", 1, &p->image);
	close(fd);
}

static void test_base(void **state)
{
	struct pair *p = *state;
	struct wire_stats stats;
	struct stat whole, part;
	int first = sent(p, 1, 0), second;

	save_another(p, 1, 20);
	second = sent(p, 2, 1);
	fstat(first, &whole);
	fstat(second, &part);
	assert_true(part.st_size * 10 < whole.st_size);
	assert_fails(receive(p->b, second, NULL, &stats), ERR_NOT_FOUND, &err);
	assert_fails(store_job_get(p->b, "job", &(struct job_info){0}, &err), ERR_NOT_FOUND, &err);
	ok(receive(p->b, first, NULL, &stats));
	ok(receive(p->b, second, NULL, &stats));
	assert_int_equal(stats.seq, 2);
	assert_image(p->b, "job", 2, &p->image);
	close(first);
	close(second);
}

/* Pages that went and pages that became zero arrive as such. */
static void test_holes(void **state)
{
	struct pair *p = *state;
	struct store_session *session;
	struct page_table *table;
	struct snapshot_info info = {.time = 99};
	Snap__Snapshot *model;
	struct wire_stats stats;
	uint8_t zeroes[PAGE] = {0};
	uint64_t root;
	int first = sent(p, 1, 0), second;

	ok(store_snapshot_load(p->a, "job", 1, NULL, &model, &err));
	ok(session_begin(&session, p->a, "job", 1, CODEC_LZ4, &err));
	ok(page_table_edit(&table, session, model->processes[0]->pages_root, &err));
	ok(page_table_clear(table, BASE + 100, 700, &err));
	ok(page_table_put(table, BASE + 1000, zeroes, 1, NULL, &err));
	ok(page_table_finish(table, &root, &err));
	snap__snapshot__free_unpacked(model, NULL);
	model = fixture_model(root);
	ok(session_publish(session, model, &info, &err));
	snap__snapshot__free_unpacked(model, NULL);
	memset(p->image.seed + 100, 0, 700 * sizeof(*p->image.seed));
	p->image.seed[1000] = 0;
	second = sent(p, 2, 1);
	ok(receive(p->b, first, NULL, &stats));
	ok(receive(p->b, second, NULL, &stats));
	ok(store_snapshot_load(p->b, "job", 2, NULL, &model, &err));
	{
		struct page_reader *reader;
		struct page_run run;

		ok(page_reader_open(&reader, p->b, model->processes[0]->pages_root, &err));
		assert_int_equal(page_reader_next(reader, BASE + 100, &run, &err), 1);
		assert_int_equal(run.first, BASE + 800);
		assert_int_equal(page_reader_next(reader, BASE + 1000, &run, &err), 1);
		assert_int_equal(run.kind, PAGE_ZERO);
		page_reader_close(reader);
	}
	snap__snapshot__free_unpacked(model, NULL);
	assert_int_equal(fixture_problems(p->b), 0);
	close(first);
	close(second);
}

/* ---- damage -------------------------------------------------------------------------------- */

static void assert_nothing_came(struct store *store)
{
	struct job_info *jobs;
	size_t n;

	ok(store_job_list(store, &jobs, &n, &err));
	assert_int_equal(n, 0);
	free(jobs);
	assert_int_equal(fixture_problems(store), 0);
}

static void test_truncated(void **state)
{
	struct pair *p = *state;
	struct wire_stats stats;
	int fd = sent(p, 1, 0);
	struct stat st;

	fstat(fd, &st);
	for (off_t len = st.st_size - 1; len >= 0; len = len * 4 / 5 - 1) {
		ok(ftruncate(fd, len));
		assert_int_equal(receive(p->b, fd, NULL, &stats), -1);
		assert_nothing_came(p->b);
	}
	close(fd);
}

static void test_flipped(void **state)
{
	struct pair *p = *state;
	uint64_t random = 5;
	struct wire_stats stats;
	int fd = sent(p, 1, 0);
	struct stat st;

	fstat(fd, &st);
	for (unsigned i = 0; i < 60; i++) {
		/* The small frames at the beginning have more to get wrong. */
		uint64_t at = fixture_random(&random) % (uint64_t)(i % 2 ? st.st_size : 2000);
		uint8_t byte, bad;

		assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
		bad = byte ^ (uint8_t)(1u << fixture_random(&random) % 8);
		assert_int_equal(pwrite(fd, &bad, 1, (off_t)at), 1);
		assert_int_equal(receive(p->b, fd, NULL, &stats), -1);
		assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
	}
	assert_nothing_came(p->b);
	ok(receive(p->b, fd, NULL, &stats));
	assert_image(p->b, "job", 1, &p->image);
	close(fd);
}

/* Two frames of pages swapped; one left out; one twice. */
static void test_reordered(void **state)
{
	struct pair *p = *state;
	int fd = sent(p, 1, 0), other;
	size_t at[64], n = 0;
	uint8_t *bytes;
	struct wire_stats stats;
	struct stat st;

	fstat(fd, &st);
	bytes = malloc((size_t)st.st_size);
	ok(pread(fd, bytes, (size_t)st.st_size, 0) == st.st_size ? 0 : -1);
	for (size_t i = WIRE_HEADER; i < (size_t)st.st_size && n < 64;
	     i += WIRE_FRAME_HEAD + get_le32(bytes + i + 4))
		at[n++] = i;
	assert_true(n > 8);
	for (unsigned way = 0; way < 3; way++) {
		size_t a = at[n - 4], b = at[n - 3], c = at[n - 2], end = (size_t)st.st_size;

		other = memfd_create("stream", MFD_CLOEXEC);
		ok(write_full(other, bytes, a));
		if (way == 0)
			ok(write_full(other, bytes + b, c - b));
		if (way == 2)
			ok(write_full(other, bytes + a, b - a));
		if (way != 1)
			ok(write_full(other, bytes + a, b - a));
		ok(write_full(other, way == 0 ? bytes + c : bytes + b, end - (way == 0 ? c : b)));
		assert_fails(receive(p->b, other, NULL, &stats), ERR_CORRUPT, &err);
		close(other);
	}
	assert_nothing_came(p->b);
	free(bytes);
	close(fd);
}

/* ---- both ways ----------------------------------------------------------------------------- */

struct receiving {
	struct store *store;
	int fd, rc;
	struct wire_stats stats;
	struct err err;
};

static void *receive_thread(void *arg)
{
	const struct wire_receive_options options = {.codec = CODEC_LZ4};
	struct receiving *r = arg;
	struct wire_channel ch;
	uint32_t flags;

	wire_channel_init(&ch, r->fd, r->fd);
	r->rc = wire_accept(&ch, &flags, &r->err);
	if (r->rc == 0)
		r->rc = wire_open(&ch, 0, &r->err);
	if (r->rc == 0)
		r->rc = wire_receive_snapshot(&ch, flags, NULL, r->store, &options, &r->stats,
					      &r->err);
	wire_channel_clear(&ch);
	close(r->fd);
	return NULL;
}

/* What watches the sender, and breaks the connection after so many bytes. */
struct cut {
	int fd;
	struct wire_channel *ch;
	uint64_t after;
};

static void cut_off(void *ctx, uint64_t done, uint64_t all)
{
	struct cut *cut = ctx;

	if (cut->after && cut->ch->bytes_out > cut->after)
		shutdown(cut->fd, SHUT_RDWR);
}

/* Sends what b lacks. after: bytes after which the connection breaks; 0: it does not. */
static int negotiate(struct pair *p, uint64_t seq, uint64_t after, struct wire_stats *stats)
{
	struct receiving r = {.store = p->b};
	struct wire_channel ch;
	struct cut cut = {.ch = &ch, .after = after};
	const struct wire_send_options options = {.progress = cut_off, .ctx = &cut};
	pthread_t thread;
	int fds[2], rc;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	r.fd = fds[1];
	cut.fd = fds[0];
	assert_int_equal(pthread_create(&thread, NULL, receive_thread, &r), 0);
	wire_channel_init(&ch, fds[0], fds[0]);
	rc = wire_open(&ch, WIRE_NEGOTIATED, &err);
	if (rc == 0)
		rc = wire_accept(&ch, &(uint32_t){0}, &err);
	if (rc == 0)
		rc = wire_send_snapshot(&ch, WIRE_NEGOTIATED, p->a, "job", seq, &options, stats,
					&err);
	wire_channel_clear(&ch);
	close(fds[0]);
	pthread_join(thread, NULL);
	assert_int_equal(rc, r.rc);
	return rc;
}

static void test_negotiated(void **state)
{
	struct pair *p = *state;
	struct wire_stats stats;

	ok(negotiate(p, 1, 0, &stats));
	assert_int_equal(stats.pages, PAGES);
	save_another(p, 1, 20);
	save_another(p, 2, 20);
	/* 3 against 1: 2 never was there. */
	ok(negotiate(p, 3, 0, &stats));
	assert_in_range(stats.pages, 20, 40);
	assert_image(p->b, "job", 3, &p->image);
	ok(negotiate(p, 3, 0, &stats));
	assert_true(stats.present);
	assert_int_equal(stats.pages, 0);
}

/* A frame of two equal pages, one stored as it is, one compressed. */
static uint8_t *batch_of(bool stored, size_t *ret_len)
{
	static uint8_t buf[2 << 20];
	struct wire_batch batch;
	ZSTD_CCtx *cctx = ZSTD_createCCtx();

	ok(wire_batch_init(&batch, true, &err));
	memset(batch.pages, 7, 2 * PAGE);
	memset(batch.bytes, 1, PAGE);
	batch.stored[0] = (struct stored_page){batch.pages, PAGE, CODEC_NONE};
	batch.stored[1].codec = CODEC_LZ4;
	batch.stored[1].len = (uint16_t)LZ4_compress_default((char *)batch.pages, (char *)batch.bytes, PAGE, PAGE);
	batch.stored[1].data = batch.bytes;
	wire_batch_add(&batch, 5, 2, WIRE_DATA);
	ok(wire_batch_encode(&batch, stored ? NULL : cctx, 1, buf, ret_len, &err));
	wire_batch_clear(&batch);
	ZSTD_freeCCtx(cctx);
	return buf;
}

/* As they are stored, or compressed for the wire; what does not fit together is refused. */
static void test_stored_frame(void **state)
{
	struct stored_page stored[WIRE_BATCH_PAGES];
	uint8_t *content = malloc((size_t)WIRE_BATCH_PAGES * PAGE), *frame;
	ZSTD_DCtx *dctx = ZSTD_createDCtx();
	struct wire_pages pages;
	size_t len;

	frame = batch_of(false, &len);
	ok(wire_pages_open(&pages, frame, len, dctx, content, NULL, &err));
	assert_fails(wire_pages_open(&pages, frame, len, dctx, content, stored, &err), ERR_CORRUPT, &err);
	frame = batch_of(true, &len);
	memset(content, 0, 2 * PAGE);
	ok(wire_pages_open(&pages, frame, len, dctx, content, stored, &err));
	assert_int_equal(pages.n_pages, 2);
	assert_int_equal(content[0] + content[2 * PAGE - 1], 14);
	assert_int_equal(stored[1].codec, CODEC_LZ4);
	assert_fails(wire_pages_open(&pages, frame, len, dctx, content, NULL, &err), ERR_CORRUPT, &err);
	assert_fails(wire_pages_open(&pages, frame, len - 1, dctx, content, stored, &err), ERR_CORRUPT, &err);
	assert_fails(wire_pages_open(&pages, frame, len + 1, dctx, content, stored, &err), ERR_CORRUPT, &err);
	frame[8 + WIRE_RUN + 2] = CODEC_LZ4; /* of a page that is not compressed */
	assert_fails(wire_pages_open(&pages, frame, len, dctx, content, stored, &err), ERR_CORRUPT, &err);
	free(content);
	ZSTD_freeDCtx(dctx);
}

/* Buffers take the first megabytes at any rate. */
/* What an earlier hash state of that seed would leave on the stack, if all but its seed was overwritten since. */
static void __attribute__((noinline)) leave_on_stack(uint64_t seed)
{
	_Alignas(64) volatile uint64_t stack[4096];

	for (size_t i = 0; i < 4096; i++)
		stack[i] = i % 8 == offsetof(XXH3_state_t, seed) / 8 % 8 ? seed : 0;
	assert_int_equal(stack[0], 0);
}

static void test_checksums_depend_on_nothing_else(void **state)
{
	uint8_t payload[3000] = {1, 2, 3};
	struct wire_channel out, in;
	struct wire_frame frame;
	uint32_t flags;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	wire_channel_init(&out, -1, fds[1]);
	wire_channel_init(&in, fds[0], -1);
	ok(wire_open(&out, 0, &err));
	ok(wire_accept(&in, &flags, &err));
	leave_on_stack(out.nonce_out);
	ok(wire_send(&out, WIRE_PAGES, payload, sizeof(payload), &err));
	ok(wire_flush(&out, &err));
	assert_int_equal(wire_receive(&in, &frame, &err), 1);
	assert_memory_equal(frame.payload, payload, sizeof(payload));
	wire_channel_clear(&out);
	wire_channel_clear(&in);
	close(fds[0]);
	close(fds[1]);
}

static void test_slow_way(void **state)
{
	assert_false(wire_is_slow(1u << 20, 10000000000));
	assert_true(wire_is_slow(16u << 20, 2000000000));
	assert_false(wire_is_slow(32u << 20, 1000000000));
	assert_false(wire_is_slow(1u << 30, 1000000000));
	assert_true(wire_is_slow(1ull << 40, 1000000000ull * (1 << 17)));
}

/* No snapshot in common, but content: found by its hashes. */
static void test_content(void **state)
{
	struct pair *p = *state;
	struct wire_stats stats;

	ok(negotiate(p, 1, 0, &stats));
	save_another(p, 1, 20);
	ok(store_snapshot_drop(p->a, "job", 1, &err));
	ok(negotiate(p, 2, 0, &stats));
	assert_in_range(stats.pages, 10, 20);
	assert_image(p->b, "job", 2, &p->image);
}

static void test_interrupted(void **state)
{
	struct pair *p = *state;
	struct wire_stats stats;
	struct gc_stats gc;
	uint64_t pages;

	assert_int_equal(negotiate(p, 1, 2u << 20, &stats), -1);
	assert_nothing_came(p->b);
	/* Opening the store for writing, and collecting, leave it. */
	store_close(p->b);
	ok(store_open(&p->b, p->dir_b, STORE_WRITE, &err));
	ok(store_gc(p->b, 0, &gc, &err));
	ok(negotiate(p, 1, 0, &stats));
	pages = stats.pages;
	assert_true(pages < PAGES - 200);
	assert_image(p->b, "job", 1, &p->image);
}

static void test_fenced(void **state)
{
	struct pair *p = *state;
	struct wire_stats stats;
	struct job_info job;

	ok(negotiate(p, 1, 0, &stats));
	ok(store_job_get(p->b, "job", &job, &err));
	job.generation += 1;
	ok(store_job_put(p->b, &job, &err));
	job_info_clear(&job);
	save_another(p, 1, 20);
	assert_fails(negotiate(p, 2, 0, &stats), ERR_FENCED, &err);
	assert_fails(store_snapshot_load(p->b, "job", 2, NULL, NULL, &err), ERR_NOT_FOUND, &err);
	assert_int_equal(fixture_problems(p->b), 0);
}

static void test_busy(void **state)
{
	struct pair *p = *state;
	struct wire_stats stats;
	int lock;

	ok(store_job_lock(p->b, "job", &lock, &err));
	assert_fails(negotiate(p, 1, 0, &stats), ERR_BUSY, &err);
	store_job_unlock(lock);
	ok(negotiate(p, 1, 0, &stats));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_complete, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_base, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_holes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_truncated, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_flipped, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_reordered, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_negotiated, set_up, tear_down),
		cmocka_unit_test(test_stored_frame),
		cmocka_unit_test(test_slow_way),
		cmocka_unit_test(test_checksums_depend_on_nothing_else),
		cmocka_unit_test_setup_teardown(test_content, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_interrupted, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_fenced, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_busy, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
