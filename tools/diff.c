#include "tools/diff.h"

#include <stdlib.h>
#include <string.h>

void *diff_grow(void *list, size_t *n, size_t *room, size_t size, struct err *err)
{
	char *items = *(char **)list;

	if (*n == *room) {
		size_t more = *room ? *room * 2 : 16;

		items = reallocarray(items, more, size);
		if (!items) {
			err_sys(err, "list of differences");
			return NULL;
		}
		*(char **)list = items;
		*room = more;
	}
	items += (*n)++ * size;
	memset(items, 0, size);
	return items;
}

static void count_pages(struct diff_pages *sum, const struct page_difference *d)
{
	if (d->a == PAGE_ABSENT)
		sum->came += d->n;
	else if (d->b == PAGE_ABSENT)
		sum->went += d->n;
	else
		sum->changed += d->n;
}

int diff_tables(struct store *store, uint64_t root_a, uint64_t root_b, uint64_t first, uint64_t n,
		struct diff_pages *ret, struct err *err)
{
	struct page_reader *a = NULL, *b = NULL;
	struct page_difference d;
	uint64_t at = first, end = first + n;
	int found = 0;

	if (root_a == root_b)
		return 0;
	if (page_reader_open(&a, store, root_a, err) < 0 ||
	    page_reader_open(&b, store, root_b, err) < 0)
		found = -1;
	while (found >= 0 && (found = page_readers_compare(a, b, at, end, &d, err)) > 0) {
		count_pages(ret, &d);
		at = d.first + d.n;
	}
	page_reader_close(a);
	page_reader_close(b);
	return found;
}

static void add_pages(struct diff_pages *sum, const struct diff_pages *more)
{
	sum->changed += more->changed;
	sum->came += more->came;
	sum->went += more->went;
}

static bool any_pages(const struct diff_pages *p)
{
	return p->changed || p->came || p->went;
}

/* ---- regions ------------------------------------------------------------------------------- */

/* One process in both snapshots; a side that it is not in has NULLs. */
struct pair {
	struct store *store;
	const Snap__Snapshot *model_a, *model_b;
	const Snap__Process *a, *b;
	const Snap__Process *memory_a, *memory_b;
	struct diff_process *result;
};

static const Snap__File *file_of(const Snap__Snapshot *model, const Snap__Region *r)
{
	return r->file >= 0 && (size_t)r->file < model->n_files ? model->files[r->file] : NULL;
}

static const char *region_name(const Snap__Snapshot *model, const Snap__Process *memory,
			       const Snap__Region *r)
{
	const Snap__File *file = file_of(model, r);
	const Snap__Memory *m = memory->memory;

	if (file)
		return *file->path ? file->path : "(shared memory)";
	if (r->kind == SNAP__REGION__KIND__VDSO)
		return "[vdso]";
	if (r->kind == SNAP__REGION__KIND__VVAR)
		return "[vvar]";
	if (*r->name)
		return r->name;
	if (m && m->start_brk < m->brk && r->start < m->brk && r->end > m->start_brk)
		return "[heap]";
	if (m && r->start <= m->start_stack && r->end > m->start_stack)
		return "[stack]";
	return "(anonymous)";
}

/* The same mapping, whatever has become of its bounds. */
static bool is_same(const struct pair *p, const Snap__Region *a, const Snap__Region *b)
{
	const Snap__File *x = file_of(p->model_a, a), *y = file_of(p->model_b, b);

	if (a->kind != b->kind || !x != !y || a->end <= b->start || b->end <= a->start)
		return false;
	return !x ||
	       (strcmp(x->path, y->path) == 0 && a->offset - a->start == b->offset - b->start);
}

static bool has_own_pages(const Snap__Region *r)
{
	return r && (r->kind == SNAP__REGION__KIND__ANONYMOUS ||
		     r->kind == SNAP__REGION__KIND__FILE_PRIVATE ||
		     r->kind == SNAP__REGION__KIND__HUGETLB);
}

static bool is_shared(const Snap__Region *r)
{
	return r && (r->kind == SNAP__REGION__KIND__SHARED_MEMORY ||
		     r->kind == SNAP__REGION__KIND__FILE_SHARED ||
		     r->kind == SNAP__REGION__KIND__SYSV_SHM);
}

static uint64_t content_root(const Snap__Snapshot *model, const Snap__Region *r)
{
	const Snap__File *file = r ? file_of(model, r) : NULL;

	return file && file->content ? file->content_root : 0;
}

static int compare_pages(const struct pair *p, struct diff_region *d, struct err *err)
{
	const Snap__Region *one = d->a ? d->a : d->b, *other = d->b ? d->b : d->a;
	uint64_t start = one->start < other->start ? one->start : other->start;
	uint64_t end = one->end > other->end ? one->end : other->end;
	uint64_t first = start / STORE_PAGE_SIZE, n = (end - start) / STORE_PAGE_SIZE;

	if (has_own_pages(d->a) || has_own_pages(d->b))
		return diff_tables(p->store, p->memory_a ? p->memory_a->pages_root : 0,
				   p->memory_b ? p->memory_b->pages_root : 0, first, n, &d->pages,
				   err);
	if (is_shared(one))
		return diff_tables(
			p->store, content_root(p->model_a, d->a), content_root(p->model_b, d->b),
			(one->offset - (one->start - start)) / STORE_PAGE_SIZE, n, &d->pages, err);
	return 0;
}

static int compare_regions(struct pair *p, const Snap__Region *a, const Snap__Region *b,
			   struct err *err)
{
	struct diff_process *r = p->result;
	struct diff_region d = {
		.kind = a ? b ? DIFF_CHANGED : DIFF_GONE : DIFF_NEW, .a = a, .b = b};
	struct diff_region *to;

	r->regions_compared++;
	d.name = b ? region_name(p->model_b, p->memory_b, b)
		   : region_name(p->model_a, p->memory_a, a);
	d.moved = a && b && (a->start != b->start || a->end != b->end);
	d.protected = a && b && a->prot != b->prot;
	if (compare_pages(p, &d, err) < 0)
		return err_wrap(err, "process %d: region 0x%llx", r->pid,
				(unsigned long long)(a ? a : b)->start);
	if (d.kind == DIFF_CHANGED && !d.moved && !d.protected && !any_pages(&d.pages))
		return 0;
	to = diff_grow(&r->regions, &r->n_regions, &r->regions_room, sizeof(*to), err);
	if (!to)
		return -1;
	*to = d;
	add_pages(&r->pages, &d.pages);
	return 0;
}

static int compare_memory(struct pair *p, struct err *err)
{
	size_t n_a = p->memory_a ? p->memory_a->n_regions : 0;
	size_t n_b = p->memory_b ? p->memory_b->n_regions : 0;
	size_t i = 0, k = 0;

	while (i < n_a || k < n_b) {
		const Snap__Region *a = i < n_a ? p->memory_a->regions[i] : NULL;
		const Snap__Region *b = k < n_b ? p->memory_b->regions[k] : NULL;

		if (a && b && !is_same(p, a, b)) {
			if (a->start <= b->start)
				b = NULL;
			else
				a = NULL;
		}
		if (compare_regions(p, a, b, err) < 0)
			return -1;
		i += a != NULL;
		k += b != NULL;
	}
	return 0;
}

/* ---- threads and descriptors --------------------------------------------------------------- */

static const Snap__Thread *find_thread(const Snap__Process *p, int32_t tid, size_t guess)
{
	if (guess < p->n_threads && p->threads[guess]->tid == tid)
		return p->threads[guess];
	for (size_t i = 0; i < p->n_threads; i++)
		if (p->threads[i]->tid == tid)
			return p->threads[i];
	return NULL;
}

static bool same_bytes(const ProtobufCBinaryData *a, const ProtobufCBinaryData *b)
{
	return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

static int add_thread(struct pair *p, enum diff_kind kind, int32_t tid, struct err *err)
{
	struct diff_process *r = p->result;
	struct diff_item *to =
		diff_grow(&r->threads, &r->n_threads, &r->threads_room, sizeof(*to), err);

	if (!to)
		return -1;
	*to = (struct diff_item){.kind = kind, .number = tid};
	return 0;
}

static int compare_threads(struct pair *p, struct err *err)
{
	for (size_t i = 0; p->a && i < p->a->n_threads; i++) {
		const Snap__Thread *a = p->a->threads[i];
		const Snap__Thread *b = p->b ? find_thread(p->b, a->tid, i) : NULL;
		bool same = b && same_bytes(&a->registers, &b->registers) &&
			    same_bytes(&a->xstate, &b->xstate);

		if (!same && add_thread(p, b ? DIFF_CHANGED : DIFF_GONE, a->tid, err) < 0)
			return -1;
	}
	for (size_t i = 0; p->b && i < p->b->n_threads; i++)
		if ((!p->a || !find_thread(p->a, p->b->threads[i]->tid, i)) &&
		    add_thread(p, DIFF_NEW, p->b->threads[i]->tid, err) < 0)
			return -1;
	return 0;
}

/* What a descriptor leads to: a path, or the kind of thing. */
static const char *describe_fd(const Snap__Snapshot *model, const Snap__Fd *fd,
			       uint64_t *ret_offset)
{
	const Snap__OpenFile *o = fd->open_file >= 0 && (size_t)fd->open_file < model->n_open_files
					  ? model->open_files[fd->open_file]
					  : NULL;
	const ProtobufCEnumValue *value;

	*ret_offset = o ? o->offset : 0;
	if (!o)
		return "?";
	if (o->file >= 0 && (size_t)o->file < model->n_files && *model->files[o->file]->path &&
	    (o->kind == SNAP__OPEN_FILE__KIND__FILE || o->kind == SNAP__OPEN_FILE__KIND__INSIDE))
		return model->files[o->file]->path;
	value = protobuf_c_enum_descriptor_get_value(&snap__open_file__kind__descriptor, o->kind);
	return value ? value->name : "?";
}

static int compare_fd(struct pair *p, const Snap__Fd *a, const Snap__Fd *b, struct err *err)
{
	struct diff_process *r = p->result;
	struct diff_item item = {.kind = a ? b ? DIFF_CHANGED : DIFF_GONE : DIFF_NEW,
				 .number = a ? a->number : b->number};
	struct diff_item *to;

	if (a)
		item.a = describe_fd(p->model_a, a, &item.offset_a);
	if (b)
		item.b = describe_fd(p->model_b, b, &item.offset_b);
	if (a && b && strcmp(item.a, item.b) == 0 && item.offset_a == item.offset_b)
		return 0;
	to = diff_grow(&r->fds, &r->n_fds, &r->fds_room, sizeof(*to), err);
	if (!to)
		return -1;
	*to = item;
	return 0;
}

/* Both lists ascend. */
static int compare_fds(struct pair *p, struct err *err)
{
	size_t n_a = p->a ? p->a->n_fds : 0, n_b = p->b ? p->b->n_fds : 0, i = 0, k = 0;

	while (i < n_a || k < n_b) {
		const Snap__Fd *a = i < n_a ? p->a->fds[i] : NULL;
		const Snap__Fd *b = k < n_b ? p->b->fds[k] : NULL;

		if (a && b && a->number < b->number)
			b = NULL;
		else if (a && b && b->number < a->number)
			a = NULL;
		if (compare_fd(p, a, b, err) < 0)
			return -1;
		i += a != NULL;
		k += b != NULL;
	}
	return 0;
}

/* ---- processes ----------------------------------------------------------------------------- */

static const Snap__Process *find_process(const Snap__Snapshot *model, int32_t pid)
{
	for (size_t i = 0; pid && i < model->n_processes; i++)
		if (model->processes[i]->pid == pid)
			return model->processes[i];
	return NULL;
}

/* NULL where it is another process's, which is compared itself. */
static const Snap__Process *own_memory(const Snap__Process *p)
{
	return p && !p->shares_memory && !p->zombie ? p : NULL;
}

static const char *process_name(const Snap__Process *p)
{
	return p->n_threads ? p->threads[0]->comm : p->comm;
}

static int compare_processes(struct diff *diff, struct pair *p, struct err *err)
{
	const Snap__Process *one = p->b ? p->b : p->a;
	struct diff_process *r = diff_grow(&diff->processes, &diff->n_processes,
					   &diff->processes_room, sizeof(*r), err);

	if (!r)
		return -1;
	diff->processes_compared++;
	r->kind = p->a ? p->b ? DIFF_CHANGED : DIFF_GONE : DIFF_NEW;
	r->pid = one->pid;
	r->name = process_name(one);
	p->memory_a = own_memory(p->a);
	p->memory_b = own_memory(p->b);
	p->result = r;
	if (compare_memory(p, err) < 0 || compare_threads(p, err) < 0 || compare_fds(p, err) < 0)
		return -1;
	if (r->kind == DIFF_CHANGED && !r->n_regions && !r->n_threads && !r->n_fds)
		diff->n_processes--;
	return 0;
}

static int compare_all(struct diff *diff, struct store *store, const Snap__Snapshot *a,
		       const Snap__Snapshot *b, struct err *err)
{
	struct pair pair = {.store = store, .model_a = a, .model_b = b};

	for (size_t i = 0; i < a->n_processes; i++) {
		pair.a = a->processes[i];
		pair.b = find_process(b, pair.a->pid);
		if (compare_processes(diff, &pair, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < b->n_processes; i++) {
		pair.a = NULL;
		pair.b = b->processes[i];
		if (!find_process(a, pair.b->pid) && compare_processes(diff, &pair, err) < 0)
			return -1;
	}
	return diff_files(diff, store, a, b, err);
}

int diff_make(struct diff *ret, struct store *store, const Snap__Snapshot *a,
	      const Snap__Snapshot *b, struct err *err)
{
	*ret = (struct diff){0};
	if (compare_all(ret, store, a, b, err) == 0)
		return 0;
	diff_clear(ret);
	return -1;
}

void diff_clear(struct diff *diff)
{
	for (size_t i = 0; i < diff->n_processes; i++) {
		free(diff->processes[i].regions);
		free(diff->processes[i].threads);
		free(diff->processes[i].fds);
	}
	for (size_t i = 0; i < diff->n_files; i++)
		free(diff->files[i].path);
	free(diff->processes);
	free(diff->files);
	*diff = (struct diff){0};
}
