/*
 * ask.h: the other end: requests to a `pawl receive --negotiate` (serve.h).
 */
#ifndef PAWL_STORE_WIRE_ASK_H
#define PAWL_STORE_WIRE_ASK_H

#include "store/store.h"
#include "store/wire/channel.h"
#include "wire.pb-c.h"

struct wire_request {
	Wire__Request__Op op;
	const struct job_info *job;
	uint64_t version, seq;
	const uint8_t *token; /* 16 bytes, or NULL */
	const char *holder;   /* or NULL */
	const uint64_t *seqs;
	size_t n_seqs;
};

/* What the other side failed with is our error. *ret (may be NULL): wire__reply__free_unpacked. */
int wire_ask(struct wire_channel *ch, const struct wire_request *request, Wire__Reply **ret,
	     struct err *err);

#endif
