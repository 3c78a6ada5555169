/* The job's log. */
#include "fuzz.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "watchdog/joblog.h"
#include "watchdog/joblog_format.h"

static size_t add_record(uint8_t *buf, enum joblog_stream stream, const char *text)
{
	struct joblog_record_header h = {
		.magic = JOBLOG_RECORD_MAGIC,
		.stream = (uint8_t)stream,
		.length = (uint32_t)strlen(text),
		.time = 1767225600000000000ull,
	};

	h.checksum = joblog_record_checksum(&h, text);
	memcpy(buf, &h, sizeof(h));
	memcpy(buf + sizeof(h), text, h.length);
	return sizeof(h) + h.length;
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t room)
{
	struct joblog_header header = {.start = JOBLOG_HEADER_BYTES};
	size_t len = sizeof(header);

	if (i > 1 || room < 4096)
		return 0;
	memcpy(header.magic, JOBLOG_MAGIC, sizeof(header.magic));
	joblog_header_seal(&header);
	memcpy(buf, &header, sizeof(header));
	if (i == 1)
		return len;
	len += add_record(buf + len, JOBLOG_STDOUT, "step 1\n");
	len += add_record(buf + len, JOBLOG_STDERR, "careful\n");
	return len + add_record(buf + len, JOBLOG_TERMINAL, "\033[1mstep 2\r\n");
}

static void read_log(const char *path, size_t size)
{
	struct joblog_reader *reader;
	struct joblog_record record;
	struct err err = {0};
	uint64_t counts[4];

	if (joblog_reader_open(&reader, path, 0, &err) == 0) {
		while (joblog_read(reader, &record, &err) > 0) {
			promise(record.len > 0 && record.len <= JOBLOG_MAX_PAYLOAD);
			promise(joblog_reader_offset(reader) <= size);
		}
		joblog_reader_close(reader);
	} else {
		promise(err.kind == ERR_CORRUPT || err.kind == ERR_VERSION);
	}
	if (joblog_count(path, 0, counts, &err) == 0)
		promise(counts[1] + counts[2] + counts[3] <= size);
}

/* With the checksums made right where a record seems to stand: mutation alone rarely gets past
 * them. */
static void seal(uint8_t *data, size_t size)
{
	size_t at = sizeof(struct joblog_header);
	struct joblog_record_header h;

	if (size < at)
		return;
	joblog_header_seal((void *)data);
	while (size - at >= sizeof(h)) {
		memcpy(&h, data + at, sizeof(h));
		if (h.length > size - at - sizeof(h))
			return;
		h.checksum = joblog_record_checksum(&h, data + at + sizeof(h));
		memcpy(data + at, &h, sizeof(h));
		at += sizeof(h) + h.length;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = memfd_create("joblog", MFD_CLOEXEC);
	uint8_t *copy = malloc(size + 1);
	char path[64];

	if (fd < 0 || !copy)
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (write(fd, data, size) != (ssize_t)size)
		abort();
	read_log(path, size);
	memcpy(copy, data, size);
	seal(copy, size);
	if (pwrite(fd, copy, size, 0) != (ssize_t)size)
		abort();
	read_log(path, size);
	close(fd);
	free(copy);
	return 0;
}
