#include "watchdog/joblog.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "watchdog/joblog_format.h"

/* Output waits in memory while the disk is full; what goes beyond this is lost, and reported. */
#define WAITING_MOST (32u << 20)

struct joblog {
	int fd;
	char *path;
	uint64_t bytes; /* of the file */
	char *waiting;	/* whole records that follow it */
	size_t n_waiting;
};

static int write_header(struct joblog *log, uint64_t start, struct err *err)
{
	struct joblog_header header = {.magic = JOBLOG_MAGIC, .start = start};

	joblog_header_seal(&header);
	if (pwrite_full(log->fd, &header, sizeof(header), 0) < 0)
		return err_sys(err, "cannot write %s", log->path);
	return 0;
}

static int cut(struct joblog *log, uint64_t bytes, struct err *err)
{
	if (ftruncate(log->fd, (off_t)bytes) < 0)
		return err_sys(err, "cannot truncate %s", log->path);
	log->bytes = bytes;
	log->n_waiting = 0;
	return 0;
}

static int start_empty(struct joblog *log, struct err *err)
{
	if (cut(log, 0, err) < 0 || write_header(log, sizeof(struct joblog_header), err) < 0)
		return -1;
	log->bytes = sizeof(struct joblog_header);
	return 0;
}

/* What is damaged further on is lost in any case. */
int joblog_repair(struct joblog *log, struct err *err)
{
	struct joblog_reader *reader;
	struct joblog_record record;
	struct err ignored;
	uint64_t end;

	if (joblog_reader_open(&reader, log->path, sizeof(struct joblog_header), err) < 0)
		return -1;
	while (joblog_read(reader, &record, &ignored) == 1)
		;
	end = joblog_reader_offset(reader);
	joblog_reader_close(reader);
	return end < log->bytes ? cut(log, end, err) : 0;
}

static int load(struct joblog *log, struct err *err)
{
	struct joblog_header header;
	struct stat st;

	if (fstat(log->fd, &st) < 0)
		return err_sys(err, "cannot stat %s", log->path);
	log->bytes = (uint64_t)st.st_size;
	if (log->bytes < sizeof(header))
		return start_empty(log, err);
	if (pread_upto(log->fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header))
		return err_sys(err, "cannot read %s", log->path);
	return joblog_header_check(&header, log->path, err);
}

int joblog_open(struct joblog **ret, const char *path, struct err *err)
{
	struct joblog *log = calloc(1, sizeof(*log));

	if (!log || !(log->path = strdup(path))) {
		free(log);
		return err_sys(err, "cannot open %s", path);
	}
	log->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (log->fd < 0) {
		err_sys(err, "cannot open %s", path);
		joblog_close(log);
		return -1;
	}
	if (load(log, err) < 0) {
		joblog_close(log);
		return -1;
	}
	*ret = log;
	return 0;
}

void joblog_close(struct joblog *log)
{
	if (!log)
		return;
	cleanup_fd_p(&log->fd);
	free(log->waiting);
	free(log->path);
	free(log);
}

int joblog_begin(struct joblog *log, bool keep_earlier, struct err *err)
{
	return keep_earlier ? write_header(log, log->bytes, err) : start_empty(log, err);
}

int joblog_truncate(struct joblog *log, uint64_t bytes, struct err *err)
{
	struct joblog_header header;

	log->n_waiting = 0;
	if (bytes < sizeof(header) || bytes >= log->bytes)
		return 0;
	if (pread_upto(log->fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header))
		return err_sys(err, "cannot read %s", log->path);
	/* Back to before the current run's start: what is left is an earlier run's, shown whole. */
	if (header.start > bytes && write_header(log, sizeof(header), err) < 0)
		return -1;
	return cut(log, bytes, err);
}

static int write_record(struct joblog *log, const struct iovec *iov, int n_iov, size_t whole,
			struct err *err)
{
	ssize_t n;

	do
		n = pwritev(log->fd, iov, n_iov, (off_t)log->bytes);
	while (n < 0 && errno == EINTR);
	if (n == (ssize_t)whole) {
		log->bytes += whole;
		return 0;
	}
	err_code(err, n < 0 ? errno : ENOSPC, "cannot write %s", log->path);
	if (ftruncate(log->fd, (off_t)log->bytes) < 0)
		err_wrap(err, "a record is cut short");
	return -1;
}

static int wait_for_room(struct joblog *log, const struct iovec iov[2], struct err *err)
{
	size_t len = log->n_waiting + iov[0].iov_len + iov[1].iov_len;
	char *more;

	if (len > WAITING_MOST)
		return err_set(err, ERR_FULL, "cannot write %s: no space left on device",
			       log->path);
	more = realloc(log->waiting, len);
	if (!more)
		return err_sys(err, "output of the job");
	log->waiting = more;
	for (int i = 0; i < 2; i++) {
		memcpy(more + log->n_waiting, iov[i].iov_base, iov[i].iov_len);
		log->n_waiting += iov[i].iov_len;
	}
	return 0;
}

int joblog_flush(struct joblog *log, struct err *err)
{
	size_t done = 0;
	int result = 0;

	while (result == 0 && done < log->n_waiting) {
		struct joblog_record_header header;
		struct iovec record = {log->waiting + done, 0};

		memcpy(&header, record.iov_base, sizeof(header));
		record.iov_len = sizeof(header) + header.length;
		result = write_record(log, &record, 1, record.iov_len, err);
		if (result == 0)
			done += record.iov_len;
	}
	if (done)
		memmove(log->waiting, log->waiting + done, log->n_waiting -= done);
	return result;
}

int joblog_append(struct joblog *log, enum joblog_stream stream, const void *data, size_t len,
		  struct err *err)
{
	struct joblog_record_header header = {
		.magic = JOBLOG_RECORD_MAGIC,
		.stream = (uint8_t)stream,
		.length = (uint32_t)len,
		.time = clock_ns(CLOCK_REALTIME),
	};
	const struct iovec iov[2] = {{&header, sizeof(header)}, {(void *)data, len}};
	struct err full = {.kind = ERR_FULL};

	header.checksum = joblog_record_checksum(&header, data);
	if ((!log->n_waiting || joblog_flush(log, &full) == 0) &&
	    write_record(log, iov, 2, sizeof(header) + len, &full) == 0)
		return 0;
	if (full.kind == ERR_FULL)
		return wait_for_room(log, iov, err);
	*err = full;
	return -1;
}

uint64_t joblog_bytes(const struct joblog *log)
{
	return log->bytes + log->n_waiting;
}

int joblog_sync(struct joblog *log, struct err *err)
{
	if (fdatasync(log->fd) < 0)
		return err_sys(err, "cannot sync %s", log->path);
	return 0;
}
