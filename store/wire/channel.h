/*
 * channel.h: frames over a pair of descriptors (FORMAT.md, "The stream").
 *
 * Every frame carries its length, its running number and a checksum that is seeded with the stream's own
 * number: what is cut off, swapped, repeated, altered or comes from another stream is noticed at
 * that frame, before anything in it is used.
 */
#ifndef PAWL_STORE_WIRE_CHANNEL_H
#define PAWL_STORE_WIRE_CHANNEL_H

#include <protobuf-c/protobuf-c.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"

#define WIRE_HEADER      32u
#define WIRE_FRAME_HEAD  24u
#define WIRE_FRAME_MOST  (2u << 20) /* bytes of payload */
#define WIRE_VERSION     1u

enum wire_flag { WIRE_NEGOTIATED = 1u << 0 }; /* the other side answers */

enum wire_type {
	WIRE_ANNOUNCE = 1, /* message Announce */
	WIRE_OFFER,        /* message Offer */
	WIRE_START,        /* message Start */
	WIRE_LOG,          /* u64 offset, zstd frame: bytes of the job's log */
	WIRE_INPUT,        /* u64 offset, zstd frame: bytes of its kept input */
	WIRE_MODEL,        /* a piece of the compressed portable model */
	WIRE_TABLE,        /* u32 index, u32 position in the base + 1 */
	WIRE_PAGES,        /* runs of pages, see pages.h */
	WIRE_ASK,          /* hashes of pages */
	WIRE_HAVE,         /* a bit for each of them */
	WIRE_END,          /* message End */
	WIRE_DONE,         /* message Done */
	WIRE_REQUEST,      /* message Request */
	WIRE_REPLY,        /* message Reply */
	WIRE_STORED,       /* runs of pages, content as it is stored, see pages.h */
};

struct wire_frame {
	enum wire_type type;
	const uint8_t *payload; /* until the next frame is received */
	size_t len;
};

struct wire_channel {
	int in, out;                  /* -1: that way is closed; not owned */
	bool socket_out;
	const atomic_bool *cancelled; /* may be NULL; set: ERR_GONE within a second */
	int patience_ms;              /* how long the other side may be silent; -1: for ever */
	uint64_t nonce_in, nonce_out;
	uint64_t number_in, number_out;
	uint64_t bytes_in, bytes_out;
	uint64_t writing_ns;          /* spent in writing, and in waiting for the other side to read */
	uint8_t *buffer;              /* of the frame received last */
	uint8_t *pending;             /* to be written, WIRE_PENDING bytes */
	size_t n_pending;
};

/* Starts as {0} but for in and out. */
void wire_channel_init(struct wire_channel *ch, int in, int out);
void wire_channel_clear(struct wire_channel *ch);

/* The header: first of all in each direction. */
int wire_open(struct wire_channel *ch, uint32_t flags, struct err *err);
/* ERR_CORRUPT: no such stream; ERR_VERSION: of a newer pawl. */
int wire_accept(struct wire_channel *ch, uint32_t *ret_flags, struct err *err);

/* Buffered: wire_flush before waiting for an answer. */
int wire_send(struct wire_channel *ch, enum wire_type type, const void *payload, size_t len,
	      struct err *err);
/* Two parts as one payload. */
int wire_send2(struct wire_channel *ch, enum wire_type type, const void *head, size_t head_len,
	       const void *rest, size_t rest_len, struct err *err);
int wire_send_message(struct wire_channel *ch, enum wire_type type, const ProtobufCMessage *message,
		      struct err *err);
int wire_flush(struct wire_channel *ch, struct err *err);

/* 1: a frame, 0: the stream ended between two frames, -1: ERR_CORRUPT says at which byte what is wrong,
 * ERR_UNREACHABLE where the other side has gone or is silent. */
int wire_receive(struct wire_channel *ch, struct wire_frame *ret, struct err *err);
/* As wire_receive, but the stream must not end: 0. */
int wire_receive_some(struct wire_channel *ch, struct wire_frame *ret, struct err *err);
/* The error that it is another than `wanted`; -1. */
int wire_unexpected(const struct wire_frame *frame, enum wire_type wanted, struct err *err);
/* The next frame must be of that type. */
int wire_expect(struct wire_channel *ch, enum wire_type type, struct wire_frame *ret,
		struct err *err);
/* … and a message. *ret: protobuf_c_message_free_unpacked. */
int wire_expect_message(struct wire_channel *ch, enum wire_type type,
			const ProtobufCMessageDescriptor *descriptor, void *ret, struct err *err);
int wire_message_of(const struct wire_frame *frame, const ProtobufCMessageDescriptor *descriptor,
		    void *ret, struct err *err);
const char *wire_type_name(enum wire_type type);

#endif
