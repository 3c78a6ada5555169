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

#define PATH_ROOM (PATH_MAX + 64)

static struct stored_content content_of(const struct recovery *rec, const Snap__File *file)
{
	return (struct stored_content){
		.store = rec->store, .root = file->content_root, .size = file->size};
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
	struct stored_content content;
	cleanup_fd int fd = -1;

	if (open_present(file, &fd, err) < 0)
		return -1;
	content = content_of(rec, file);
	if (content_compare(&content, fd, &rec->files[index].differ, err) < 0)
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

/* In a trial, files of a saved directory are copies too. */
static int content_in_tree(const struct recovery *rec, const Snap__File *file,
			   struct stored_content *ret, struct err *err)
{
	for (size_t i = 0; i < rec->model->n_trees; i++) {
		const char *path = rec->model->trees[i]->path;

		if (strncmp(file->path, path, strlen(path)) == 0 &&
		    file->path[strlen(path)] == '/' &&
		    tree_restore_content(rec->trees[i], file->path, ret, err) == 0)
			return 0;
	}
	return err_set(err, ERR_CORRUPT, "%s is in no saved directory", file->path);
}

int file_fill(struct recovery *rec, const Snap__File *file, int fd, struct err *err)
{
	struct stored_content content = content_of(rec, file);

	content.huge_page = file->huge_page;
	if (file->in_tree && content_in_tree(rec, file, &content, err) < 0)
		return -1;
	if (file->in_tree)
		return content_fill(&content, fd, err);
	if (!file->content && ftruncate(fd, (off_t)file->size) < 0)
		return err_sys(err, "%s: size", file->path);
	if (file->content && content_fill(&content, fd, err) < 0)
		return err_wrap(err, "%s", file->path);
	return 0;
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

int file_restore(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__File *file = rec->model->files[index];
	char buf[PATH_ROOM];
	const char *path = capsule_path(rec, file->path, buf, sizeof(buf));
	const struct stored_content content = content_of(rec, file);
	bool made;
	cleanup_fd int fd = open_to_write(path, &made, err);

	if (fd < 0)
		return -1;
	if (content_write(&content, fd, &rec->files[index].differ, err) < 0) {
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
