/*
 * Files that are found by identity, made without a name, and opened.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/memfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "recovery/rebuild.h"
#include "recovery/removed_dirs.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/units.h"

#define PATH_ROOM    (PATH_MAX + 64)
#define PIECE_PAGES  512u
#define CREATE_FLAGS (O_CREAT | O_EXCL | O_TRUNC | O_NOCTTY)

/* The name that /proc/PID/maps will show, as near to the old one as a memfd allows. */
static int make_memfd(const Snap__File *file, int *ret_fd, struct err *err)
{
	const char *name = file->path ? file->path : "";
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;

	if (file->kind != SNAP__FILE__KIND__MEMFD && strrchr(name, '/'))
		name = strrchr(name, '/') + 1;
	if (strncmp(name, "/memfd:", 7) == 0)
		name += 7;
	if (strlen(name) > 200)
		name += strlen(name) - 200;
	if (file->huge_page)
		flags |= MFD_HUGETLB | (unsigned)__builtin_ctzll(file->huge_page) << MFD_HUGE_SHIFT;
	*ret_fd = memfd_create(name, flags);
	if (*ret_fd < 0)
		return err_sys(err, "memfd for %s", name);
	return 0;
}

static int open_unlinked(const char *dir, int *ret_fd)
{
	char path[PATH_ROOM];

	*ret_fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (*ret_fd >= 0)
		return 0;
	if (snprintf(path, sizeof(path), "%s/.pawl-XXXXXX", dir) >= (int)sizeof(path))
		return -1;
	*ret_fd = mkostemp(path, O_CLOEXEC);
	if (*ret_fd < 0)
		return -1;
	unlink(path);
	return 0;
}

/* In the directory it was in (its size suits that disk), else where temporary files go. */
static int make_unlinked(struct recovery *rec, const Snap__File *file, int *ret_fd, struct err *err)
{
	const char *tmp = getenv("TMPDIR");
	char dir[PATH_ROOM], buf[PATH_ROOM];

	snprintf(dir, sizeof(dir), "%s", capsule_path(rec, file->path, buf, sizeof(buf)));
	if ((!rec->leave_files && open_unlinked(dirname(dir), ret_fd) == 0) ||
	    (tmp && open_unlinked(tmp, ret_fd) == 0) || open_unlinked("/tmp", ret_fd) == 0)
		return 0;
	return err_sys(err, "a temporary file in place of %s", file->path);
}

/* In the capsule's own /dev/shm, under the name it had, for /proc shows it. */
static int make_private(struct recovery *rec, const Snap__File *file, int *ret_fd, struct err *err)
{
	char buf[PATH_ROOM], dir[PATH_ROOM];
	const char *path = capsule_path(rec, file->path, buf, sizeof(buf));

	snprintf(dir, sizeof(dir), "%s", path);
	*ret_fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (*ret_fd >= 0)
		return unlink(path) < 0 ? err_sys(err, "%s", file->path) : 0;
	return open_unlinked(dirname(dir), ret_fd) == 0 ? 0 : make_memfd(file, ret_fd, err);
}

static int make_temporary(struct recovery *rec, const Snap__File *file, int *ret_fd, struct err *err)
{
	if (file->kind == SNAP__FILE__KIND__MEMFD || file->kind == SNAP__FILE__KIND__SHARED_ANONYMOUS)
		return make_memfd(file, ret_fd, err);
	if (capsule_path_is_private(file->path))
		return make_private(rec, file, ret_fd, err);
	return make_unlinked(rec, file, ret_fd, err);
}

int file_make_temporary(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__File *file = rec->model->files[index];
	cleanup_fd int fd = -1;

	if (make_temporary(rec, file, &fd, err) < 0 || file_fill(rec, file, fd, err) < 0)
		return -1;
	rec->files[index].fd = steal_fd(&fd);
	return 0;
}

/* Whether the stored pages of the file are on disk as they are in the store: 1, 0, -1. Pages that
 * are not stored were not used by the job. */
static int content_matches(struct recovery *rec, const Snap__File *file, int fd, struct err *err)
{
	size_t room = PIECE_PAGES * STORE_PAGE_SIZE;
	cleanup_free char *stored = malloc(room), *found = calloc(1, room);
	struct page_reader *reader;
	struct page_run run;
	uint64_t at = 0;
	int result = 1, more = 0;

	if (!stored || !found)
		return err_set(err, ERR_SYSTEM, "out of memory");
	if (page_reader_open(&reader, rec->store, file->content_root, err) < 0)
		return -1;
	while (result == 1 && (more = page_reader_next(reader, at, &run, err)) > 0) {
		size_t n = run.n < PIECE_PAGES ? (size_t)run.n : PIECE_PAGES;
		ssize_t got = pread_upto(fd, found, n * STORE_PAGE_SIZE,
					 (off_t)(run.first * STORE_PAGE_SIZE));

		at = run.first + n;
		if (got < 0) {
			result = 0;
			break;
		}
		memset(found + got, 0, n * STORE_PAGE_SIZE - (size_t)got);
		if (page_reader_read(reader, run.first, n, stored, err) < 0)
			result = -1;
		else if (memcmp(stored, found, n * STORE_PAGE_SIZE) != 0)
			result = 0;
	}
	page_reader_close(reader);
	return more < 0 ? -1 : result;
}

static uint64_t mtime_of(const struct stat *st)
{
	return (uint64_t)st->st_mtim.tv_sec * NSEC_PER_SEC + (uint64_t)st->st_mtim.tv_nsec;
}

/* 1: what the path leads to is the file of the snapshot, 0: it is not. Where no content was stored,
 * size and modification time must do: after a reboot or on another node the device and inode
 * differ. */
static int is_same_file(struct recovery *rec, const Snap__File *file, struct err *err)
{
	cleanup_fd int fd = -1;
	struct stat st;
	bool untouched;

	if (stat(file->path, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != file->size)
		return 0;
	untouched = mtime_of(&st) == file->mtime;
	if (untouched && st.st_dev == file->device && st.st_ino == file->inode)
		return 1;
	if (!file->content)
		return untouched;
	fd = open(file->path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? 0 : content_matches(rec, file, fd, err);
}

/* An executable may not be open for writing when it becomes /proc/PID/exe (ETXTBSY). */
static int reopen_read_only(int *fd, struct err *err)
{
	char path[64];
	int again;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", *fd);
	again = open(path, O_RDONLY | O_CLOEXEC);
	if (again < 0)
		return err_sys(err, "%s", path);
	close(*fd);
	*fd = again;
	return 0;
}

int file_identify(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__File *file = rec->model->files[index];
	cleanup_fd int fd = -1;
	int same;

	if (capsule_path_is_private(file->path))
		return 0;
	same = is_same_file(rec, file, err);
	if (same != 0)
		return same < 0 ? err_wrap(err, "%s", file->path) : 0;
	if (file->policy == SNAP__FILE__POLICY__INPUT && access(file->path, F_OK) == 0) {
		log_warn("%s, which the job reads, has changed since the snapshot (--files save:GLOB "
			 "keeps a copy of such files)",
			 file->path);
		return 0;
	}
	if (!file->content)
		return err_set(
			err, ERR_NOT_FOUND,
			"%s %s since the snapshot, which does not hold its content", file->path,
			access(file->path, F_OK) < 0 ? "is gone" : "has changed");
	log_info("%s has changed since the snapshot: its saved content is used", file->path);
	if (make_memfd(file, &fd, err) < 0 || file_fill(rec, file, fd, err) < 0 ||
	    fchmod(fd, file->mode & 07777) < 0 || reopen_read_only(&fd, err) < 0)
		return err_wrap(err, "%s", file->path);
	rec->files[index].fd = steal_fd(&fd);
	return 0;
}

static mode_t type_of(Snap__File__Kind kind)
{
	switch (kind) {
	case SNAP__FILE__KIND__DIRECTORY:
		return S_IFDIR;
	case SNAP__FILE__KIND__CHARACTER:
		return S_IFCHR;
	case SNAP__FILE__KIND__BLOCK:
		return S_IFBLK;
	case SNAP__FILE__KIND__FIFO:
		return S_IFIFO;
	case SNAP__FILE__KIND__SOCKET:
		return S_IFSOCK;
	case SNAP__FILE__KIND__LINK:
		return S_IFLNK;
	default:
		return S_IFREG;
	}
}

static int check_type(const Snap__File *file, const char *path, struct err *err)
{
	bool link = file->kind == SNAP__FILE__KIND__LINK;
	struct stat st;

	if ((link ? lstat(path, &st) : stat(path, &st)) < 0)
		return err_sys(err, "%s", file->path);
	if ((st.st_mode & S_IFMT) != type_of(file->kind) ||
	    (file->kind == SNAP__FILE__KIND__CHARACTER && st.st_rdev != file->rdev))
		return err_set(err, ERR_UNSUPPORTED, "%s is not what it was at the snapshot",
			       file->path);
	return 0;
}

/* A file may have been opened for more than its mode now permits; its owner can do it again. */
static int open_despite_mode(const char *path, int flags)
{
	struct stat st;
	int fd;

	if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() ||
	    chmod(path, (st.st_mode & 07777) | 0600) < 0) {
		errno = EACCES;
		return -1;
	}
	fd = open(path, flags);
	if (chmod(path, st.st_mode & 07777) < 0)
		log_warn("%s: mode not put back: %s", path, strerror(errno));
	return fd;
}

static bool is_node(const Snap__File *file)
{
	return file->kind == SNAP__FILE__KIND__DIRECTORY || file->kind == SNAP__FILE__KIND__LINK ||
	       file->kind == SNAP__FILE__KIND__SOCKET || file->kind == SNAP__FILE__KIND__FIFO;
}

/* Rather than one that is opened through it: what memfd_create(2) returns can be written, but does not count as open
 * for writing, so that the memfd can be executed. Of what has only a name (O_PATH) there is nothing to open. */
static bool is_given_itself(const Snap__File *file, struct file_slot *slot, int flags)
{
	if (slot->fd < 0 || slot->given)
		return false;
	if (file->kind == SNAP__FILE__KIND__MEMFD && (flags & O_ACCMODE) == O_RDWR) {
		slot->given = true;
		return true;
	}
	return is_node(file) && file->kind != SNAP__FILE__KIND__DIRECTORY;
}

static int set_flags(int fd, int flags, struct err *err)
{
	if (flags & O_PATH)
		return 0;
	if (lseek(fd, 0, SEEK_SET) < 0 || fcntl(fd, F_SETFL, flags) < 0) {
		err_sys(err, "flags of a memfd");
		close(fd);
		return -1;
	}
	return 0;
}

int file_open(struct recovery *rec, size_t index, int flags, int *ret_fd, struct err *err)
{
	const Snap__File *file = rec->model->files[index];
	char buf[PATH_ROOM];
	const char *path = buf;
	int fd;

	flags = (flags & ~CREATE_FLAGS) | O_NOCTTY | O_CLOEXEC;
	if (file->kind != SNAP__FILE__KIND__DIRECTORY)
		flags &= ~O_TMPFILE; /* O_DIRECTORY is part of it */
	if (file->deleted && is_node(file) && removed_make(rec, index, err) < 0)
		return -1;
	if (is_given_itself(file, &rec->files[index], flags)) {
		*ret_fd = fcntl(rec->files[index].fd, F_DUPFD_CLOEXEC, 0);
		return *ret_fd < 0 ? err_sys(err, "opening %s", file->path) : set_flags(*ret_fd, flags, err);
	}
	if (rec->files[index].fd >= 0) {
		snprintf(buf, sizeof(buf), "/proc/self/fd/%d", rec->files[index].fd);
		flags &= ~O_NOFOLLOW;
	} else {
		path = capsule_path(rec, file->path, buf, sizeof(buf));
		if (check_type(file, path, err) < 0)
			return -1;
		/* Looking is harmless, opening for more may not be: a device may do something. */
		if (file->kind == SNAP__FILE__KIND__LINK || file->kind == SNAP__FILE__KIND__SOCKET ||
		    file->kind == SNAP__FILE__KIND__BLOCK)
			flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
	}
	fd = open(path, flags);
	if (fd < 0 && errno == EACCES)
		fd = open_despite_mode(path, flags);
	if (fd < 0)
		return err_sys(err, "opening %s", file->path);
	*ret_fd = fd;
	return 0;
}
