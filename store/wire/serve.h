/*
 * serve.h: the end of a connection that answers: `pawl receive --negotiate`.
 */
#ifndef PAWL_STORE_WIRE_SERVE_H
#define PAWL_STORE_WIRE_SERVE_H

#include "store/wire/wire.h"

/* What needs more than a store. May be NULL: then it is refused. */
struct wire_starter {
	/* Has its memory put up from snapshot seq, for a start that may follow. */
	int (*ahead)(void *ctx, const char *job, uint64_t seq, const uint8_t *token, struct err *err);
	/* Recovers the job from snapshot seq for the bearer of token, detached. 0: it stands, and waits. */
	int (*start)(void *ctx, const char *job, uint64_t seq, const uint8_t *token,
		     struct err *err);
	/* Lets it go on. 0: that is recorded, and it does; -1: nobody here can tell. */
	int (*confirm)(void *ctx, struct err *err);
	/* Whoever asked for it has gone: what was not let go on ends. Also where nothing was started. */
	void (*stop)(void *ctx);
	void *ctx;
};

/* Answers until the other side ends the connection. The headers have been exchanged. -1: a transfer failed,
 * which the other side has been told. */
int wire_serve(struct wire_channel *ch, uint32_t flags, struct store *store,
	       const struct wire_receive_options *options, const struct wire_starter *starter,
	       struct err *err);

#endif
