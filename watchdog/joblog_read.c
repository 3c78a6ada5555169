#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "watchdog/joblog.h"
#include "watchdog/joblog_format.h"

struct joblog_reader {
	int fd;
	char *path;
	uint64_t offset;
	char *payload;
	size_t room;
};

void joblog_header_seal(struct joblog_header *header)
{
	header->checksum = XXH3_64bits(header, offsetof(struct joblog_header, checksum));
}

int joblog_header_check(const struct joblog_header *header, const char *path, struct err *err)
{
	struct joblog_header good = *header;

	if (memcmp(header->magic, JOBLOG_MAGIC, sizeof(header->magic)) != 0)
		return err_set(err, ERR_VERSION, "%s is not a job's log", path);
	joblog_header_seal(&good);
	if (good.checksum != header->checksum || header->start < sizeof(*header))
		return err_set(err, ERR_CORRUPT, "%s: the header is damaged", path);
	return 0;
}

uint64_t joblog_record_checksum(const struct joblog_record_header *header, const void *payload)
{
	uint64_t seed = XXH3_64bits(header, offsetof(struct joblog_record_header, checksum));

	return XXH3_64bits_withSeed(payload, header->length, seed);
}

static int reader_start(struct joblog_reader *reader, uint64_t from, struct err *err)
{
	struct joblog_header header;
	ssize_t n = pread_upto(reader->fd, &header, sizeof(header), 0);

	if (n < 0)
		return err_sys(err, "cannot read %s", reader->path);
	if (n != (ssize_t)sizeof(header))
		return err_set(err, ERR_CORRUPT, "%s: the header is cut short", reader->path);
	if (joblog_header_check(&header, reader->path, err) < 0)
		return -1;
	reader->offset = from ? from : header.start;
	return 0;
}

int joblog_reader_open(struct joblog_reader **ret, const char *path, uint64_t from, struct err *err)
{
	struct joblog_reader *reader = calloc(1, sizeof(*reader));

	if (!reader || !(reader->path = strdup(path))) {
		free(reader);
		return err_sys(err, "cannot open %s", path);
	}
	reader->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (reader->fd < 0)
		err_sys(err, "cannot open %s", path);
	if (reader->fd < 0 || reader_start(reader, from, err) < 0) {
		joblog_reader_close(reader);
		return -1;
	}
	*ret = reader;
	return 0;
}

static bool header_is_sane(const struct joblog_record_header *h)
{
	static const uint8_t zero[3];

	return h->magic == JOBLOG_RECORD_MAGIC && h->stream >= JOBLOG_STDOUT &&
	       h->stream <= JOBLOG_TERMINAL && memcmp(h->zero, zero, sizeof(zero)) == 0 &&
	       h->zero2 == 0 && h->length > 0 && h->length <= JOBLOG_MAX_PAYLOAD;
}

static int make_room(struct joblog_reader *reader, size_t len, struct err *err)
{
	char *more;

	if (len <= reader->room)
		return 0;
	more = realloc(reader->payload, len);
	if (!more)
		return err_sys(err, "cannot read %s", reader->path);
	reader->payload = more;
	reader->room = len;
	return 0;
}

static int damaged(const struct joblog_reader *reader, struct err *err)
{
	return err_set(err, ERR_CORRUPT, "%s: the record at offset %llu is damaged", reader->path,
		       (unsigned long long)reader->offset);
}

int joblog_read(struct joblog_reader *reader, struct joblog_record *ret, struct err *err)
{
	struct joblog_record_header h;
	ssize_t n = pread_upto(reader->fd, &h, sizeof(h), (off_t)reader->offset);

	if (n < 0)
		return err_sys(err, "cannot read %s", reader->path);
	if (n < (ssize_t)sizeof(h))
		return 0;
	if (!header_is_sane(&h))
		return damaged(reader, err);
	if (make_room(reader, h.length, err) < 0)
		return -1;
	n = pread_upto(reader->fd, reader->payload, h.length, (off_t)(reader->offset + sizeof(h)));
	if (n < 0)
		return err_sys(err, "cannot read %s", reader->path);
	if ((size_t)n < h.length)
		return 0;
	if (joblog_record_checksum(&h, reader->payload) != h.checksum)
		return damaged(reader, err);
	reader->offset += sizeof(h) + h.length;
	*ret = (struct joblog_record){h.stream, h.time, reader->payload, h.length};
	return 1;
}

uint64_t joblog_reader_offset(const struct joblog_reader *reader)
{
	return reader->offset;
}

void joblog_reader_close(struct joblog_reader *reader)
{
	if (!reader)
		return;
	cleanup_fd_p(&reader->fd);
	free(reader->payload);
	free(reader->path);
	free(reader);
}

int joblog_count(const char *path, uint64_t from, uint64_t ret_bytes[4], struct err *err)
{
	struct joblog_reader *reader;
	struct joblog_record record;
	uint64_t bytes[4] = {0};
	int result;

	if (joblog_reader_open(&reader, path, from, err) < 0)
		return -1;
	while ((result = joblog_read(reader, &record, err)) == 1)
		bytes[record.stream] += record.len;
	joblog_reader_close(reader);
	if (result == 0)
		memcpy(ret_bytes, bytes, sizeof(bytes));
	return result;
}
