/*
 * Files that belong to the job: compared with the snapshot, then put back.
 *
 * Comparing reads all stored content (so its hashes are checked) before anything is written; what
 * it finds to differ is all that is written afterwards.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "recovery/rebuild.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/units.h"

#define PIECE_PAGES 512u
#define PIECE_BYTES (PIECE_PAGES * STORE_PAGE_SIZE)
#define PATH_ROOM   (PATH_MAX + 64)

struct compare {
	struct file_slot *slot;
	struct page_reader *reader;
	int fd;	       /* -1: there is no file; everything differs */
	uint64_t size; /* of the snapshot's file */
	char *stored, *found;
};

static int add_difference(struct file_slot *slot, uint64_t page, enum page_kind kind,
			  struct err *err)
{
	struct page_run *last = slot->n_differ ? &slot->differ[slot->n_differ - 1] : NULL;

	if (last && last->kind == kind && last->first + last->n == page) {
		last->n++;
		return 0;
	}
	if (slot->n_differ == slot->room) {
		size_t room = slot->room ? slot->room * 2 : 64;
		struct page_run *grown = realloc(slot->differ, room * sizeof(*grown));

		if (!grown)
			return err_set(err, ERR_SYSTEM, "out of memory");
		slot->differ = grown;
		slot->room = room;
	}
	slot->differ[slot->n_differ++] = (struct page_run){page, 1, kind};
	return 0;
}

/* Compares n pages from first with c->stored (all zeroes where kind is not PAGE_DATA). */
static int compare_piece(struct compare *c, uint64_t first, size_t n, enum page_kind kind,
			 struct err *err)
{
	uint64_t offset = first * STORE_PAGE_SIZE;
	size_t len = n * STORE_PAGE_SIZE;
	ssize_t got = 0;

	if (offset + len > c->size)
		len = (size_t)(c->size - offset);
	if (c->fd >= 0)
		got = pread_upto(c->fd, c->found, len, (off_t)offset);
	if (got < 0)
		return err_sys(err, "read");
	for (size_t i = 0; i < n; i++) {
		size_t at = i * STORE_PAGE_SIZE;
		size_t part = len - at < STORE_PAGE_SIZE ? len - at : STORE_PAGE_SIZE;
		bool there = (size_t)got >= at + part;

		/* What is missing at the end and zero comes with the size. */
		if (there ? memcmp(c->found + at, c->stored + at, part) != 0
			  : kind == PAGE_DATA || (size_t)got > at) {
			if (add_difference(c->slot, first + i, kind, err) < 0)
				return -1;
		}
	}
	return 0;
}

static int compare_data(struct compare *c, uint64_t first, uint64_t end, struct err *err)
{
	while (first < end) {
		size_t n = end - first < PIECE_PAGES ? (size_t)(end - first) : PIECE_PAGES;

		if (page_reader_read(c->reader, first, n, c->stored, err) < 0 ||
		    compare_piece(c, first, n, PAGE_DATA, err) < 0)
			return -1;
		first += n;
	}
	return 0;
}

/* Pages that must read as zeroes; only where the file has data there is anything to look at. */
static int compare_zeroes(struct compare *c, uint64_t first, uint64_t end, struct err *err)
{
	memset(c->stored, 0, PIECE_BYTES);
	while (first < end && c->fd >= 0) {
		off_t data = lseek(c->fd, (off_t)(first * STORE_PAGE_SIZE), SEEK_DATA);
		size_t n;

		if (data < 0 && errno == ENXIO) /* nothing but a hole up to the end */
			return 0;
		if (data > 0 && (uint64_t)data / STORE_PAGE_SIZE > first)
			first = (uint64_t)data / STORE_PAGE_SIZE;
		if (first >= end)
			return 0;
		n = end - first < PIECE_PAGES ? (size_t)(end - first) : PIECE_PAGES;
		if (compare_piece(c, first, n, PAGE_ZERO, err) < 0)
			return -1;
		first += n;
	}
	return 0;
}

static int compare_all(struct compare *c, struct err *err)
{
	uint64_t end = (c->size + STORE_PAGE_SIZE - 1) / STORE_PAGE_SIZE, at = 0;

	while (at < end) {
		struct page_run run;
		int found = page_reader_next(c->reader, at, &run, err);

		if (found < 0)
			return -1;
		if (!found || run.first > end)
			run = (struct page_run){end, 0, PAGE_ZERO};
		if (run.first + run.n > end)
			run.n = end - run.first;
		if (compare_zeroes(c, at, run.first, err) < 0)
			return -1;
		at = run.first + run.n;
		if (run.kind == PAGE_DATA ? compare_data(c, run.first, at, err) < 0
					  : compare_zeroes(c, run.first, at, err) < 0)
			return -1;
	}
	return 0;
}

static int compare_file(struct recovery *rec, size_t index, int fd, struct err *err)
{
	const Snap__File *file = rec->model->files[index];
	cleanup_free char *stored = malloc(PIECE_BYTES), *found = malloc(PIECE_BYTES);
	struct compare c = {
		.slot = &rec->files[index],
		.fd = fd,
		.size = file->size,
		.stored = stored,
		.found = found,
	};
	int result;

	if (!stored || !found)
		return err_set(err, ERR_SYSTEM, "out of memory");
	if (page_reader_open(&c.reader, rec->store, file->content_root, err) < 0)
		return -1;
	result = compare_all(&c, err);
	page_reader_close(c.reader);
	return result;
}

/* The file as it is now: *ret_fd -1 where it is missing or cannot be read. What has taken its place
 * is never written over. */
static int open_present(const Snap__File *file, int *ret_fd, struct err *err)
{
	struct stat st;

	*ret_fd = -1;
	if (capsule_path_is_private(file->path)) /* made anew with the capsule */
		return 0;
	if (lstat(file->path, &st) < 0) {
		if (errno == ENOENT)
			return 0;
		return err_sys(err, "%s", file->path);
	}
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_UNSUPPORTED,
			       "%s was a regular file of the job's and now is %s", file->path,
			       S_ISDIR(st.st_mode)   ? "a directory"
			       : S_ISLNK(st.st_mode) ? "a symbolic link"
						     : "something else");
	*ret_fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOATIME);
	if (*ret_fd < 0 && errno == EPERM)
		*ret_fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return 0;
}

int file_verify(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__File *file = rec->model->files[index];
	cleanup_fd int fd = -1;

	if (open_present(file, &fd, err) < 0)
		return -1;
	if (compare_file(rec, index, fd, err) < 0)
		return err_wrap(err, "%s", file->path);
	return 0;
}

static int make_parents(const char *path, struct err *err)
{
	char dir[PATH_ROOM];

	snprintf(dir, sizeof(dir), "%s", path);
	return make_dirs(dirname(dir), 0755, err);
}

/* Opens for writing; a file without write permission gets it for a moment if it is ours. */
static int open_to_write(const char *path, bool *ret_made, struct err *err)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;

	*ret_made = false;
	if (fd < 0 && errno == EACCES && lstat(path, &st) == 0 && S_ISREG(st.st_mode) &&
	    chmod(path, (st.st_mode & 07777) | 0600) == 0)
		fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && errno == ENOENT) {
		if (make_parents(path, err) < 0)
			return -1;
		fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		*ret_made = fd >= 0;
	}
	if (fd < 0)
		return err_sys(err, "%s", path);
	return fd;
}

/* Room on the disk is taken before the first byte is written over: a full disk changes nothing. */
static int reserve(const struct file_slot *slot, int fd, uint64_t size, struct err *err)
{
	for (size_t i = 0; i < slot->n_differ; i++) {
		const struct page_run *run = &slot->differ[i];
		uint64_t from = run->first * STORE_PAGE_SIZE, to = from + run->n * STORE_PAGE_SIZE;

		if (run->kind != PAGE_DATA)
			continue;
		if (fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)from,
			      (off_t)((to < size ? to : size) - from)) == 0)
			continue;
		if (errno == EOPNOTSUPP || errno == ENOSYS)
			return 0;
		return err_sys(err, "room for its content");
	}
	return 0;
}

static int write_zeroes(int fd, uint64_t from, uint64_t to, char *buf, struct err *err)
{
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
		      (off_t)(to - from)) == 0)
		return 0;
	memset(buf, 0, PIECE_BYTES);
	for (uint64_t at = from; at < to; at += PIECE_BYTES) {
		size_t len = to - at < PIECE_BYTES ? (size_t)(to - at) : PIECE_BYTES;

		if (pwrite_full(fd, buf, len, (off_t)at) < 0)
			return err_sys(err, "write");
	}
	return 0;
}

static int write_data(struct page_reader *reader, int fd, uint64_t from, uint64_t to, char *buf,
		      struct err *err)
{
	for (uint64_t at = from; at < to; at += PIECE_BYTES) {
		size_t len = to - at < PIECE_BYTES ? (size_t)(to - at) : PIECE_BYTES;
		size_t pages = (len + STORE_PAGE_SIZE - 1) / STORE_PAGE_SIZE;

		if (page_reader_read(reader, at / STORE_PAGE_SIZE, pages, buf, err) < 0)
			return -1;
		if (pwrite_full(fd, buf, len, (off_t)at) < 0)
			return err_sys(err, "write");
	}
	return 0;
}

static int write_runs(struct recovery *rec, const Snap__File *file, const struct page_run *runs,
		      size_t n, int fd, struct err *err)
{
	cleanup_free char *buf = malloc(PIECE_BYTES);
	struct page_reader *reader;
	int result = 0;

	if (!buf)
		return err_set(err, ERR_SYSTEM, "out of memory");
	if (page_reader_open(&reader, rec->store, file->content_root, err) < 0)
		return -1;
	for (size_t i = 0; i < n && result == 0; i++) {
		uint64_t from = runs[i].first * STORE_PAGE_SIZE;
		uint64_t to = from + runs[i].n * STORE_PAGE_SIZE;

		to = to < file->size ? to : file->size;
		result = runs[i].kind == PAGE_DATA ? write_data(reader, fd, from, to, buf, err)
						   : write_zeroes(fd, from, to, buf, err);
	}
	page_reader_close(reader);
	return result;
}

int file_fill(struct recovery *rec, const Snap__File *file, int fd, struct err *err)
{
	uint64_t at = 0, end = (file->size + STORE_PAGE_SIZE - 1) / STORE_PAGE_SIZE;
	struct page_reader *reader;
	struct page_run run;
	int found = 0;

	if (ftruncate(fd, (off_t)file->size) < 0)
		return err_sys(err, "%s: size", file->path);
	if (!file->content)
		return 0;
	if (page_reader_open(&reader, rec->store, file->content_root, err) < 0)
		return -1;
	while (at < end && (found = page_reader_next(reader, at, &run, err)) > 0 &&
	       run.first < end) {
		at = run.first + run.n;
		if (run.kind == PAGE_DATA && write_runs(rec, file, &run, 1, fd, err) < 0) {
			found = -1;
			break;
		}
	}
	page_reader_close(reader);
	return found < 0 ? err_wrap(err, "%s", file->path) : 0;
}

/* Mode and owner where we may; times last, as writing changes them. */
static int set_meta(const Snap__File *file, int fd, struct err *err)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}};
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(err, "%s", file->path);
	if ((st.st_uid != file->uid || st.st_gid != file->gid) &&
	    fchown(fd, file->uid, file->gid) < 0)
		log_debug("%s: owner %u:%u not restored: %s", file->path, file->uid, file->gid,
			  strerror(errno));
	if (fchmod(fd, file->mode & 07777) < 0 && (st.st_mode & 07777) != (file->mode & 07777))
		log_warn("%s: mode %#o not restored: %s", file->path, file->mode & 07777,
			 strerror(errno));
	times[1].tv_sec = (time_t)(file->mtime / NSEC_PER_SEC);
	times[1].tv_nsec = (long)(file->mtime % NSEC_PER_SEC);
	if (futimens(fd, times) < 0)
		log_debug("%s: time not restored: %s", file->path, strerror(errno));
	return 0;
}

static int put_back(struct recovery *rec, size_t index, int fd, struct err *err)
{
	const Snap__File *file = rec->model->files[index];
	const struct file_slot *slot = &rec->files[index];
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(err, "size");
	if (reserve(slot, fd, file->size, err) < 0) {
		if (ftruncate(fd, st.st_size) < 0) /* gives back what lies behind its end */
			log_debug("%s: %s", file->path, strerror(errno));
		return -1;
	}
	if (ftruncate(fd, (off_t)file->size) < 0)
		return err_sys(err, "size");
	return write_runs(rec, file, slot->differ, slot->n_differ, fd, err);
}

int file_restore(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__File *file = rec->model->files[index];
	char buf[PATH_ROOM];
	const char *path = capsule_path(rec, file->path, buf, sizeof(buf));
	bool made;
	cleanup_fd int fd = open_to_write(path, &made, err);

	if (fd < 0)
		return -1;
	if (put_back(rec, index, fd, err) < 0) {
		if (made)
			unlink(path);
		return err_wrap(err, "putting %s back", file->path);
	}
	return set_meta(file, fd, err);
}

int file_truncate(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__File *file = rec->model->files[index];
	char buf[PATH_ROOM];
	const char *path = capsule_path(rec, file->path, buf, sizeof(buf));
	struct stat st;

	if (lstat(path, &st) < 0)
		return err_sys(err, "%s", file->path);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size < file->size)
		return err_set(err, ERR_UNSUPPORTED,
			       "%s is shorter than the job left it, or no regular file any more",
			       file->path);
	if ((uint64_t)st.st_size > file->size && truncate(path, (off_t)file->size) < 0)
		return err_sys(err, "cutting %s back", file->path);
	return 0;
}

int file_finish(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__File *file = rec->model->files[index];
	int fd = rec->files[index].fd;

	if (fd < 0)
		return 0;
	if (set_meta(file, fd, err) < 0)
		return -1;
	if (file->kind == SNAP__FILE__KIND__MEMFD && file->seals &&
	    fcntl(fd, F_ADD_SEALS, file->seals) < 0)
		return err_sys(err, "seals of memfd %s", file->path);
	return 0;
}
