#include "checkpointer/contents.h"
#include "checkpointer/descriptor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/units.h"

/* File times advance with the timer tick, 10 ms at the slowest (HZ=100); doubled. */
#define TIME_GRAIN_NS 20000000ull

void known_contents_free(struct known_contents *known)
{
	for (size_t i = 0; i < known->n; i++)
		content_digests_free(known->list[i].digests);
	free(known->list);
	memset(known, 0, sizeof(*known));
}

int known_remember(struct known_contents *known, const struct known_content *content,
		    struct err *err)
{
	struct known_content *more;

	for (size_t i = 0; i < known->n; i++)
		if (known->list[i].device == content->device && known->list[i].inode == content->inode) {
			if (known->list[i].digests != content->digests)
				content_digests_free(known->list[i].digests);
			known->list[i] = *content;
			return 0;
		}
	more = reallocarray(known->list, known->n + 1, sizeof(*more));
	if (!more) {
		content_digests_free(content->digests);
		return err_sys(err, "list of files");
	}
	known->list = more;
	more[known->n++] = *content;
	return 0;
}

int known_contents_from(struct known_contents *known, const Snap__Snapshot *model, struct err *err)
{
	known->last = model;
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

		if (f->content && known_remember(known, &content, err) < 0)
			return -1;
	}
	return 0;
}

const struct known_content *known_find(const struct known_contents *known, uint64_t device,
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

static bool holds_memory(const Snap__Region *r)
{
	return r->kind == SNAP__REGION__KIND__SHARED_MEMORY || r->kind == SNAP__REGION__KIND__SYSV_SHM ||
	       r->kind == SNAP__REGION__KIND__FILE_SHARED;
}

uint64_t known_root_at(const struct known_contents *known, uint64_t start)
{
	const Snap__Snapshot *m = known->last;

	for (size_t i = 0; m && i < m->n_processes; i++) {
		const Snap__Process *p = m->processes[i];

		for (size_t k = 0; k < p->n_regions; k++)
			if (p->regions[k]->start == start && holds_memory(p->regions[k]) &&
			    p->regions[k]->file >= 0)
				return m->files[p->regions[k]->file]->content_root;
	}
	return 0;
}

bool known_still_holds(const struct known_content *k, const struct stat *st)
{
	uint64_t mtime = timespec_ns(&st->st_mtim);

	return k->size == (uint64_t)st->st_size && k->mtime == mtime &&
	       k->ctime == timespec_ns(&st->st_ctim) && mtime + TIME_GRAIN_NS < k->captured;
}

/* ---- reading one --------------------------------------------------------------------------- */

static int capture(struct known_contents *known, struct store_session *session,
		   struct content_source *source, uint64_t guess, bool ahead,
		   struct known_content *content, struct err *err)
{
	const struct known_content *base = known_find(known, content->device, content->inode);
	int result;

	/* What is not mapped in the pause is not there; before it, it may just not have been touched yet. */
	source->clear_rest = !ahead;
	content->size = source->size;
	content->digests = NULL;
	if (!ahead && base && base->digests)
		result = blocks_capture_changed(session, source, base->digests, &content->root, err);
	else
		result = blocks_capture(session, source, base ? base->root : guess, &content->root,
					ahead ? &content->digests : NULL, err);
	return result < 0 ? -1 : known_remember(known, content, err);
}

static int capture_open(struct known_contents *known, struct store_session *session, int fd,
			const char *name, uint64_t guess, bool ahead, struct known_content *ret,
			struct err *err)
{
	struct known_content content = {.captured = clock_ns(CLOCK_REALTIME)};
	struct content_source source = {.fd = fd};
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, "cannot read %s", name);
	source.size = (uint64_t)st.st_size;
	content.device = st.st_dev;
	content.inode = st.st_ino;
	content.mtime = timespec_ns(&st.st_mtim);
	content.ctime = timespec_ns(&st.st_ctim);
	if (capture(known, session, &source, guess, ahead, &content, err) < 0)
		return err_wrap(err, "%s", name);
	*ret = content;
	return 0;
}

int contents_capture_path(struct known_contents *known, struct store_session *session,
			  const char *path, const char *name, uint64_t guess, bool ahead,
			  struct known_content *ret, struct err *err)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	return capture_open(known, session, fd, name, guess, ahead, ret, err);
}

int contents_capture_memory(struct known_contents *known, struct store_session *session,
			    const struct piece_list *pieces, uint64_t guess, bool ahead,
			    struct known_content *content, struct err *err)
{
	struct content_source source = {
		.fd = -1, .pieces = pieces->list, .n_pieces = pieces->n, .size = content->size};

	return capture(known, session, &source, guess, ahead, content, err);
}

/* ---- in the pause -------------------------------------------------------------------------- */

static void take(Snap__File *f, const struct known_content *k)
{
	f->content_root = k->root;
	f->size = k->size;
	f->mtime = k->mtime;
	f->ctime = k->ctime;
}

/* Where some process has the file mapped. */
static uint64_t mapped_at(const struct collection *c, int32_t id)
{
	for (size_t i = 0; i < c->model->n_processes; i++) {
		const Snap__Process *p = c->model->processes[i];

		for (size_t k = 0; k < p->n_regions; k++)
			if (p->regions[k]->file == id && holds_memory(p->regions[k]))
				return p->regions[k]->start;
	}
	return 0;
}

/* What to begin with where this memory is not known: after a recovery. */
static uint64_t guess_root(const struct collection *c, size_t id, const struct known_contents *known)
{
	uint64_t start = known->last && c->sources[id].mapped_shared ? mapped_at(c, (int32_t)id) : 0;

	return start ? known_root_at(known, start) : 0;
}

/* Shared memory that no descriptor leads to. */
static int capture_mapping(struct collection *c, size_t id, struct store_session *session,
			   struct known_contents *known, struct err *err)
{
	Snap__File *f = c->model->files[id];
	const struct file_source *s = &c->sources[id];
	const struct known_content *k = known_find(known, f->device, f->inode);
	uint64_t base = k ? k->root : guess_root(c, id, known);
	struct known_content content = {
		.device = makedev(s->kernel_dev_major, s->kernel_dev_minor),
		.inode = f->inode,
		.size = f->size,
	};
	struct piece_list pieces;
	int result;

	if (pieces_resident(c, s, &pieces, err) < 0)
		return -1;
	result = contents_capture_memory(known, session, &pieces, base, false, &content, err);
	piece_list_free(&pieces);
	if (result < 0)
		return err_wrap(err, "shared memory %s", f->path);
	f->content_root = content.root;
	return 0;
}

/* Writing through a mapping leaves no trace in the times of a file of tmpfs (mm/shmem.c), even after it has
 * been unmapped. */
static bool times_prove(const struct file_source *s)
{
	struct statfs fs;

	return !s->mapped_shared && statfs(s->path, &fs) == 0 && fs.f_type != TMPFS_MAGIC &&
	       fs.f_type != HUGETLBFS_MAGIC;
}

/* Ours is the job's own description: not to be kept longer than the job stands still. */
static int capture_leased(struct known_contents *known, struct store_session *session,
			  struct file_source *s, const char *name, struct known_content *ret,
			  struct err *err)
{
	cleanup_fd int fd = s->leased - 1;

	s->leased = 0;
	return capture_open(known, session, fd, name, 0, false, ret, err);
}

/* By what the job has of it; -1: it has nothing that can be read. */
static int fetch_content(const struct collection *c, size_t id)
{
	int fd = -1;

	for (size_t i = 0; fd < 0 && i < c->model->n_open_files; i++) {
		const Snap__OpenFile *open = c->model->open_files[i];
		const struct collected_process *p;
		struct err ignored;
		int number;

		if (open->kind == SNAP__OPEN_FILE__KIND__FILE && open->file == (int32_t)id &&
		    !(open->flags & O_PATH) && (open->flags & O_ACCMODE) != O_WRONLY &&
		    find_holder(c, i, &p, &number))
			fd = descriptor_fetch(p, number, &ignored);
	}
	return fd;
}

/* By the job's own description where it may not be opened (any more), or only when others have given up a lease; and
 * where the job watches files: it is not to be told that somebody opens and closes them. */
static int open_content(const struct collection *c, size_t id, bool watched)
{
	int fd = watched ? fetch_content(c, id) : -1, why;

	if (fd < 0)
		fd = open(c->sources[id].path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	why = errno;
	if (fd < 0 && (why == EACCES || why == EAGAIN))
		fd = fetch_content(c, id);
	errno = why;
	return fd;
}

static int capture_job_file(struct collection *c, size_t id, bool watched, struct store_session *session,
			    struct known_contents *known, struct err *err)
{
	Snap__File *f = c->model->files[id];
	struct file_source *s = &c->sources[id];
	const struct known_content *k = known_find(known, f->device, f->inode);
	struct known_content fresh;
	cleanup_fd int fd = -1;
	struct stat st;

	if (!s->path)
		return capture_mapping(c, id, session, known, err);
	f->unsteady = s->mapped_shared;
	if (s->leased) {
		if (capture_leased(known, session, s, f->path, &fresh, err) < 0)
			return -1;
		take(f, &fresh);
		return 0;
	}
	if (s->late && (s->held = open(s->path, O_RDONLY | O_CLOEXEC) + 1) > 0)
		return 0;
	if (stat(s->path, &st) < 0)
		return err_sys(err, "cannot look at %s", f->path);
	if (k && known_still_holds(k, &st) && times_prove(s)) {
		take(f, k);
		return 0;
	}
	fd = open_content(c, id, watched);
	if (capture_open(known, session, fd, f->path, guess_root(c, id, known), false, &fresh, err) < 0)
		return -1;
	take(f, &fresh);
	return 0;
}

static bool watches_files(const Snap__Snapshot *model)
{
	for (size_t i = 0; i < model->n_open_files; i++)
		if (model->open_files[i]->kind == SNAP__OPEN_FILE__KIND__INOTIFY)
			return true;
	return false;
}

int contents_capture_job_files(struct collection *c, struct store_session *session,
			       struct known_contents *known, struct err *err)
{
	bool watched = watches_files(c->model);

	for (size_t i = 0; i < c->model->n_files; i++) {
		const Snap__File *f = c->model->files[i];

		if (f->content && f->policy == SNAP__FILE__POLICY__RESTORE &&
		    capture_job_file(c, i, watched, session, known, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- afterwards ---------------------------------------------------------------------------- */

/* Not of the file that was to be read. */
static bool is_of_the_store(const struct err *err)
{
	return err->kind == ERR_FULL || err->kind == ERR_CORRUPT || err->kind == ERR_SYSTEM;
}

int contents_capture_programs(struct collection *c, struct store_session *session,
			      struct known_contents *known, struct err *err)
{
	for (size_t i = 0; i < c->model->n_files; i++) {
		Snap__File *f = c->model->files[i];
		const struct known_content *k = known_find(known, f->device, f->inode);
		struct known_content fresh;
		char held[64];
		bool same;

		if (!f->content || (f->policy != SNAP__FILE__POLICY__IDENTITY && !c->sources[i].held))
			continue;
		if (k && k->size == f->size && k->mtime == f->mtime && k->ctime == f->ctime) {
			f->content_root = k->root;
			continue;
		}
		/* By its own path: the process may have ended since it runs again. */
		snprintf(held, sizeof(held), "/proc/self/fd/%d", c->sources[i].held - 1);
		if (contents_capture_path(known, session, c->sources[i].held ? held : f->path, f->path, 0,
					  false, &fresh, err) < 0) {
			if (!c->sources[i].beside || is_of_the_store(err))
				return -1;
			f->content = false;
			continue;
		}
		same = fresh.inode == f->inode && fresh.mtime == f->mtime && fresh.size == f->size;
		if (!same && !c->sources[i].beside)
			return err_set(err, ERR_UNSUPPORTED, "%s changed while it was being saved", f->path);
		f->content = same;
		f->content_root = same ? fresh.root : 0;
	}
	return 0;
}
