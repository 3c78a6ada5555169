/* System V shared memory: which segments there are, and where their content can be read. */
#include "checkpointer/sysv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#ifndef SHM_STAT_ANY
#define SHM_STAT_ANY 15 /* Linux 4.17 */
#endif

#define WHAT "System V shared memory"

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while describing " WHAT);
}

static int32_t find_file(const struct collection *c, int id)
{
	for (size_t i = 0; i < c->n_sources; i++)
		if (c->model->files[i]->kind == SNAP__FILE__KIND__SYSV &&
		    c->model->files[i]->inode == (uint64_t)(unsigned)id)
			return (int32_t)i;
	return -1;
}

/* The file that stands for the content of a segment. */
static int file_of(struct collection *c, int id, int32_t *ret, struct err *err)
{
	char name[64];

	*ret = find_file(c, id);
	if (*ret >= 0)
		return 0;
	snprintf(name, sizeof(name), WHAT " %d", id);
	if (file_table_add_anonymous(c, SNAP__FILE__KIND__SYSV, name, makedev(SYSV_MAJOR, 0),
				     (unsigned)id, 0, ret, err) < 0)
		return -1;
	c->sources[*ret].kernel_dev_major = SYSV_MAJOR;
	c->sources[*ret].mapped_shared = true;
	return 0;
}

int sysv_map(struct collection *c, const struct collected_process *p, const struct proc_map *map,
	     Snap__Region *r, struct err *err)
{
	const struct file_piece piece = {.pid = p->frozen->pid,
					 .start = map->start,
					 .offset = map->offset,
					 .len = map->end - map->start};

	if (c->config->new_ids)
		return err_set(err, ERR_UNSUPPORTED,
			       "process %d (%s): " WHAT
			       " at 0x%llx, which cannot come back without a capsule",
			       p->frozen->vpid, p->frozen->stat.comm,
			       (unsigned long long)map->start);
	if (file_of(c, (int)map->inode, &r->file, err) < 0)
		return -1;
	r->kind = SNAP__REGION__KIND__SYSV_SHM;
	r->read_only = !(map->vm_flags & VMF_MAYWRITE);
	return file_source_add_piece(&c->sources[r->file], &piece, err);
}

static bool is_shown_whole(const struct file_source *s, uint64_t size)
{
	for (size_t i = 0; i < s->n_pieces; i++)
		if (s->pieces[i].offset == 0 && s->pieces[i].len >= size)
			return true;
	return false;
}

/* Huge pages cannot be split (mm/hugetlb.c, hugetlb_vm_op_split). */
static bool has_huge_pages(void *at, uint64_t size)
{
	if (size <= STORE_PAGE_SIZE || mprotect(at, STORE_PAGE_SIZE, PROT_NONE) == 0)
		return size > STORE_PAGE_SIZE && mprotect(at, STORE_PAGE_SIZE, PROT_READ) < 0;
	return errno == EINVAL;
}

static int attach(struct sysv_look *look, const struct shmid_ds *ds, int id, int32_t file,
		  struct err *err)
{
	struct sysv_notes *notes = look->c->sysv;
	uint64_t size = (ds->shm_segsz + STORE_PAGE_SIZE - 1) & ~(uint64_t)(STORE_PAGE_SIZE - 1);
	struct file_piece piece = {.pid = look->self, .len = size};
	void **more = reallocarray(notes->attached, notes->n + 1, sizeof(*more));
	void *at;

	if (!more)
		return no_memory(err);
	notes->attached = more;
	at = shmat(id, NULL, SHM_RDONLY);
	if (at == (void *)-1)
		return sysv_refuse(&ds->shm_perm, id, WHAT, strerror(errno), err);
	more[notes->n++] = at;
	if (has_huge_pages(at, ds->shm_segsz))
		return sysv_refuse(&ds->shm_perm, id, WHAT,
				   "it consists of huge pages (SHM_HUGETLB)", err);
	piece.start = (uint64_t)(uintptr_t)at;
	/* It shows all: what processes show of it is not needed. */
	look->c->sources[file].n_pieces = 0;
	return file_source_add_piece(&look->c->sources[file], &piece, err);
}

/* Attachments of the job. The kernel counts regions (ipc/shm.c, shm_open). */
static uint64_t count_regions(const struct collection *c, int32_t file)
{
	uint64_t n = 0;

	for (size_t i = 0; i < c->model->n_processes; i++)
		for (size_t k = 0; k < c->model->processes[i]->n_regions; k++)
			n += c->model->processes[i]->regions[k]->file == file;
	return n;
}

static int add_segment(struct sysv_look *look, const struct shmid_ds *ds, int id, struct err *err)
{
	struct collection *c = look->c;
	Snap__SysvSegment *s;
	int32_t file = find_file(c, id);

	if (look->shared && file < 0)
		return 0; /* not the job's */
	if (look->shared && ds->shm_nattch > count_regions(c, file))
		return sysv_refuse(&ds->shm_perm, id, WHAT,
				   "it is attached by processes outside the job", err);
	if (file < 0 && file_of(c, id, &file, err) < 0)
		return -1;
	s = snap_append(&c->model->segments, &c->model->n_segments, Snap__SysvSegment,
			SNAP__SYSV_SEGMENT__INIT);
	if (!s || sysv_object(&ds->shm_perm, id, &s->object, err) < 0)
		return no_memory(err);
	c->model->files[file]->size = s->size = ds->shm_segsz;
	s->file = file;
	s->removed = ds->shm_perm.mode & SHM_DEST;
	s->locked = ds->shm_perm.mode & SHM_LOCKED;
	if (is_shown_whole(&c->sources[file], s->size))
		return 0;
	return attach(look, ds, id, file, err);
}

int sysv_collect_segments(struct sysv_look *look, struct err *err)
{
	struct shm_info info;
	struct shmid_ds ds;
	int most = shmctl(0, SHM_INFO, (struct shmid_ds *)(void *)&info);

	if (most < 0)
		return errno == ENOSYS ? 0 : err_sys(err, "listing " WHAT);
	for (int i = 0; i <= most; i++) {
		int id = shmctl(i, SHM_STAT_ANY, &ds);

		if (id >= 0 &&
		    refusals_go_on(&look->c->refusals, add_segment(look, &ds, id, err), err) < 0)
			return -1;
	}
	return 0;
}
