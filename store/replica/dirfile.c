#include "store/replica/dirfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"

int dirfile_open(int dir_fd, const char *name, uint64_t *ret_size, struct err *err)
{
	/* O_NONBLOCK: a FIFO in its place must not hold us up. */
	cleanup_fd int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;

	if (fd < 0 && (errno == ELOOP || errno == ENXIO))
		return err_set(err, ERR_CORRUPT, "%s is not a regular file", name);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, "%s", name);
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_CORRUPT, "%s is not a regular file", name);
	*ret_size = (uint64_t)st.st_size;
	return steal_fd(&fd);
}

int dirfile_read(int dir_fd, const char *name, size_t most, uint8_t **ret, size_t *ret_len,
		 struct err *err)
{
	uint64_t size;
	cleanup_fd int fd = dirfile_open(dir_fd, name, &size, err);
	cleanup_free uint8_t *data = NULL;

	if (fd < 0)
		return -1;
	if (size > most)
		return err_set(err, ERR_CORRUPT, "%s is too long", name);
	data = malloc(size + 1);
	if (!data)
		return err_sys(err, "%s", name);
	if (read_full(fd, data, size) < 0)
		return err_sys(err, "cannot read %s", name);
	*ret = steal_ptr(&data);
	*ret_len = size;
	return 0;
}

int dirfile_folder(int dir_fd, const char *name, bool make, struct err *err)
{
	int fd;

	if (make && mkdirat(dir_fd, name, 0700) == 0) {
		if (fsync(dir_fd) < 0)
			return err_sys(err, "cannot make %s", name);
	} else if (make && errno != EEXIST) {
		return err_sys(err, "cannot make %s", name);
	}
	fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && (errno == ELOOP || errno == ENOTDIR))
		return err_set(err, ERR_CORRUPT, "%s is not a directory", name);
	return fd < 0 ? err_sys(err, "%s", name) : fd;
}

static int write_temp(int dir_fd, char temp[64], const void *data, size_t len, struct err *err)
{
	cleanup_fd int fd = -1;
	uint64_t number;

	if (getrandom(&number, sizeof(number), 0) != sizeof(number))
		return err_sys(err, "random number");
	snprintf(temp, 64, "%016llx.tmp", (unsigned long long)number);
	fd = openat(dir_fd, temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_sys(err, "cannot create a file");
	if (write_full(fd, data, len) == 0 && fsync(fd) == 0)
		return 0;
	err_sys(err, "cannot write");
	unlinkat(dir_fd, temp, 0);
	return -1;
}

int dirfile_put(int dir_fd, const char *name, const void *data, size_t len, struct err *err)
{
	char temp[64];

	if (write_temp(dir_fd, temp, data, len, err) < 0)
		return err_wrap(err, "%s", name);
	if (renameat(dir_fd, temp, dir_fd, name) == 0 && fsync(dir_fd) == 0)
		return 0;
	err_sys(err, "cannot write %s", name);
	unlinkat(dir_fd, temp, 0);
	return -1;
}

/* Over NFS the answer to a link(2) that was done may be lost, and the repeat says EEXIST. */
static bool is_ours(int dir_fd, const char *name, const char *temp)
{
	struct stat a, b;

	return fstatat(dir_fd, name, &a, AT_SYMLINK_NOFOLLOW) == 0 &&
	       fstatat(dir_fd, temp, &b, AT_SYMLINK_NOFOLLOW) == 0 && a.st_ino == b.st_ino &&
	       a.st_dev == b.st_dev;
}

/* 1, 0 or -1 with errno. */
static int link_once(int dir_fd, const char *temp, const char *name)
{
	if (linkat(dir_fd, temp, dir_fd, name, 0) == 0)
		return 1;
	if (errno == EEXIST)
		return is_ours(dir_fd, name, temp);
	if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS && errno != EMLINK)
		return -1;
	/* No hard links there. */
	if (renameat2(dir_fd, temp, dir_fd, name, RENAME_NOREPLACE) == 0)
		return 1;
	return errno == EEXIST ? 0 : -1;
}

int dirfile_claim(int dir_fd, const char *name, const void *data, size_t len, struct err *err)
{
	char temp[64];
	int rc;

	if (write_temp(dir_fd, temp, data, len, err) < 0)
		return err_wrap(err, "%s", name);
	rc = link_once(dir_fd, temp, name);
	if (rc < 0 && (errno == EINVAL || errno == EOPNOTSUPP || errno == EPERM))
		err_set(err, ERR_UNSUPPORTED,
			"the file system can neither link nor rename without replacing: it cannot "
			"decide between two nodes");
	else if (rc < 0)
		err_sys(err, "cannot write %s", name);
	unlinkat(dir_fd, temp, 0);
	if (rc == 1 && fsync(dir_fd) < 0)
		return err_sys(err, "cannot write %s", name);
	return rc;
}

int dirfile_each(int dir_fd, dirfile_fn *fn, void *ctx, struct err *err)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_dir DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!d)
		return err_sys(err, "cannot list a folder");
	while (errno = 0, (entry = readdir(d)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
		    fn(ctx, entry->d_name, err) < 0)
			return -1;
	return errno ? err_sys(err, "cannot list a folder") : 0;
}
