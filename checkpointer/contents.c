#include "checkpointer/contents.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/units.h"

/* File times advance with the timer tick, 10 ms at the slowest (HZ=100); doubled. */
#define TIME_GRAIN_NS 20000000ull
#define READ_BYTES    (1024u * 1024u)

void known_contents_free(struct known_contents *known)
{
	free(known->list);
	memset(known, 0, sizeof(*known));
}

static int remember(struct known_contents *known, const struct known_content *content,
		    struct err *err)
{
	struct known_content *more;

	for (size_t i = 0; i < known->n; i++)
		if (known->list[i].device == content->device && known->list[i].inode == content->inode) {
			known->list[i] = *content;
			return 0;
		}
	more = reallocarray(known->list, known->n + 1, sizeof(*more));
	if (!more)
		return err_sys(err, "list of files");
	known->list = more;
	more[known->n++] = *content;
	return 0;
}

int known_contents_from(struct known_contents *known, const Snap__Snapshot *model, struct err *err)
{
	for (size_t i = 0; i < model->n_files; i++) {
		const Snap__File *f = model->files[i];
		const struct known_content content = {
			.device = f->device,
			.inode = f->inode,
			.size = f->size,
			.mtime = f->mtime,
			.ctime = f->ctime,
			.root = f->content_root,
			/* What was mapped then can have changed without a trace. */
			.captured = f->unsteady ? 0 : model->clocks->realtime,
		};

		if (f->content && remember(known, &content, err) < 0)
			return -1;
	}
	return 0;
}

static const struct known_content *find_inode(const struct known_contents *known, uint64_t device,
					      uint64_t inode)
{
	for (size_t i = 0; i < known->n; i++)
		if (known->list[i].device == device && known->list[i].inode == inode)
			return &known->list[i];
	return NULL;
}

static uint64_t timespec_ns(const struct timespec *ts)
{
	return (uint64_t)ts->tv_sec * NSEC_PER_SEC + (uint64_t)ts->tv_nsec;
}

static bool still_holds(const struct known_content *k, const struct stat *st)
{
	uint64_t mtime = timespec_ns(&st->st_mtim);

	return k->size == (uint64_t)st->st_size && k->mtime == mtime &&
	       k->ctime == timespec_ns(&st->st_ctim) && mtime + TIME_GRAIN_NS < k->captured;
}

/* ---- reading a file --------------------------------------------------------------------------- */

static int put_extent(struct page_table *table, int fd, char *buf, off_t from, off_t to,
		      struct err *err)
{
	while (from < to) {
		size_t want = to - from > READ_BYTES ? READ_BYTES : (size_t)(to - from);
		ssize_t n = pread_upto(fd, buf, want, from);
		size_t pages;

		if (n < 0)
			return err_sys(err, "cannot read");
		if (n == 0)
			break; /* became shorter while we read: the caller sees it in its times */
		pages = ((size_t)n + STORE_PAGE_SIZE - 1) / STORE_PAGE_SIZE;
		memset(buf + n, 0, pages * STORE_PAGE_SIZE - (size_t)n);
		if (page_table_put(table, (uint64_t)from / STORE_PAGE_SIZE, buf, pages, NULL, err) < 0)
			return -1;
		from += (off_t)(pages * STORE_PAGE_SIZE);
	}
	return 0;
}

/* Holes stay holes. Extents are widened to whole pages. */
static int put_file(struct page_table *table, int fd, off_t size, char *buf, struct err *err)
{
	const off_t mask = (off_t)STORE_PAGE_SIZE - 1;
	off_t at = 0;

	while (at < size) {
		off_t data = lseek(fd, at, SEEK_DATA), hole;

		if (data < 0 && errno == ENXIO)
			data = size;
		if (data < 0)
			data = at; /* the file system cannot tell holes */
		hole = data < size ? lseek(fd, data, SEEK_HOLE) : size;
		if (hole < 0 || hole > size)
			hole = size;
		data &= ~mask;
		hole = hole < size ? (hole + mask) & ~mask : size;
		if (data > at && page_table_clear(table, (uint64_t)at / STORE_PAGE_SIZE,
						  (uint64_t)(data - at) / STORE_PAGE_SIZE, err) < 0)
			return -1;
		if (data < size && put_extent(table, fd, buf, data, hole, err) < 0)
			return -1;
		at = data < size ? hole : size;
	}
	return page_table_clear(table, ((uint64_t)size + STORE_PAGE_SIZE - 1) / STORE_PAGE_SIZE,
				UINT64_MAX / 2 / STORE_PAGE_SIZE, err);
}

/* Reads the whole file against the table at base; *ret has root and the times before the reading. */
static int capture_fd(struct store_session *session, int fd, uint64_t base,
		      struct known_content *ret, struct err *err)
{
	cleanup_free char *buf = malloc(READ_BYTES);
	struct page_table *table = NULL;
	struct stat st;

	ret->captured = clock_ns(CLOCK_REALTIME);
	if (!buf || fstat(fd, &st) < 0)
		return err_sys(err, "cannot read");
	if (page_table_edit(&table, session, base, err) < 0)
		return -1;
	if (put_file(table, fd, st.st_size, buf, err) < 0) {
		page_table_free(table);
		return -1;
	}
	ret->device = st.st_dev;
	ret->inode = st.st_ino;
	ret->size = (uint64_t)st.st_size;
	ret->mtime = timespec_ns(&st.st_mtim);
	ret->ctime = timespec_ns(&st.st_ctim);
	return page_table_finish(table, &ret->root, err);
}

static int capture_path(struct known_contents *known, struct store_session *session,
			const char *path, const char *name, struct known_content *ret,
			struct err *err)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	const struct known_content *base;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, "cannot read %s", name);
	base = find_inode(known, st.st_dev, st.st_ino);
	if (capture_fd(session, fd, base ? base->root : 0, ret, err) < 0)
		return err_wrap(err, "%s", name);
	return remember(known, ret, err);
}

/* ---- ahead of the pause ----------------------------------------------------------------------- */

void contents_read_ahead(struct known_contents *known, struct store_session *session,
			 const Snap__Snapshot *last)
{
	for (size_t i = 0; i < last->n_files; i++) {
		const Snap__File *f = last->files[i];
		const struct known_content *k;
		struct known_content fresh;
		struct stat st;
		struct err err;

		if (f->policy != SNAP__FILE__POLICY__RESTORE || f->deleted || !f->content ||
		    stat(f->path, &st) < 0 || !S_ISREG(st.st_mode) || st.st_ino != f->inode ||
		    st.st_dev != f->device)
			continue;
		k = find_inode(known, st.st_dev, st.st_ino);
		if (k && still_holds(k, &st))
			continue;
		if (capture_path(known, session, f->path, f->path, &fresh, &err) < 0)
			log_debug("reading ahead: %s", err.msg);
	}
}

/* ---- in the pause ----------------------------------------------------------------------------- */

static void take(Snap__File *f, const struct known_content *k)
{
	f->content_root = k->root;
	f->size = k->size;
	f->mtime = k->mtime;
	f->ctime = k->ctime;
}

static int read_piece(const struct file_piece *piece, uint64_t at, char *buf, size_t len, struct err *err)
{
	if (mem_read(piece->pid, piece->start + at, buf, len, err) == 0)
		return 0;
	return mem_read_forced(piece->pid, piece->start + at, buf, len, err);
}

/* Page by page up to the end of the file, which a mapping may reach beyond (reading there is SIGBUS). */
static int put_to_end(struct page_table *table, const struct file_piece *piece, uint64_t at, size_t len,
		      char *buf, struct err *err)
{
	struct err ignored;

	for (size_t done = 0; done < len; done += STORE_PAGE_SIZE) {
		if (read_piece(piece, at + done, buf, STORE_PAGE_SIZE, &ignored) < 0)
			return 0;
		if (page_table_put(table, (piece->offset + at + done) / STORE_PAGE_SIZE, buf, 1, NULL,
				   err) < 0)
			return -1;
	}
	return 0;
}

/* Shared memory that no descriptor leads to is read through mappings of it, whole: the page tables of one
 * process do not tell which of its pages exist. */
static int put_piece(struct page_table *table, const struct file_piece *piece, char *buf, struct err *err)
{
	for (uint64_t at = 0; at < piece->len; at += READ_BYTES) {
		size_t len = piece->len - at < READ_BYTES ? piece->len - at : READ_BYTES;
		struct err ignored;

		if (read_piece(piece, at, buf, len, &ignored) < 0) {
			if (put_to_end(table, piece, at, len, buf, err) < 0)
				return -1;
			continue;
		}
		if (page_table_put(table, (piece->offset + at) / STORE_PAGE_SIZE, buf,
				   len / STORE_PAGE_SIZE, NULL, err) < 0)
			return -1;
	}
	return 0;
}

static int capture_mapping(Snap__File *f, const struct file_source *s, struct store_session *session,
			   uint64_t base, struct err *err)
{
	cleanup_free char *buf = malloc(READ_BYTES);
	struct page_table *table = NULL;

	if (!buf)
		return err_sys(err, "copy of shared memory");
	if (page_table_edit(&table, session, base, err) < 0)
		return -1;
	for (size_t i = 0; i < s->n_pieces; i++)
		if (put_piece(table, &s->pieces[i], buf, err) < 0) {
			page_table_free(table);
			return -1;
		}
	return page_table_finish(table, &f->content_root, err);
}

/* Writing through a mapping leaves no trace in the times of a file of tmpfs (mm/shmem.c), even after it has
 * been unmapped. */
static bool times_prove(const struct file_source *s)
{
	struct statfs fs;

	return !s->mapped_shared && statfs(s->path, &fs) == 0 && fs.f_type != TMPFS_MAGIC &&
	       fs.f_type != HUGETLBFS_MAGIC;
}

static int capture_job_file(struct collection *c, size_t id, struct store_session *session,
			    struct known_contents *known, struct err *err)
{
	Snap__File *f = c->model->files[id];
	struct file_source *s = &c->sources[id];
	const struct known_content *k = find_inode(known, f->device, f->inode);
	struct known_content fresh;
	struct stat st;

	if (!s->path)
		return capture_mapping(f, s, session, k ? k->root : 0, err);
	f->unsteady = s->mapped_shared;
	if (s->late && (s->held = open(s->path, O_RDONLY | O_CLOEXEC) + 1) > 0)
		return 0;
	if (stat(s->path, &st) < 0)
		return err_sys(err, "cannot look at %s", f->path);
	if (k && still_holds(k, &st) && times_prove(s)) {
		take(f, k);
		return 0;
	}
	if (capture_path(known, session, s->path, f->path, &fresh, err) < 0)
		return -1;
	take(f, &fresh);
	return 0;
}

int contents_capture_job_files(struct collection *c, struct store_session *session,
			       struct known_contents *known, struct err *err)
{
	for (size_t i = 0; i < c->model->n_files; i++) {
		const Snap__File *f = c->model->files[i];

		if (f->content && f->policy == SNAP__FILE__POLICY__RESTORE &&
		    capture_job_file(c, i, session, known, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- afterwards ------------------------------------------------------------------------------- */

int contents_capture_programs(struct collection *c, struct store_session *session,
			      struct known_contents *known, struct err *err)
{
	for (size_t i = 0; i < c->model->n_files; i++) {
		Snap__File *f = c->model->files[i];
		const struct known_content *k = find_inode(known, f->device, f->inode);
		struct known_content fresh;
		char held[64];

		if (!f->content || (f->policy != SNAP__FILE__POLICY__IDENTITY && !c->sources[i].held))
			continue;
		if (k && k->size == f->size && k->mtime == f->mtime && k->ctime == f->ctime) {
			f->content_root = k->root;
			continue;
		}
		/* By its own path: the process may have ended since it runs again. */
		snprintf(held, sizeof(held), "/proc/self/fd/%d", c->sources[i].held - 1);
		if (capture_path(known, session, c->sources[i].held ? held : f->path, f->path, &fresh,
				 err) < 0)
			return -1;
		if (fresh.inode != f->inode || fresh.mtime != f->mtime || fresh.size != f->size)
			return err_set(err, ERR_UNSUPPORTED, "%s changed while it was being saved", f->path);
		f->content_root = fresh.root;
	}
	return 0;
}
