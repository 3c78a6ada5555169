/*
 * Regions: mapped writable where pages go in, then given their final protection and advice.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/prctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "recovery/batch.h"
#include "recovery/readers.h"
#include "store/base/cleanup.h"
#include "store/base/log.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* Linux 6.13 */
#endif
#ifndef SYS_mseal
#define SYS_mseal 462 /* Linux 6.10 */
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA	     0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

/* Ours to give its final protection and advice. */
static bool is_adjusted(const Snap__Region *r)
{
	return r->kind != SNAP__REGION__KIND__VDSO && r->kind != SNAP__REGION__KIND__VVAR &&
	       r->kind != SNAP__REGION__KIND__VSYSCALL;
}

/* Made by us with mmap; the vdso has its own way, vsyscall is not the process's, segments are attached. */
static bool is_mapped(const Snap__Region *r)
{
	return is_adjusted(r) && r->kind != SNAP__REGION__KIND__SYSV_SHM;
}

/* Whether pages are stored for it: 1, 0 or -1. */
static int is_populated(struct page_reader *reader, const Snap__Region *r, struct err *err)
{
	struct page_run run;
	int found;

	if (!plan_region_has_pages(r))
		return 0;
	found = page_reader_next(reader, r->start / STORE_PAGE_SIZE, &run, err);
	return found <= 0 ? found : run.first < r->end / STORE_PAGE_SIZE;
}

/* Protection while pages go in. */
static uint64_t prot_to_fill(const Snap__Region *r, int populated)
{
	return r->prot | (populated ? PROT_READ | PROT_WRITE : 0);
}

/* One process's regions being mapped. */
struct mapping {
	struct recovery *rec;
	struct stub *stub;
	bool late;
	struct batch b;
	struct readers readers;
};

static int err_region(const struct mapping *m, const Snap__Region *r, struct err *err)
{
	return err_wrap(err, "process %d: region %#" PRIx64, m->stub->model->pid, r->start);
}

/* The protection that a region whose pages come from that root has while they go in. */
static int find_prot(struct mapping *m, const Snap__Region *r, uint64_t root, uint64_t *ret,
		     struct err *err)
{
	struct page_reader *reader;
	int populated;

	/* Asking would walk through all that is stored of it. */
	if ((r->prot & (PROT_READ | PROT_WRITE)) == (PROT_READ | PROT_WRITE)) {
		*ret = r->prot;
		return 0;
	}
	if (readers_get(&m->readers, root, &reader, err) < 0 ||
	    (populated = is_populated(reader, r, err)) < 0)
		return err_region(m, r, err);
	*ret = prot_to_fill(r, populated);
	return 0;
}

/* Whether what is inherited of the region has another protection than that. */
static int differs(struct mapping *m, const Snap__Region *r, uint64_t end, uint64_t prot, bool *ret,
		   struct err *err)
{
	const struct region_image *image = stub_inherited(m->stub);

	*ret = false;
	for (size_t i = image_find(image, r->start);
	     i < image->n && image->pieces[i].region.start < end && !*ret; i++) {
		const struct image_piece *piece = &image->pieces[i];
		uint64_t was;

		if (find_prot(m, &piece->region, piece_root(m->rec, piece), &was, err) < 0)
			return -1;
		*ret = was != prot;
	}
	return 0;
}

/* It is there up to `end`: it grows, and gets the protection that its own pages need. */
static int queue_inherited(struct mapping *m, const Snap__Region *r, uint64_t root, uint64_t end,
			   struct err *err)
{
	const uint64_t page = STORE_PAGE_SIZE;
	uint64_t prot;
	bool other;

	if (find_prot(m, r, root, &prot, err) < 0 || differs(m, r, end, prot, &other, err) < 0)
		return -1;
	if (end < r->end &&
	    batch_call(&m->b, BATCH_MUST, err, SYS_mremap,
		       ARGS(end - page, page, page + (r->end - end), 0),
		       "grow region %#" PRIx64 " to %#" PRIx64, r->start, r->end) < 0)
		return -1;
	return !other ? 0
		      : batch_call(&m->b, BATCH_MUST, err, SYS_mprotect,
				   ARGS(r->start, r->end - r->start, prot),
				   "protect region %#" PRIx64, r->start);
}

static int queue_map(struct mapping *m, const Snap__Region *r, uint64_t root, int fd,
		     struct err *err)
{
	uint64_t prot;

	if (find_prot(m, r, root, &prot, err) < 0 ||
	    batch_call(&m->b, BATCH_MUST, err, SYS_mmap,
		       ARGS(r->start, r->end - r->start, prot, (uint64_t)region_map_flags(r), (uint64_t)(int64_t)fd,
			    fd < 0 ? 0 : r->offset),
		       "map region %#" PRIx64 "-%#" PRIx64, r->start, r->end) < 0)
		return -1;
	if (!region_map_advice(r))
		return 0;
	return batch_call(&m->b, BATCH_IGNORE, err, SYS_madvise,
			  ARGS(r->start, r->end - r->start, (uint64_t)region_map_advice(r)), "huge page advice");
}

/* Opens for writing what may have been mapped writable: mprotect(2) must be able to come back to
 * it. */
static int open_for_region(struct recovery *rec, const Snap__Region *r, int *ret_fd,
			   struct err *err)
{
	const int made = rec->files[r->file].fd;

	/* A mapping of what memfd_create(2) returned does not count as open for writing, either. */
	if (region_is_shared(r) && rec->model->files[r->file]->kind == SNAP__FILE__KIND__MEMFD && made >= 0) {
		*ret_fd = fcntl(made, F_DUPFD_CLOEXEC, 0);
		return *ret_fd < 0 ? err_sys(err, "a memfd") : 0;
	}
	if (region_is_shared(r) && file_open(rec, (size_t)r->file, O_RDWR, ret_fd, err) == 0)
		return 0;
	if (region_is_shared(r) && r->prot & PROT_WRITE)
		return -1;
	return file_open(rec, (size_t)r->file, O_RDONLY, ret_fd, err);
}

struct mapped_file {
	int32_t file;
	bool shared;
	int fd;	    /* ours */
	int number; /* in the stub */
};

struct file_set {
	struct mapped_file files[STUB_SEND];
	size_t n;
};

static struct mapped_file *find_file(struct file_set *set, const Snap__Region *r)
{
	for (size_t i = 0; i < set->n; i++) {
		if (set->files[i].file == r->file && set->files[i].shared == region_is_shared(r))
			return &set->files[i];
	}
	return NULL;
}

/* Collects the files of regions from *at on, as many as can be sent at once; *at moves behind them.
 */
static int gather_files(struct recovery *rec, const struct stub *stub, bool late, size_t *at,
			struct file_set *set, struct err *err)
{
	for (; *at < stub_n_regions(stub, late) && set->n < STUB_SEND; (*at)++) {
		const Snap__Region *r = stub_region(rec, stub, late, *at);
		struct mapped_file *file = &set->files[set->n];

		if (!r || r->file < 0 || !is_mapped(r) || find_file(set, r) ||
		    (!late && inherit_end(stub_inherited(stub), r) > r->start))
			continue;
		if (open_for_region(rec, r, &file->fd, err) < 0)
			return err_wrap(err, "process %d: region %#" PRIx64, stub->model->pid,
					r->start);
		file->file = r->file;
		file->shared = region_is_shared(r);
		set->n++;
	}
	return 0;
}

static int send_files(struct recovery *rec, struct stub *stub, struct file_set *set,
		      struct err *err)
{
	int fds[STUB_SEND], numbers[STUB_SEND];
	int result;

	for (size_t i = 0; i < set->n; i++)
		fds[i] = set->files[i].fd;
	result = set->n ? stub_send(rec, stub, fds, set->n, numbers, err) : 0;
	for (size_t i = 0; i < set->n; i++) {
		close(set->files[i].fd);
		set->files[i].fd = -1;
		set->files[i].number = numbers[i];
	}
	return result;
}

static int map_region(struct mapping *m, size_t i, struct file_set *set, struct err *err)
{
	const Snap__Region *r = stub_region(m->rec, m->stub, m->late, i);
	const struct mapped_file *file;
	uint64_t root, end;

	if (!r || !is_mapped(r))
		return 0;
	root = stub_region_root(m->rec, m->stub, m->late, i);
	end = m->late ? r->start : inherit_end(stub_inherited(m->stub), r);
	if (end > r->start)
		return queue_inherited(m, r, root, end, err);
	file = r->file >= 0 ? find_file(set, r) : NULL;
	return queue_map(m, r, root, file ? file->number : -1, err);
}

static int map_regions(struct recovery *rec, struct stub *stub, bool late, size_t from, size_t to,
		       struct file_set *set, struct err *err)
{
	struct mapping m = {.rec = rec, .stub = stub, .late = late, .readers.store = rec->store};
	int result = 0;

	batch_begin(&m.b, stub, &stub->threads[0]);
	for (size_t i = from; i < to && result == 0; i++)
		result = map_region(&m, i, set, err);
	for (size_t i = 0; i < set->n && result == 0; i++)
		result = batch_call(&m.b, BATCH_MUST, err, SYS_close,
				    ARGS((uint64_t)set->files[i].number), "close");
	if (result == 0)
		result = batch_run(&m.b, err);
	readers_close(&m.readers);
	return result;
}

int stub_map(struct recovery *rec, struct stub *stub, bool late, struct err *err)
{
	cleanup_free struct file_set *set = calloc(1, sizeof(*set));
	size_t from = 0, to = 0;

	if (!set)
		return err_set(err, ERR_SYSTEM, "out of memory");
	while (from < stub_n_regions(stub, late)) {
		set->n = 0;
		if (gather_files(rec, stub, late, &to, set, err) < 0) {
			for (size_t i = 0; i < set->n; i++)
				close(set->files[i].fd);
			return -1;
		}
		if (send_files(rec, stub, set, err) < 0 ||
		    map_regions(rec, stub, late, from, to, set, err) < 0)
			return -1;
		from = to;
	}
	return 0;
}

int stub_shed(struct stub *stub, struct err *err)
{
	struct batch b;

	batch_begin(&b, stub, &stub->threads[0]);
	for (size_t i = 0; i < stub->own->n; i++) {
		const struct image_piece *piece = &stub->own->pieces[i];
		const Snap__Region *r = &piece->region;

		if (piece->foster &&
		    batch_call(&b, BATCH_MUST, err, SYS_munmap, ARGS(r->start, r->end - r->start),
			       "unmap %#" PRIx64 ", which only children keep", r->start) < 0)
			return -1;
	}
	return batch_run(&b, err);
}

static int queue_advice(struct batch *b, const Snap__Region *r, struct err *err)
{
	static const struct {
		uint32_t bit;
		int advice;
		const char *name;
	} all[] = {
		{ADVICE_DONTFORK, MADV_DONTFORK, "MADV_DONTFORK"},
		{ADVICE_DONTDUMP, MADV_DONTDUMP, "MADV_DONTDUMP"},
		{ADVICE_WIPEONFORK, MADV_WIPEONFORK, "MADV_WIPEONFORK"},
		{ADVICE_MERGEABLE, MADV_MERGEABLE, "MADV_MERGEABLE"},
		{ADVICE_SEQUENTIAL, MADV_SEQUENTIAL, "MADV_SEQUENTIAL"},
		{ADVICE_RANDOM, MADV_RANDOM, "MADV_RANDOM"},
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		if (r->advice & all[i].bit && !(r->advice & ADVICE_DROPPABLE) &&
		    batch_call(b, BATCH_WARN, err, SYS_madvise,
			       ARGS(r->start, r->end - r->start, (uint64_t)all[i].advice),
			       "region %#" PRIx64 ": %s", r->start, all[i].name) < 0)
			return -1;
	}
	return 0;
}

/* Shown as "[anon:NAME]" in /proc/PID/maps. */
static int queue_name(struct batch *b, const Snap__Region *r, struct err *err)
{
	char name[128];
	size_t len;

	if (!r->name || strncmp(r->name, "[anon:", 6) != 0)
		return 0;
	snprintf(name, sizeof(name), "%s", r->name + 6);
	len = strlen(name);
	if (len && name[len - 1] == ']')
		name[len - 1] = '\0';
	if (batch_room(b, 1, sizeof(name), err) < 0)
		return -1;
	return batch_call(b, BATCH_IGNORE, err, SYS_prctl,
			  ARGS(PR_SET_VMA, PR_SET_VMA_ANON_NAME, r->start, r->end - r->start,
			       batch_push_string(b, name)),
			  "name of region");
}

/* Keys are handed out from the lowest on: all up to the highest in use, then the others go back. */
static int queue_keys(struct batch *b, const Snap__Process *p, struct err *err)
{
	uint32_t keys = p->control ? p->control->protection_keys & 0xfffe : 0;
	uint64_t last = keys ? 31 - (uint64_t)__builtin_clz(keys) : 0;

	for (uint64_t key = 1; key <= last; key++)
		if (batch_call(b, BATCH_MUST, err, SYS_pkey_alloc, ARGS(0, 0), "protection key %d", (int)key) < 0)
			return -1;
	for (uint64_t key = 1; key < last; key++)
		if (!(keys >> key & 1) &&
		    batch_call(b, BATCH_MUST, err, SYS_pkey_free, ARGS(key), "protection key %d", (int)key) < 0)
			return -1;
	return 0;
}

/* PROT_EXEC alone takes a key that the kernel itself hands out (arch/x86/mm/pkeys.c). */
static bool has_own_key(const Snap__Region *r)
{
	return r->protection_key > 0 && r->prot != PROT_EXEC;
}

static int queue_protect(struct batch *b, const Snap__Region *r, struct err *err)
{
	uint64_t size = r->end - r->start;

	if (plan_region_has_pages(r) &&
	    (r->prot & (PROT_READ | PROT_WRITE)) != (PROT_READ | PROT_WRITE) &&
	    batch_call(b, BATCH_MUST, err, SYS_mprotect, ARGS(r->start, size, r->prot),
		       "protect region %#" PRIx64, r->start) < 0)
		return -1;
	if (has_own_key(r) && batch_call(b, BATCH_MUST, err, SYS_pkey_mprotect,
					 ARGS(r->start, size, r->prot, (uint64_t)r->protection_key),
					 "protection key of region %#" PRIx64, r->start) < 0)
		return -1;
	if (queue_advice(b, r, err) < 0)
		return -1;
	if (queue_name(b, r, err) < 0)
		return -1;
	if (r->advice & (ADVICE_LOCKED | ADVICE_LOCKONFAULT) &&
	    batch_call(b, BATCH_WARN, err, SYS_mlock2,
		       ARGS(r->start, size, r->advice & ADVICE_LOCKONFAULT ? MLOCK_ONFAULT : 0),
		       "lock region %#" PRIx64 " into memory", r->start) < 0)
		return -1;
	if (r->advice & ADVICE_SEALED)
		return batch_call(b, BATCH_WARN, err, SYS_mseal, ARGS(r->start, size, 0),
				  "seal region %#" PRIx64, r->start);
	return 0;
}

/* Into what is there already, and before what may forbid it: sealing, locking. */
static int queue_guards(struct batch *b, const Snap__Process *p, struct err *err)
{
	for (size_t i = 0; i + 1 < p->n_guards; i += 2) {
		uint64_t start = p->guards[i], size = p->guards[i + 1] - start;

		if (batch_call(b, BATCH_MUST, err, SYS_madvise, ARGS(start, size, MADV_GUARD_INSTALL),
			       "guard region %#" PRIx64, start) < 0)
			return -1;
	}
	return 0;
}

static void fill_mm_map(struct prctl_mm_map *map, const Snap__Memory *m)
{
	*map = (struct prctl_mm_map){
		.start_code = m->start_code,
		.end_code = m->end_code,
		.start_data = m->start_data,
		.end_data = m->end_data,
		.start_brk = m->start_brk,
		.brk = m->brk,
		.start_stack = m->start_stack,
		.arg_start = m->arg_start,
		.arg_end = m->arg_end,
		.env_start = m->env_start,
		.env_end = m->env_end,
		.auxv_size = (uint32_t)m->auxv.len,
		.exe_fd = (uint32_t)-1,
	};
}

static int queue_mm_map(struct batch *b, enum batch_policy policy, int exe, const char *what,
			struct err *err)
{
	const Snap__Memory *m = b->stub->model->memory;
	struct prctl_mm_map map;

	if (batch_room(b, 1, sizeof(map) + m->auxv.len, err) < 0)
		return -1;
	fill_mm_map(&map, m);
	map.exe_fd = (uint32_t)exe;
	map.auxv = (void *)(uintptr_t)(m->auxv.len ? batch_push(b, m->auxv.data, m->auxv.len) : 0);
	return batch_call(
		b, policy, err, SYS_prctl,
		ARGS(PR_SET_MM, PR_SET_MM_MAP, batch_push(b, &map, sizeof(map)), sizeof(map)), "%s",
		what);
}

/* brk, arguments and auxv must be right; /proc/PID/exe should: another executable may be in use for
 * writing (ETXTBSY) or unreadable, and the job hardly ever looks. */
static int set_bounds(struct recovery *rec, struct stub *stub, struct err *err)
{
	const Snap__Process *p = stub->model;
	cleanup_fd int fd = -1;
	int exe = -1;
	struct err why;
	struct batch b;

	if (p->exe_file >= 0 && file_open(rec, (size_t)p->exe_file, O_RDONLY, &fd, &why) < 0)
		log_warn("process %d: /proc/PID/exe is not restored: %s", p->pid, why.msg);
	if (fd >= 0 && stub_send(rec, stub, &fd, 1, &exe, err) < 0)
		return -1;
	batch_begin(&b, stub, &stub->threads[0]);
	if (queue_mm_map(&b, BATCH_MUST, -1, "brk, arguments and auxiliary vector", err) < 0)
		return -1;
	if (exe >= 0 &&
	    (queue_mm_map(&b, BATCH_WARN, exe, "/proc/PID/exe", err) < 0 ||
	     batch_call(&b, BATCH_MUST, err, SYS_close, ARGS((uint64_t)exe), "close") < 0))
		return -1;
	return batch_run(&b, err);
}

int stub_protect(struct recovery *rec, struct stub *stub, struct err *err)
{
	struct batch b;

	batch_begin(&b, stub, &stub->threads[0]);
	if (queue_keys(&b, stub->model, err) < 0 || queue_guards(&b, stub->model, err) < 0)
		return -1;
	for (size_t i = 0; i < stub->model->n_regions; i++) {
		if (is_adjusted(stub->model->regions[i]) &&
		    queue_protect(&b, stub->model->regions[i], err) < 0)
			return -1;
	}
	if (batch_run(&b, err) < 0)
		return -1;
	return set_bounds(rec, stub, err);
}
