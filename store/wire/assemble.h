/*
 * assemble.h: page tables and model of a snapshot, as they come.
 *
 * Whatever the stream says is checked before it is used: tables come in order, each once; the base of a table is
 * one of the base snapshot's; the model names no table that did not come.
 */
#ifndef PAWL_STORE_WIRE_ASSEMBLE_H
#define PAWL_STORE_WIRE_ASSEMBLE_H

#include "store/wire/channel.h"
#include "store/wire/pages.h"
#include "store/wire/roots.h"

struct wire_assembly;

struct wire_assembly_source {
	struct store *store;
	struct store_session *session; /* of the caller; must stay */
	const char *job;
	uint64_t base;                 /* the session's parent, where tables may build on it; 0: none */
	uint32_t tables;
	uint64_t model_bytes;
};

int wire_assembly_new(struct wire_assembly **ret, const struct wire_assembly_source *source,
		      struct err *err);
void wire_assembly_free(struct wire_assembly *a); /* takes NULL; before the session */

/* One frame each. */
int wire_assembly_model(struct wire_assembly *a, const uint8_t *payload, size_t len,
			struct err *err);
int wire_assembly_table(struct wire_assembly *a, const uint8_t *payload, size_t len,
			struct err *err);
/* WIRE_PAGES or WIRE_STORED. */
int wire_assembly_pages(struct wire_assembly *a, const struct wire_frame *frame, struct err *err);
/* Sets the bits of the hashes (n, at most WIRE_BATCH_PAGES, 16 bytes each) that are known here. */
void wire_assembly_answer(struct wire_assembly *a, const uint8_t *hashes, size_t n, uint8_t *bits);
/* WIRE_END: everything has come. */
int wire_assembly_end(struct wire_assembly *a, const struct wire_frame *frame, struct err *err);
/* With the roots of this store. After the end. */
const Snap__Snapshot *wire_assembly_snapshot(const struct wire_assembly *a);

/* Reads a body that is not needed, to its end. */
int wire_skip_body(struct wire_channel *ch, struct err *err);

#endif
