/*
 * queue.h: pages on their way out, asked for where the receiver has some already.
 *
 * Where it asks, several batches of hashes are under way before the answer to the first is waited for.
 */
#ifndef PAWL_STORE_WIRE_QUEUE_H
#define PAWL_STORE_WIRE_QUEUE_H

#include "store/bytes.h"
#include "store/wire/channel.h"
#include "store/wire/pages.h"

#define WIRE_QUEUE 8u

struct wire_queue { /* starts as {0} */
	struct wire_channel *ch;
	struct store_secret secret; /* of the receiver's hashes */
	bool ask;
	struct wire_batch batches[WIRE_QUEUE]; /* a ring */
	size_t first, n;                       /* batches that wait for an answer */
	uint8_t *buf;
	void *cctx;
	uint64_t pages;     /* sent with content */
	uint64_t populated; /* with content or known */
	uint64_t clears;
};

/* secret: of the hashes to ask by, NULL: the receiver is not asked. */
int wire_queue_init(struct wire_queue *queue, struct wire_channel *ch, const void *secret,
		    struct err *err);
void wire_queue_clear(struct wire_queue *queue); /* also of {0} */
/* Pages of the reader, n at most WIRE_BATCH_PAGES; kind is not WIRE_KNOWN. */
int wire_queue_add(struct wire_queue *queue, struct page_reader *reader, uint64_t first, uint32_t n,
		   enum wire_run_kind kind, struct err *err);
/* Everything that was added is sent. */
int wire_queue_drain(struct wire_queue *queue, struct err *err);

#endif
