/*
 * contents.h: the content of files, from the file system into page tables.
 *
 * A file whose identity, size and times are those of an earlier capture is not read again, unless its
 * times prove nothing: mapped shared and writable, or changed within the clock's grain of the capture.
 */
#ifndef PAWL_CHECKPOINTER_CONTENTS_H
#define PAWL_CHECKPOINTER_CONTENTS_H

#include "checkpointer/collect.h"
#include "checkpointer/pages.h"
#include "store/store.h"

/* One known content: a file as it was, and the page table made of it. */
struct known_content {
	uint64_t device, inode, size, mtime, ctime;
	uint64_t root;
	uint64_t captured; /* CLOCK_REALTIME before it was read, ns */
};

struct known_contents {
	struct known_content *list;
	size_t n;
};

void known_contents_free(struct known_contents *known);
/* Contents that snapshot `model` holds. */
int known_contents_from(struct known_contents *known, const Snap__Snapshot *model, struct err *err);

/* While the job runs: reads files that the last snapshot restored and that have changed since, so that
 * little is left to read in the pause. Failures only mean that it is done later. */
void contents_read_ahead(struct known_contents *known, struct store_session *session,
			 const Snap__Snapshot *last);

/* While the job stands still: content of the files that belong to the job. */
int contents_capture_job_files(struct collection *c, struct store_session *session,
			       struct known_contents *known, struct err *err);
/* When it runs again: programs and libraries, which nobody changes in place, and what was held. */
int contents_capture_programs(struct collection *c, struct store_session *session,
			      struct known_contents *known, struct err *err);

#endif
