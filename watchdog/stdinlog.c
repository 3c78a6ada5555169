#include "watchdog/stdinlog.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"

#define STDINLOG_MAGIC "PAWLSTD1"
#define DATA_OFFSET    4096u
#define NO_END	       UINT64_MAX

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the struct below is the file's bytes");

struct header {
	char magic[8];
	uint64_t start;
	uint64_t end;
	uint64_t checksum;
};
static_assert(sizeof(struct header) == 32, "file format");

struct stdinlog {
	int fd;
	char *path;
	struct header header;
	uint64_t size;
};

static uint64_t header_checksum(const struct header *header)
{
	return XXH3_64bits(header, offsetof(struct header, checksum));
}

static int write_header(struct stdinlog *log, uint64_t start, uint64_t end, struct err *err)
{
	struct header header = {.magic = STDINLOG_MAGIC, .start = start, .end = end};

	header.checksum = header_checksum(&header);
	if (pwrite_full(log->fd, &header, sizeof(header), 0) < 0)
		return err_sys(err, "cannot write %s", log->path);
	log->header = header;
	return 0;
}

static int cut(struct stdinlog *log, uint64_t size, struct err *err)
{
	if (ftruncate(log->fd, (off_t)(DATA_OFFSET + size)) < 0)
		return err_sys(err, "cannot truncate %s", log->path);
	log->size = size;
	return 0;
}

static int load(struct stdinlog *log, struct err *err)
{
	struct header *header = &log->header;
	struct stat st;

	if (fstat(log->fd, &st) < 0)
		return err_sys(err, "cannot stat %s", log->path);
	if (st.st_size < (off_t)DATA_OFFSET)
		return stdinlog_begin(log, false, err);
	if (pread_upto(log->fd, header, sizeof(*header), 0) != (ssize_t)sizeof(*header))
		return err_sys(err, "cannot read %s", log->path);
	if (memcmp(header->magic, STDINLOG_MAGIC, sizeof(header->magic)) != 0)
		return err_set(err, ERR_VERSION, "%s is not a job's input", log->path);
	if (header->checksum != header_checksum(header))
		return err_set(err, ERR_CORRUPT, "%s: the header is damaged", log->path);
	log->size = (uint64_t)st.st_size - DATA_OFFSET;
	return 0;
}

int stdinlog_open(struct stdinlog **ret, const char *path, struct err *err)
{
	struct stdinlog *log = calloc(1, sizeof(*log));

	if (!log || !(log->path = strdup(path))) {
		free(log);
		return err_sys(err, "cannot open %s", path);
	}
	log->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (log->fd < 0)
		err_sys(err, "cannot open %s", path);
	if (log->fd < 0 || load(log, err) < 0) {
		stdinlog_close(log);
		return -1;
	}
	*ret = log;
	return 0;
}

void stdinlog_close(struct stdinlog *log)
{
	if (!log)
		return;
	cleanup_fd_p(&log->fd);
	free(log->path);
	free(log);
}

int stdinlog_begin(struct stdinlog *log, bool keep_earlier, struct err *err)
{
	if (!keep_earlier && cut(log, 0, err) < 0)
		return -1;
	return write_header(log, log->size, NO_END, err);
}

int stdinlog_resume(struct stdinlog *log, uint64_t position, struct err *err)
{
	uint64_t start = log->header.start;

	if (position >= start)
		return 0;
	if (write_header(log, 0, start, err) < 0)
		return -1;
	return cut(log, start, err);
}

int stdinlog_append(struct stdinlog *log, const void *data, size_t len, struct err *err)
{
	off_t at = (off_t)(DATA_OFFSET + log->size);

	if (pwrite_full(log->fd, data, len, at) < 0) {
		err_sys(err, "cannot write %s", log->path);
		if (ftruncate(log->fd, at) < 0)
			err_wrap(err, "what was written of it stays");
		return -1;
	}
	log->size += len;
	return 0;
}

int stdinlog_set_end(struct stdinlog *log, struct err *err)
{
	return write_header(log, log->header.start, log->size, err);
}

uint64_t stdinlog_size(const struct stdinlog *log)
{
	return log->size;
}

uint64_t stdinlog_start(const struct stdinlog *log)
{
	return log->header.start;
}

bool stdinlog_ended(const struct stdinlog *log)
{
	return log->header.end != NO_END;
}

ssize_t stdinlog_read(struct stdinlog *log, uint64_t position, void *buf, size_t len)
{
	return pread_upto(log->fd, buf, len, (off_t)(DATA_OFFSET + position));
}

void stdinlog_forget(struct stdinlog *log, uint64_t below)
{
	uint64_t blocks = below / DATA_OFFSET * DATA_OFFSET;

	/* Where the file system has no holes the bytes stay: that costs space only. */
	if (blocks > 0)
		fallocate(log->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, DATA_OFFSET,
			  (off_t)blocks);
}

int stdinlog_sync(struct stdinlog *log, struct err *err)
{
	if (fdatasync(log->fd) < 0)
		return err_sys(err, "cannot sync %s", log->path);
	return 0;
}
