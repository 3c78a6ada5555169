/*
 * files.h: the job's log and kept input on the wire (FORMAT.md, "The job's log", "Kept input").
 *
 * Both begin with a header of 32 bytes that changes, and go on with bytes that only a recovery rolls back.
 * Of the log, the blocks (1 MiB) before the first that differs are not sent; of the input, what the job had
 * consumed at the snapshot.
 */
#ifndef PAWL_STORE_WIRE_FILES_H
#define PAWL_STORE_WIRE_FILES_H

#include "store/store.h"
#include "store/wire/channel.h"
#include "wire.pb-c.h"

struct wire_files { /* of the sender: what there is */
	uint64_t log_bytes, input_bytes; /* lengths; 0: no such file */
	uint64_t input_from;             /* file offset of the first byte that is needed */
	char log_path[4096], input_path[4096];
};

void wire_files_look(struct wire_files *ret, struct store *store, const struct job_info *job,
		     const Snap__Snapshot *model);
/* have: what the receiver said of its log, or NULL. */
int wire_files_send(const struct wire_files *files, struct wire_channel *ch, const Wire__File *have,
		    struct err *err);

/* The receiver's log, for the offer. sums malloc'ed. */
int wire_log_sums(struct store *store, const struct job_info *job, Wire__File *ret, struct err *err);

/* What has come, until the snapshot is about to appear. */
struct wire_stage;
int wire_stage_open(struct wire_stage **ret, struct store *store, uint64_t log_bytes,
		    uint64_t input_bytes, struct err *err);
void wire_stage_free(struct wire_stage *stage); /* takes NULL */
/* A frame WIRE_LOG or WIRE_INPUT. */
int wire_stage_add(struct wire_stage *stage, const struct wire_frame *frame, struct err *err);
/* Puts it into the job's files and syncs them. The caller holds the job's lock. */
int wire_stage_apply(struct wire_stage *stage, struct store *store, const struct job_info *job,
		     struct err *err);

#endif
