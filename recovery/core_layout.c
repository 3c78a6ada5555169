/*
 * Which part of a core file shows which region, and where its bytes come from: the process's own
 * pages, under them the content of the mapped file, from the store or, where it is still the same,
 * from the disk.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "recovery/core_impl.h"
#include "recovery/plan.h"
#include "store/base/cleanup.h"
#include "store/base/units.h"
#include "store/tree.h"

/* What lies under the process's own pages. */
struct backing {
	enum { BACKING_ZERO, BACKING_TABLE, BACKING_DISK, BACKING_UNKNOWN } kind;
	uint64_t root, base; /* BACKING_TABLE: page `base` of the table is the file's first */
	int fd;		     /* BACKING_DISK */
	uint64_t pages;	     /* of the file */
};

/* One region being laid out. Pages are counted from its start. */
struct drawing {
	struct core *core;
	const Snap__Region *region;
	struct backing backing;
	struct page_reader *own, *under;
	uint64_t first; /* of the region, in the address space */
	uint64_t n;
	uint64_t from;	/* where the segment begins */
	uint64_t drawn; /* up to here pages have been given out */
};

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory");
}

static bool grow(void **list, size_t n, size_t *room, size_t size)
{
	size_t more = *room ? *room * 2 : 64;
	void *grown;

	if (n < *room)
		return true;
	grown = reallocarray(*list, more, size);
	if (!grown)
		return false;
	*list = grown;
	*room = more;
	return true;
}

/* ---- segments ------------------------------------------------------------------------------ */

/* Pages from d->from on, the first `filled` of `n` of them in the file. */
static int add_segment(struct drawing *d, uint64_t n, uint64_t filled, struct err *err)
{
	struct core *core = d->core;
	uint64_t start = (d->first + d->from) * STORE_PAGE_SIZE;

	if (n == 0)
		return 0;
	if (!grow((void **)&core->segments, core->n_segments, &core->segments_room,
		  sizeof(*core->segments)))
		return no_memory(err);
	core->segments[core->n_segments++] = (struct core_segment){
		.start = start,
		.end = start + n * STORE_PAGE_SIZE,
		.filled = start + filled * STORE_PAGE_SIZE,
		.at = core->length,
		.prot = d->region->prot,
	};
	core->length += filled * STORE_PAGE_SIZE;
	d->from += n;
	return 0;
}

/* What is between two stretches of pages, or behind the last one. Unknown content is not shown as
 * zeroes. */
static bool leaves_out(const struct drawing *d, uint64_t n)
{
	bool nothing = d->drawn == 0 && d->from == 0 && n == d->n;

	return n > 0 && (d->backing.kind == BACKING_UNKNOWN || n * STORE_PAGE_SIZE >= CORE_HOLE ||
			 (nothing && !(d->region->prot & PROT_READ)));
}

/* The next page to be in the file is `page` (the region's end: there is none). */
static int go_to(struct drawing *d, uint64_t page, struct err *err)
{
	uint64_t filled = d->drawn - d->from;

	if (leaves_out(d, page - d->drawn)) {
		if (add_segment(d, filled, filled, err) < 0 ||
		    add_segment(d, page - d->from, 0, err) < 0)
			return -1;
	} else if (page == d->n) {
		if (add_segment(d, page - d->from, page - d->from, err) < 0)
			return -1;
	}
	d->drawn = page;
	return 0;
}

static int add_piece(struct drawing *d, const struct core_piece *piece, struct err *err)
{
	struct core *core = d->core;

	if (!grow((void **)&core->pieces, core->n_pieces, &core->pieces_room,
		  sizeof(*core->pieces)))
		return no_memory(err);
	core->pieces[core->n_pieces++] = *piece;
	return 0;
}

/* n pages at `page` of the region come from there. Ascending. */
static int draw(struct drawing *d, uint64_t page, uint64_t n, struct core_piece from,
		struct err *err)
{
	uint64_t first = from.first, at;

	if (go_to(d, page, err) < 0)
		return -1;
	at = d->core->length + (page - d->from) * STORE_PAGE_SIZE;
	for (uint64_t done = 0; done < n; done += from.n) {
		from.n = n - done < CORE_PIECE_PAGES ? (uint32_t)(n - done) : CORE_PIECE_PAGES;
		from.first = first + done;
		from.at = at + done * STORE_PAGE_SIZE;
		if (add_piece(d, &from, err) < 0)
			return -1;
	}
	d->drawn = page + n;
	return 0;
}

/* ---- pages --------------------------------------------------------------------------------- */

/* What lies under pages [page, end) of the region. */
static int draw_under(struct drawing *d, uint64_t page, uint64_t end, struct err *err)
{
	const struct backing *b = &d->backing;
	uint64_t offset = d->region->offset / STORE_PAGE_SIZE;
	struct page_run run;
	int found;

	if (b->kind != BACKING_TABLE && b->kind != BACKING_DISK)
		return 0;
	if (offset >= b->pages)
		return 0;
	if (end > b->pages - offset)
		end = b->pages - offset;
	if (b->kind == BACKING_DISK)
		return page >= end ? 0
				   : draw(d, page, end - page,
					  (struct core_piece){.fd = b->fd, .first = offset + page},
					  err);
	while (page < end) {
		uint64_t at = b->base + offset + page, stop;

		found = page_reader_next(d->under, at, &run, err);
		if (found < 0)
			return -1;
		if (found == 0 || run.first >= b->base + offset + end)
			return 0;
		page = run.first - b->base - offset;
		stop = run.n < end - page ? page + run.n : end;
		if (run.kind == PAGE_DATA &&
		    draw(d, page, stop - page,
			 (struct core_piece){.root = b->root, .fd = -1, .first = run.first},
			 err) < 0)
			return -1;
		page = stop;
	}
	return 0;
}

static int draw_own(struct drawing *d, struct err *err)
{
	uint64_t page = 0;
	struct page_run run;
	int found;

	while (page < d->n && d->own) {
		uint64_t stop;

		found = page_reader_next(d->own, d->first + page, &run, err);
		if (found < 0)
			return -1;
		if (found == 0 || run.first >= d->first + d->n)
			break;
		stop = run.first - d->first;
		if (draw_under(d, page, stop, err) < 0)
			return -1;
		page = stop;
		stop = run.n < d->n - page ? page + run.n : d->n;
		if (run.kind == PAGE_ZERO
			    ? d->backing.kind == BACKING_UNKNOWN &&
				      draw(d, page, stop - page, (struct core_piece){.fd = -1},
					   err) < 0
			    : draw(d, page, stop - page,
				   (struct core_piece){.root = d->core->memory->pages_root,
						       .fd = -1,
						       .first = run.first},
				   err) < 0)
			return -1;
		page = stop;
	}
	return draw_under(d, page, d->n, err);
}

static int draw_pages(struct drawing *d, struct err *err)
{
	struct core *core = d->core;
	int result = 0;

	if (plan_region_has_pages(d->region))
		result = page_reader_open(&d->own, core->store, core->memory->pages_root, err);
	if (result == 0 && d->backing.kind == BACKING_TABLE)
		result = page_reader_open(&d->under, core->store, d->backing.root, err);
	if (result == 0)
		result = draw_own(d, err);
	page_reader_close(d->own);
	page_reader_close(d->under);
	return result;
}

/* ---- files --------------------------------------------------------------------------------- */

static int find_in_trees(struct core *core, const Snap__File *file, struct backing *ret,
			 struct err *err)
{
	for (size_t i = 0; i < core->model->n_trees; i++) {
		const Snap__Tree *model = core->model->trees[i];
		size_t len = strlen(model->path);
		struct tree tree = {0};
		uint32_t object;

		if (strncmp(file->path, model->path, len) != 0 || file->path[len] != '/')
			continue;
		if (tree_load(&tree, core->store, model, err) < 0)
			return -1;
		object = tree_lookup(&tree, file->path + len + 1);
		if (object != TREE_NOWHERE && tree.objects[object].kind == TREE_REGULAR)
			*ret = (struct backing){
				.kind = BACKING_TABLE,
				.root = model->contents_root,
				.base = tree.objects[object].content.first,
				.pages = tree_pages(tree.objects[object].size),
			};
		tree_clear(&tree);
	}
	return 0;
}

/* The file on this machine, where nothing says that it is another one. */
static int find_on_disk(struct core *core, const Snap__File *file, struct backing *ret,
			struct err *err)
{
	cleanup_fd int fd = -1;
	struct stat st;
	int *fds;

	if (file->kind != SNAP__FILE__KIND__REGULAR || file->deleted)
		return 0;
	fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
	    (uint64_t)st.st_size != file->size ||
	    (uint64_t)st.st_mtim.tv_sec * NSEC_PER_SEC + (uint64_t)st.st_mtim.tv_nsec !=
		    file->mtime)
		return 0;
	fds = reallocarray(core->fds, core->n_fds + 1, sizeof(*fds));
	if (!fds)
		return no_memory(err);
	core->fds = fds;
	*ret = (struct backing){.kind = BACKING_DISK, .fd = fd, .pages = tree_pages(file->size)};
	fds[core->n_fds++] = steal_fd(&fd);
	return 0;
}

static int find_file(struct core *core, const Snap__File *file, struct backing *ret,
		     struct err *err)
{
	*ret = (struct backing){.kind = BACKING_UNKNOWN};
	if (file->content) {
		*ret = (struct backing){.kind = BACKING_TABLE,
					.root = file->content_root,
					.pages = tree_pages(file->size)};
		return 0;
	}
	if (file->in_tree && find_in_trees(core, file, ret, err) < 0)
		return -1;
	return ret->kind == BACKING_UNKNOWN ? find_on_disk(core, file, ret, err) : 0;
}

/* A file's mappings lie beside each other: it is looked for once. */
struct last_file {
	int32_t file; /* -1: none yet */
	struct backing backing;
};

static int find_backing(struct core *core, const Snap__Region *r, struct last_file *last,
			struct backing *ret, struct err *err)
{
	const char *path;

	*ret = (struct backing){.kind = BACKING_ZERO};
	if (r->kind == SNAP__REGION__KIND__VVAR || r->kind == SNAP__REGION__KIND__VSYSCALL)
		ret->kind = BACKING_UNKNOWN; /* the kernel's own */
	if (r->file < 0)
		return 0;
	if (r->file != last->file &&
	    find_file(core, core->model->files[r->file], &last->backing, err) < 0)
		return -1;
	last->file = r->file;
	*ret = last->backing;
	path = core->model->files[r->file]->path;
	if (ret->kind == BACKING_UNKNOWN && core->result.missing++ == 0)
		memcpy(core->result.missing_path, path,
		       strnlen(path, sizeof(core->result.missing_path) - 1));
	return 0;
}

/* ---- the whole ----------------------------------------------------------------------------- */

static int draw_vdso(struct drawing *d, struct err *err)
{
	const ProtobufCBinaryData *image = &d->core->model->host->vdso;
	uint64_t room = d->n * STORE_PAGE_SIZE, len = image->len < room ? image->len : room;
	struct core_piece piece = {.fd = -1, .bytes = image->data, .len = (size_t)len};

	return len ? draw(d, 0, tree_pages(len), piece, err) : 0;
}

static int draw_region(struct core *core, const Snap__Region *r, struct last_file *last,
		       struct err *err)
{
	struct drawing d = {
		.core = core,
		.region = r,
		.first = r->start / STORE_PAGE_SIZE,
		.n = (r->end - r->start) / STORE_PAGE_SIZE,
	};

	if (find_backing(core, r, last, &d.backing, err) < 0)
		return -1;
	if ((r->kind == SNAP__REGION__KIND__VDSO ? draw_vdso(&d, err) : draw_pages(&d, err)) < 0)
		return -1;
	core->result.regions++;
	return go_to(&d, d.n, err);
}

int core_lay_out(struct core *core, struct err *err)
{
	struct last_file last = {.file = -1};

	for (size_t i = 0; i < core->memory->n_regions; i++)
		if (draw_region(core, core->memory->regions[i], &last, err) < 0)
			return -1;
	return 0;
}

void core_clear(struct core *core)
{
	for (size_t i = 0; i < core->n_fds; i++)
		close(core->fds[i]);
	free(core->fds);
	free(core->segments);
	free(core->pieces);
}
