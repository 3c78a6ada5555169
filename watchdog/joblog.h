/*
 * joblog.h: what a job has written to its pumped streams, kept beside the store.
 *
 * One file a job (store_job_log_path), 0600, little-endian. It starts with a header of 32 bytes:
 *
 *   0   8  magic "PAWLLOG1"
 *   8   8  start: offset of the first record of the current run from the beginning. Records before
 * it belong to earlier runs whose snapshots are still there; `pawl log` does not show them 16  8
 * zero 24  8  XXH3-64 of bytes 0 to 23
 *
 * followed by records without gaps, each a header of 32 bytes and its payload:
 *
 *   0   4  magic 0x52474f4c ("LOGR")
 *   4   1  stream: 1 standard output, 2 standard error, 3 terminal
 *   5   3  zero
 *   8   4  length of the payload in bytes, 1 to 1 MiB
 *   12  4  zero
 *   16  8  CLOCK_REALTIME when it was read from the job, nanoseconds
 *   24  8  XXH3-64 of the payload, with the XXH3-64 of bytes 0 to 23 as its seed
 *
 * A reader checks magic, zeroes, length and checksum. A record that the file's end cuts short is
 * one that is being written, or that a crash interrupted: it ends the log without an error. A
 * snapshot's log_bytes is a file offset at a record's boundary; recovery truncates the file there.
 */
#ifndef PAWL_WATCHDOG_JOBLOG_H
#define PAWL_WATCHDOG_JOBLOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"

#define JOBLOG_HEADER_BYTES 32u
#define JOBLOG_MAX_PAYLOAD  (1u << 20)

enum joblog_stream { JOBLOG_STDOUT = 1, JOBLOG_STDERR = 2, JOBLOG_TERMINAL = 3 };

/* ---- writing: one writer a job, the watchdog that holds the job's lock --------------------- */

struct joblog;

/* Opens or creates. */
int joblog_open(struct joblog **ret, const char *path, struct err *err);
/* Cuts off what follows the last whole record (reads it all). */
int joblog_repair(struct joblog *log, struct err *err);
void joblog_close(struct joblog *log); /* takes NULL */
/* A new run from the beginning: keep_earlier keeps the records of earlier runs, else the log
 * becomes empty. */
int joblog_begin(struct joblog *log, bool keep_earlier, struct err *err);
/* Back to a snapshot's log_bytes. A log that is shorter is left as it is. */
int joblog_truncate(struct joblog *log, uint64_t bytes, struct err *err);
/* Whole or not at all: after a failure the log is as it was. On a full disk records wait in memory, up
 * to 32 MiB (then ERR_FULL), and go out in order with later ones or joblog_flush. */
int joblog_append(struct joblog *log, enum joblog_stream stream, const void *data, size_t len,
		  struct err *err);
/* Writes what waits. ERR_FULL: the rest waits on. */
int joblog_flush(struct joblog *log, struct err *err);
/* Length of the file once everything that waits is written. */
uint64_t joblog_bytes(const struct joblog *log);
/* To disk, what has been written. May run beside the functions above. */
int joblog_sync(struct joblog *log, struct err *err);

/* ---- reading: at any time, beside a writer ------------------------------------------------- */

struct joblog_reader;

struct joblog_record {
	enum joblog_stream stream;
	uint64_t time;	  /* CLOCK_REALTIME, nanoseconds */
	const void *data; /* valid until the next call */
	size_t len;
};

/* from: file offset of a record, 0: where the current run starts. ERR_NOT_FOUND where there is no
 * log, ERR_VERSION for a foreign file, ERR_CORRUPT for a damaged header. */
int joblog_reader_open(struct joblog_reader **ret, const char *path, uint64_t from,
		       struct err *err);
/* 1: a record, 0: the end as of now (more may come), -1: ERR_CORRUPT names the offset. */
int joblog_read(struct joblog_reader *reader, struct joblog_record *ret, struct err *err);
uint64_t joblog_reader_offset(const struct joblog_reader *reader);
void joblog_reader_close(struct joblog_reader *reader); /* takes NULL */

/* Payload bytes of each stream (index enum joblog_stream) in the records from offset `from` on. */
int joblog_count(const char *path, uint64_t from, uint64_t ret_bytes[4], struct err *err);

#endif
