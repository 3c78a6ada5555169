#include "store/wire/queue.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "store/base/cleanup.h"
#include "store/storedpages.h"
#include "store/wire/convert.h"

#define LEVEL 1

/* zstd takes some 130 MiB/s of half-compressible pages here, which LZ4 has made half as large, and makes them a sixth
 * smaller than that: 15 ms a MiB as stored, and nothing is sent meanwhile. Sending that sixth takes longer where the way is
 * slower than this (bytes a second). A receiver that shares a busy machine with us, or is one, looks like a way of some 30
 * MiB/s, and zstd would have it compress each page anew. Buffers on the way take the first megabytes at once. */
#define SLOW        (12u << 20)
#define SLOW_SAMPLE (8u << 20)

bool wire_is_slow(uint64_t bytes, uint64_t ns)
{
	return bytes >= SLOW_SAMPLE && ns / 1000 > bytes * 1000000 / SLOW;
}

int wire_queue_init(struct wire_queue *queue, struct wire_channel *ch, const void *secret, bool stored,
		    struct err *err)
{
	size_t n = secret ? WIRE_QUEUE : 1;

	*queue = (struct wire_queue){.ch = ch, .ask = secret, .stored = stored,
				     .bytes_began = ch->bytes_out, .writing_began = ch->writing_ns};
	if (secret)
		memcpy(&queue->secret, secret, sizeof(queue->secret));
	queue->cctx = ZSTD_createCCtx();
	queue->buf = malloc(wire_batch_most());
	if (!queue->cctx || !queue->buf)
		return err_sys(err, "cannot send");
	for (size_t i = 0; i < n; i++)
		if (wire_batch_init(&queue->batches[i], stored, err) < 0)
			return -1;
	return 0;
}

void wire_queue_clear(struct wire_queue *queue)
{
	for (size_t i = 0; i < WIRE_QUEUE; i++)
		wire_batch_clear(&queue->batches[i]);
	free(queue->buf);
	ZSTD_freeCCtx(queue->cctx);
	queue->buf = NULL;
	queue->cctx = NULL;
}

static int send_batch(struct wire_queue *queue, struct wire_batch *batch, struct err *err)
{
	struct wire_channel *ch = queue->ch;
	size_t len;

	queue->pages += batch->n_pages;
	if (queue->stored &&
	    wire_is_slow(ch->bytes_out - queue->bytes_began, ch->writing_ns - queue->writing_began))
		queue->stored = false;
	if (wire_batch_encode(batch, queue->stored ? NULL : queue->cctx, LEVEL, queue->buf, &len,
			      err) < 0)
		return -1;
	return wire_send(ch, queue->stored ? WIRE_STORED : WIRE_PAGES, queue->buf, len, err);
}

/* The receiver has given up, and says why. */
static int refused(const struct wire_frame *frame, struct err *err)
{
	Wire__Done *done;

	if (wire_message_of(frame, &wire__done__descriptor, &done, err) < 0)
		return -1;
	wire_error_unpack(done->error_kind ? done->error_kind : ERR_CORRUPT, &done->error, err);
	wire__done__free_unpacked(done, NULL);
	return -1;
}

/* The answer for the batch that has waited longest, and the batch itself. */
static int settle_first(struct wire_queue *queue, struct err *err)
{
	struct wire_batch *batch = &queue->batches[queue->first];
	struct wire_frame have;

	if (wire_flush(queue->ch, err) < 0 || wire_receive_some(queue->ch, &have, err) < 0)
		return -1;
	if (have.type == WIRE_DONE)
		return refused(&have, err);
	if (have.type != WIRE_HAVE)
		return wire_unexpected(&have, WIRE_HAVE, err);
	if (have.len != (batch->n_pages + 7) / 8)
		return err_set(err, ERR_CORRUPT, "the stream's answer is of another length");
	wire_batch_drop_known(batch, have.payload);
	queue->first = (queue->first + 1) % WIRE_QUEUE;
	queue->n--;
	return send_batch(queue, batch, err);
}

static int ask_for(struct wire_queue *queue, struct wire_batch *batch, struct err *err)
{
	uint8_t hashes[WIRE_BATCH_PAGES * 16];

	for (size_t i = 0; i < batch->n_pages; i++) {
		batch->hashes[i] = hash_bytes(&queue->secret, batch->pages + i * STORE_PAGE_SIZE,
					      STORE_PAGE_SIZE);
		put_le64(hashes + i * 16, batch->hashes[i].lo);
		put_le64(hashes + i * 16 + 8, batch->hashes[i].hi);
	}
	return wire_send(queue->ch, WIRE_ASK, hashes, batch->n_pages * 16, err);
}

static struct wire_batch *gathering(struct wire_queue *queue)
{
	return &queue->batches[queue->ask ? (queue->first + queue->n) % WIRE_QUEUE : 0];
}

/* What has gathered goes out, or is asked for. */
static int dispatch(struct wire_queue *queue, struct err *err)
{
	struct wire_batch *batch = gathering(queue);

	if (batch->n_runs == 0)
		return 0;
	if (!queue->ask)
		return send_batch(queue, batch, err);
	/* Where there is nothing to ask for, the question is empty: order is kept. */
	if (ask_for(queue, batch, err) < 0)
		return -1;
	queue->n++;
	return queue->n == WIRE_QUEUE ? settle_first(queue, err) : 0;
}

static int read_content(struct wire_batch *batch, struct page_reader *reader, uint64_t first, uint32_t n,
			struct err *err)
{
	uint8_t *pages = batch->pages + batch->n_pages * STORE_PAGE_SIZE;

	if (!batch->stored)
		return page_reader_read(reader, first, n, pages, err);
	if (page_reader_read_stored(reader, first, n, pages, batch->stored + batch->n_pages,
				    batch->bytes + batch->n_bytes, err) < 0)
		return -1;
	for (uint32_t i = 0; i < n; i++)
		batch->n_bytes += batch->stored[batch->n_pages + i].len;
	return 0;
}

int wire_queue_add(struct wire_queue *queue, struct page_reader *reader, uint64_t first, uint32_t n,
		   enum wire_run_kind kind, struct err *err)
{
	struct wire_batch *batch;

	if (!wire_batch_has_room(gathering(queue), kind == WIRE_DATA ? n : 0) &&
	    dispatch(queue, err) < 0)
		return -1;
	batch = gathering(queue);
	if (kind == WIRE_DATA && read_content(batch, reader, first, n, err) < 0)
		return -1;
	wire_batch_add(batch, first, n, kind);
	queue->populated += kind == WIRE_CLEAR ? 0 : n;
	queue->clears += kind == WIRE_CLEAR;
	return 0;
}

int wire_queue_drain(struct wire_queue *queue, struct err *err)
{
	if (dispatch(queue, err) < 0)
		return -1;
	while (queue->n > 0)
		if (settle_first(queue, err) < 0)
			return -1;
	return 0;
}
