/* One object of a restored directory tree: made, written, given its attributes. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "recovery/tree_restore.h"
#include "store/base/cleanup.h"
#include "store/base/log.h"
#include "store/base/units.h"

#define TEMPORARY ".pawl-new" /* where files without a name cannot be had */

static struct timespec time_of(int64_t ns)
{
	int64_t seconds = ns / (int64_t)NSEC_PER_SEC, rest = ns % (int64_t)NSEC_PER_SEC;

	if (rest < 0) {
		seconds--;
		rest += (int64_t)NSEC_PER_SEC;
	}
	return (struct timespec){.tv_sec = seconds, .tv_nsec = (long)rest};
}

/* user.* can be read and set with permission to read and write the file only. */
static int put_xattrs(int dir, const char *name, const struct tree_object *o, const struct stat *st)
{
	if (write_xattrs(dir, name, o->xattrs, o->xattrs_len) == 0)
		return 0;
	if (errno != EACCES || o->kind == TREE_SYMLINK ||
	    fchmodat(dir, name, (st->st_mode & 07777) | 0600, 0) < 0)
		return -1;
	return write_xattrs(dir, name, o->xattrs, o->xattrs_len);
}

/* Owner before mode (chown(2) clears set-id bits and capabilities), times last. */
int tree_set_attributes(int dir, const char *name, const struct tree_object *o, struct err *err)
{
	const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, time_of(o->mtime)};
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, "attributes");
	if (S_ISLNK(st.st_mode) != (o->kind == TREE_SYMLINK))
		return err_set(err, ERR_SYSTEM, "something else has taken its place");
	if ((st.st_uid != o->uid || st.st_gid != o->gid) &&
	    fchownat(dir, name, o->uid, o->gid, AT_SYMLINK_NOFOLLOW) < 0)
		log_debug("%s: owner %u:%u not restored: %s", name, o->uid, o->gid,
			  strerror(errno));
	if (put_xattrs(dir, name, o, &st) < 0)
		return err_sys(err, "extended attributes");
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, "attributes");
	if (o->kind != TREE_SYMLINK && (st.st_mode & 07777) != o->mode &&
	    fchmodat(dir, name, o->mode, 0) < 0)
		return err_sys(err, "mode");
	if ((st.st_mtim.tv_sec != times[1].tv_sec || st.st_mtim.tv_nsec != times[1].tv_nsec) &&
	    utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, "times");
	return 0;
}

/* ---- new ones ------------------------------------------------------------------------------ */

/* The file gets its name only when it is whole. */
static int make_regular(struct tree_restore *r, int dir, const char *name,
			const struct tree_object *o, struct err *err)
{
	const struct stored_content content = tree_content(r, o);
	cleanup_fd int fd = openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	char path[64];

	if (fd < 0) {
		unlinkat(dir, TEMPORARY, 0);
		fd = openat(dir, TEMPORARY, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
		if (fd < 0)
			return err_sys(err, "cannot be made");
		if (content_fill(&content, fd, err) < 0 ||
		    tree_set_attributes(dir, TEMPORARY, o, err) < 0) {
			unlinkat(dir, TEMPORARY, 0);
			return -1;
		}
		return renameat(dir, TEMPORARY, dir, name) < 0 ? err_sys(err, "rename") : 0;
	}
	if (content_fill(&content, fd, err) < 0)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (linkat(AT_FDCWD, path, dir, name, AT_SYMLINK_FOLLOW) < 0)
		return err_sys(err, "cannot be made");
	return tree_set_attributes(dir, name, o, err);
}

static mode_t type_of(enum tree_kind kind)
{
	switch (kind) {
	case TREE_FIFO:
		return S_IFIFO;
	case TREE_SOCKET:
		return S_IFSOCK;
	case TREE_CHARACTER:
		return S_IFCHR;
	default:
		return S_IFBLK;
	}
}

int tree_make_object(struct tree_restore *r, int dir, const char *name, uint32_t object,
		     struct err *err)
{
	const struct tree_object *o = &r->want.objects[object];

	switch (o->kind) {
	case TREE_REGULAR:
		return make_regular(r, dir, name, o, err);
	case TREE_DIRECTORY: /* attributes when everything is in it */
		return mkdirat(dir, name, 0700) < 0 ? err_sys(err, "cannot be made") : 0;
	case TREE_SYMLINK:
		if (symlinkat(o->target, dir, name) < 0)
			return err_sys(err, "cannot be made");
		break;
	default:
		if (mknodat(dir, name, type_of(o->kind) | 0600, o->rdev) < 0)
			return err_sys(err, "cannot be made");
	}
	return tree_set_attributes(dir, name, o, err);
}

/* ---- those that are there ------------------------------------------------------------------ */

static int open_to_write(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0 && errno == EACCES && fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    S_ISREG(st.st_mode) && fchmodat(dir, name, (st.st_mode & 07777) | 0600, 0) == 0)
		fd = openat(dir, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	return fd;
}

int tree_write_object(struct tree_restore *r, int dir, const char *name, uint32_t object,
		      struct err *err)
{
	const struct tree_object *o = &r->want.objects[object];
	const struct stored_content content = tree_content(r, o);
	cleanup_fd int fd = open_to_write(dir, name);

	if (fd < 0)
		return err_sys(err, "cannot be written");
	return content_write(&content, fd, &r->todo[object].differ, err);
}
