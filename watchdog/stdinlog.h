/*
 * stdinlog.h: what was pumped into a job's standard input, kept so that a recovered job reads it
 * again.
 *
 * One file a job (store_job_stdin_path), 0600, little-endian. Bytes are known by their position in
 * the stream; position p is at file offset 4096 + p. The header, in the first 32 of 4096 bytes:
 *
 *   0   8  magic "PAWLSTD1"
 *   8   8  start: position where the current run's input begins; what is before it belongs to
 * earlier runs whose snapshots are still there 16  8  end: position of the end of the input where
 * that has been seen, else all ones 24  8  XXH3-64 of bytes 0 to 23
 *
 * What no retained snapshot needs any more is given back to the file system as a hole.
 */
#ifndef PAWL_WATCHDOG_STDINLOG_H
#define PAWL_WATCHDOG_STDINLOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "store/base/err.h"

struct stdinlog;

int stdinlog_open(struct stdinlog **ret, const char *path, struct err *err);
void stdinlog_close(struct stdinlog *log); /* takes NULL */
/* A new run from the beginning; keep_earlier keeps earlier input. Its first position:
 * stdinlog_size. */
int stdinlog_begin(struct stdinlog *log, bool keep_earlier, struct err *err);
/* A recovery at `position`: of an earlier run, its input ends where the current one begins. */
int stdinlog_resume(struct stdinlog *log, uint64_t position, struct err *err);

/* Whole or not at all. */
int stdinlog_append(struct stdinlog *log, const void *data, size_t len, struct err *err);
int stdinlog_set_end(struct stdinlog *log, struct err *err); /* the input ends here */
uint64_t stdinlog_size(const struct stdinlog *log);	     /* position after the last byte kept */
uint64_t
stdinlog_start(const struct stdinlog *log); /* position where the current run's input begins */
bool stdinlog_ended(const struct stdinlog *log);
/* Up to len bytes from position; fewer only at the end. -1 with errno. */
ssize_t stdinlog_read(struct stdinlog *log, uint64_t position, void *buf, size_t len);
/* Positions below this are not needed any more. */
void stdinlog_forget(struct stdinlog *log, uint64_t below);
int stdinlog_sync(struct stdinlog *log, struct err *err);

#endif
