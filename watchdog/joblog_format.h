/* joblog_format.h: the log's bytes, shared by its writer and reader. See joblog.h. */
#ifndef PAWL_WATCHDOG_JOBLOG_FORMAT_H
#define PAWL_WATCHDOG_JOBLOG_FORMAT_H

#include <assert.h>
#include <stdint.h>

#include "store/base/err.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the structs below are the file's bytes");

#define JOBLOG_MAGIC	    "PAWLLOG1"
#define JOBLOG_RECORD_MAGIC 0x52474f4cu

struct joblog_header {
	char magic[8];
	uint64_t start;
	uint64_t zero;
	uint64_t checksum;
};
static_assert(sizeof(struct joblog_header) == 32, "file format");

struct joblog_record_header {
	uint32_t magic;
	uint8_t stream;
	uint8_t zero[3];
	uint32_t length;
	uint32_t zero2;
	uint64_t time;
	uint64_t checksum;
};
static_assert(sizeof(struct joblog_record_header) == 32, "file format");

void joblog_header_seal(struct joblog_header *header);
int joblog_header_check(const struct joblog_header *header, const char *path, struct err *err);
uint64_t joblog_record_checksum(const struct joblog_record_header *header, const void *payload);

#endif
