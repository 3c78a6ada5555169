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
	bool stored;                           /* pages go as they are stored */
	struct wire_batch batches[WIRE_QUEUE]; /* a ring */
	size_t first, n;                       /* batches that wait for an answer */
	uint8_t *buf;
	void *cctx;
	uint64_t bytes_began, writing_began;   /* of the channel, when stored pages began to go */
	uint64_t pages;     /* sent with content */
	uint64_t populated; /* with content or known */
	uint64_t clears;
};

/* secret: of the hashes to ask by, NULL: the receiver is not asked. stored: the receiver takes stored pages. They
 * cost neither side the time for compressing; where the way is slower than that they are compressed all the same. */
int wire_queue_init(struct wire_queue *queue, struct wire_channel *ch, const void *secret, bool stored,
		    struct err *err);
/* Whether a way that took so long for so many bytes is one to compress for. Pure. */
bool wire_is_slow(uint64_t bytes, uint64_t ns);
void wire_queue_clear(struct wire_queue *queue); /* also of {0} */
/* Pages of the reader, n at most WIRE_BATCH_PAGES; kind is not WIRE_KNOWN. */
int wire_queue_add(struct wire_queue *queue, struct page_reader *reader, uint64_t first, uint32_t n,
		   enum wire_run_kind kind, struct err *err);
/* Everything that was added is sent. */
int wire_queue_drain(struct wire_queue *queue, struct err *err);

#endif
