#include "store/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/units.h"

int read_full(int fd, void *buf, size_t len)
{
	char *p = buf;

	while (len > 0) {
		ssize_t n = read(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0)
			errno = EIO;
		if (n <= 0)
			return -1;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int write_full(int fd, const void *buf, size_t len)
{
	const char *p = buf;

	while (len > 0) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int pwrite_full(int fd, const void *buf, size_t len, off_t offset)
{
	const char *p = buf;

	while (len > 0) {
		ssize_t n = pwrite(fd, p, len, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		p += n;
		offset += n;
		len -= (size_t)n;
	}
	return 0;
}

ssize_t pread_upto(int fd, void *buf, size_t len, off_t offset)
{
	size_t got = 0;

	while (got < len) {
		ssize_t n = pread(fd, (char *)buf + got, len - got, offset + (off_t)got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		got += (size_t)n;
	}
	return (ssize_t)got;
}

int read_text(int dirfd, const char *path, char **ret_text, size_t *ret_len, struct err *err)
{
	cleanup_fd int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
	cleanup_free char *text = NULL;
	size_t room = 4096, len = 0;

	if (fd < 0)
		return err_sys(err, "cannot open %s", path);
	if (!(text = malloc(room)))
		return err_sys(err, "%s", path);
	for (;;) {
		ssize_t n = read(fd, text + len, room - len - 1);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(err, "cannot read %s", path);
		if (n == 0)
			break;
		len += (size_t)n;
		if (room - len < 2) {
			char *more = realloc(text, room * 2);

			if (!more)
				return err_sys(err, "%s", path);
			text = more;
			room *= 2;
		}
	}
	text[len] = '\0';
	/* Thousands of small ones (/proc) would take fresh memory for each, whose first touch costs more than the reading. */
	*ret_text = realloc(text, len + 1);
	if (!*ret_text)
		return err_sys(err, "%s", path);
	steal_ptr(&text);
	if (ret_len)
		*ret_len = len;
	return 0;
}

static int sync_parent(const char *path)
{
	char dir[PATH_MAX];
	char *slash;
	cleanup_fd int fd = -1;

	if (snprintf(dir, sizeof(dir), "%s", path) >= (int)sizeof(dir))
		return -1;
	slash = strrchr(dir, '/');
	if (slash == dir)
		slash[1] = '\0';
	else if (slash)
		*slash = '\0';
	else
		strcpy(dir, ".");
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -1 : fsync(fd);
}

int write_file_atomic(const char *path, const void *buf, size_t len, mode_t mode, struct err *err)
{
	char temp[PATH_MAX];
	cleanup_fd int fd = -1;

	if (snprintf(temp, sizeof(temp), "%s.%d.tmp", path, (int)getpid()) >= (int)sizeof(temp))
		return err_set(err, ERR_INVALID, "%s: path too long", path);
	unlink(temp);
	fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
	if (fd < 0)
		return err_sys(err, "cannot create %s", temp);
	if (write_full(fd, buf, len) < 0 || fsync(fd) < 0 || rename(temp, path) < 0 ||
	    sync_parent(path) < 0) {
		err_sys(err, "cannot write %s", path);
		unlink(temp);
		return -1;
	}
	return 0;
}

int make_dirs(const char *dir, mode_t mode, struct err *err)
{
	char path[PATH_MAX];
	char *p;

	if (snprintf(path, sizeof(path), "%s", dir) >= (int)sizeof(path))
		return err_set(err, ERR_INVALID, "%s: path too long", dir);
	for (p = path + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(path, mode) < 0 && errno != EEXIST)
			return err_sys(err, "cannot create directory %s", path);
		*p = '/';
	}
	if (mkdir(path, mode) < 0 && errno != EEXIST)
		return err_sys(err, "cannot create directory %s", path);
	return 0;
}

uint64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}
