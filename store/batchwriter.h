/*
 * batchwriter.h: batches on their way into the store, in the order they are given.
 *
 * Each is written in a transaction of its own, whose end waits for the disk, by a thread of its own, while the next
 * ones gather. Several may be on their way, so that who gathers does not wait for each of those ends. And they are
 * small: a kernel that does not preempt its own work (CONFIG_PREEMPT_NONE, preempt=none) lets a thread of the job that
 * wakes up wait until all of a write(2) is done.
 */
#ifndef PAWL_STORE_BATCHWRITER_H
#define PAWL_STORE_BATCHWRITER_H

#include "store/batch.h"

struct batch_writer;

/* What becomes of a batch that is in the store: takes its packs' bytes, and leaves it empty. In the thread of who
 * gives batches. */
typedef void batch_written(void *ctx, struct batch *batch);

int batch_writer_new(struct batch_writer **ret, struct store *store, batch_written *written, void *ctx,
		     struct err *err);
/* Takes what is in the batch, which starts anew; waits while too much is on its way. The error may be an earlier
 * batch's: of what was given after that, nothing is written. The writing has the priority of the thread that gives
 * the first after a rest. */
int batch_writer_give(struct batch_writer *w, struct batch *batch, struct err *err);
/* Waits until all is in the store. */
int batch_writer_wait(struct batch_writer *w, struct err *err);

/* In what is on its way. */
bool batch_writer_find_hash(const struct batch_writer *w, uint64_t id, struct page_hash *ret);
const struct pending_node *batch_writer_find_node(const struct batch_writer *w, uint64_t id);

/* What is not written yet is dropped. Takes NULL. */
void batch_writer_free(struct batch_writer *w);

#endif
