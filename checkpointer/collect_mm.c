#include "checkpointer/collect.h"

#include "checkpointer/descriptor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "store/base/cleanup.h"

/* Of anonymous mappings with MAP_HUGETLB (fs/hugetlbfs/inode.c, HUGETLB_ANON_FILE). */
#define HUGE_NAME "/anon_hugepage"

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while describing memory");
}

/* VmFlags to region_advice. */
static const struct {
	uint64_t vm_flag;
	uint32_t advice;
} advice_of_flag[] = {
	{VMF_HUGEPAGE, ADVICE_HUGEPAGE},     {VMF_NOHUGEPAGE, ADVICE_NOHUGEPAGE},
	{VMF_DONTFORK, ADVICE_DONTFORK},     {VMF_DONTDUMP, ADVICE_DONTDUMP},
	{VMF_WIPEONFORK, ADVICE_WIPEONFORK}, {VMF_MERGEABLE, ADVICE_MERGEABLE},
	{VMF_SEQUENTIAL, ADVICE_SEQUENTIAL}, {VMF_RANDOM, ADVICE_RANDOM},
	{VMF_LOCKED, ADVICE_LOCKED},         {VMF_LOCKONFAULT, ADVICE_LOCKONFAULT},
	{VMF_SEALED, ADVICE_SEALED},         {VMF_DROPPABLE, ADVICE_DROPPABLE},
};

static uint32_t advice(const struct proc_map *map)
{
	uint32_t bits = 0;

	for (size_t i = 0; i < sizeof(advice_of_flag) / sizeof(advice_of_flag[0]); i++)
		if (map->vm_flags & advice_of_flag[i].vm_flag)
			bits |= advice_of_flag[i].advice;
	return bits;
}

static bool starts_with(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

static int refuse_region(const struct collected_process *p, const struct proc_map *map, const char *what,
			 struct err *err)
{
	char label[96];

	return err_set(err, ERR_UNSUPPORTED, "%s: %s at 0x%llx%s%s",
		       process_label(p->frozen, label, sizeof(label)), what,
		       (unsigned long long)map->start, map->name[0] ? " " : "", map->name);
}

static bool is_own_huge(const struct proc_map *map)
{
	return starts_with(map->name, "/memfd:") || starts_with(map->name, HUGE_NAME);
}

/* Refuses what no snapshot can hold yet, by name. */
static int check_supported(const struct collected_process *p, const struct proc_map *map,
			   struct err *err)
{
	const char *what = NULL;

	if (map->vm_flags & (VMF_UFFD_MISSING | VMF_UFFD_MINOR))
		what = "a region that the job handles with userfaultfd itself";
	else if (map->vm_flags & VMF_SHADOW_STACK)
		what = "a shadow stack";
	else if ((map->vm_flags & (VMF_IO | VMF_PFNMAP)) && !starts_with(map->name, "[v"))
		what = "a device mapping";
	else if ((map->vm_flags & VMF_HUGETLB) && map->name[0] == '/' && !is_own_huge(map))
		what = "a file of hugetlbfs";
	else if (starts_with(map->name, "/secretmem"))
		what = "secret memory (memfd_secret)";
	else if (starts_with(map->name, "/[aio]"))
		what = "an asynchronous I/O context (io_setup)";
	else if (strstr(map->name, "anon_inode:[io_uring]"))
		what = "an io_uring";
	if (!what)
		return 0;
	return refuse_region(p, map, what, err);
}

/* A mapping of a file that can still be reached by its path. */
static int map_file(struct collection *c, const struct collected_process *p,
		    const struct proc_map *map, Snap__Region *r, struct err *err)
{
	bool writes = map->shared && (map->prot & PROT_WRITE);
	cleanup_free char *path = NULL;
	int32_t id = file_table_find_mapped(c, map);

	if (id < 0) {
		if (asprintf(&path, "/proc/%d/root%s", p->frozen->pid, map->name) < 0)
			return no_memory(err);
		if (file_table_add(c, path, map->name, writes, &id, err) < 0)
			return err_wrap(err, "process %d: mapping of %s", p->frozen->vpid, map->name);
		c->sources[id].kernel_dev_major = map->dev_major;
		c->sources[id].kernel_dev_minor = map->dev_minor;
	}
	if (c->model->files[id]->inode != map->inode)
		return err_set(err, ERR_NOT_FOUND, "%s was replaced", map->name);
	c->sources[id].mapped = true;
	if (c->model->files[id]->policy == SNAP__FILE__POLICY__INPUT)
		c->model->files[id]->policy = SNAP__FILE__POLICY__IDENTITY;
	if (writes) {
		c->sources[id].mapped_shared = true;
		c->sources[id].late = false;
	}
	if (writes && !c->model->files[id]->in_tree) {
		c->model->files[id]->policy = SNAP__FILE__POLICY__RESTORE;
		c->model->files[id]->content = true; /* a read-only mapping may have come first */
	}
	if (map->prot & PROT_EXEC && !c->model->files[id]->in_tree)
		c->model->files[id]->content = true; /* a program or library: travels with the job */
	if (map->prot & PROT_EXEC)
		c->sources[id].beside = false;
	else if (!writes)
		describe_mapped(c, id);
	r->file = id;
	return 0;
}

/* A removed file of which only mappings are left: what they show is all there is of it. */
static int add_unreachable(struct collection *c, const struct proc_map *map, int32_t *ret_id,
			   struct err *err)
{
	bool memfd = starts_with(map->name, "/memfd:"), huge = map->vm_flags & VMF_HUGETLB;
	Snap__File__Kind kind = memfd	       ? SNAP__FILE__KIND__MEMFD
				: map->deleted && !huge && !starts_with(map->name, "/dev/zero")
					? SNAP__FILE__KIND__REGULAR
					: SNAP__FILE__KIND__SHARED_ANONYMOUS;

	if (file_table_add_anonymous(c, kind, memfd ? map->name + strlen("/memfd:") : map->name, 0,
				     map->inode, map->offset + (map->end - map->start), ret_id, err) < 0)
		return -1;
	c->model->files[*ret_id]->huge_page = huge ? map->kernel_page_size : 0;
	return 0;
}

/* Shared memory known by its inode only; read through its mappings unless a descriptor turns up. */
static int map_shared_memory(struct collection *c, const struct collected_process *p,
			     const struct proc_map *map, Snap__Region *r, struct err *err)
{
	const struct file_piece piece = {.pid = p->frozen->pid,
					 .start = map->start,
					 .offset = map->offset,
					 .len = map->end - map->start};
	int32_t id = file_table_find_mapped(c, map);
	struct file_source *s;

	if (id < 0 && add_unreachable(c, map, &id, err) < 0)
		return -1;
	s = &c->sources[id];
	s->kernel_dev_major = map->dev_major;
	s->kernel_dev_minor = map->dev_minor;
	s->mapped_shared = true;
	s->huge = map->vm_flags & VMF_HUGETLB;
	if (!s->path && file_source_add_piece(s, &piece, err) < 0)
		return -1;
	if (!s->path && c->model->files[id]->size < piece.offset + piece.len)
		c->model->files[id]->size = piece.offset + piece.len;
	r->kind = SNAP__REGION__KIND__SHARED_MEMORY;
	r->file = id;
	return 0;
}

static bool is_shared_memory(const struct proc_map *map)
{
	return map->shared && (starts_with(map->name, "/memfd:") || starts_with(map->name, "/dev/zero") ||
			       starts_with(map->name, "[anon_shmem") || starts_with(map->name, HUGE_NAME));
}

/* Nothing else of that name is shared and removed (ipc/shm.c, newseg). */
static bool is_sysv(const struct proc_map *map)
{
	return map->shared && map->deleted && starts_with(map->name, "/SYSV");
}

/* Kind, file and content source of one mapping. */
static int classify(struct collection *c, struct collected_process *p, const struct proc_map *map,
		    Snap__Region *r, bool *ret_read_all, struct err *err)
{
	*ret_read_all = false;
	r->file = -1;
	if (strcmp(map->name, "[vdso]") == 0) {
		r->kind = SNAP__REGION__KIND__VDSO;
		p->model->memory->vdso = map->start;
		return 0;
	}
	if (starts_with(map->name, "[vvar")) {
		r->kind = SNAP__REGION__KIND__VVAR;
		return 0;
	}
	if (is_sysv(map))
		return sysv_map(c, p, map, r, err);
	if (is_shared_memory(map))
		return map_shared_memory(c, p, map, r, err);
	if (map->vm_flags & VMF_HUGETLB) {
		r->kind = SNAP__REGION__KIND__HUGETLB;
		/* A private mapping of a memfd becomes memory of its own. */
		*ret_read_all = starts_with(map->name, "/memfd:");
		return 0;
	}
	if (map->name[0] != '/') {
		r->kind = SNAP__REGION__KIND__ANONYMOUS;
		if (starts_with(map->name, "[anon:"))
			return snap_set_string(&r->name, map->name) < 0 ? no_memory(err) : 0;
		return 0;
	}
	r->kind = map->shared ? SNAP__REGION__KIND__FILE_SHARED : SNAP__REGION__KIND__FILE_PRIVATE;
	if (!map->deleted && map_file(c, p, map, r, err) == 0)
		return 0;
	if (!map->deleted && err->kind != ERR_NOT_FOUND)
		return -1;
	r->file = file_table_find_mapped(c, map);
	if (r->file >= 0) {
		if (map->shared && (map->prot & PROT_WRITE))
			c->sources[r->file].mapped_shared = true;
		return 0; /* removed, but a descriptor leads to it */
	}
	if (map->shared)
		return map_shared_memory(c, p, map, r, err);
	/* Its file cannot be reached any more: the mapping becomes plain memory, all of it read. */
	r->kind = SNAP__REGION__KIND__ANONYMOUS;
	*ret_read_all = true;
	return 0;
}

/* Base 2 logarithm of the size of its pages. */
static uint32_t huge_shift(const struct proc_map *map)
{
	return map->kernel_page_size ? (uint32_t)__builtin_ctzll(map->kernel_page_size) : 0;
}

static int add_region(struct collection *c, struct collected_process *p, const struct proc_map *map,
		      struct err *err)
{
	Snap__Process *m = p->model;
	size_t i = m->n_regions;
	Snap__Region *r;
	bool *more;

	if (check_supported(p, map, err) < 0)
		return -1;
	r = snap_append(&m->regions, &m->n_regions, Snap__Region, SNAP__REGION__INIT);
	if (!r)
		return no_memory(err);
	if ((i & (i - 1)) == 0) {
		more = realloc(p->read_all, (i ? i * 2 : 1) * sizeof(*more));
		if (!more)
			return no_memory(err);
		p->read_all = more;
	}
	r->start = map->start;
	r->end = map->end;
	r->prot = map->prot;
	r->offset = map->offset;
	r->map_flags = (map->vm_flags & VMF_GROWSDOWN ? MAP_GROWSDOWN : 0) |
		       (map->vm_flags & VMF_NORESERVE ? MAP_NORESERVE : 0) |
		       (map->vm_flags & VMF_HUGETLB ? MAP_HUGETLB | huge_shift(map) << MAP_HUGE_SHIFT : 0);
	r->advice = advice(map);
	r->protection_key = (int32_t)map->protection_key;
	return classify(c, p, map, r, &p->read_all[i], err);
}

/* Adds what remains of a mapping when the executor, which may have merged with it, is cut out. */
static int add_without_executor(struct collection *c, struct collected_process *p,
				const struct proc_map *map, struct err *err)
{
	uint64_t from = p->remote.base, to = p->remote.base + p->remote.size;
	struct proc_map part = *map;

	if (map->end <= from || map->start >= to)
		return add_region(c, p, map, err);
	/* mlockall(2) with MCL_FUTURE shows in what has been mapped since. */
	if (map->vm_flags & VMF_LOCKED)
		p->model->lock_future = MCL_FUTURE | (map->vm_flags & VMF_LOCKONFAULT ? MCL_ONFAULT : 0);
	if (map->start < from) {
		part.end = from;
		if (add_region(c, p, &part, err) < 0)
			return -1;
	}
	if (map->end > to) {
		part = *map;
		part.start = to;
		return add_region(c, p, &part, err);
	}
	return 0;
}

static int read_vdso(struct collection *c, const struct collected_process *p, const Snap__Region *r,
		     struct err *err)
{
	size_t len = r->end - r->start;
	cleanup_free void *image = malloc(len);

	if (!image)
		return no_memory(err);
	if (mem_read(p->frozen->pid, r->start, image, len, err) < 0)
		return -1;
	return snap_set_bytes(&c->model->host->vdso, image, len) < 0 ? no_memory(err) : 0;
}

int collect_mm(struct collection *c, struct collected_process *p, struct err *err)
{
	const struct map_list *list;
	int result = 0;

	if (map_notes_read(c->notes, p->frozen->pid, p->remote.base, p->remote.base + p->remote.size, &list,
			   err) < 0)
		return -1;
	for (size_t i = 0; result == 0 && i < list->n; i++)
		if (strcmp(list->maps[i].name, "[vsyscall]") != 0)
			result = refusals_go_on(&c->refusals,
						add_without_executor(c, p, &list->maps[i], err), err);
	for (size_t i = 0; result == 0 && i < p->model->n_regions; i++)
		if (p->model->regions[i]->kind == SNAP__REGION__KIND__VDSO && !c->model->host->vdso.len)
			result = read_vdso(c, p, p->model->regions[i], err);
	return result;
}
