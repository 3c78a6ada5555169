/*
 * wire.h: a snapshot from one store to another, as a stream (FORMAT.md, "The stream").
 *
 * The stream carries the snapshot's record and model, the pages that the receiver lacks, the job's record,
 * its log up to that instant and its kept input. One-way (a file, a pipe) it is complete or against a base
 * that the receiver must have; negotiated, the receiver says which snapshots it has, and after an
 * interrupted transfer which pages, and only the rest travels. The pages of base and snapshot are told apart by
 * their tables' nodes: what is equal in both costs nothing.
 *
 * Content is checked against the sender's hashes when it is read, by each frame's checksum on the way, and gets
 * the receiving store's own hashes there. The received snapshot appears whole or not at all; what arrived of
 * one that was cut off is kept for a day, and a repeat asks for the rest.
 *
 * A received job never runs by that: it is what it was when it was sent, resumable here.
 */
#ifndef PAWL_STORE_WIRE_WIRE_H
#define PAWL_STORE_WIRE_WIRE_H

#include "store/store.h"
#include "store/wire/channel.h"

#define WIRE_TOKEN 16u

struct wire_stats {
	uint64_t seq;           /* the snapshot's number at the receiver */
	uint64_t time, generation;
	uint64_t pages, bytes;  /* pages sent with content; bytes on the wire */
	bool present;           /* was there already */
	char job[128];
};

struct wire_send_options {
	uint64_t base;          /* one-way: this snapshot is there (0: complete) */
	const uint8_t *token;   /* negotiated: of the hold at the receiver, WIRE_TOKEN bytes; or NULL */
	bool soon;              /* negotiated: the job is about to be recovered there */
	void (*progress)(void *ctx, uint64_t bytes_done, uint64_t bytes_all); /* may be NULL */
	void *ctx;
};

/* Sends one snapshot (seq 0: the newest). The channel's headers have been exchanged: flags as opened. With an
 * answering receiver this includes its receipt: what it refused or failed with is our error. */
int wire_send_snapshot(struct wire_channel *ch, uint32_t flags, struct store *store, const char *job,
		       uint64_t seq, const struct wire_send_options *options,
		       struct wire_stats *ret, struct err *err);

struct wire_receive_options {
	const char *name;       /* the job's name here; NULL: as it comes */
	const char *expect;     /* the job must be called so in the stream; NULL: any */
	bool locked;            /* the caller holds the job's lock */
	enum store_codec codec;
};

/* Receives one snapshot, from its announcement on (first: that frame, where it was received already, else
 * NULL), and answers where the sender listens. After an error
 * nothing is half there. ERR_NOT_FOUND: the base of the stream is not here; ERR_BUSY: the job runs here;
 * ERR_FENCED: it was resumed elsewhere since. */
int wire_receive_snapshot(struct wire_channel *ch, uint32_t flags, const struct wire_frame *first,
			  struct store *store, const struct wire_receive_options *options,
			  struct wire_stats *ret, struct err *err);

#endif
